"""``Units``: what a loader batches, as numbered units in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lanceloader import _native
    from lanceloader._native import Order
    from lanceloader.randomness import RowKeys
    from lanceloader.sources import RowReader, Source
    from lanceloader.units.batches import RawBatches
    from lanceloader.units.share import Share

__all__ = ["Units"]


class Units(Protocol):
    """Rows, blocks of packed documents, batches under a token budget, or rows of a mixture.

    Attributes:
        unit: The name of a unit in messages: ``"row"``, ``"block"``, ``"batch"`` or ``"mixed row"``.
        convert: Converts a raw batch to the format of the permutation. It is an attribute, not a
            method, as it is called for every batch.
        is_drawn: Whether rows are chosen when an epoch begins, so that ``begin`` must be called
            before all other methods that read rows, and in one process only.
    """

    convert: Callable[[Any], Any]
    is_drawn: bool

    @property
    def unit(self) -> str:
        """The name of a unit."""

    @property
    def view(self) -> Any:
        """The permutation or the mixture whose rows are batched."""

    def begin(self, epoch: int | None, record: dict[str, Any] | None) -> Units:
        """Return the units of an epoch that begins now.

        Args:
            epoch: The epoch.
            record: What makes a sampler yield the rows of a checkpoint again.
        """

    @property
    def record(self) -> dict[str, Any] | None:
        """What ``begin`` needs to return these units again; or what it would return next."""

    def num_units(self, epoch: int | None) -> int:
        """Return the number of units in an epoch; ``None`` is the order of the permutation itself."""

    def batch_text(self, size: int) -> str:
        """Return what a batch of so many units holds, for ``repr``."""

    def is_planned(self, epoch: int | None) -> bool:
        """Return whether ``num_units`` is known, so that it reads nothing."""

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows in a share, or of blocks if units are blocks."""

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share.

        Args:
            epoch: The epoch.
            share: The units of the epoch to read.
            following: The epoch and share that will probably be read next, to prepare for.
        """

    def plan(self) -> dict[str, int | str]:
        """Return what determines the order of the units, apart from the epoch, for checkpoints."""

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some positions of a batch, or ``None`` if unknown.

        Args:
            epoch: The epoch.
            share: The units of the epoch that are read.
            number: The number of the batch in the share.
            ats: Positions in the batch.
        """

    def row_keys(self, epoch: int | None, share: Share, number: int) -> RowKeys:
        """Return what random operations on the rows of a batch draw from; nothing is computed yet.

        Args:
            epoch: The epoch.
            share: The units of the epoch that are read.
            number: The number of the batch in the share.
        """

    def explain(self) -> str:
        """Return the lines that units add to ``Permutation.explain``; empty for rows."""

    def readers(self, epoch: int | None) -> Iterator[tuple[RowReader, Order]]:
        """Yield the reader of each table, and the rows of an epoch that it reads."""

    def reads(self) -> _native.ReadStats | None:
        """Return the counters of all readers of these rows in this process, or ``None`` if unknown."""
