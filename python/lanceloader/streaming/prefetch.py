"""Prefetching: a pool of threads that read, and a pool of threads that transform.

Only the thread of the consumer moves batches from stage to stage, each time it takes a row, so
the queues need no locks. An exception in a stage is raised in the consumer.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from lanceloader.locations import RowLocation, name_rows
from lanceloader.numbers import rows_at
from lanceloader.streaming.buffered_bytes import MAX_BYTES, BufferedBytes, new_deques
from lanceloader.streaming.counters import Gauges
from lanceloader.streaming.replaceable import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy as np
    import pyarrow as pa

    from lanceloader.streaming.counters import Counters

MOST_WAITING = 64 << 20
"""About the most bytes of batches that the core has read and that wait, unless there is one each."""

BRIEF_S = 50e-6
"""A transform that takes less on average is called by the consumer: a thread costs more."""
TRIED = 8
"""How many calls in threads show that."""

# Seconds to wait for running reads and transforms when an iteration is closed. Calls that take
# longer, such as a transform that hangs, are left in the background.
GRACE = 1.0


class RowStream(NamedTuple):
    """Rows that are read and yielded in order: those of a split, or some of them."""

    perm: Any
    num_rows: int
    first: int
    """The position of the first row in the split."""
    offsets: Callable[[int, int], list[int]]
    """Returns the positions in ``perm`` of rows ``start`` to ``stop`` of the stream."""

    def location(self, start: int) -> RowLocation:
        """Return the location of the batch whose first row has position ``start``."""
        row = start - self.first

        def name(ats: Sequence[int], num_rows: int) -> str:
            found = self.offsets(row, row + max(ats) + 1)
            positions = [found[at] for at in ats]
            offsets = [self.perm.order.at(position) for position in positions]
            return name_rows(self.perm.source, offsets, num_rows)

        return RowLocation(f"the batch at position {start}", name)

    def places(self, start: int, num_rows: int) -> np.ndarray[Any, Any]:
        """Return the places in the table of the rows from position ``start`` on."""
        row = start - self.first
        return rows_at(self.perm.order, self.offsets(row, row + num_rows))


class Reads(Protocol):
    """Batches that the core reads ahead."""

    def next_of(self, i: int) -> pa.RecordBatch:
        """Return the next batch of stream ``i``."""


@dataclass(frozen=True)
class Limits:
    """Limits on the batches under way.

    Attributes:
        batch_size: Rows of one read.
        io_queue_depth: Reads of one stream at once.
        transform_threads: Transforms at once.
        max_ready_rows: Rows of a stream that are transformed or being transformed.
        max_batches: Batches of a stream that the core has read and that were not yielded, if they
            are small.
        needs_threads: Whether threads call the transform, however brief it is.
        max_bytes: Bytes read and not yet yielded; by default ``MAX_BYTES``, once their number is
            known. One batch of each stream is always allowed.
    """

    batch_size: int
    io_queue_depth: int
    transform_threads: int
    max_ready_rows: int | None = None
    max_batches: int = 2
    needs_threads: bool = False
    max_bytes: int | None = None


class PrefetchPipeline:
    """The streams of one iteration. As a context manager, it ends its threads.

    Args:
        streams: The streams to read.
        limits: Limits on the batches under way.
        transform: Turns the position of the first row of a batch, the batch, and its stream into
            items for a queue.
        new_queue: Returns a queue for the items of a stream. It must have ``extend``, and its
            length must be the number of rows.
        counters: The counters of the dataset.
        reads: What reads in place of threads, if the core can.
    """

    def __init__(
        self,
        streams: list[RowStream],
        limits: Limits,
        transform: Callable[[int, pa.RecordBatch, RowStream], list[Any]],
        new_queue: Callable[[], Any],
        counters: Counters,
        reads: Reads | None = None,
    ) -> None:
        self.reads = reads
        self.streams = streams
        self.limits = limits
        self.transform = transform
        self.counters = counters
        num_streams = len(streams)
        self.sizes = [stream.num_rows for stream in streams]
        self.heads = [0] * num_streams
        self.reading: list[deque[tuple[int, Future[Any]]]] = new_deques(num_streams)
        self.raw: list[deque[tuple[int, Any]]] = new_deques(num_streams)
        self.transforming: list[deque[tuple[int, Future[Any]]]] = new_deques(
            num_streams
        )
        self.ready = [new_queue() for _ in streams]
        self.consumed = [0] * num_streams
        self.received = [0] * num_streams
        self.raw_rows = 0
        self.slots = namespace.threading.Semaphore(limits.transform_threads)
        self.max_waiting = limits.max_batches
        """Batches of a stream that the core has read and that were not yielded."""
        self.durations: deque[float] = deque(maxlen=TRIED)
        """Seconds that the last transforms took."""
        # The core limits what it reads ahead itself.
        self.buffered = None
        if reads is None:
            self.buffered = BufferedBytes(
                limits.max_bytes or MAX_BYTES,
                num_streams,
                is_default=limits.max_bytes is None,
            )
        self.may_advance = [True] * num_streams
        """Whether a call may have ended, or may begin, since ``advance`` last looked."""

    def __enter__(self) -> Self:
        threads = len(self.streams) * self.limits.io_queue_depth
        self._pools: list[Any] = []
        if self.reads is None:
            self._io = self._new_pool(threads)
        try:
            self._workers = self._new_pool(self.limits.transform_threads)
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
        """Request more batches of stream ``i``, within the limits."""
        if self.reads is not None:
            self._fill_from_engine(i, self.reads)
            return
        depth, size = self.limits.io_queue_depth, self.sizes[i]
        reading = self.reading[i]
        while len(reading) < depth and self.heads[i] < size:
            start = self.heads[i]
            stop = min(start + self.limits.batch_size, size)
            if self.buffered is not None and not self.buffered.reserve(i, stop - start):
                break
            self.heads[i] = stop
            stream = self.streams[i]
            offsets = stream.offsets(start, stop)
            future = self._io.submit(self._io_call, stream.perm, offsets)
            reading.append((stream.first + start, future))
            self._advance_when_done(future, i)

    def _fill_from_engine(self, i: int, reads: Reads) -> None:
        size = self.limits.batch_size
        while self.heads[i] < self.sizes[i]:
            waiting = len(self.raw[i]) + len(self.transforming[i])
            if waiting + len(self.ready[i]) // size >= self.max_waiting:
                return
            batch = reads.next_of(i)
            if batch.num_rows == size:
                most = MOST_WAITING // len(self.streams) // max(1, batch.nbytes)
                self.max_waiting = max(1, min(self.limits.max_batches, most))
            self.raw[i].append((self.streams[i].first + self.heads[i], batch))
            self.heads[i] += batch.num_rows
            self.raw_rows += batch.num_rows
            del batch
            self._submit_transforms(i)

    def advance(self, i: int) -> None:
        """Move the batches of stream ``i`` on, without waiting.

        Raises:
            Exception: If a finished read or transform raised it.
        """
        if not self.may_advance[i]:
            return
        # Before looking: a call that ends in the meantime sets the flag again.
        self.may_advance[i] = False
        reading, transforming = self.reading[i], self.transforming[i]
        while reading and reading[0][1].done():
            self._collect_read(i)
        while transforming and transforming[0][1].done():
            self._collect_transform(i)
        if self.raw[i]:
            self._submit_transforms(i)
        if self.heads[i] < self.sizes[i]:
            self.fill(i)
        if self.raw[i] or self.buffered is not None or self.reads is not None:
            # Taking rows and other streams make room too.
            self.may_advance[i] = True

    def wait_ready(self, i: int) -> bool:
        """Wait for a row of stream ``i``, and return whether there is one.

        Raises:
            Exception: If a read or transform raised it.
        """
        self.advance(i)
        while not self.ready[i]:
            if self.transforming[i]:
                self._collect_transform(i)
                self.advance(i)
            elif self.raw[i]:
                # Other streams may occupy all threads.
                self.slots.acquire()
                self._submit_transform(i)
            elif self.reading[i]:
                self._collect_read(i)
                self.advance(i)
            elif self.heads[i] < self.sizes[i]:
                self.fill(i)
            else:
                return False
        return True

    def took(self, i: int, num_rows: int, position: int) -> None:
        """Count rows taken from the queue of stream ``i``, up to ``position``."""
        self.consumed[i] += num_rows
        self._release_bytes(i, position)

    def gauges(self, *, is_over: bool = False) -> Gauges:
        """Return the progress; after the end of the iteration, nothing waits."""
        return Gauges(
            unscanned=sum(self.sizes) - sum(self.heads),
            raw=0 if is_over else self.raw_rows,
            ready=0 if is_over else sum(map(len, self.ready)),
            consumed=sum(self.consumed),
        )

    # In threads. Programs that replace the executor tell reads from transforms by LanceDB's names
    # of these two functions.

    def _io_call(self, perm: Any, offsets: list[int]) -> Any:
        began = namespace.time.perf_counter()
        batch = perm.__getitems__(offsets)
        seconds = namespace.time.perf_counter() - began
        self.counters.add(bytes_loaded=batch.nbytes, fetch_time=seconds)
        return batch

    def _tx_call_guarded(
        self, start: int, batch: pa.RecordBatch, stream: RowStream
    ) -> list[Any]:
        try:
            began = namespace.time.perf_counter()
            items = self.transform(start, batch, stream)
            seconds = namespace.time.perf_counter() - began
            self.durations.append(seconds)
            self.counters.add(transform_time=seconds)
            return items
        finally:
            self.slots.release()

    # In the thread of the consumer.

    def _collect_read(self, i: int) -> None:
        self.may_advance[i] = True
        start, future = self.reading[i][0]
        # If this wait is interrupted, `_close` must still find the future in the queue.
        batch = future.result()
        self.reading[i].popleft()
        self.raw[i].append((start, batch))
        self.raw_rows += batch.num_rows
        if self.buffered is not None:
            self.buffered.add(i, start + batch.num_rows, batch)

    def _submit_transforms(self, i: int) -> None:
        limit, size = self.limits.max_ready_rows, self.limits.batch_size
        while self.raw[i]:
            if limit is not None:
                under_way = len(self.ready[i]) + len(self.transforming[i]) * size
                if under_way + size > limit:
                    return
            if not self.slots.acquire(blocking=False):
                return
            self._submit_transform(i)

    def _submit_transform(self, i: int) -> None:
        start, batch = self.raw[i].popleft()
        self.raw_rows -= batch.num_rows
        stream = self.streams[i]
        if self._is_brief() and not self.transforming[i]:
            items = self._tx_call_guarded(start, batch, stream)
            self._receive(i, start + batch.num_rows, items)
            return
        future = self._workers.submit(self._tx_call_guarded, start, batch, stream)
        self.transforming[i].append((start + batch.num_rows, future))
        self._advance_when_done(future, i)

    def _advance_when_done(self, future: Any, i: int) -> None:
        def set_flag(_: Any) -> None:
            self.may_advance[i] = True

        future.add_done_callback(set_flag)

    def _collect_transform(self, i: int) -> None:
        self.may_advance[i] = True
        end, future = self.transforming[i][0]
        items = future.result()
        self.transforming[i].popleft()
        self._receive(i, end, items)

    def _receive(self, i: int, end: int, items: list[Any]) -> None:
        self.received[i] = end
        self.ready[i].extend(items)
        self._release_bytes(i, 0)

    def _is_brief(self) -> bool:
        """Return whether the consumer had better call the transform itself."""
        seconds = self.durations
        return (
            self.reads is not None
            and not self.limits.needs_threads
            and len(seconds) == TRIED
            and sum(seconds) < TRIED * BRIEF_S
        )

    def _release_bytes(self, i: int, position: int) -> None:
        if self.buffered is not None:
            # If the queue is empty, all rows received were taken or dropped.
            end = position if self.ready[i] else self.received[i]
            self.buffered.release(i, end)

    def _new_pool(self, num_threads: int) -> Any:
        pool = namespace.ThreadPoolExecutor(max_workers=num_threads)
        entered = pool.__enter__()
        self._pools.append((pool, entered))
        return entered

    def _close(self, *reason: Any) -> None:
        """End the threads, except those that do not end in time.

        ``Executor.__exit__`` would wait for every call that was submitted.
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
        # Futures refer to the pipeline: without this, rows would live until the garbage collector
        # finds the cycle.
        for queue in queued + self.raw:
            queue.clear()
        self.ready = []
        self.reads = None
        for pool, _ in pools:
            if pool not in ours:
                pool.__exit__(*(reason or (None, None, None)))
            elif not left:
                pool.shutdown()
        if left:
            namespace.logger.warning(
                "%d reads or transforms continue in the background: they did not end within "
                "%g s after the iteration was closed",
                len(left),
                GRACE,
            )


def is_executor(pool: Any, entered: Any) -> bool:
    """Return whether a pool is an ``Executor``, not a replacement that only has ``submit``."""
    return pool is entered and isinstance(pool, Executor)
