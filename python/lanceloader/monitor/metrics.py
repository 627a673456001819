"""What one iteration of a loader does, while it does it."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from lanceloader._native import Histogram
from lanceloader.formats import name_of
from lanceloader.monitor.stats import Stats, reads_between
from lanceloader.stages.transform import TransformCounts
from lanceloader.units.batches import watch_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader import _native
    from lanceloader.units.rows import Units
    from lanceloader.world import World

__all__ = ["Metrics", "TraceEvent"]

NANOS = 1e9

MAX_EVENTS = 1 << 20
"""Events kept of an iteration: as many as the core keeps."""

MAX_POINTS = 512
"""Moments kept for a curve over time: more than a picture is wide would not be seen."""

clock = time.perf_counter_ns


class TraceEvent(NamedTuple):
    """Something that took time in a thread of Python."""

    name: str
    thread: tuple[str, int]
    """The name and number of the thread."""
    start: int
    """On the clock of ``time.perf_counter_ns``."""
    nanos: int
    args: dict[str, int]


class Metrics:
    """Counts what an iteration hands out, and the time that it takes.

    Attributes:
        counts: What transforms did.
        num_handed: Batches handed out.
        num_left_out: Batches left out before the last one that was reached, as all their rows were.
        transform_threads: Threads that convert and transform.
        events: What took time, if it is traced.
        watches: What counts in the core, and when its clock began on ours.
    """

    def __init__(self, served: Units, world: World, *, is_traced: bool) -> None:
        self.counts = TransformCounts()
        self.num_handed = 0
        self.transform_threads = 0
        self.events: list[TraceEvent] | None = [] if is_traced else None
        self.watches: list[tuple[_native.Watch, int]] = []
        self.world = world
        self._served = served
        self._before = served.reads()
        self._lock = threading.Lock()
        self._started: int | None = None
        self._ended: int | None = None
        self._asked = 0
        self._handed = 0
        self._thread = 0
        """The thread that works on the last batch, if this is traced."""
        self._first = 0
        self._waited = 0
        self._waits = Histogram()
        self._num_taken = 0
        self._read_waited = 0
        self._under_way: deque[tuple[int, int]] = deque()
        """Rows and bytes of the batches that were taken and not handed out."""
        self._left_out: deque[int] = deque()
        """Batches left out before each of those that transforms handed on."""
        self.num_left_out = 0
        self._num_skipped = 0
        self._rows = self._bytes = 0
        self._nanos: dict[str, int] = {}
        """Of each stage, but for those of the last loader of the core."""
        self._ready = self._ready_now = 0
        self._core_ready = self._core_batches = 0
        self._line: Callable[[], Any] | None = None
        self._points = _Points()
        self._others: Stats | None = None

    def unlock(self) -> None:
        """Free the lock in a forked child, where the thread that holds it may not exist."""
        self._lock = threading.Lock()

    def over(self, raw: Iterator[Any]) -> CountedBatches:
        """Pass the batches of an epoch on, and count them."""
        watched: _native.Watch | None = watch_of(raw)
        if watched is not None:
            if self.events is None:
                self._fold()
            else:
                watched.trace()
            self.watches.append((watched, began(watched)))
        return CountedBatches(raw, watched, self)

    def lined_up(self, values: Any) -> None:
        """Ask ``values.num_ready`` from now on how many batches lie ready."""
        # The iteration ends when whoever asks lets go of it: statistics must not hold it.
        self._line = weakref.ref(values)

    def in_line(self, values: Any) -> Iterator[Any]:
        """Pass on what transforms made, noting what they left out: later steps may run ahead."""
        try:
            for value in values:
                self._left_out.append(self.counts.batches_skipped)
                yield value
        finally:
            values.close()

    def reached(self) -> int:
        """Give the number of batches left out before the one that is handed out now."""
        if self._left_out:
            self.num_left_out = self._left_out.popleft()
        return self.num_left_out

    def timed(
        self, stage: str, call: Callable[[Any], Any], name: str | None = None
    ) -> Callable[[Any], Any]:
        """Make a function count its time, in any number of threads."""

        def timed(value: Any) -> Any:
            start = clock()
            try:
                return call(value)
            finally:
                self.spent(stage, start, clock() - start, name)

        return timed

    def spent(
        self, stage: str, start: int, nanos: int, name: str | None = None
    ) -> None:
        """Count time of a stage."""
        with self._lock:
            self._nanos[stage] = self._nanos.get(stage, 0) + nanos
        if self.events is not None:
            self.note(name or stage, start, nanos)

    def note(self, name: str, start: int, nanos: int, **args: int) -> None:
        """Keep what took time in this thread, if this is traced."""
        if self.events is not None and len(self.events) < MAX_EVENTS:
            thread = threading.current_thread()
            where = thread.name, threading.get_ident()
            self.events.append(TraceEvent(name, where, start, nanos, args))

    def took(self, batch: Any, num_bytes: int, start: int, *, is_watched: bool) -> None:
        """Count a raw batch, taken from the threads that read."""
        nanos = clock() - start
        num_rows = getattr(batch, "num_rows", 0)
        self._under_way.append((num_rows, num_bytes))
        if self._num_taken:
            self._read_waited += nanos
        self._num_taken += 1
        if not is_watched:
            self.spent("read", start, nanos)
        elif self.events is not None:
            self.note("take", start, nanos, rows=num_rows, bytes=num_bytes)

    def asked(self) -> None:
        """A batch is asked for."""
        self._asked = clock()
        if self._started is None:
            self._started = self._asked
        self._note_step(self._asked)
        values = None if self._line is None else self._line()
        self._ready_now = 0 if values is None else values.num_ready

    def handed(self) -> None:
        """The batch is there."""
        now = clock()
        nanos = now - self._asked
        self._waited += nanos
        if self.num_handed:
            self._waits.add(nanos)
        else:
            self._first = nanos
        self.num_handed += 1
        self._ready += self._ready_now
        rows = self._count()
        if self.events is not None:
            self.note("wait", self._asked, nanos, batch=self.num_handed - 1, rows=rows)
            self._thread = threading.get_ident()
        self._handed = now
        self._points.add(self.num_handed, self._point())

    def ended(self) -> None:
        """No more batches are asked for."""
        if self._ended is None and self._started is not None:
            self._ended = clock()
            self._note_step(self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether the iteration is over."""
        return self._ended is not None

    @property
    def size_handed(self) -> tuple[int, int]:
        """Rows and bytes that were handed out."""
        return self._rows, self._bytes

    def told(self, rows: int, num_bytes: int, stats: Stats | None) -> None:
        """Take what a helper process did from what it says itself."""
        self._rows, self._bytes = rows, num_bytes
        if stats is not None:
            self._others = stats

    def lap(self) -> Callable[[], str]:
        """Begin a part of the iteration; what this gives says how fast it was so far."""
        start, rows, waited = clock(), self._rows, self._waited

        def said() -> str:
            nanos = max(1, clock() - start)
            rate = (self._rows - rows) / (nanos / NANOS)
            share = (self._waited - waited) / nanos
            return f"{rate:,.0f} rows/s, waits {min(1.0, share):.0%}"

        return said

    def stats(self) -> Stats:
        """Give what was done so far."""
        found: dict[str, Any] = {}
        with self._lock:
            mine = {stage: nanos / NANOS for stage, nanos in self._nanos.items()}
        if self._others is not None:
            found = {
                name: getattr(self._others, name) for name in Stats.__dataclass_fields__
            }
            theirs = found["stage_seconds"]
            found["stage_seconds"] = {
                stage: theirs.get(stage, 0.0) + mine.get(stage, 0.0)
                for stage in (*theirs, *mine)
            }
        else:
            found = self._of_core(mine)
            # What another library reads, it reads from files.
            read = reads_between(self._before, self._served.reads())
            found |= read or {"rows_direct": self._rows}
            found["transform_threads"] = self.transform_threads
            found["read_wait_seconds"] = self._read_waited / NANOS
            found["rows_skipped"] = self.counts.rows_skipped
            found["rows_filled"] = self.counts.rows_filled
            found["batches_skipped"] = self.counts.batches_skipped
        counts = tuple((end / NANOS, n) for end, n in self._waits.counts())
        end = self._ended or clock()
        found |= {
            "batches": self.num_handed,
            "rows": self._rows,
            "bytes": self._bytes,
            "seconds": (end - (end if self._started is None else self._started))
            / NANOS,
            "first_batch_seconds": self._first / NANOS,
            "wait_seconds": self._waited / NANOS,
            "wait_p50": self._waits.quantile(0.5) / NANOS,
            "wait_p95": self._waits.quantile(0.95) / NANOS,
            "wait_p99": self._waits.quantile(0.99) / NANOS,
            "waits": counts,
            "series": self._points.until(self._point()) if self.num_handed else (),
            "rank": self.world.rank,
            "world_size": self.world.world_size,
            "format": name_of(self._served.view.transform_fn),
        }
        return Stats(**found)

    def _count(self) -> int:
        """Count the rows of the batch that is handed out; those left out before it are none."""
        skipped = self.num_left_out
        for _ in range(skipped - self._num_skipped):
            if self._under_way:
                self._under_way.popleft()
        self._num_skipped = skipped
        rows, num_bytes = self._under_way.popleft() if self._under_way else (0, 0)
        self._rows += rows
        self._bytes += num_bytes
        return rows

    def _point(self) -> tuple[float, int, float]:
        started = self._started or 0
        return (self._handed - started) / NANOS, self._rows, self._waited / NANOS

    def _note_step(self, now: int) -> None:
        """Keep the time since the last batch was handed out, in which the caller worked."""
        is_the_same = self._thread == threading.get_ident()
        if self.events is not None and self.num_handed and is_the_same:
            self.note(
                "train", self._handed, now - self._handed, batch=self.num_handed - 1
            )
            # It is over: the end of the iteration is no step.
            self._thread = 0

    def _fold(self) -> None:
        """Keep the numbers of epochs that are over, so that memory does not grow with them."""
        for watch, _ in self.watches:
            load = watch.stats()
            self._core_ready += load.ready
            self._core_batches += load.batches
            with self._lock:
                for name, nanos in staged(load):
                    self._nanos[name] = self._nanos.get(name, 0) + nanos
        self.watches = []

    def _of_core(self, stages: dict[str, float]) -> dict[str, Any]:
        loads = [watch.stats() for watch, _ in self.watches]
        for load in loads:
            for name, nanos in staged(load):
                stages[name] = stages.get(name, 0.0) + nanos / NANOS
        ready, batches = self._ready, self.num_handed
        if self._line is None:
            ready = self._core_ready + sum(load.ready for load in loads)
            batches = self._core_batches + sum(load.batches for load in loads)
        return {"stage_seconds": stages, "ready": ready / batches if batches else 0.0}


class CountedBatches:
    """Raw batches of an epoch, counted as they are taken.

    Attributes:
        num_bytes: The size of the one that was taken last.
    """

    def __init__(
        self, raw: Iterator[Any], watch: _native.Watch | None, running: Metrics
    ) -> None:
        self._raw = raw
        self._watch = watch
        self._running = running
        self._bytes = 0
        self.num_bytes = 0
        self._size_of: Callable[[Any], int] | None = getattr(raw, "size_of", None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        start = clock()
        batch = next(self._raw)
        if self._size_of is not None:
            size = self._size_of(batch)
        elif self._watch is None:
            size = getattr(batch, "nbytes", 0)
        else:
            before, self._bytes = self._bytes, self._watch.stats().bytes
            size = self._bytes - before
        is_watched = self._watch is not None
        self.num_bytes = size
        self._running.took(batch, size, start, is_watched=is_watched)
        return batch

    def close(self) -> None:
        """Take no more."""
        close = getattr(self._raw, "close", None)
        if close is not None:
            close()


class _Points:
    """Moments at even distances, twice as far apart whenever there are too many."""

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None
        self._others: list[tuple[int, tuple[float, int, float]]] = []
        self._stride = 1

    def add(self, number: int, point: tuple[float, int, float]) -> None:
        if self._first is None:
            self._first = point
        elif number % self._stride == 0:
            self._others.append((number, point))
            if len(self._others) >= MAX_POINTS:
                self._stride *= 2
                self._others = [
                    each for each in self._others if each[0] % self._stride == 0
                ]

    def until(
        self, last: tuple[float, int, float]
    ) -> tuple[tuple[float, int, float], ...]:
        points = [] if self._first is None else [self._first]
        points += [point for _, point in self._others]
        return (*points, *([last] if points and points[-1] != last else []))


def staged(load: _native.LoadStats) -> Iterator[tuple[str, int]]:
    return zip(("order", "plan", "read", "gather"), load.stage_nanos, strict=True)


def began(watch: _native.Watch) -> int:
    """Say when the clock of a watch began, on ours: the best of some looks at both."""
    looks = []
    for _ in range(5):
        before, there, after = clock(), watch.now_nanos, clock()
        looks.append((after - before, (before + after) // 2 - there))
    return min(looks)[1]
