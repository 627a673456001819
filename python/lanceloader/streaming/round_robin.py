"""``RowRounds``: the order in which rows of several splits are yielded, and what such an order is."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader.streaming.ordered_rows import RowOrder, joined_order
from lanceloader.streaming.row_queue import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.streaming.core_pipeline import CorePipeline
    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.prefetch import PrefetchPipeline
    from lanceloader.streaming.progress import RowProgress
    from lanceloader.streaming.row_stream import RowStream

    Pipeline = CorePipeline | PrefetchPipeline

    OpenStream = Callable[[int, int], RowStream]
    """Returns the rows of a split from a position on."""


class Rounds(Protocol):
    """The streams of an iteration, and the order in which their rows are yielded."""

    samples: list[int]
    """Of each stream, the rows that were yielded before."""

    def streams(self) -> list[RowStream]:
        """Return the streams to read."""

    def row_order(self, streams: list[RowStream]) -> RowOrder | None:
        """Return the rows in the order in which they are yielded, if that is known.

        It is if every row read is yielded. The caller records how many were.
        """

    def items(self, pipeline: Pipeline) -> Iterator[Any]:
        """Yield the rows or blocks."""

    def batches(self, pipeline: Pipeline, size: int) -> Iterator[Any]:
        """Yield lists of rows, or columns if the transform returns them."""


class RowRounds:
    """Rounds of one row of each split, as long as every split has a row.

    Args:
        progress: Where to begin, and where to record the rows.
        splits: The splits.
        open_stream: Opens a split.
        counters: Where to publish the progress.
        is_worker: Whether this process is a worker of a ``DataLoader``.
    """

    def __init__(
        self,
        progress: RowProgress,
        splits: list[int],
        open_stream: OpenStream,
        counters: Counters,
        *,
        is_worker: bool,
    ) -> None:
        self.progress = progress
        self.splits = splits
        self.open_stream = open_stream
        self.counters = counters
        self.is_worker = is_worker
        # The process that made the counters looks at the queues instead.
        self.is_watched = is_worker or counters.is_foreign
        progress.end()
        self.samples = [progress.samples(split) for split in splits]

    def streams(self) -> list[RowStream]:
        """Return the rest of each split."""
        return [
            self.open_stream(split, self.progress.position(split))
            for split in self.splits
        ]

    def row_order(self, streams: list[RowStream]) -> RowOrder | None:
        """Return the rows of all splits, always of the split that is furthest behind."""
        import numpy as np

        sizes = np.array([stream.num_rows for stream in streams])
        samples = np.array(self.samples)
        most, end = int(samples.max()), int((samples + sizes).min())
        if end < most:
            # A split that is behind ends before it has caught up.
            return None
        run = self.progress.begin(self.splits, is_worker=self.is_worker)
        # Where a split would begin if none of its rows had been yielded.
        starts = np.cumsum(sizes) - sizes - samples
        perms = [stream.perm for stream in streams]
        if len(perms) == 1:
            return RowOrder(perms[0], perms[0].order, 1, run.taken)
        behind = [starts[i] + count for count, i in self._behind()]
        cycles = np.arange(most, end)[:, None] + starts
        positions = np.concatenate([np.array(behind, np.int64), cycles.ravel()])
        order = joined_order(perms, positions.view(np.uint64))
        return RowOrder(perms[0], order, len(perms), run.taken)

    def items(self, pipeline: Pipeline) -> Iterator[Any]:
        """Yield the rows."""
        for _, i in self._behind():
            if not pipeline.wait_ready(i):
                return
            row = self._take(pipeline, i)
            self._record(
                pipeline,
                min(map(sum, zip(self.samples, pipeline.consumed, strict=True))),
            )
            yield row
        turns = range(len(self.splits))
        last = turns[-1]
        # Where rows were skipped, the first split without a row ends the epoch. (A generator
        # turns a StopIteration into an error; with `map` it would end the loop.)
        while all(pipeline.wait_ready(i) for i in turns):
            for i in turns:
                row = self._take(pipeline, i)
                if i == last:
                    # All splits have yielded equally many rows.
                    self._record(pipeline, self.samples[i] + pipeline.consumed[i])
                yield row

    def batches(self, pipeline: Pipeline, size: int) -> Iterator[Any]:
        """Yield lists of rows, or columns if the transform returns them.

        Columns need streams at one pace, of which none is behind.
        """
        if not pipeline.is_even or len(set(self.samples)) > 1:
            yield from in_lists(self.items(pipeline), size)
            return

        def took(i: int, position: int) -> None:
            samples = self.samples[i] + pipeline.consumed[i]
            self.progress.took(self.splits[i], samples, position)

        def recorded(num_rows: int) -> None:
            self._record(pipeline, self.samples[0] + num_rows // turns)

        turns = len(self.splits)
        num_rows = min(stream.num_rows for stream in pipeline.streams) * turns
        yield from batches_in_turns(pipeline, num_rows, size, took, recorded)

    def _behind(self) -> Iterator[tuple[int, int]]:
        """Yield the split that is furthest behind, and its rows, until no split is behind.

        This is the order in which an uninterrupted run yields their rows.
        """
        most = max(self.samples)
        behind = [(count, i) for i, count in enumerate(self.samples) if count < most]
        heapq.heapify(behind)
        while behind:
            count, i = heapq.heappop(behind)
            yield count, i
            if count + 1 < most:
                heapq.heappush(behind, (count + 1, i))

    def _take(self, pipeline: Pipeline, i: int) -> Any:
        position, row = pipeline.ready[i].popleft()
        # A failure of a later batch is raised before this row counts as yielded.
        pipeline.advance(i)
        pipeline.took(i, 1, position + 1)
        samples = self.samples[i] + pipeline.consumed[i]
        self.progress.took(self.splits[i], samples, position + 1)
        return row

    def _record(self, pipeline: Pipeline, samples: int) -> None:
        """Record that every split has yielded at least ``samples`` rows."""
        if self.is_watched:
            self.counters.publish(pipeline.gauges())
        if not self.is_worker:
            self.progress.offset = samples


def in_lists(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of ``size``; the last one may be shorter."""
    while batch := [*islice(items, size)]:
        yield batch


def batches_in_turns(
    pipeline: Pipeline,
    num_rows: int,
    size: int,
    took: Callable[[int, int], None],
    recorded: Callable[[int], None],
) -> Iterator[Any]:
    """Yield batches that have one row of each stream in turn, as columns if there are any.

    Args:
        pipeline: The streams, which go at one pace.
        num_rows: The rows of all batches.
        size: The rows of a batch; the last one may have fewer.
        took: Called with a stream, and the position up to which its rows were taken.
        recorded: Called with the rows of all batches so far, before each is yielded.
    """
    turns = len(pipeline.streams)
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        parts = []
        for row in range(start, min(start + turns, stop)):
            i = row % turns
            end = pipeline.consumed[i] + len(range(row, stop, turns))
            pieces = []
            while pipeline.consumed[i] < end and pipeline.wait_ready(i):
                block = pipeline.ready[i].take(end - pipeline.consumed[i])
                pieces.append(block.values)
                pipeline.advance(i)
                position = block.start + block.num_rows
                pipeline.took(i, block.num_rows, position)
                took(i, position)
            parts.append(pieces)
        recorded(stop)
        batch = interleaved(parts)
        # None of these is kept while the next batch is made.
        del parts, pieces, block
        yield batch
        del batch
