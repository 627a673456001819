"""Units that are planned from the lengths of rows alone, so that all ranks make the same plan."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.monitor.progress import progress_over
from lanceloader.units.batches import batches_of
from lanceloader.units.rows import ViewUnits, epoch_of

if TYPE_CHECKING:
    from lanceloader._native import Order
    from lanceloader.verbs.reading import ReadVerbs

__all__ = ["PlannedUnits", "read_lengths"]

PLANS_KEPT = 2
"""The number of plans to keep: those of the current epoch and the next one."""

LENGTHS_KEPT = 4
"""The number of lengths to keep of one table, such as those of its splits."""

_LENGTHS: weakref.WeakKeyDictionary[Any, dict[tuple[str, int], _native.Lengths]] = (
    weakref.WeakKeyDictionary()
)


def read_lengths(view: ReadVerbs, column: str, *, progress: bool) -> _native.Lengths:
    """Return the length of each row of a permutation, which is read once and then kept.

    Args:
        view: The permutation, in any order.
        column: A column of the table that holds lists, or their lengths.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the column holds neither, or a length is null or negative.
    """
    builder = _native.LengthsBuilder(view.order)
    rows = builder.rows()
    known = _LENGTHS.setdefault(view.source, {})
    key = column, rows.fingerprint()
    if key not in known:
        narrow = {column: column}
        if view.selection != narrow:
            view = view.with_selection(narrow)
        reader = view.open_reader()
        for batch in progress_over(
            batches_of(reader, rows, None),
            rows.num_rows,
            f"lengths of {column}",
            enabled=progress,
            rows_of=lambda batch: batch.num_rows,
        ):
            builder.push(batch)
        while len(known) >= LENGTHS_KEPT:
            del known[next(iter(known))]
        known[key] = builder.finish()
    return known[key]


class PlannedUnits(ViewUnits):
    """Units of a plan, which is made for each epoch from the lengths of rows."""

    def __init__(
        self, view: ReadVerbs, column: str, *, by_column: bool = True, progress: bool
    ) -> None:
        super().__init__(view, by_column=by_column)
        self._column = column
        self._progress = progress
        self._lengths: _native.Lengths | None = None
        self._plans: dict[int | None, Any] = {}

    def planned(self, epoch: int | None) -> Any:
        """Return the plan of an epoch. The first call reads the lengths."""
        if self._lengths is None:
            self._lengths = read_lengths(
                self._view, self._column, progress=self._progress
            )
        if epoch not in self._plans:
            plan = self._plan(epoch_of(self._view.order, epoch), self._lengths)
            while len(self._plans) >= PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _plan(self, order: Order, lengths: _native.Lengths) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Lengths are pickled, as reading them takes long; plans are made again.
        return super().__getstate__() | {"_plans": {}}
