"""``Metrics``: the counters and timers of one iteration of a loader."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from lanceloader._native import Histogram
from lanceloader.monitor.counted_batches import CountedBatches
from lanceloader.monitor.curve import Curve
from lanceloader.monitor.measurements import READING
from lanceloader.monitor.stats import Stats, reads_between
from lanceloader.monitor.trace_events import MAX_EVENTS, TraceEvent, start_of_clock
from lanceloader.monitor.transform_counts import TransformCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader import _native
    from lanceloader.monitor.curve import Point
    from lanceloader.world import World

__all__ = ["Metrics"]

NANOS = 1e9

clock = time.perf_counter_ns


class Metrics:
    """The counters of batches of an iteration, and the time of each stage.

    Attributes:
        counts: The counters of the transform stage.
        num_yielded: The number of batches yielded.
        num_skipped: The number of batches skipped before the current one, as a transform failed for
            all of their rows.
        has_skips_noted: Whether transforms run, which may skip batches.
        transform_threads: The number of threads that convert and transform.
        events: The timed events, if the iteration is traced; otherwise ``None``.
        watches: The counters of the core, each with the start of its clock on the Python clock.
        world: The rank of this process, and the number of ranks.
    """

    def __init__(
        self,
        reads: Callable[[], _native.ReadStats | None],
        format_name: str | None,
        world: World,
        *,
        is_traced: bool = False,
    ) -> None:
        """Start to count.

        Args:
            reads: Returns the counters of all readers of the same rows.
            format_name: The format of the batches, for ``Stats.format``.
            world: The rank of this process, and the number of ranks.
            is_traced: Whether to keep events.
        """
        self.counts = TransformCounts()
        self.num_yielded = 0
        self.num_skipped = 0
        self.has_skips_noted = False
        self.transform_threads = 0
        self.events: list[TraceEvent] | None = [] if is_traced else None
        self.watches: list[tuple[_native.Watch, int]] = []
        self.world = world
        self._format_name = format_name
        self._reads = reads
        self._reads_before = reads()
        self._lock = threading.Lock()
        self._started: int | None = None
        self._ended: int | None = None
        self._requested = 0
        self._yielded = 0
        self._consumer = 0
        """The thread that got the last batch, if the iteration is traced."""
        self._first_wait = 0
        self._waited = 0
        self._waits = Histogram()
        self._num_taken = 0
        self._read_waited = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        """The rows and bytes of the batches that were taken and not yielded yet."""
        self._skipped_before: deque[int] = deque()
        """The number of batches skipped before each batch that left the transform stage."""
        self._num_skips_counted = 0
        self._rows = self._bytes = 0
        self._nanos: dict[str, int] = {}
        """The time of each stage, without the stages of ``watches``."""
        self._ready = self._ready_now = 0
        self._core_ready = self._core_batches = 0
        self._queue: Callable[[], Any] | None = None
        self._curve = Curve()
        self._helper_stats: Stats | None = None

    def renew_lock(self) -> None:
        """Replace the lock in a forked child, which lacks the thread that may hold it."""
        self._lock = threading.Lock()

    def count(self, raw: Any) -> CountedBatches:
        """Return the raw batches of an epoch, counted as they are taken."""
        if raw.watch is not None:
            if self.events is None:
                self._fold()
            else:
                raw.watch.trace()
            with self._lock:
                self.watches.append((raw.watch, start_of_clock(raw.watch)))
        return CountedBatches(raw, self.take)

    def watch_queue(self, values: Any) -> None:
        """Read the number of finished batches, ``values.num_ready``, at each request of a batch."""
        # A weak reference, as an iteration ends when its consumer drops it.
        self._queue = weakref.ref(values)

    def note_skips(self, values: Any) -> Iterator[Any]:
        """Yield transformed batches, and note the skipped ones for stages that run ahead."""
        self.has_skips_noted = True
        try:
            for value in values:
                self._skipped_before.append(self.counts.batches_skipped)
                yield value
        finally:
            values.close()

    def skipped(self) -> int:
        """Return the number of batches that were skipped before the current one."""
        if self._skipped_before:
            self.num_skipped = self._skipped_before.popleft()
        return self.num_skipped

    def timed(
        self, stage: str, call: Callable[..., Any], name: str | None = None
    ) -> Callable[..., Any]:
        """Return a function that calls ``call`` and adds its time to a stage, from any thread."""

        def timed(*values: Any) -> Any:
            start = clock()
            try:
                return call(*values)
            finally:
                self.spend(stage, start, clock() - start, name)

        return timed

    def spend(
        self, stage: str, start: int, nanos: int, name: str | None = None
    ) -> None:
        """Add time to a stage."""
        with self._lock:
            self._nanos[stage] = self._nanos.get(stage, 0) + nanos
        if self.events is not None:
            self.note(name or stage, start, nanos)

    def note(self, name: str, start: int, nanos: int, **args: int) -> None:
        """Record an event of this thread, if the iteration is traced."""
        if self.events is not None and len(self.events) < MAX_EVENTS:
            thread = threading.current_thread()
            where = thread.name, threading.get_ident()
            self.events.append(TraceEvent(name, where, start, nanos, args))

    def take(
        self, num_rows: int, num_bytes: int, start: int, *, is_watched: bool
    ) -> None:
        """Count a raw batch that was taken from the threads that read."""
        nanos = clock() - start
        self._in_flight.append((num_rows, num_bytes))
        if self._num_taken:
            self._read_waited += nanos
        self._num_taken += 1
        if not is_watched:
            self.spend("read", start, nanos)
        elif self.events is not None:
            self.note("take", start, nanos, rows=num_rows, bytes=num_bytes)

    def request(self) -> None:
        """Record that the consumer requests a batch."""
        now = self._requested = clock()
        if self._started is None:
            self._started = now
        if self.events is not None:
            self._note_step(now)
        queue = None if self._queue is None else self._queue()
        self._ready_now = 0 if queue is None else queue.num_ready

    def yield_batch(self) -> None:
        """Record that the consumer gets the batch."""
        now = clock()
        nanos = now - self._requested
        self._waited += nanos
        if self.num_yielded:
            self._waits.add(nanos)
        else:
            self._first_wait = nanos
        self.num_yielded += 1
        self._ready += self._ready_now
        in_flight = self._in_flight
        # A call for each batch counts: this is the path of all batches.
        if in_flight and self.num_skipped == self._num_skips_counted:
            rows, num_bytes = in_flight.popleft()
        else:
            rows, num_bytes = self.next_size()
        self._rows += rows
        self._bytes += num_bytes
        if self.events is not None:
            batch = self.num_yielded - 1
            self.note("wait", self._requested, nanos, batch=batch, rows=rows)
            self._consumer = threading.get_ident()
        self._yielded = now
        if self.num_yielded % self._curve.stride == 0 or self.num_yielded == 1:
            self._curve.add(self.num_yielded, self._point())

    def next_size(self) -> tuple[int, int]:
        """Return the rows and bytes of the batch that leaves, which is in flight no longer."""
        in_flight = self._in_flight
        if self.num_skipped != self._num_skips_counted:
            # The rows of skipped batches are not yielded.
            for _ in range(
                min(self.num_skipped - self._num_skips_counted, len(in_flight))
            ):
                in_flight.popleft()
            self._num_skips_counted = self.num_skipped
        return in_flight.popleft() if in_flight else (0, 0)

    def end(self) -> None:
        """Record the end of the iteration."""
        if self._ended is None and self._started is not None:
            self._ended = clock()
            if self.events is not None:
                self._note_step(self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether the iteration has ended."""
        return self._ended is not None

    @property
    def size_yielded(self) -> tuple[int, int]:
        """The number of rows and bytes that were yielded."""
        return self._rows, self._bytes

    def update(self, rows: int, num_bytes: int, stats: Stats | None) -> None:
        """Replace the counters by those of a helper process."""
        self._rows, self._bytes = rows, num_bytes
        if stats is not None:
            self._helper_stats = stats

    def speedometer(self) -> Callable[[], str]:
        """Return a function that formats the speed from now on, for a progress bar."""
        start, rows, waited = clock(), self._rows, self._waited

        def speed() -> str:
            nanos = max(1, clock() - start)
            rate = (self._rows - rows) / (nanos / NANOS)
            share = (self._waited - waited) / nanos
            # Workers do not report their rows.
            speed = f"{rate:,.0f} rows/s, " if self._rows else ""
            return f"{speed}waits {min(1.0, share):.0%}"

        return speed

    def stats(self) -> Stats:
        """Return the statistics of the iteration, so far."""
        found: dict[str, Any] = {}
        with self._lock:
            own = {stage: nanos / NANOS for stage, nanos in self._nanos.items()}
            loads = [watch.stats() for watch, _ in self.watches]
            core_ready, core_batches = self._core_ready, self._core_batches
        if self._helper_stats is not None:
            found = {
                name: getattr(self._helper_stats, name)
                for name in Stats.__dataclass_fields__
            }
            helpers = found["stage_seconds"]
            found["stage_seconds"] = {
                stage: helpers.get(stage, 0.0) + own.get(stage, 0.0)
                for stage in (*helpers, *own)
            }
        else:
            for load in loads:
                for stage, nanos in nanos_by_stage(load):
                    own[stage] = own.get(stage, 0.0) + nanos / NANOS
            ready, batches = self._ready, self.num_yielded
            if self._queue is None:
                ready = core_ready + sum(load.ready for load in loads)
                batches = core_batches + sum(load.batches for load in loads)
            found = {"stage_seconds": own, "ready": ready / batches if batches else 0.0}
            # Another library reads all rows from files.
            read = reads_between(self._reads_before, self._reads())
            found |= read or {"rows_direct": self._rows}
            found["transform_threads"] = self.transform_threads
            found["read_wait_seconds"] = self._read_waited / NANOS
            found["rows_skipped"] = self.counts.rows_skipped
            found["rows_filled"] = self.counts.rows_filled
            found["batches_skipped"] = self.counts.batches_skipped
        counts = tuple((end / NANOS, n) for end, n in self._waits.counts())
        end = self._ended or clock()
        found |= {
            "batches": self.num_yielded,
            "rows": self._rows,
            "bytes": self._bytes,
            "seconds": (end - (end if self._started is None else self._started))
            / NANOS,
            "first_batch_seconds": self._first_wait / NANOS,
            "wait_seconds": self._waited / NANOS,
            "wait_p50": self._waits.quantile(0.5) / NANOS,
            "wait_p95": self._waits.quantile(0.95) / NANOS,
            "wait_p99": self._waits.quantile(0.99) / NANOS,
            "waits": counts,
            "series": self._curve.until(self._point()) if self.num_yielded else (),
            "rank": self.world.rank,
            "world_size": self.world.world_size,
            "format": self._format_name,
        }
        return Stats(**found)

    def _point(self) -> Point:
        started = self._started or 0
        return (self._yielded - started) / NANOS, self._rows, self._waited / NANOS

    def _note_step(self, now: int) -> None:
        """Record the training step since the last batch was yielded."""
        is_the_same = self._consumer == threading.get_ident()
        if self.events is not None and self.num_yielded and is_the_same:
            self.note(
                "train", self._yielded, now - self._yielded, batch=self.num_yielded - 1
            )
            # The time until the end of the iteration must not be recorded as another step.
            self._consumer = 0

    def _fold(self) -> None:
        """Sum the counters of earlier epochs, so that memory does not grow with their number."""
        with self._lock:
            for watch, _ in self.watches:
                load = watch.stats()
                self._core_ready += load.ready
                self._core_batches += load.batches
                for name, nanos in nanos_by_stage(load):
                    self._nanos[name] = self._nanos.get(name, 0) + nanos
            self.watches = []


def nanos_by_stage(load: _native.LoadStats) -> Iterator[tuple[str, int]]:
    return zip(READING, load.stage_nanos, strict=True)
