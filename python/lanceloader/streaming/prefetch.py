"""``PrefetchPipeline``: a pool of threads that read, and a pool of threads that transform.

It reads what the core does not: tables of other libraries, streams of which rows may be left
out, and where a program replaces threads or reads.

Only the thread of the consumer moves batches from stage to stage, each time it takes a row, so
the queues need no locks. An exception in a stage is raised in the consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lanceloader.streaming.buffered_bytes import MAX_BYTES, BufferedBytes, new_deques
from lanceloader.streaming.counters import Gauges
from lanceloader.streaming.pools import Pools
from lanceloader.streaming.replaceable import namespace

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from concurrent.futures import Future

    import pyarrow as pa

    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.row_stream import RowStream


class PrefetchPipeline:
    """The streams of one iteration. As a context manager, it ends its threads.

    Args:
        streams: The streams to read.
        transform: Turns the position of the first row of a batch, the batch, and its stream into
            items for a queue.
        new_queue: Returns a queue for the items of a stream. It must have ``extend``, and its
            length must be the number of rows.
        counters: The counters of the dataset.
        batch_size: Rows of one read.
        io_queue_depth: Reads of one stream at once.
        num_threads: Transforms at once.
        max_ready_rows: Rows of a stream that are transformed or being transformed.
        max_bytes: Bytes read and not yet yielded; by default ``MAX_BYTES``, once their number is
            known. One batch of each stream is always allowed.
    """

    is_even = False
    """Whether all streams go at one pace."""

    def __init__(
        self,
        streams: list[RowStream],
        transform: Callable[[int, pa.RecordBatch, RowStream], list[Any]],
        new_queue: Callable[[], Any],
        counters: Counters,
        *,
        batch_size: int,
        io_queue_depth: int,
        num_threads: int,
        max_ready_rows: int | None,
        max_bytes: int | None,
    ) -> None:
        self.streams = streams
        self.batch_size = batch_size
        self.io_queue_depth = io_queue_depth
        self.num_threads = num_threads
        self.max_ready_rows = max_ready_rows
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
        self.slots = namespace.threading.Semaphore(num_threads)
        self.pools = Pools()
        self.buffered = BufferedBytes(
            max_bytes or MAX_BYTES,
            num_streams,
            is_default=max_bytes is None,
        )

    def __enter__(self) -> Self:
        num_reads = len(self.streams) * self.io_queue_depth
        try:
            self._io = self.pools.new(num_reads)
            self._workers = self.pools.new(self.num_threads)
            for i in range(len(self.streams)):
                self.fill(i)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self._close(*reason)

    def fill(self, i: int) -> None:
        """Request more batches of stream ``i``, within the limits."""
        depth, size = self.io_queue_depth, self.sizes[i]
        reading = self.reading[i]
        while len(reading) < depth and self.heads[i] < size:
            start = self.heads[i]
            stop = min(start + self.batch_size, size)
            if not self.buffered.reserve(i, stop - start):
                break
            self.heads[i] = stop
            stream = self.streams[i]
            offsets = stream.offsets(start, stop).tolist()
            future = self._io.submit(self._io_call, stream.perm, offsets)
            reading.append((stream.first + start, future))

    def advance(self, i: int) -> None:
        """Move the batches of stream ``i`` on, without waiting.

        Raises:
            Exception: If a finished read or transform raised it.
        """
        reading, transforming = self.reading[i], self.transforming[i]
        while reading and reading[0][1].done():
            self._collect_read(i)
        while transforming and transforming[0][1].done():
            self._collect_transform(i)
        if self.raw[i]:
            self._submit_transforms(i)
        if self.heads[i] < self.sizes[i]:
            self.fill(i)

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
            self.counters.add(transform_time=seconds)
            return items
        finally:
            self.slots.release()

    # In the thread of the consumer.

    def _collect_read(self, i: int) -> None:
        start = self.reading[i][0][0]
        # If this wait is interrupted, `_close` must still find the future in the queue. It is not a
        # local: an exception refers to this frame, and the future to the exception.
        batch = self.reading[i][0][-1].result()
        self.reading[i].popleft()
        self.raw[i].append((start, batch))
        self.raw_rows += batch.num_rows
        self.buffered.add(i, start + batch.num_rows, batch)

    def _submit_transforms(self, i: int) -> None:
        limit, size = self.max_ready_rows, self.batch_size
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
        future = self._workers.submit(self._tx_call_guarded, start, batch, stream)
        self.transforming[i].append((start + batch.num_rows, future))

    def _collect_transform(self, i: int) -> None:
        end = self.transforming[i][0][0]
        items = self.transforming[i][0][-1].result()
        self.transforming[i].popleft()
        self._receive(i, end, items)

    def _receive(self, i: int, end: int, items: list[Any]) -> None:
        self.received[i] = end
        self.ready[i].extend(items)
        self._release_bytes(i, 0)

    def _release_bytes(self, i: int, position: int) -> None:
        # If the queue is empty, all rows received were taken or dropped.
        end = position if self.ready[i] else self.received[i]
        self.buffered.release(i, end)

    def _close(self, *reason: object) -> None:
        queued = self.transforming + self.reading
        try:
            self.pools.close([future for each in queued for _, future in each], *reason)
        finally:
            # Futures refer to the pipeline: without this, rows would live until the garbage
            # collector finds the cycle.
            for queue in queued + self.raw:
                queue.clear()
            self.ready = []
