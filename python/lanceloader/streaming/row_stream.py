"""``RowStream``: rows that are read and yielded in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.locations import RowLocation, name_rows
from lanceloader.numbers import rows_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np


class RowStream(NamedTuple):
    """Rows that are read and yielded in order: those of a split, or some of them."""

    perm: Any
    num_rows: int
    first: int
    """The position of the first row in the split."""
    offsets: Callable[[int, int], np.ndarray[Any, Any]]
    """Returns the positions in ``perm`` of rows ``start`` to ``stop`` of the stream."""

    def location(self, start: int) -> RowLocation:
        """Return the location of the batch whose first row has position ``start``."""
        row = start - self.first

        def name(ats: Sequence[int], num_rows: int) -> str:
            found = self.offsets(row, row + max(ats) + 1)
            positions = [int(found[at]) for at in ats]
            offsets = [self.perm.order.at(position) for position in positions]
            return name_rows(self.perm.source, offsets, num_rows)

        return RowLocation(f"the batch at position {start}", name)

    def places(self, start: int, num_rows: int) -> np.ndarray[Any, Any]:
        """Return the places in the table of the rows from position ``start`` on."""
        row = start - self.first
        return rows_at(self.perm.order, self.offsets(row, row + num_rows))
