"""``Permutation.pack``: documents packed into blocks of a fixed length."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader.formats.functions import steps_of
from lanceloader.loader.making import make_loader
from lanceloader.loader.packed_blocks import PackedBlocks
from lanceloader.loader.signature import with_options_shown
from lanceloader.numbers import count
from lanceloader.sql import missing_column
from lanceloader.units.packed import PackedUnits, PackSettings
from lanceloader.verbs.columns import ColumnVerbs, check_names, sources_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from typing_extensions import Unpack

    from lanceloader._typing import (
        Format,
        Labels,
        LongDocuments,
        Nulls,
        PackStrategy,
        Pad,
        Transform,
    )
    from lanceloader.loader.loader import Loader
    from lanceloader.loader.options import LoaderOptions, LoaderOptionsAfterSize
    from lanceloader.options import ReadOptions

__all__ = ["PackVerbs", "PackedView"]


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
            ``num_tokens``; see docs/how-to/packing.md. They are a data set of blocks as well.

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


_NOT_OF_BLOCKS = {
    "batch_tokens": "pass `batch_size`, the number of blocks",
    "length": "pass `lengths` to pack()",
    "padded": "leave it out",
    "bucket_rows": "pass `window` to pack()",
    "long": "pass `long` to pack()",
    "decode": "call loader(decode=...) on the permutation, whose batches hold rows, or with "
    "`batch_tokens` rows of like length",
    "sampler": "call shuffle(), sample() or [] on the permutation before pack()",
    "batch_sampler": "pass `batch_size`, the number of blocks",
}
"""Options that do not apply to blocks, and the alternatives."""


class PackedView(PackedBlocks):
    """Documents packed into blocks; made by ``Permutation.pack``.

    It is a data set of blocks: ``len(packed)``, ``packed[i]``, slices, iteration, and torch's
    ``DataLoader`` read blocks in the order of the permutation. ``loader`` is faster, shuffles
    documents rather than blocks, and divides blocks among ranks.

    Attributes:
        permutation: The documents, in order.
        length: The number of tokens in a block.
    """

    def __init__(self, view: Any, settings: PackSettings) -> None:
        self.permutation = view
        self.length = settings.length
        self._settings = settings
        self._kept: PackedUnits | None = None

    @with_options_shown
    def loader(
        self,
        batch_size: SupportsIndex | None = None,
        **options: Unpack[LoaderOptionsAfterSize],
    ) -> Loader[Any]:
        """Return a loader of batches of blocks for training.

        Args:
            batch_size: The number of blocks in a batch of one rank; by default the ``batch_size``
                of the permutation.
            **options: Options of ``Permutation.loader``, with blocks in place of rows.

        Raises:
            ValueError: As for ``Permutation.loader``; or if an option of a token budget is passed,
                as all blocks have the same length.
        """
        for name, instead in _NOT_OF_BLOCKS.items():
            value: Any = options.get(name)
            if value is not None:
                message = f"`{name}`={value!r} does not apply to blocks of {self.length} tokens: {instead}"
                raise ValueError(message)
        return make_loader(self, {"batch_size": batch_size, **options})

    @property
    def batch_size(self) -> int:
        """The default number of blocks in a batch."""
        size: int = self.permutation.batch_size
        return size

    @property
    def transform_fn(self) -> Transform:
        """The function that converts a batch to its format."""
        transform: Transform = self.permutation.transform_fn
        return transform

    @property
    def is_shard(self) -> bool:
        """Whether these are the documents of one rank already."""
        return bool(self.permutation.is_shard)

    def shuffle(
        self,
        seed: SupportsIndex | None = None,
        *,
        epoch: SupportsIndex = 0,
        clump_size: SupportsIndex = 1,
        block_size: SupportsIndex | None = None,
        window_blocks: SupportsIndex | None = None,
    ) -> Self:
        """Return the documents in random order; see ``Permutation.shuffle``."""
        view = self.permutation.shuffle(
            seed,
            epoch=epoch,
            clump_size=clump_size,
            block_size=block_size,
            window_blocks=window_blocks,
        )
        return self._of(view)

    def with_format(
        self,
        format: Format,  # noqa: A002
        *,
        nulls: Nulls | None = None,
        fill_value: Any = None,
        pad: Pad | None = None,
    ) -> Self:
        """Return the documents in another format; see ``Permutation.with_format``.

        ``fill_value`` and ``pad`` may not be dicts, as blocks have columns of their own.
        """
        for name, value in (("fill_value", fill_value), ("pad", pad)):
            if isinstance(value, Mapping):
                message = (
                    f"`{name}` of blocks must be one value for all columns, not a dict"
                )
                raise ValueError(message)
        view = self.permutation.with_format(
            format, nulls=nulls, fill_value=fill_value, pad=pad
        )
        return self._of(view)

    def with_seed(self, seed: int, epoch: int = 0) -> Self:
        """Return the documents with another seed of random transforms, in the same order."""
        return self._of(self.permutation.with_seed(seed, epoch))

    def select_columns(self, columns: Sequence[str]) -> Self:
        """Return the documents as blocks with some of the columns.

        Args:
            columns: Names of ``column_names``, such as ``["input_ids", "labels"]``.

        Raises:
            ValueError: If ``columns`` is empty.
            ColumnNotFoundError: If a column does not exist.
            TypeError: If ``columns`` is a single string.
        """
        check_names(columns)
        if not columns:
            raise ValueError("Must select at least one column")
        for name in columns:
            if name not in self.column_names:
                message = f"Cannot select column `{name}` because blocks do not have it"
                if name == "labels":
                    message += ', without `labels="shifted"` or "unshifted" of pack()'
                raise missing_column(message, name, self.column_names)
        settings = replace(self._settings, columns=tuple(columns))
        return type(self)(self.permutation, settings)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of blocks."""
        kept = self._settings.columns
        return self._settings.all_columns if kept is None else list(kept)

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return the documents with other read options; options that are ``None`` keep their values."""
        return self._of(self.permutation.with_read_options(options))

    def _of(self, view: Any) -> Self:
        return type(self)(view, self._settings)

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> PackedUnits:
        """Return the blocks as units of a loader."""
        del by_column
        return self._units(progress=options["progress"])

    def num_blocks(self, epoch: int | None = None) -> int:
        """Return the number of blocks in an epoch, of all ranks together.

        Args:
            epoch: The epoch; by default the order of the permutation itself.
        """
        return self.units().num_units(epoch)

    def explain(self) -> str:
        """Return a description of the blocks and of how rows are read."""
        return f"{self.units().explain()}\n{self.permutation.explain()}"

    def units(self) -> PackedUnits:
        """Return the blocks as units, which keep their plan."""
        if self._kept is None:
            self._kept = self._units()
        return self._kept

    def _units(self, *, progress: bool | None = None) -> PackedUnits:
        return PackedUnits(self.permutation, self._settings, progress=progress)

    def _repr_html_(self) -> str:
        columns = ", ".join(self.column_names)
        head = (
            f"<p>{escape(repr(self).strip('<>'))}</p><p>Columns: {escape(columns)}</p>"
        )
        return f"{head}{self.permutation._repr_html_()}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1.0 have no units.
        self.__dict__.update({"_kept": None} | state)

    def __repr__(self) -> str:
        return f"<{self._settings} of {self.permutation!r}>"


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of lists."""
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )
