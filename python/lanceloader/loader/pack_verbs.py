"""``Permutation.pack``: documents packed into blocks of a fixed length."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, SupportsIndex

from lanceloader.formats.functions import steps_of
from lanceloader.loader.packing import PackedView
from lanceloader.numbers import count
from lanceloader.units.packed import PackSettings
from lanceloader.verbs.columns import ColumnVerbs, sources_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._typing import Labels, LongDocuments, PackStrategy

__all__ = ["PackVerbs"]


class PackVerbs(ColumnVerbs):
    """Methods that pack documents."""

    def pack(
        self,
        length: SupportsIndex,
        *,
        column: str | None = None,
        lengths: str | None = None,
        eos_id: SupportsIndex | None = None,
        pad_id: SupportsIndex = 0,
        strategy: PackStrategy = "concat",
        long: LongDocuments = "split",
        window: SupportsIndex = 16_384,
        labels: Labels | None = None,
    ) -> PackedView:
        """Return the rows, which are documents of tokens, packed into blocks of a fixed length.

        Every token of every document is in exactly one block, unless ``long`` truncates or drops
        documents. Blocks follow the order of the rows in the epoch. They are planned from the lengths
        of the documents, which are read once per table, at a few hundred nanoseconds per row. A plan
        takes a few bytes per window of documents; any block is found in constant time, and all ranks
        find the same.

        Args:
            length: The number of tokens in a block, from 1 to 2**31 - 1.
            column: A column of lists of integers, the tokens; by default the only column of lists.
            lengths: A column of integers that holds the lengths of the lists, which is read
                faster than the lists.
            eos_id: A token to append to each document.
            pad_id: The token that fills the rest of a block.
            strategy: How documents are assigned to blocks.

                * ``"concat"`` concatenates documents and splits them where a block is full, as
                  LanceDB does; only the last block is padded.
                * ``"first_fit"`` keeps documents whole, and puts each into the first block with
                  enough room.
                * ``"best_fit"`` keeps documents whole, and puts each, the longest first, into the
                  block with the least room that is enough. A few tenths of a percent are padding.
            long: How documents longer than a block are treated: ``"split"`` splits them into
                pieces of ``length`` tokens and a remainder, ``"truncate"`` keeps the first
                ``length`` tokens, ``"drop"`` drops them, ``"error"`` raises ``ValueError``.
            window: With ``"first_fit"`` and ``"best_fit"``, the number of neighbouring documents
                that are assigned to blocks together.
            labels: Whether to add a column ``labels`` for causal language models. Tokens are
                predicted from tokens of the same document only: where the target is padding or
                the first token of a document, the label is -100, which losses ignore.

                * ``"shifted"``: the label of a token is the next token, for a loss of your own:
                  ``cross_entropy(logits.flatten(0, 1), labels.flatten())``.
                * ``"unshifted"``: the label of a token is the token itself, for models that shift
                  labels themselves, as those of transformers do, and as its
                  ``DataCollatorForLanguageModeling`` makes them; which predicts the first token
                  of each document from the document before it.

        Returns:
            The packed documents, whose ``loader()`` makes batches with one row per block and the
            columns ``input_ids``, ``doc_ids``, ``position_ids``, ``cu_seqlens`` and
            ``num_tokens``; see docs/how-to/packing.md. They are a dataset of blocks as well.

        Raises:
            ValueError: If there is no such column, or an argument is out of range. Null documents
                raise when lengths are read; tokens that are null or do not fit into int64 raise
                when they are read.

        Example:
            >>> import pyarrow as pa
            >>> documents = pa.table({"tokens": [[1, 2], [3, 4], [5]]})
            >>> packed = ll.open(documents).pack(6, eos_id=9)
            >>> for batch in packed.loader(batch_size=2, format="numpy_dict"):
            ...     print(batch["input_ids"].tolist(), batch["num_tokens"].tolist())
            [[1, 2, 9, 3, 4, 9], [5, 9, 0, 0, 0, 0]] [6, 2]
        """
        if steps_of(self.transform_fn):
            raise ValueError(
                "pack() reads the columns of the table, not those that map() or with_decode() return: "
                "write these with materialize(), and pack the new table"
            )
        tokens = self._list_column(column, "column", "pack")
        settings = PackSettings(
            count(length, "length"),
            tokens,
            tokens if lengths is None else self.length_column(lengths),
            None if eos_id is None else operator.index(eos_id),
            operator.index(pad_id),
            strategy,
            long,
            count(window, "window"),
            labels,
        )
        return PackedView(self, settings)

    def length_column(self, name: str | None) -> str:
        """Return the column of the table that determines the lengths of rows.

        Args:
            name: A column of lists or integers; by default the only column of lists.

        Raises:
            ValueError: If there is no such column.
        """
        import pyarrow as pa

        if name is None:
            return self._list_column(None, "length", "batch_tokens")
        source, kind = self._resolve_column(name)
        if not (is_list(kind) or pa.types.is_integer(kind)):
            message = (
                f"column `{name}` of type {kind} has no lengths: pass a column of lists or "
                "integers"
            )
            raise ValueError(message)
        return source

    def _list_column(self, name: str | None, argument: str, what: str) -> str:
        """Return a column of lists of the table.

        Args:
            name: The name of the column; by default the only one.
            argument: The argument that names it, for messages.
            what: The function or argument that needs it, for messages.

        Raises:
            ValueError: If there is no such column.
        """
        import pyarrow as pa

        if name is None:
            lists = [field.name for field in self.schema if is_list(field.type)]
            if len(lists) != 1:
                found = ", ".join(f"`{name}`" for name in lists) or "none"
                message = (
                    f"{what} needs one column of lists, but the permutation has {found}: pass "
                    f"`{argument}`, the name of one"
                )
                raise ValueError(message)
            (name,) = lists
        source, kind = self._resolve_column(name)
        if not is_list(kind) or (
            what == "pack" and not pa.types.is_integer(kind.value_type)
        ):
            lists_of = "lists of integers" if what == "pack" else "lists"
            message = f"column `{name}` must hold {lists_of}, not {kind}: pass another `{argument}`"
            raise ValueError(message)
        return source

    def _resolve_column(self, name: str) -> tuple[str, pa.DataType]:
        """Return a column of the table, selected or not, and its type."""
        source = sources_of(self, [name])[name]
        return source, self.with_selection({name: source}).schema.field(0).type


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of lists."""
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )
