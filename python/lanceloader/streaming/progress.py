"""How much of an epoch is done: of rows, of packed blocks, and of rows sharded with ``tail``."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from lanceloader.streaming.merging import buffer_of, furthest
from lanceloader.streaming.packing import Buffer, lists
from lanceloader.streaming.sharding import (
    GlobalOrder,
    StridedShard,
    are_at_step,
    missed_places,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._typing import Tail

State: TypeAlias = dict[str, Any]


class Progress(Protocol):
    """What a dataset has yielded, in one of its three modes."""

    def counts(self) -> State:
        """Return the counts of a state dict."""

    def worker_counts(self) -> State:
        """Return the counts that a worker sends with a batch."""

    def commit(self, state: State) -> None:
        """Take over the counts that a worker sent."""

    def load(self, state: State) -> None:
        """Continue at the counts of a state dict."""

    def is_at_step(self, splits: Sequence[int]) -> bool:
        """Return whether a step is complete for these splits, which are those of a rank."""


class RowRun(NamedTuple):
    """An iteration that yields the rows of some splits, always of one that is furthest behind."""

    splits: list[int]
    samples: list[int]
    """Rows that were yielded of each split when it began."""
    positions: list[int]
    """The position of each split when it began."""
    is_worker: bool
    """Whether this process is a worker of a ``DataLoader``."""
    taken: dict[int, int]
    """The number of rows yielded since then, at key 0."""


class RowProgress:
    """Rows yielded of each split."""

    _run: RowRun | None = None

    def __init__(self, num_splits: int) -> None:
        self.num_splits = num_splits
        self.offset = 0
        """Rows of every split that are done at least."""
        self._samples: dict[int, int] = {}
        self._positions: dict[int, int] = {}

    def __getstate__(self) -> State:
        self.settle()
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def begin(self, splits: list[int], *, is_worker: bool) -> RowRun:
        """Begin an iteration that only counts its rows.

        ``settle`` divides them among the splits, and ``end`` ends the iteration.
        """
        samples = [self.samples(split) for split in splits]
        positions = [self.position(split) for split in splits]
        self._run = RowRun(splits, samples, positions, is_worker, {})
        return self._run

    def end(self) -> None:
        """End an iteration that ``begin`` began, if there is one."""
        self.settle()
        self._run = None

    def settle(self) -> None:
        """Record the rows of an iteration that ``begin`` began, by split."""
        run = self._run
        if run is None or not run.taken.get(0):
            return
        counts = counts_after(run.samples, run.taken[0])
        self._samples.update(zip(run.splits, counts, strict=True))
        for i, split in enumerate(run.splits):
            self._positions[split] = run.positions[i] + counts[i] - run.samples[i]
        if not run.is_worker:
            self.offset = min(counts)

    def samples(self, split: int) -> int:
        """Return the number of rows yielded of a split."""
        return self._samples.get(split, self.offset)

    def position(self, split: int) -> int:
        """Return the position of the next row of a split; skipped rows count."""
        return self._positions.get(split, self.samples(split))

    def took(self, split: int, samples: int, position: int) -> None:
        """Record that a row was taken: the counts after it."""
        self._samples[split] = samples
        self._positions[split] = position

    def counts(self) -> State:
        """Return the counts of a state dict."""
        self.settle()
        return {
            "samples_consumed_per_split": self._all_samples(),
            "positions_consumed_per_split": self._all_positions(),
        }

    def _all_samples(self) -> list[int]:
        samples, offset = self._samples, self.offset
        return [samples.get(split, offset) for split in range(self.num_splits)]

    def _all_positions(self) -> list[int]:
        positions = self._positions
        return [positions.get(n, count) for n, count in enumerate(self._all_samples())]

    def worker_counts(self) -> State:
        """Return the counts that a worker sends with a batch."""
        return self.counts()

    def commit(self, state: State) -> None:
        """Take over the counts that a worker sent, for splits of which it is further."""
        self.settle()
        samples: list[int] = state["samples_consumed_per_split"]
        positions: list[int] = state.get("positions_consumed_per_split", samples)
        further = map(max, self._all_samples(), map(int, samples))
        self._samples.update(enumerate(further))
        further = map(max, self._all_positions(), map(int, positions))
        self._positions.update(enumerate(further))
        self.offset = min(self._all_samples())

    def load(self, state: State) -> None:
        """Continue at the counts of a state dict."""
        self._run = None
        samples = state["samples_consumed_per_split"]
        # Older states have samples only, or a single number.
        if isinstance(samples, list):
            self.offset = min(samples, default=0)
            self._samples = {n: int(count) for n, count in enumerate(samples)}
        else:
            self.offset, self._samples = int(samples), {}
        positions = state.get("positions_consumed_per_split") or []
        self._positions = {n: int(position) for n, position in enumerate(positions)}

    def is_at_step(self, splits: Sequence[int]) -> bool:
        """Return whether these splits have yielded equally many rows."""
        self.settle()
        return len({self.samples(split) for split in splits}) <= 1


def counts_after(samples: list[int], num_rows: int) -> list[int]:
    """Return the rows yielded of each split, after more rows of those furthest behind.

    Of splits that are equally far, the first one is next.

    Args:
        samples: The rows yielded of each split before.
        num_rows: The number of further rows.
    """

    def rows_below(level: int) -> int:
        return sum(level - count for count in samples if count < level)

    levels = range(min(samples), max(samples) + num_rows + 2)
    level = levels[bisect_right(levels, num_rows, key=rows_below) - 1]
    more = num_rows - rows_below(level)
    behind = [i for i, count in enumerate(samples) if count <= level]
    counts = [max(count, level) for count in samples]
    for i in behind[:more]:
        counts[i] += 1
    return counts


class PackProgress:
    """Documents taken and blocks yielded of each split, and the tokens in between."""

    def __init__(self, num_splits: int) -> None:
        self.num_splits = num_splits
        self.documents = [0] * num_splits
        self.blocks = [0] * num_splits
        self.buffers: dict[int, Buffer] = {}

    def buffer_lists(self) -> dict[int, dict[str, list[int]]]:
        """Return the tokens between blocks as lists, as in a state dict."""
        return {n: lists(buffer.state()) for n, buffer in self.buffers.items()}

    def load_buffers(self, buffers: dict[Any, Any]) -> None:
        """Replace the tokens between blocks by those of a state dict."""
        self.buffers = {int(n): Buffer.of(buffers[n]) for n in buffers}

    def counts(self) -> State:
        """Return the counts of a state dict."""
        return self.worker_counts() | {"pack_buffers": self.buffer_lists()}

    def worker_counts(self) -> State:
        """Return the counts that a worker sends with a batch; tokens stay arrays."""
        return {
            "samples_consumed_per_split": list(self.documents),
            "blocks_emitted_per_split": list(self.blocks),
            "pack_buffers": {n: buffer.state() for n, buffer in self.buffers.items()},
        }

    def commit(self, state: State) -> None:
        """Take over the counts that a worker sent, for splits of which it is further.

        Raises:
            ValueError: If there is not one count for each split.
        """
        samples = state["samples_consumed_per_split"]
        blocks = state["blocks_emitted_per_split"]
        if not len(samples) == len(blocks) == self.num_splits:
            message = (
                f"packed worker checkpoint has {len(samples)} and {len(blocks)} counts, but "
                f"must contain one entry per split, of which there are {self.num_splits}"
            )
            raise ValueError(message)
        for split, of_worker in enumerate(zip(blocks, samples, strict=True)):
            if of_worker > (self.blocks[split], self.documents[split]):
                self.blocks[split], self.documents[split] = map(int, of_worker)
                buffer = buffer_of(state, split)
                if buffer is None:
                    self.buffers.pop(split, None)
                else:
                    self.buffers[split] = Buffer.of(buffer)

    def load(self, state: State) -> None:
        """Continue at the counts of a state dict."""
        samples = state["samples_consumed_per_split"]
        self.documents = [int(count) for count in samples]
        self.blocks = [int(count) for count in state["blocks_emitted_per_split"]]
        self.load_buffers(state["pack_buffers"])

    def is_at_step(self, splits: Sequence[int]) -> bool:
        """Return whether these splits have yielded equally many blocks."""
        return len({self.blocks[split] for split in splits}) <= 1


@dataclass
class ShardProgress:
    """Rows done of the sequence of all readers.

    Attributes:
        order: The sequence.
        start: Rows that were done when the readers began.
        missed: Places before ``start`` that were not taken.
        shards: The shard of each reader of this rank.
        taken: The number of rows that each of these readers has taken.
    """

    order: GlobalOrder
    start: int = 0
    missed: tuple[int, ...] = ()
    shards: dict[int, StridedShard] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Rows of the sequence that are done, as far as the furthest reader."""
        if not self.taken:
            return self.start
        return next(iter(self.shards.values())).done(max(self.taken.values()))

    def begin(self, shards: dict[int, StridedShard]) -> None:
        """Count the rows that these shards take."""
        self._settle()
        self.shards = shards

    def shard(
        self, tail: Tail, rank: int, world_size: int, worker: int, num_workers: int
    ) -> StridedShard:
        """Return the rows left for a worker of a rank."""
        self._settle()
        return StridedShard(
            self.order,
            tail,
            self.start,
            rank * num_workers + worker,
            world_size * num_workers,
            self.missed[worker::num_workers],
        )

    def _settle(self) -> None:
        """Make the places that the readers have reached the start of the next ones."""
        if self.taken:
            missed = missed_places(self.shards, self.taken)
            self.start, self.missed, self.taken = self.done, missed, {}

    def counts(self) -> State:
        """Return the counts of a state dict."""
        samples = self.order.counts(self.done)
        return {
            "samples_consumed_per_split": samples,
            "positions_consumed_per_split": list(samples),
        }

    def worker_counts(self) -> State:
        """Return the counts that a worker sends with a batch."""
        return self.counts() | {"workers": dict(self.taken)}

    def commit(self, state: State) -> None:
        """Take over the counts that a worker sent."""
        self.taken |= state["workers"]

    def load(self, state: State) -> None:
        """Continue at the counts of a state dict.

        Raises:
            ValueError: If they are not those of the beginning of an epoch.
        """
        samples = state["samples_consumed_per_split"]
        if isinstance(samples, list):
            # Positions are higher where rows were skipped.
            positions = state.get("positions_consumed_per_split") or samples
            counts = furthest([samples, positions])
        else:
            counts = [int(samples)] * self.order.num_splits
        self.start = self.order.done(counts)
        self.missed, self.shards, self.taken = (), {}, {}

    def is_at_step(self, splits: Sequence[int]) -> bool:
        """Return whether no place before the furthest reader is missing."""
        del splits
        return are_at_step(self.shards, self.taken) if self.taken else not self.missed
