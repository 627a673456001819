"""Serving what is planned from the lengths of rows, and from nothing else: all ranks plan the same."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._progress import progress_over
from lanceloader.loading.served import epoch_of, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._native import Order
    from lanceloader.view.reading import Reading

__all__ = ["Planned", "is_external", "read_lengths"]

# Plans that are kept: of the epoch that is served, and of the one after it.
PLANS_KEPT = 2
# Lengths that are kept of one table: of its splits, say.
LENGTHS_KEPT = 4

_LENGTHS: weakref.WeakKeyDictionary[Any, dict[tuple[str, int], _native.Lengths]] = (
    weakref.WeakKeyDictionary()
)


def read_lengths(view: Reading, column: str, *, progress: bool) -> _native.Lengths:
    """Read how long each row of a permutation is, unless that was done before.

    Args:
        view: The permutation; in any order, as each row is read once.
        column: A column of the table: of lists, or of numbers that say how long rows are.
        progress: Whether to show a bar.

    Raises:
        ValueError: If the column is neither, or a row of it is null or negative.
    """
    builder = _native.LengthsBuilder(view._order)
    rows = builder.rows()
    known = _LENGTHS.setdefault(view._source, {})
    key = column, rows.fingerprint()
    if key not in known:
        narrow = {column: column}
        if view.selection != narrow:
            view = view._with_selection(narrow)
        reader = view._ensure_open()
        batches: Iterator[Any] = iter(reader.load(rows, None, False))  # noqa: FBT003
        for batch in progress_over(
            batches,
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


class Planned:
    """What is served by plans of single epochs, made of the lengths of rows."""

    def __init__(self, view: Reading, column: str, *, progress: bool) -> None:
        self._view = view
        self._column = column
        self._progress = progress
        self._convert = view._converter()
        self._lengths: _native.Lengths | None = None
        self._plans: dict[int | None, Any] = {}
        self._rows: dict[str, int | str] | None = None

    @property
    def view(self) -> Reading:
        """The permutation."""
        return self._view

    def planned(self, epoch: int | None) -> Any:
        """Give the plan of an epoch. The first one reads lengths."""
        if self._lengths is None:
            self._lengths = read_lengths(
                self._view, self._column, progress=self._progress
            )
        if epoch not in self._plans:
            plan = self._plan(epoch_of(self._view._order, epoch), self._lengths)
            while len(self._plans) >= PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _plan(self, order: Order, lengths: _native.Lengths) -> Any:
        raise NotImplementedError

    def _plan_of_rows(self) -> dict[str, int | str]:
        if self._rows is None:
            self._rows = plan_of(self._view)
        return self._rows

    def convert(self, raw: Any) -> Any:
        """Give a raw batch in the format of the permutation."""
        return self._convert(raw)

    def reads(self) -> _native.ReadStats | None:
        """Say what was read so far."""
        reader = self._view._ensure_open()
        return reader.stats() if isinstance(reader, _native.Reader) else None

    def __getstate__(self) -> dict[str, Any]:
        # Lengths travel, as reading them takes longer; plans are made again.
        return self.__dict__ | {"_convert": None, "_plans": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._convert = self._view._converter()


def is_external(reader: Any, orders: list[Order]) -> bool:
    """Whether rows go through scratch files, which can be prepared for the next epoch."""
    if not orders or not isinstance(reader, _native.Reader):
        return False
    return reader.strategy(orders[-1]) == "external"
