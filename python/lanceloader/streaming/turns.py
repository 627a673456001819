"""Who is next: the order in which rows of several streams are handed over."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from lanceloader.streaming.packing import Buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.streaming.interleaving import Reader
    from lanceloader.streaming.pipeline import Pipeline, Stream
    from lanceloader.streaming.reading import Reading


class Rounds:
    """Rows: rounds of one row of each split, as long as every split has one."""

    def __init__(self, dataset: Reading, splits: list[int], *, is_worker: bool) -> None:
        """Begin where the dataset stands."""
        self.dataset = dataset
        self.splits = splits
        self.is_worker = is_worker
        self.is_watched = is_worker or dataset._is_away
        self.samples = [dataset._samples(split) for split in splits]

    def streams(self) -> list[Stream]:
        """Give the rest of each split."""
        places = self.dataset._resume_positions
        return [
            self.dataset._stream(split, places.get(split, count))
            for split, count in zip(self.splits, self.samples, strict=True)
        ]

    def of(self, pipeline: Pipeline) -> Iterator[Any]:
        """Give the rows."""
        for i in self._laggards():
            if not pipeline.ensure(i):
                return
            row = self._take(pipeline, i)
            self._note(
                pipeline,
                min(map(sum, zip(self.samples, pipeline.consumed, strict=True))),
            )
            yield row
        turns = range(len(self.splits))
        last = turns[-1]
        # An uneven end comes of rows that were skipped: it ends all splits. (A generator makes
        # an error of a StopIteration; `map` would end the rows.)
        while all(pipeline.ensure(i) for i in turns):
            for i in turns:
                row = self._take(pipeline, i)
                if i == last:
                    # Of all splits, now that each gave as many.
                    self._note(pipeline, self.samples[i] + pipeline.consumed[i])
                yield row

    def _laggards(self) -> Iterator[int]:
        """Give the splits that are behind, until none is: always the one furthest behind.

        That is the order in which their rows would have come.
        """
        most = max(self.samples)
        behind = [(count, i) for i, count in enumerate(self.samples) if count < most]
        heapq.heapify(behind)
        while behind:
            count, i = heapq.heappop(behind)
            yield i
            if count + 1 < most:
                heapq.heappush(behind, (count + 1, i))

    def _take(self, pipeline: Pipeline, i: int) -> Any:
        position, row = pipeline.ready[i].popleft()
        # What failed ahead is told before this row counts as handed over.
        pipeline.advance(i)
        pipeline.took(i, 1, position + 1)
        dataset, split = self.dataset, self.splits[i]
        dataset._resume_samples[split] = self.samples[i] + pipeline.consumed[i]
        dataset._resume_positions[split] = position + 1
        return row

    def _note(self, pipeline: Pipeline, samples: int) -> None:
        """Say how far all splits are.

        Where the counters were made nobody need be told: who asks looks at the queues.
        """
        if self.is_watched:
            self.dataset._publish(pipeline.gauges())
        if not self.is_worker:
            self.dataset._resume_offset = samples


class Blocks:
    """Blocks of tokens: rounds of one of each split, as many as the epoch has."""

    def __init__(self, dataset: Reading, splits: list[int]) -> None:
        """Begin where the dataset stands."""
        self.dataset = dataset
        self.splits = splits
        self.length = dataset._pack_sequences or 0
        self.per_split = dataset._blocks_per_epoch // dataset._num_splits
        self.documents = list(dataset._pack_consumed)
        self.emitted = list(dataset._pack_blocks_emitted)
        self.packs = dict(dataset._packs)

    def streams(self) -> list[Stream]:
        """Give the documents of each split that were not taken yet."""
        return [
            self.dataset._stream(split, self.documents[split]) for split in self.splits
        ]

    def of(self, pipeline: Pipeline) -> Iterator[Any]:
        """Give the blocks.

        Raises:
            ValueError: If the splits have not given as many.
        """
        if len({self.emitted[split] for split in self.splits}) > 1:
            raise ValueError(
                "Packed checkpoint is not aligned across the splits of this iterator: merge "
                "the states of all ranks with merge_state_dicts before resuming elsewhere"
            )
        last = self.splits[-1]
        while self.emitted[last] < self.per_split:
            for i in range(len(self.splits)):
                self._fill(pipeline, i)
            for split in self.splits:
                block, self.packs[split] = self.packs[split].cut(
                    self.length, self.dataset._pad_id
                )
                self.emitted[split] += 1
                self._commit()
                if split == last:
                    self.dataset._publish(pipeline.gauges())
                yield block

    def _fill(self, pipeline: Pipeline, i: int) -> None:
        """Take documents of a split until there is a block, or no more of them."""
        split = self.splits[i]
        pack = self.packs.get(split, Buffer())
        while pack.num_tokens < self.length and pipeline.ensure(i):
            run = pipeline.ready[i].take(self.length - pack.num_tokens)
            pack = pack.plus(run)
            self.documents[split] = run.start + len(run.ends)
            pipeline.took(i, len(run.ends), self.documents[split])
            pipeline.advance(i)
        self.packs[split] = pack

    def _commit(self) -> None:
        """Let the dataset stand behind the block that is handed over next."""
        self.dataset._pack_consumed = list(self.documents)
        self.dataset._pack_blocks_emitted = list(self.emitted)
        self.dataset._packs = dict(self.packs)


class Sequence:
    """Rows of a sequence that all readers share, whatever splits they are of."""

    def __init__(self, dataset: Reading, reader: Reader, number: int) -> None:
        """Begin where the dataset stands, as worker ``number`` of its rank."""
        self.dataset = dataset
        self.reader = reader
        self.number = number

    def streams(self) -> list[Stream]:
        """Give the rows of this reader, in as many streams as it reads splits."""
        if self.reader.num_rows == 0:
            return []
        return self.reader.streams(self.dataset._permutation(0))

    def of(self, pipeline: Pipeline) -> Iterator[Any]:
        """Give the rows."""
        dataset, turns = self.dataset, len(pipeline.streams)
        for taken in range(self.reader.num_rows):
            i = taken % turns
            pipeline.ensure(i)
            position, row = pipeline.ready[i].popleft()
            pipeline.advance(i)
            pipeline.took(i, 1, position + 1)
            dataset._worker_rows[self.number] = taken + 1
            if i == turns - 1 or taken + 1 == self.reader.num_rows:
                dataset._publish(pipeline.gauges())
            yield row
