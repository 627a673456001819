"""The locations of the rows of a batch, for errors and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader.locations import RowLocation, list_numbers, name_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader.randomness import RowKeys
    from lanceloader.units.base import Units
    from lanceloader.units.share import Share

__all__ = ["BatchLocations"]


class BatchLocations:
    """The locations of the batches of an epoch, by the number of the batch.

    Args:
        units: The units of the epoch.
        epoch: The epoch.
        share: The units of the epoch that are read.
        first: The number of the first batch, for its name.
        stride: The difference between the numbers of a batch and the next one.
    """

    def __init__(
        self, units: Units, epoch: int | None, share: Share, first: int, stride: int
    ) -> None:
        self._units = units
        self._epoch = epoch
        self._share = share
        self._first = first
        self._stride = stride

    def __call__(self, number: int) -> RowLocation:
        """Return the location of a batch, counted from 0."""
        title = f"batch {self._first + number * self._stride}"
        if self._epoch is not None:
            title += f" of epoch {self._epoch}"

        def name(ats: Sequence[int], num_rows: int) -> str:
            found = self._units.rows_at(self._epoch, self._share, number, ats)
            if found is not None:
                return name_rows(*found, num_rows)
            numbers = self._share.batch(number)
            return list_numbers(self._units.unit, [numbers[at] for at in ats], num_rows)

        return RowLocation(title, name)

    def row_keys(self, number: int) -> RowKeys:
        """Return what random operations on the rows of a batch draw from, by the number of the batch."""
        return self._units.row_keys(self._epoch, self._share, number)
