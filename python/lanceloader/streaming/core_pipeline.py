"""``CorePipeline``: the core reads all streams ahead, in the order in which their rows are needed.

All streams go at one pace, so no row may be left out. Threads transform some batches ahead. A
transform that is brief is called by the consumer, which needs no threads and no batches ahead.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Self

from lanceloader.streaming.counters import Gauges
from lanceloader.streaming.ordered_rows import joined_order
from lanceloader.streaming.pools import Pools
from lanceloader.streaming.replaceable import namespace
from lanceloader.units.batches import RawBatches, batches_ending_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import pyarrow as pa

    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.row_stream import RowStream

MOST_WAITING = 64 << 20
"""About the most bytes of batches that wait, unless there is one of each stream."""

BRIEF_S = 50e-6
"""A transform that takes less on average is called by the consumer: a thread costs more."""
NUM_TIMED = 8
"""How many calls are timed before a transform counts as brief."""


class CorePipeline:
    """The streams of one iteration. As a context manager, it ends its threads.

    Args:
        streams: The streams to read, which have rows.
        samples: Of each stream, the rows that were yielded before. The one with the fewest rows
            is needed first.
        transform: Turns the position of the first row of a batch, the batch, and its stream into
            items for a queue.
        new_queue: Returns a queue for the items of a stream.
        counters: The counters of the dataset.
        batch_size: Rows of one read.
        num_threads: Transforms at once.
        max_ready_rows: Rows of a stream that are transformed or being transformed.
        needs_threads: Whether threads call the transform, however brief it is.
    """

    is_even = True
    """Whether all streams go at one pace."""

    def __init__(
        self,
        streams: list[RowStream],
        samples: list[int],
        transform: Callable[[int, pa.RecordBatch, RowStream], list[Any]],
        new_queue: Callable[[], Any],
        counters: Counters,
        *,
        batch_size: int,
        num_threads: int,
        max_ready_rows: int | None,
        needs_threads: bool,
    ) -> None:
        self.streams = streams
        self.transform = transform
        self.counters = counters
        self.batch_size = batch_size
        self.num_threads = num_threads
        self.max_ready_rows = max_ready_rows
        self.needs_threads = needs_threads
        self.ready = [new_queue() for _ in streams]
        self.consumed = [0] * len(streams)
        self.pools = Pools()
        self.threads: Any = None
        self.transforming: deque[tuple[int, int, Future[Any]]] = deque()
        """Of each transform: the stream, the rows and the future, in the order of the reads."""
        self.durations: deque[float] = deque(maxlen=NUM_TIMED)
        """Seconds that the last transforms took."""
        self.is_brief = False

        self.reads = sorted(
            (samples[i] + start, i, start, min(start + batch_size, stream.num_rows))
            for i, stream in enumerate(streams)
            for start in range(0, stream.num_rows, batch_size)
        )
        """Of each read: when it is needed, the stream, and the rows from start to stop."""
        self.num_reads = 0
        self.read_rows = [0] * len(streams)
        self.num_rows = sum(stream.num_rows for stream in streams)
        self.num_read = self.num_taken = 0
        self.most_rows = batch_size * (2 * len(streams) + 2 * num_threads)
        self.max_waiting = self.most_rows
        """Rows that are transformed or being transformed, and not taken."""
        self.raw: RawBatches | None = self._load()
        self.nanos = 0

    def _load(self) -> RawBatches:
        """Return the batches of all reads, which the core reads ahead."""
        import numpy as np

        streams = self.streams
        perms = list({id(stream.perm): stream.perm for stream in streams}.values())
        starts = np.cumsum([0, *(perm.num_rows for perm in perms)], dtype=np.uint64)
        base = {id(perm): start for perm, start in zip(perms, starts, strict=False)}
        ends = np.cumsum([stop - start for *_, start, stop in self.reads])
        positions = np.empty(self.num_rows, np.uint64)
        for (_, i, start, stop), end in zip(self.reads, ends, strict=True):
            offsets = streams[i].offsets(start, stop).astype(np.uint64)
            first = end - len(offsets)
            np.add(offsets, base[id(streams[i].perm)], out=positions[first:end])
        return batches_ending_at(perms[0].reader, joined_order(perms, positions), ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.pools.close([future for *_, future in self.transforming], *reason)
        finally:
            # Futures refer to the pipeline: without this, rows would live until the garbage
            # collector finds the cycle.
            self.transforming.clear()
            self.ready = []
            self.raw = None

    def wait_ready(self, i: int) -> bool:
        """Wait for a row of stream ``i``, and return whether there is one.

        Raises:
            Exception: If a read or transform raised it.
        """
        self.advance(i)
        while not self.ready[i]:
            if self.transforming:
                self._collect()
                self.advance(i)
            elif self.num_reads < len(self.reads):
                self._read()
            else:
                return False
        return True

    def advance(self, i: int) -> None:
        """Move batches on, without waiting for a transform.

        Raises:
            Exception: If a read, or a finished transform, raised it.
        """
        del i
        while self.transforming and self.transforming[0][-1].done():
            self._collect()
        while not self.is_brief and self._has_room():
            self._read()

    def took(self, i: int, num_rows: int, position: int) -> None:
        """Count rows taken from the queue of stream ``i``, up to ``position``."""
        del position
        self.consumed[i] += num_rows
        self.num_taken += num_rows

    def gauges(self, *, is_over: bool = False) -> Gauges:
        """Return the progress; after the end of the iteration, nothing waits."""
        # A copy, made at once: another thread may ask while the consumer moves batches on.
        raw = sum(
            num_rows
            for _, num_rows, future in tuple(self.transforming)
            if not (is_over or future.running() or future.done())
        )
        ready = 0 if is_over else sum(map(len, self.ready))
        return Gauges(self.num_rows - self.num_read, raw, ready, self.num_taken)

    def _has_room(self) -> bool:
        """Return whether the next batch may be read before it is needed."""
        if self.num_reads == len(self.reads):
            return False
        if self.num_read - self.num_taken + self.batch_size > self.max_waiting:
            return False
        if self.max_ready_rows is None:
            return True
        i = self.reads[self.num_reads][1]
        waiting = self.read_rows[i] - self.consumed[i]
        return waiting + self.batch_size <= self.max_ready_rows

    def _read(self) -> None:
        """Transform the next batch, or have a thread do so."""
        import pyarrow as pa

        assert self.raw is not None
        _, i, start, _ = self.reads[self.num_reads]
        native = next(self.raw.batches)
        batch = pa.record_batch(native)
        nanos = sum(self.raw.watch.stats().stage_nanos)
        seconds, self.nanos = (nanos - self.nanos) * 1e-9, nanos
        num_rows, num_bytes = native.num_rows, native.nbytes
        self.counters.add(bytes_loaded=num_bytes, fetch_time=seconds)
        self.num_reads += 1
        self.num_read += num_rows
        self.read_rows[i] += num_rows
        if num_rows == self.batch_size:
            most = max(len(self.streams), MOST_WAITING // max(1, num_bytes))
            self.max_waiting = min(self.most_rows, most * num_rows)
        stream = self.streams[i]
        start += stream.first
        if self.is_brief and not self.transforming:
            self.ready[i].extend(self._tx_call_guarded(start, batch, stream))
            return
        if self.threads is None:
            self.threads = self.pools.new(self.num_threads)
        future = self.threads.submit(self._tx_call_guarded, start, batch, stream)
        self.transforming.append((i, num_rows, future))

    def _collect(self) -> None:
        i = self.transforming[0][0]
        # If this wait is interrupted, `__exit__` must still find the future in the queue. It is not a
        # local: an exception refers to this frame, and the future to the exception.
        items = self.transforming[0][-1].result()
        self.transforming.popleft()
        self.ready[i].extend(items)

    def _tx_call_guarded(
        self, start: int, batch: pa.RecordBatch, stream: RowStream
    ) -> list[Any]:
        began = namespace.time.perf_counter()
        items = self.transform(start, batch, stream)
        seconds = namespace.time.perf_counter() - began
        self.counters.add(transform_time=seconds)
        durations = self.durations
        durations.append(seconds)
        self.is_brief = (
            not self.needs_threads
            and len(durations) == NUM_TIMED
            and sum(durations) < NUM_TIMED * BRIEF_S
        )
        return items
