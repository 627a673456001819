"""The verb that packs documents into blocks of a fixed length."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, SupportsIndex

from lanceloader.loading.packed import PackedBlocks, PackSettings
from lanceloader.numbers import count
from lanceloader.view.splitting import SplitVerbs

if TYPE_CHECKING:
    import pyarrow as pa
    from lanceloader._typing import LongDocuments, PackStrategy
    from lanceloader.loading import Loader

__all__ = ["PackedView", "SequenceVerbs"]


class SequenceVerbs(SplitVerbs):
    """Pack documents."""

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
    ) -> PackedView:
        """Pack tokens of rows, which are documents, into blocks of a fixed length.

        Every token of every row stands in one block, in the order of the rows and of the epoch,
        unless ``long`` says otherwise. Blocks are planned from the lengths of the rows, which are
        read once for a table, in some hundred nanoseconds a row. Nothing is kept of a plan but
        some bytes for many rows: any block is found at once, and all ranks find the same.

        Args:
            length: Tokens of a block.
            column: The column of lists of whole numbers; by default the only one.
            lengths: A column of numbers that says how long the lists are, if there is one: it is
                read faster.
            eos_id: A token to put after each document, which counts as one of it.
            pad_id: What fills the rest of a block that is not full.
            strategy: How documents are put into blocks.

                * ``"concat"`` lays them end to end and cuts them wherever a block is full, as
                  LanceDB does; only the last block is not full.
                * ``"first_fit"`` keeps them whole: each goes into the first block that has room.
                * ``"best_fit"`` keeps them whole and takes the longest first: each goes into the
                  block with the least room left. Some tenths of a percent stay empty.
            long: What becomes of a document longer than a block: ``"split"`` into pieces of
                ``length`` tokens and a rest, ``"truncate"``, ``"drop"``, or ``"error"``.
            window: Documents that are fitted together, neighbours in the order; for the fitting
                strategies.

        Returns:
            What makes loaders. A row of their batches is a block: ``input_ids``, ``doc_ids``,
            ``position_ids``, ``cu_seqlens`` and ``num_tokens``; see the guide.

        Raises:
            ValueError: If there is no such column, or an argument is none of the above. Rows that
                are null are found when lengths are read, tokens that are null or do not fit into
                int64 when they are.

        Example:
            >>> documents = pa.table({"tokens": [[1, 2], [3, 4], [5]]})
            >>> packed = ll.open(documents).pack(6, eos_id=9)
            >>> for batch in packed.loader(batch_size=2, format="numpy_dict"):
            ...     print(batch["input_ids"].tolist(), batch["num_tokens"].tolist())
            [[1, 2, 9, 3, 4, 9], [5, 9, 0, 0, 0, 0]] [6, 2]
        """
        tokens = self._list_column(column, "column", "pack")
        settings = PackSettings(
            count(length, "length"),
            tokens,
            tokens if lengths is None else self._length_column(lengths),
            None if eos_id is None else operator.index(eos_id),
            operator.index(pad_id),
            strategy,
            long,
            count(window, "window"),
        )
        return PackedView(self, settings)

    def _length_column(self, name: str | None) -> str:
        """Find the column of the table that lengths come from."""
        import pyarrow as pa

        if name is None:
            return self._list_column(None, "length", "batch_tokens")
        source, kind = self._any_column(name)
        if not (is_list(kind) or pa.types.is_integer(kind)):
            message = f"lengths from column `{name}` of type {kind}: wanted lists or whole numbers"
            raise ValueError(message)
        return source

    def _list_column(self, name: str | None, argument: str, what: str) -> str:
        """Find a column of lists of the table."""
        import pyarrow as pa

        if name is None:
            lists = [field.name for field in self.schema if is_list(field.type)]
            if len(lists) != 1:
                found = ", ".join(f"`{name}`" for name in lists) or "none"
                message = (
                    f"{what} without {argument}: wanted the name of a column of lists; there is "
                    f"{found}"
                )
                raise ValueError(message)
            (name,) = lists
        source, kind = self._any_column(name)
        if not is_list(kind) or (
            what == "pack" and not pa.types.is_integer(kind.value_type)
        ):
            message = (
                f"{argument} `{name}` of type {kind}: wanted lists of whole numbers"
            )
            raise ValueError(message)
        return source

    def _any_column(self, name: str) -> tuple[str, pa.DataType]:
        """Find a column, selected or not, and its type."""
        known = {known: known for known in self._source.column_names}
        whole = self._replace(selection=known | self.selection)
        source = whole._resolve(name)
        return source, self._with_selection({name: source}).schema.field(0).type


_NOT_OF_BLOCKS = {
    "batch_tokens": "batch_size",
    "length": "pack(lengths=...)",
    "padded": "none, as blocks are of one length",
    "bucket_rows": "pack(window=...)",
    "long": "pack(long=...)",
}
"""Options of a loader of so many tokens, and what is wanted instead."""


class PackedView:
    """Documents packed into blocks; ``Permutation.pack`` makes one.

    Attributes:
        permutation: The documents, in order.
        length: Tokens of a block.
    """

    def __init__(self, view: Any, settings: PackSettings) -> None:
        self.permutation = view
        self.length = settings.length
        self._settings = settings

    def loader(self, batch_size: SupportsIndex | None = None, **options: Any) -> Loader:
        """Load batches of blocks for training.

        Args:
            batch_size: Blocks of a batch of one rank; by default the ``batch_size`` of the
                permutation.
            options: As for ``Permutation.loader``, whose rows are blocks here.

        Raises:
            ValueError: As for ``Permutation.loader``; or if batches are to hold so many tokens:
                blocks are of one length.
        """
        for name, wanted in _NOT_OF_BLOCKS.items():
            value = options.get(name)
            if value is not None:
                message = f"{name}={value!r} for blocks of {self.length} tokens: wanted {wanted}"
                raise ValueError(message)
        progress = bool(options.get("progress"))

        def serve(view: Any) -> PackedBlocks:
            return PackedBlocks(
                view._replace(_serve=None), self._settings, progress=progress
            )

        loader: Loader = self.permutation._replace(_serve=serve).loader(
            batch_size, **options
        )
        return loader

    def num_blocks(self, epoch: int | None = None) -> int:
        """Count the blocks of an epoch, of all ranks; by default of the permutation itself."""
        return self._served().num_units(epoch)

    def explain(self) -> str:
        """Say how many blocks there are, how full they are, and how rows are read."""
        return f"{self._served().explain()}\n{self.permutation.explain()}"

    def _served(self) -> PackedBlocks:
        return PackedBlocks(self.permutation, self._settings)

    def __repr__(self) -> str:
        return f"<{self._settings} of {self.permutation!r}>"


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists."""
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )
