"""Units that are planned from the lengths of rows alone, so that all ranks make the same plan."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.monitor.progress import progress_over, waiting
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


def read_lengths(
    view: ReadVerbs, column: str, *, progress: bool | None
) -> _native.Lengths:
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
    source, key = view.source, (column, rows.fingerprint())
    found = _LENGTHS.get(source, {}).get(key)
    if found is not None:
        return found
    narrow = {column: column}
    if view.selection != narrow:
        view = view.with_selection(narrow)
    for batch in progress_over(
        batches_of(view.open_reader(), rows, None),
        rows.num_rows,
        f"lengths of {column}",
        enabled=progress,
        rows_of=lambda batch: batch.num_rows,
    ):
        builder.push(batch)
    found = builder.finish()
    # Replaced and never changed, as other threads read it meanwhile.
    kept = list(_LENGTHS.get(source, {}).items())[1 - LENGTHS_KEPT :]
    _LENGTHS[source] = dict([*kept, (key, found)])
    return found


class PlannedUnits(ViewUnits):
    """Units of a plan, which is made for each epoch from the lengths of rows."""

    def __init__(
        self,
        view: ReadVerbs,
        column: str,
        *,
        by_column: bool = True,
        progress: bool | None,
    ) -> None:
        super().__init__(view, by_column=by_column)
        self._column = column
        self._progress = progress
        self._lengths: _native.Lengths | None = None
        self._plans: dict[int | None, Any] = {}

    def is_planned(self, epoch: int | None) -> bool:
        """Return whether the epoch was planned."""
        return epoch in self._plans

    def planned(self, epoch: int | None) -> Any:
        """Return the plan of an epoch. The first call reads the lengths."""
        if self._lengths is None:
            self._lengths = read_lengths(
                self._view, self._column, progress=self._progress
            )
        plan = self._plans.get(epoch)
        if plan is None:
            with waiting("planning batches", self._progress):
                plan = self._plan(epoch_of(self._view.order, epoch), self._lengths)
            # Replaced and never changed, as other threads read it meanwhile.
            kept = list(self._plans.items())[1 - PLANS_KEPT :]
            self._plans = dict([*kept, (epoch, plan)])
        return plan

    def _plan(self, order: Order, lengths: _native.Lengths) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Lengths are pickled, as reading them takes long; plans are made again.
        return super().__getstate__() | {"_plans": {}}
