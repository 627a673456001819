"""What is counted while a dataset is read, here and in the workers of a ``DataLoader``.

Counters are in shared memory: one row of cells for this process or a worker, so that several
workers add up, and one cell that tells which run wrote last.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from lanceloader import streaming
from lanceloader.streaming.fields import Fields

# The cells of one worker. The first four are of the current iteration, the others grow
# over all of them.
UNSCANNED, RAW, READY, CONSUMED, BYTES, FETCH, TRANSFORM, SKIPPED, FILLED, RUN = range(
    10
)
NUM_CELLS = 10
MICROSECONDS = 1_000_000

# Workers beyond this share cells; no rank has as many where splits are not fewer.
MIN_SLOTS = 64
MAX_SLOTS = 4096


@dataclass
class Gauges:
    """How far an iteration is: rows not asked for, read, transformed, and handed over."""

    unscanned: int = 0
    raw: int = 0
    ready: int = 0
    consumed: int = 0


class Counting(Fields):
    """The counters, and the properties that show them."""

    def _start_counting(self, num_splits: int) -> None:
        slots = min(max(MIN_SLOTS, num_splits), MAX_SLOTS)
        self._worker_stats = streaming.RawArray(ctypes.c_int64, slots * NUM_CELLS + 1)
        self._stats_lock = streaming.threading.Lock()
        self._stats_slot = 0
        self._stats_home = streaming.os.getpid()
        self._bytes_loaded = self._rows_skipped = self._rows_filled = 0
        self._fetch_time = self._transform_time = 0.0
        self._forget_pipeline()

    def _forget_pipeline(self) -> None:
        self._raw_batches_ref = None
        self._cooked_ref = None
        self._fetch_head_ref = None
        self._split_sizes_ref = None
        self._local_consumed_ref = None

    @property
    def _is_away(self) -> bool:
        """Whether another process than this one made the counters, and may look at them."""
        return self._stats_home != streaming.os.getpid()

    def _begin_run(self, worker: Any) -> None:
        """Go on counting where this worker, or this process, stopped."""
        with self._stats_lock:
            self._take_slot(worker)

    def _take_slot(self, worker: Any) -> None:
        cells, slots = self._worker_stats, len(self._worker_stats) // NUM_CELLS
        number = getattr(worker, "id", 0)
        # All workers of a run of torch's loader have this in common, and no other run.
        run = (getattr(worker, "seed", None) or number) - number
        if worker is None:
            run = cells[-1] + 1
        self._stats_slot = number % slots
        first = self._stats_slot * NUM_CELLS
        cells[-1] = cells[first + RUN] = run & (2**63 - 1)
        self._bytes_loaded = cells[first + BYTES]
        self._fetch_time = cells[first + FETCH] / MICROSECONDS
        self._transform_time = cells[first + TRANSFORM] / MICROSECONDS
        self._rows_skipped = cells[first + SKIPPED]
        self._rows_filled = cells[first + FILLED]

    def _count(
        self,
        *,
        bytes_loaded: int = 0,
        fetch_time: float = 0.0,
        transform_time: float = 0.0,
        rows_skipped: int = 0,
        rows_filled: int = 0,
    ) -> None:
        """Add to what grows over iterations; from any thread."""
        with self._stats_lock:
            self._bytes_loaded += bytes_loaded
            self._fetch_time += fetch_time
            self._transform_time += transform_time
            self._rows_skipped += rows_skipped
            self._rows_filled += rows_filled
            if self._raw_batches_ref is None:
                # This outlived its iteration; the next goes on from the cells.
                more = (
                    *(bytes_loaded, int(fetch_time * MICROSECONDS)),
                    *(int(transform_time * MICROSECONDS), rows_skipped, rows_filled),
                )
                first = self._stats_slot * NUM_CELLS
                for cell, value in enumerate(more, first + BYTES):
                    self._worker_stats[cell] += value

    def _publish(self, gauges: Gauges) -> None:
        """Show other processes how far this one is."""
        with self._stats_lock:
            self._write(gauges)

    def _end_run(self, gauges: Gauges) -> None:
        """Show how far an iteration has come that is over."""
        with self._stats_lock:
            self._write(gauges)
            self._forget_pipeline()

    def _write(self, gauges: Gauges) -> None:
        first = self._stats_slot * NUM_CELLS
        self._worker_stats[first : first + RUN] = [
            gauges.unscanned,
            gauges.raw,
            gauges.ready,
            gauges.consumed,
            self._bytes_loaded,
            int(self._fetch_time * MICROSECONDS),
            int(self._transform_time * MICROSECONDS),
            self._rows_skipped,
            self._rows_filled,
        ]

    def _total(self, cell: int) -> int:
        """Add a cell up over workers; one of the current iteration over those of the last run."""
        cells = self._worker_stats
        last = cells[-1]
        return sum(
            cells[first + cell]
            for first in range(0, len(cells) - 1, NUM_CELLS)
            if cell >= BYTES or cells[first + RUN] == last
        )

    def _elsewhere(self, cell: int) -> int:
        """A growing cell, of all workers but this process."""
        own = self._worker_stats[self._stats_slot * NUM_CELLS + cell]
        return self._total(cell) - int(own)

    @property
    def bytes_loaded(self) -> int:
        """Bytes of Arrow data read, before any transform, over all iterations and workers."""
        if self._raw_batches_ref is None:
            return self._total(BYTES)
        return self._bytes_loaded + self._elsewhere(BYTES)

    @property
    def fetch_time(self) -> float:
        """Seconds spent reading, summed over threads, workers and iterations."""
        if self._raw_batches_ref is None:
            return self._total(FETCH) / MICROSECONDS
        return self._fetch_time + self._elsewhere(FETCH) / MICROSECONDS

    @property
    def transform_time(self) -> float:
        """Seconds spent in the transform, summed over threads, workers and iterations."""
        if self._raw_batches_ref is None:
            return self._total(TRANSFORM) / MICROSECONDS
        return self._transform_time + self._elsewhere(TRANSFORM) / MICROSECONDS

    @property
    def rows_skipped(self) -> int:
        """Rows dropped because their transform failed, over all iterations and workers."""
        if self._raw_batches_ref is None:
            return self._total(SKIPPED)
        return self._rows_skipped + self._elsewhere(SKIPPED)

    @property
    def rows_filled(self) -> int:
        """Rows replaced because their transform failed, over all iterations and workers."""
        if self._raw_batches_ref is None:
            return self._total(FILLED)
        return self._rows_filled + self._elsewhere(FILLED)

    @property
    def raw_queue_depth(self) -> int:
        """Rows read and waiting for a transform; many of them if transforms are slow."""
        if self._raw_batches_ref is None:
            return self._total(RAW)
        return sum(
            batch.num_rows for queue in self._raw_batches_ref for _, batch in queue
        )

    @property
    def prefetch_queue_depth(self) -> int:
        """Rows transformed and waiting for the consumer; none if reading is slow."""
        if self._cooked_ref is None:
            return self._total(READY)
        return sum(map(len, self._cooked_ref))

    @property
    def unscanned_rows(self) -> int:
        """Rows of this iteration that were not asked for yet."""
        if self._fetch_head_ref is None or self._split_sizes_ref is None:
            return self._total(UNSCANNED)
        return sum(self._split_sizes_ref) - sum(self._fetch_head_ref)

    @property
    def consumed_rows(self) -> int:
        """Rows of this iteration that were handed over; documents, where they are packed."""
        if self._local_consumed_ref is None:
            return self._total(CONSUMED)
        return sum(self._local_consumed_ref)
