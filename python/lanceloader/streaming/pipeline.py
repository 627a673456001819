"""The two stages of streaming: threads that read, threads that transform.

The consumer's thread moves batches on between them, whenever it takes a row: nothing else
does, so all queues here are its own. What a stage raised comes out in the consumer.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from lanceloader import streaming
from lanceloader.locations import RowLocation, name_rows
from lanceloader.streaming.counting import Gauges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import pyarrow as pa

    from lanceloader.streaming.counting import Counting

# Seconds that breaking off waits for reads and transforms under way. What takes longer,
# as a transform that hangs, is left behind.
GRACE = 1.0


class Stream(NamedTuple):
    """Rows that are read and handed over in order: those of a split, or some of them."""

    perm: Any
    num_rows: int
    first: int
    """The position in the split that the first row has."""
    offsets: Callable[[int, int], list[int]]
    """Row numbers ``start`` to ``stop`` as positions in ``perm``."""

    def place(self, start: int) -> RowLocation:
        """Return the place of the batch whose first row has this position."""
        row = start - self.first

        def name(ats: Sequence[int], num_rows: int) -> str:
            found = self.offsets(row, row + max(ats) + 1)
            positions = [found[at] for at in ats]
            offsets = [self.perm._order.at(position) for position in positions]
            return name_rows(self.perm._source, offsets, num_rows)

        return RowLocation(f"the batch at position {start}", name)


@dataclass(frozen=True)
class Limits:
    """How much may be under way."""

    batch_size: int
    io_queue_depth: int
    transform_threads: int
    max_ready_rows: int | None = None
    """Rows of a stream that may be transformed, or be about to be."""
    max_bytes: int | None = None
    """Bytes read and not handed over; one batch of each stream always may be."""


class Pipeline:
    """The streams of one iteration. A context: it ends its threads."""

    def __init__(
        self,
        streams: list[Stream],
        limits: Limits,
        transform: Callable[[int, pa.RecordBatch, RowLocation], list[Any]],
        make_queue: Callable[[], Any],
        counting: Counting,
    ) -> None:
        """Prepare; nothing starts.

        Args:
            streams: What to read.
            limits: How much may be under way.
            transform: Turns a batch, of which the first row has this position, into items
                for a queue; its place is for messages.
            make_queue: Makes the queue of what is ready: with ``extend`` and a length in rows.
            counting: Counts what the stages do.
        """
        self.streams = streams
        self.limits = limits
        self.transform = transform
        self.counting = counting
        num_streams = len(streams)
        self.sizes = [stream.num_rows for stream in streams]
        self.heads = [0] * num_streams
        self.reading: list[deque[tuple[int, Future[Any]]]] = queues(num_streams)
        self.raw: list[deque[tuple[int, Any]]] = queues(num_streams)
        self.transforming: list[deque[tuple[int, Future[Any]]]] = queues(num_streams)
        self.ready = [make_queue() for _ in streams]
        self.consumed = [0] * num_streams
        self.received = [0] * num_streams
        self.raw_rows = 0
        self.slots = streaming.threading.Semaphore(limits.transform_threads)
        self.budget = None if limits.max_bytes is None else Budget(limits, num_streams)
        self.stirred = [True] * num_streams
        """Whether something may have come to an end, or may begin, since a stream was moved on."""

    def __enter__(self) -> Self:
        threads = len(self.streams) * self.limits.io_queue_depth
        self._pools: list[Any] = []
        self._io = self._pool(threads)
        try:
            self._workers = self._pool(self.limits.transform_threads)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(kind, error, trace)

    def fill(self, i: int) -> None:
        """Ask for more of stream ``i``, as far as may be."""
        depth, size = self.limits.io_queue_depth, self.sizes[i]
        reading = self.reading[i]
        while len(reading) < depth and self.heads[i] < size:
            start = self.heads[i]
            stop = min(start + self.limits.batch_size, size)
            if self.budget is not None and not self.budget.admits(i, stop - start):
                break
            self.heads[i] = stop
            stream = self.streams[i]
            offsets = stream.offsets(start, stop)
            future = self._io.submit(self._io_call, stream.perm, offsets)
            reading.append((stream.first + start, future))
            self._stir_by(future, i)

    def advance(self, i: int) -> None:
        """Move stream ``i`` on, without waiting.

        Raises:
            Exception: What a finished read or transform raised.
        """
        if not self.stirred[i]:
            return
        # Before looking: what ends meanwhile stirs it again.
        self.stirred[i] = False
        reading, transforming = self.reading[i], self.transforming[i]
        while reading and reading[0][1].done():
            self._arrive(i)
        while transforming and transforming[0][1].done():
            self._receive(i)
        if self.raw[i]:
            self._submit(i)
        if self.heads[i] < self.sizes[i]:
            self.fill(i)
        if self.raw[i] or self.budget is not None:
            # Room is made by taking rows, too, and by other streams.
            self.stirred[i] = True

    def ensure(self, i: int) -> bool:
        """Wait until stream ``i`` has a row ready; false if it has no more.

        Raises:
            Exception: What a read or transform raised.
        """
        self.advance(i)
        while not self.ready[i]:
            if self.transforming[i]:
                self._receive(i)
                self.advance(i)
            elif self.raw[i]:
                # Others may have all threads.
                self.slots.acquire()
                self._transform_next(i)
            elif self.reading[i]:
                self._arrive(i)
                self.advance(i)
            else:
                return False
        return True

    def took(self, i: int, num_rows: int, position: int) -> None:
        """Note rows taken from the queue of stream ``i``, up to this position."""
        self.consumed[i] += num_rows
        self._release(i, position)

    def gauges(self, *, is_over: bool = False) -> Gauges:
        """Tell how far it is; where it is over, nothing waits."""
        return Gauges(
            unscanned=sum(self.sizes) - sum(self.heads),
            raw=0 if is_over else self.raw_rows,
            ready=0 if is_over else sum(map(len, self.ready)),
            consumed=sum(self.consumed),
        )

    # In threads. Programs that replace the executor tell reads from transforms by these names,
    # which are LanceDB's.

    def _io_call(self, perm: Any, offsets: list[int]) -> Any:
        began = streaming.time.perf_counter()
        batch = perm.__getitems__(offsets)
        seconds = streaming.time.perf_counter() - began
        self.counting._count(bytes_loaded=batch.nbytes, fetch_time=seconds)
        return batch

    def _tx_call_guarded(
        self, start: int, batch: pa.RecordBatch, stream: Stream
    ) -> list[Any]:
        try:
            began = streaming.time.perf_counter()
            items = self.transform(start, batch, stream.place(start))
            seconds = streaming.time.perf_counter() - began
            self.counting._count(transform_time=seconds)
            return items
        finally:
            self.slots.release()

    # In the consumer.

    def _arrive(self, i: int) -> None:
        self.stirred[i] = True
        start, future = self.reading[i][0]
        # Where this wait is interrupted, breaking off must still know of the future.
        batch = future.result()
        self.reading[i].popleft()
        self.raw[i].append((start, batch))
        self.raw_rows += batch.num_rows
        if self.budget is not None:
            self.budget.arrived(i, start + batch.num_rows, batch)

    def _submit(self, i: int) -> None:
        limit, size = self.limits.max_ready_rows, self.limits.batch_size
        while self.raw[i]:
            if limit is not None:
                under_way = len(self.ready[i]) + len(self.transforming[i]) * size
                if under_way + size > limit:
                    return
            if not self.slots.acquire(blocking=False):
                return
            self._transform_next(i)

    def _transform_next(self, i: int) -> None:
        start, batch = self.raw[i].popleft()
        self.raw_rows -= batch.num_rows
        stream = self.streams[i]
        future = self._workers.submit(self._tx_call_guarded, start, batch, stream)
        self.transforming[i].append((start + batch.num_rows, future))
        self._stir_by(future, i)

    def _stir_by(self, future: Any, i: int) -> None:
        def stir(_: Any) -> None:
            self.stirred[i] = True

        future.add_done_callback(stir)

    def _receive(self, i: int) -> None:
        self.stirred[i] = True
        self.received[i], future = self.transforming[i][0]
        items = future.result()
        self.transforming[i].popleft()
        self.ready[i].extend(items)
        self._release(i, 0)

    def _release(self, i: int, position: int) -> None:
        if self.budget is not None:
            # Rows may have been dropped: what is left of an empty queue is nothing.
            end = position if self.ready[i] else self.received[i]
            self.budget.release(i, end)

    def _pool(self, num_threads: int) -> Any:
        pool = streaming.ThreadPoolExecutor(max_workers=num_threads)
        entered = pool.__enter__()
        self._pools.append((pool, entered))
        return entered

    def _close(self, *reason: Any) -> None:
        """End the threads, but those that do not end.

        The executor's own way would wait for all that was submitted.
        """
        pools, self._pools = self._pools[::-1], []
        ours = [pool for pool, entered in pools if is_executor(pool, entered)]
        for pool in ours:
            pool.shutdown(wait=False, cancel_futures=True)
        queued = self.transforming + self.reading
        under_way = [
            future
            for futures in queued
            for _, future in futures
            if not future.cancelled()
        ]
        left = wait(under_way, timeout=GRACE).not_done if ours else None
        # Futures refer to the pipeline: rows would live until cycles are collected.
        for queue in queued + self.raw:
            queue.clear()
        self.ready = []
        for pool, _ in pools:
            if pool not in ours:
                pool.__exit__(*(reason or (None, None, None)))
            elif not left:
                pool.shutdown()
        if left:
            streaming.logger.warning(
                "%d reads or transforms go on in the background: they did not end within "
                "%g s after the iteration was broken off",
                len(left),
                GRACE,
            )


class Budget:
    """Bytes read, and not handed over: by stream, the batches with where they end.

    Reads under way count as much as batches did so far.
    """

    def __init__(self, limits: Limits, num_streams: int) -> None:
        """Begin with nothing."""
        self.max_bytes = limits.max_bytes or 0
        self.held: list[deque[tuple[int, int]]] = queues(num_streams)
        self.pending = [0] * num_streams
        self.num_bytes = 0
        self.pending_rows = 0
        self.seen_rows = 0
        self.seen_bytes = 0

    def admits(self, i: int, num_rows: int) -> bool:
        """Whether stream ``i`` may read this many rows now; if so, they are pending."""
        is_idle = not self.held[i] and not self.pending[i]
        per_row = self.seen_bytes / self.seen_rows if self.seen_rows else None
        rows = self.pending_rows + num_rows
        if not is_idle and (
            per_row is None or self.num_bytes + rows * per_row > self.max_bytes
        ):
            return False
        self.pending[i] += num_rows
        self.pending_rows += num_rows
        return True

    def arrived(self, i: int, end: int, batch: Any) -> None:
        """Count a batch, of rows up to position ``end``."""
        self.held[i].append((end, batch.nbytes))
        self.num_bytes += batch.nbytes
        self.pending[i] -= batch.num_rows
        self.pending_rows -= batch.num_rows
        self.seen_rows += batch.num_rows
        self.seen_bytes += batch.nbytes

    def release(self, i: int, position: int) -> None:
        """Forget the batches whose rows are all handed over."""
        held = self.held[i]
        while held and held[0][0] <= position:
            self.num_bytes -= held.popleft()[1]


def queues(count: int) -> list[deque[Any]]:
    """Make empty queues."""
    return [deque() for _ in range(count)]


def is_executor(pool: Any, entered: Any) -> bool:
    """Whether a pool may be told not to wait; a program may have put another in its place."""
    return pool is entered and isinstance(pool, Executor)
