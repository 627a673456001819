"""``ShardRounds``: the order in which rows are yielded with ``tail``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.streaming.ordered_rows import RowOrder, joined_order
from lanceloader.streaming.round_robin import batches_in_turns, in_lists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.progress import ShardProgress
    from lanceloader.streaming.round_robin import Pipeline
    from lanceloader.streaming.row_stream import RowStream
    from lanceloader.streaming.sharding import StridedShard


class ShardRounds:
    """Rows of a shard, in the order of the sequence of all readers.

    Args:
        progress: Where to record the rows.
        shard: The rows to yield.
        worker: The number of this worker in its rank.
        counters: Where to publish the progress.
        perm: The permutation of the epoch.
    """

    def __init__(
        self,
        progress: ShardProgress,
        shard: StridedShard,
        worker: int,
        counters: Counters,
        perm: Callable[[], Any],
    ) -> None:
        self.progress = progress
        self.shard = shard
        self.worker = worker
        self.counters = counters
        self.perm = perm
        self.samples: list[int] = []

    def streams(self) -> list[RowStream]:
        """Return the rows of the shard as one stream for each split that it reads."""
        if self.shard.num_rows == 0:
            return []
        streams = self.shard.streams(self.perm())
        self.samples = [0] * len(streams)
        return streams

    def row_order(self, streams: list[RowStream]) -> RowOrder:
        """Return the rows of the shard."""
        perm = streams[0].perm
        order = joined_order([perm], self.shard.offsets(0, self.shard.num_rows))
        return RowOrder(perm, order, len(streams), self.progress.taken, self.worker)

    def items(self, pipeline: Pipeline) -> Iterator[Any]:
        """Yield the rows."""
        turns, num_rows = len(pipeline.streams), self.shard.num_rows
        for row_number in range(num_rows):
            i = row_number % turns
            pipeline.wait_ready(i)
            position, row = pipeline.ready[i].popleft()
            pipeline.advance(i)
            pipeline.took(i, 1, position + 1)
            self.progress.taken[self.worker] = row_number + 1
            if i == turns - 1 or row_number + 1 == num_rows:
                self.counters.publish(pipeline.gauges())
            yield row

    def batches(self, pipeline: Pipeline, size: int) -> Iterator[Any]:
        """Yield lists of rows, or columns if the transform returns them."""
        if not pipeline.is_even:
            yield from in_lists(self.items(pipeline), size)
            return

        def took(i: int, position: int) -> None:
            """Nothing is recorded of single streams."""

        def recorded(num_rows: int) -> None:
            self.progress.taken[self.worker] = num_rows
            self.counters.publish(pipeline.gauges())

        num_rows = self.shard.num_rows
        yield from batches_in_turns(pipeline, num_rows, size, took, recorded)
