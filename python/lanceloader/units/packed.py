"""Documents packed into blocks of a fixed length, as units."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._typing import Labels, LongDocuments, PackStrategy
from lanceloader.choices import check_choice
from lanceloader.errors import FormatError
from lanceloader.formats import is_matrix
from lanceloader.units.batches import (
    RawBatches,
    arrow_bytes,
    batches_of,
    is_external,
)
from lanceloader.units.labels import labels_of
from lanceloader.units.picked import PieceCache, blocks_of
from lanceloader.units.planned import PlannedUnits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.units.share import Share
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["PackSettings", "PackedUnits"]


COLUMNS = ("input_ids", "doc_ids", "position_ids", "cu_seqlens", "num_tokens")
"""The columns that the core makes of blocks."""


@dataclass(frozen=True)
class PackSettings:
    """How documents are packed; see ``Permutation.pack``.

    Attributes:
        length: The number of tokens in a block.
        column: The column of the table that holds the tokens.
        lengths: The column of the table that holds their lengths.
        eos_id: The token to append to each document, or ``None``.
        pad_id: The token that fills the rest of a block.
        strategy: How documents are assigned to blocks.
        long: How documents longer than a block are treated.
        window: The number of documents that are assigned to blocks together.
        labels: The labels to add, or ``None``.
        columns: The columns of blocks to keep; by default all.
    """

    length: int
    column: str
    lengths: str
    eos_id: int | None
    pad_id: int
    strategy: PackStrategy
    long: LongDocuments
    window: int
    labels: Labels | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, size in (("length", self.length), ("window", self.window)):
            if not 1 <= operator.index(size) < 2**31:
                message = f"`{name}` must be between 1 and {2**31 - 1:,}, got {size}"
                raise ValueError(message)
        for name, token in (("eos_id", self.eos_id), ("pad_id", self.pad_id)):
            if token is not None and not -(2**63) <= operator.index(token) < 2**63:
                message = f"`{name}` must fit into int64, got {token}"
                raise ValueError(message)
        check_choice("strategy", self.strategy, PackStrategy)
        check_choice("long", self.long, LongDocuments)
        if self.labels is not None:
            check_choice("labels", self.labels, Labels)

    @property
    def all_columns(self) -> list[str]:
        """The names of all columns of blocks."""
        return [*COLUMNS, *(["labels"] if self.labels is not None else [])]

    def shaped(self, batch: Any) -> Any:
        """Return a batch of blocks with their labels, and with the columns to keep."""
        if self.labels is None and self.columns is None:
            return batch
        import pyarrow as pa

        if isinstance(batch, _native.Batch) and not batch.is_owned:
            batch = batch.to_owned()
        blocks = pa.record_batch(batch)
        if self.labels is not None:
            blocks = blocks.append_column("labels", labels_of(blocks, self.labels))
        return blocks if self.columns is None else blocks.select(self.columns)

    def __str__(self) -> str:
        documents = "documents"
        if self.eos_id is not None:
            documents += " and a token after each"
        long = "" if self.long == "split" else f", long ones {_DONE[self.long]}"
        window = "" if self.strategy == "concat" else f" of {self.window:,}"
        return f"{self.length:,} tokens of {self.column}, {documents}{long}, by {self.strategy}{window}"


# Checkpoints hold this text, so it must not change.
_DONE = {"truncate": "cut short", "drop": "left out", "error": "refused"}


class PackedUnits(PlannedUnits):
    """Documents packed into blocks of a fixed length. Units are blocks."""

    unit = "block"
    _picked: tuple[_native.Packing, PieceCache] | None = None
    """The pieces of a plan; pickles of version 0.1.0 have none."""

    def __init__(
        self, view: ReadVerbs, settings: PackSettings, *, progress: bool | None = None
    ) -> None:
        """Pack the documents of a permutation, in its order.

        Args:
            view: The permutation; its format is that of the batches.
            settings: How documents are packed.
            progress: Whether to show a progress bar while lengths are read.
        """
        if is_matrix(view.transform_fn):
            raise FormatError(
                'format "torch_matrix" needs columns of one type, which blocks of documents do '
                'not have: pass another format, such as "torch_dict"'
            )
        tokens = view.with_selection({settings.column: settings.column})
        super().__init__(tokens, settings.lengths, progress=progress)
        self._settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_picked": None}

    def packing(self, epoch: int | None) -> _native.Packing:
        """Return the plan of an epoch."""
        plan: _native.Packing = self.planned(epoch)
        return plan

    def _plan(self, order: Order, lengths: _native.Lengths) -> _native.Packing:
        settings = self._settings
        return _native.Packing(
            order,
            lengths,
            length=settings.length,
            strategy=settings.strategy,
            long=settings.long,
            has_eos=settings.eos_id is not None,
            window=settings.window,
        )

    def batch_text(self, size: int) -> str:
        """Return what a batch of so many blocks holds."""
        blocks = f"{size:,} blocks" if size != 1 else "1 block"
        return f"{blocks} of {self._settings.length:,} tokens"

    def num_units(self, epoch: int | None) -> int:
        """Return the number of blocks; epochs may differ by a few."""
        return self.packing(epoch).num_blocks

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share, with one row for each block."""
        packing = self.packing(epoch)
        reader = self._reader()
        orders = packing.reads(share)
        after = None
        if following is not None and is_external(reader, orders):
            next_epoch, next_share = following
            after = next(iter(self.packing(next_epoch).reads(next_share)), None)
        rows = chained(reader, orders, after)
        settings = self._settings
        blocks = packing.fill(
            share, rows.batches, pad_id=settings.pad_id, eos_id=settings.eos_id or 0
        )
        # The watch counts the bytes of the rows that are read, not those of the blocks.
        return RawBatches(map(settings.shaped, blocks), rows.watch, size_of=arrow_bytes)

    def places(
        self, epoch: int | None, share: Share, number: int
    ) -> np.ndarray[Any, Any]:
        """Return the number of each block of a batch in its epoch, as it has no place in a table."""
        import numpy as np

        del epoch
        runs = [np.arange(*run, dtype=np.uint64) for run in share.runs(number)]
        return np.concatenate([np.zeros(0, np.uint64), *runs])

    def pick(self, blocks: Sequence[int]) -> pa.RecordBatch | None:
        """Return blocks at any positions, in the order of the permutation itself.

        Returns:
            A row for each block; or ``None`` if only the core can read them, or say what is wrong.
        """
        import numpy as np
        import pyarrow as pa

        packing, settings = self.packing(None), self._settings
        if self._picked is None or self._picked[0] is not packing:
            is_direct = settings.strategy == "concat"
            self._picked = packing, PieceCache(packing, is_direct=is_direct)
        pieces = self._picked[1].pieces(blocks)
        documents = np.unique(pieces.positions)
        taken = self._reader().take(self._view.order, documents)
        tokens = pa.record_batch(taken).column(0)
        found = blocks_of(
            pieces,
            documents,
            tokens,
            length=settings.length,
            pad_id=settings.pad_id,
            eos_id=settings.eos_id,
        )
        return None if found is None else settings.shaped(found)

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the blocks."""
        return {**super().plan(), "unit": self.unit, "pack": str(self._settings)}

    def explain(self) -> str:
        """Return the number of blocks, how full they are and the size of the plan."""
        packing = self.packing(None)
        documents, tokens, long, lost = packing.counts
        blocks = packing.num_blocks
        size = blocks * self._settings.length
        lines = [
            f"blocks    {blocks:,} of {self._settings}",
            f"filled    {tokens / size if size else 1:.2%}, {tokens:,} tokens of {documents:,} documents",
            f"plan      {packing.num_bytes:,} bytes",
        ]
        if lost:
            lines.append(f"lost      {lost:,} tokens of {long:,} documents")
        return "\n".join(lines)


def chained(reader: Any, orders: Sequence[Order], after: Order | None) -> RawBatches:
    """Return the rows of several orders, one order after the other, in batches of any size.

    The counters are those of the first order, which is the only one in most cases.
    """
    if not orders:
        return RawBatches(iter(()))
    first = batches_of(reader, orders[0], None, after if len(orders) == 1 else None)

    def all_batches() -> Iterator[Any]:
        yield from first.batches
        for order in orders[1:]:
            last = after if order is orders[-1] else None
            yield from batches_of(reader, order, None, last)

    return RawBatches(all_batches(), first.watch)
