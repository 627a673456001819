"""``Units``: what a loader batches, counted in units that stand in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanceloader import _native
    from lanceloader.sources import Source
    from lanceloader.units.batches import RawBatches
    from lanceloader.units.share import Share

__all__ = ["Units"]


class Units(Protocol):
    """Rows, blocks of packed documents, batches under a token budget, or rows of a mixture.

    Attributes:
        unit: What is counted, for messages: ``"row"``, ``"block"``, ``"batch"`` or ``"mixed row"``.
        convert: Returns a raw batch in the format of the permutation. An attribute, not a method, as
            it is called for every batch.
    """

    unit: str
    convert: Callable[[Any], Any]

    @property
    def view(self) -> Any:
        """The permutation or the mixture that rows come from."""

    def num_units(self, epoch: int | None) -> int:
        """Return the number of units of an epoch; ``None`` is the epoch of the permutation itself."""

    def num_rows(self, epoch: int | None, share: Share) -> int:
        """Return the number of rows of a share, or of blocks if units are blocks."""

    def load(
        self, epoch: int | None, share: Share, following: tuple[int, Share] | None
    ) -> RawBatches:
        """Return the raw batches of a share; ``following`` is the epoch and share to prepare next."""

    def plan(self) -> dict[str, int | str]:
        """Return what decides which unit stands where, apart from the epoch, for checkpoints."""

    def rows_at(
        self, epoch: int | None, share: Share, number: int, ats: Sequence[int]
    ) -> tuple[Source, list[int]] | None:
        """Return the table and the row offsets at some places of a batch, or ``None`` if unknown."""

    def explain(self) -> str:
        """Return what units add to ``Permutation.explain``, line by line; empty for rows."""

    def reads(self) -> _native.ReadStats | None:
        """Return what all readers of these rows in this process have read, or ``None`` if unknown."""
