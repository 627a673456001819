"""``BlockRounds``: the order in which packed blocks of several splits are yielded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.streaming.packing import Buffer
from lanceloader.streaming.round_robin import in_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.streaming.counters import Counters
    from lanceloader.streaming.progress import PackProgress
    from lanceloader.streaming.round_robin import OpenStream, Pipeline
    from lanceloader.streaming.row_stream import RowStream


class BlockRounds:
    """Rounds of one block of tokens of each split, until the blocks of the epoch are done.

    Args:
        progress: Where to begin, and where to record the blocks.
        splits: The splits.
        open_stream: Opens a split.
        counters: Where to publish the progress.
        length: Tokens of a block.
        pad_id: The token that fills up the last blocks.
        blocks_per_split: Blocks of a split in the epoch.
    """

    def __init__(
        self,
        progress: PackProgress,
        splits: list[int],
        open_stream: OpenStream,
        counters: Counters,
        *,
        length: int,
        pad_id: int,
        blocks_per_split: int,
    ) -> None:
        self.progress = progress
        self.splits = splits
        self.open_stream = open_stream
        self.counters = counters
        self.length = length
        self.pad_id = pad_id
        self.blocks_per_split = blocks_per_split
        self.documents = list(progress.documents)
        self.blocks = list(progress.blocks)
        self.buffers = dict(progress.buffers)
        self.samples = [self.documents[split] for split in splits]

    def streams(self) -> list[RowStream]:
        """Return the documents of each split that were not taken yet."""
        return [self.open_stream(split, self.documents[split]) for split in self.splits]

    def row_order(self, streams: list[RowStream]) -> None:
        """Return ``None``: how many documents a block has is seen when they are read."""

    def items(self, pipeline: Pipeline) -> Iterator[Any]:
        """Yield the blocks.

        Raises:
            ValueError: If the splits have not yielded equally many blocks before.
        """
        counts = {self.blocks[split] for split in self.splits}
        if len(counts) > 1:
            message = (
                f"Packed checkpoint has {min(counts)} to {max(counts)} blocks per split, but "
                "the splits of an iterator must have equally many. Pass the states of all ranks "
                "to merge_state_dicts, and load its result"
            )
            raise ValueError(message)
        last = self.splits[-1]
        while self.blocks[last] < self.blocks_per_split:
            for i in range(len(self.splits)):
                self._fill(pipeline, i)
            for split in self.splits:
                buffer = self.buffers[split]
                block, self.buffers[split] = buffer.cut(self.length, self.pad_id)
                self.blocks[split] += 1
                self._commit()
                if split == last:
                    self.counters.publish(pipeline.gauges())
                yield block

    def batches(self, pipeline: Pipeline, size: int) -> Iterator[Any]:
        """Yield lists of blocks."""
        return in_lists(self.items(pipeline), size)

    def _fill(self, pipeline: Pipeline, i: int) -> None:
        """Take documents of a split until they fill a block, or there are no more."""
        split = self.splits[i]
        buffer = self.buffers.get(split, Buffer())
        while buffer.num_tokens < self.length and pipeline.wait_ready(i):
            run = pipeline.ready[i].take(self.length - buffer.num_tokens)
            buffer = buffer.plus(run)
            self.documents[split] = run.start + len(run.ends)
            pipeline.took(i, len(run.ends), self.documents[split])
            pipeline.advance(i)
        self.buffers[split] = buffer

    def _commit(self) -> None:
        """Count the block that is yielded next as done."""
        self.progress.documents = list(self.documents)
        self.progress.blocks = list(self.blocks)
        self.progress.buffers = dict(self.buffers)
