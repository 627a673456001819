"""Counters of a dataset, summed over this process and the workers of a ``DataLoader``.

They live in shared memory: one row of cells for each process, one cell for the number of the
last run, and one flag.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.sources.secrets import may_travel
from lanceloader.streaming.replaceable import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The cells of one process. The first four are gauges of the current iteration, the next five
# grow over all iterations.
UNSCANNED, RAW, READY, CONSUMED, BYTES, FETCH, TRANSFORM, SKIPPED, FILLED, RUN = range(
    10
)
NUM_CELLS = 10
MICROSECONDS = 1_000_000

# The cells behind those of the processes.
LAST_RUN, UNTRACKED = -2, -1
NUM_COMMON = 2

# Workers beyond this number share cells. There are fewer workers per rank unless there are more
# splits.
MIN_SLOTS = 64
MAX_SLOTS = 4096


class Gauges(NamedTuple):
    """The progress of an iteration, in rows. The fields are in the order of the cells."""

    unscanned: int = 0
    """Not requested yet."""
    raw: int = 0
    """Read, and not transformed."""
    ready: int = 0
    """Transformed, and not yielded."""
    consumed: int = 0
    """Yielded."""


class Counters:
    """The counters of a dataset; any process that shares the memory may read them."""

    def __init__(self, num_splits: int) -> None:
        slots = min(max(MIN_SLOTS, num_splits), MAX_SLOTS)
        self._attach_memory(slots * NUM_CELLS + NUM_COMMON)

    def _attach_memory(self, size_or_cells: int | Sequence[int]) -> None:
        self._cells = namespace.RawArray(ctypes.c_int64, size_or_cells)
        self._home = namespace.os.getpid()
        self._reset_locals()

    def _reset_locals(self) -> None:
        self._lock = namespace.threading.Lock()
        self._first = 0
        self._own = [0.0] * NUM_CELLS
        self._gauges: Callable[[], Gauges] | None = None

    @classmethod
    def of_version_0_1(cls, cells: Sequence[int], untracked: int) -> Counters:
        """Restore the counters of a pickle of version 0.1, which had no flag among the cells."""
        new = cls.__new__(cls)
        new._attach_memory([*cells, untracked])
        return new

    def __getstate__(self) -> dict[str, Any]:
        if may_travel():
            return {"cells": self._cells, "home": self._home}
        return {"cells": list(self._cells)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "home" not in state:
            self._attach_memory(state["cells"])
            return
        self._cells, self._home = state["cells"], state["home"]
        self._reset_locals()

    @property
    def is_foreign(self) -> bool:
        """Whether another process made the counters, and may read them during an iteration."""
        return bool(self._home != namespace.os.getpid())

    @property
    def is_live(self) -> bool:
        """Whether an iteration is under way in this process."""
        return self._gauges is not None

    @property
    def is_untracked(self) -> bool:
        """Whether a worker of a plain ``DataLoader`` has read, whose progress is unknown."""
        return bool(self._cells[UNTRACKED])

    @is_untracked.setter
    def is_untracked(self, value: bool) -> None:
        self._cells[UNTRACKED] = value

    def begin_run(self, worker: Any) -> None:
        """Choose the cells of this worker, or of this process, and continue its totals."""
        with self._lock:
            cells, slots = self._cells, len(self._cells) // NUM_CELLS
            number = getattr(worker, "id", 0)
            # torch seeds worker `k` of a run with `seed + k`: the difference identifies the run.
            run = (getattr(worker, "seed", None) or number) - number
            if worker is None:
                run = cells[LAST_RUN] + 1
            self._first = first = number % slots * NUM_CELLS
            cells[LAST_RUN] = cells[first + RUN] = run & (2**63 - 1)
            self._own[BYTES:RUN] = cells[first + BYTES : first + RUN]

    def follow(self, gauges: Callable[[], Gauges]) -> None:
        """Read the gauges of this process from the iteration that begins."""
        self._gauges = gauges

    def publish(self, gauges: Gauges) -> None:
        """Write the progress of this process to the shared memory."""
        with self._lock:
            self._write(gauges)

    def end_run(self, gauges: Gauges) -> None:
        """Write the last progress of an iteration, and let go of it."""
        with self._lock:
            self._write(gauges)
            self._gauges = None

    def add(
        self,
        *,
        bytes_loaded: int = 0,
        fetch_time: float = 0.0,
        transform_time: float = 0.0,
        rows_skipped: int = 0,
        rows_filled: int = 0,
    ) -> None:
        """Add to the totals; from any thread."""
        more = (
            *(bytes_loaded, fetch_time * MICROSECONDS, transform_time * MICROSECONDS),
            *(rows_skipped, rows_filled),
        )
        with self._lock:
            for cell, value in enumerate(more, BYTES):
                self._own[cell] += value
                if self._gauges is None:
                    # A read or transform outlived its iteration. The next iteration continues
                    # from the cells.
                    self._cells[self._first + cell] += int(value)

    def add_transform_time(self, seconds: float) -> None:
        """Add the time that the process that made the counters took for rows of its workers."""
        if self._gauges is not None:
            self.add(transform_time=seconds)
            return
        # The cells of a worker that there is only if there are as many as cells.
        last = len(self._cells) - NUM_COMMON - NUM_CELLS
        with self._lock:
            self._cells[last + TRANSFORM] += int(seconds * MICROSECONDS)

    def value(self, cell: int) -> float:
        """Return a counter summed over processes, with this one up to date."""
        gauges = self._gauges
        if gauges is None:
            return self._total(cell)
        if cell < BYTES:
            return gauges()[cell]
        own = int(self._cells[self._first + cell])
        return self._own[cell] + self._total(cell) - own

    def _write(self, gauges: Gauges) -> None:
        first = self._first
        totals = map(int, self._own[BYTES:RUN])
        self._cells[first : first + RUN] = [*gauges, *totals]

    def _total(self, cell: int) -> int:
        """Sum a cell over processes; a gauge only over those of the last run."""
        cells = self._cells
        last = cells[LAST_RUN]
        return sum(
            cells[first + cell]
            for first in range(0, len(cells) - NUM_COMMON, NUM_CELLS)
            if cell >= BYTES or cells[first + RUN] == last
        )
