"""Samplers with the names and arguments of ``lance.sampler``: those that divide rows among ranks."""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lanceloader.compat.lance_torch.fragments import CutRows, cut_every, in_blocks
from lanceloader.compat.lance_torch.sampler_base import (
    FragmentSampler,
    FullScanSampler,
    NativeSampler,
    Sampler,
)
from lanceloader.compat.lance_torch.shared_epoch import SharedEpoch
from lanceloader.numbers import count
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lanceloader.compat.lance_torch.tables import ScanTable

__all__ = [
    "FragmentSampler",
    "FullScanSampler",
    "NativeSampler",
    "Sampler",
    "ShardedBatchSampler",
    "ShardedFixedBatchSampler",
    "ShardedFragmentSampler",
]

RESERVOIR = 256
"""The batches among which the next one of a filtered and randomized scan is chosen."""


class Sharded:
    """The arguments of the samplers that divide rows among ranks."""

    def __init__(
        self, rank: int, world_size: int, randomize: bool = False, seed: int = 0  # noqa: FBT001, FBT002
    ) -> None:  # fmt: skip
        """Create a sampler of one rank.

        Args:
            rank: The rank, in ``range(world_size)``.
            world_size: The number of ranks.
            randomize: Whether the order is random, and different in each epoch.
            seed: The seed of the order.

        Raises:
            ValueError: If ``rank`` is not in ``range(world_size)``.
            TypeError: If ``rank`` or ``world_size`` is not a whole number.
        """
        world = World(count(rank, "rank"), count(world_size, "world_size", least=1))
        self._rank = world.rank
        self._world_size = world.world_size
        self._randomize = randomize
        self._seed = seed
        self._shared_epoch = SharedEpoch()

    @property
    def _epoch(self) -> int:
        return self._shared_epoch.get()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines a random order together with the seed.

        ``DataLoader`` workers that are already running use it from their next iteration on.
        """
        self._shared_epoch.set(count(epoch, "epoch"))

    @classmethod
    def from_torch(cls, randomize: bool = False, seed: int = 0) -> Self:  # noqa: FBT001, FBT002
        """Return the sampler of this rank of ``torch.distributed``.

        Raises:
            RuntimeError: If ``torch.distributed`` is not initialised.
        """
        world = world_of_torch()
        return cls(world.rank, world.world_size, randomize=randomize, seed=seed)

    def arguments(self) -> tuple[int, int, bool, int]:
        """Return the arguments of a sampler whose first epoch is the current epoch of this one."""
        seed = self._seed + self._epoch
        return self._rank, self._world_size, self._randomize, seed

    def _shuffled(self, length: int) -> list[int]:
        """Return the numbers below ``length`` as Python's ``random`` shuffles them in pylance."""
        numbers = list(range(length))
        random.Random(self._seed + self._epoch).shuffle(numbers)
        return numbers


class ShardedFragmentSampler(Sharded, FragmentSampler):
    """The sampler of every ``world_size``-th fragment.

    With ``randomize``, fragments are shuffled first. Epoch 0 has pylance's order of ``seed``; later
    epochs have other orders, whereas pylance repeats the first one.

    Example:
        >>> from lanceloader.compat.lance_torch import ShardedFragmentSampler
        >>> sampler = ShardedFragmentSampler(rank=0, world_size=2)
        >>> sum(batch.num_rows for batch in sampler(table))
        10
    """

    def iter_fragments(self, ds: Any, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """Iterate over the fragments of this rank."""
        del args, kwargs
        fragments = ds.get_fragments()
        if self._randomize:
            fragments = [fragments[at] for at in self._shuffled(len(fragments))]
        return fragments[self._rank :: self._world_size]  # type: ignore[no-any-return]


class ShardedBatchSampler(Sharded, NativeSampler):
    """The sampler of every ``world_size``-th batch, or of every such row if there is a filter.

    With ``randomize``, the batches of a rank are shuffled. Epoch 0 has pylance's order of ``seed``, and
    later epochs have other orders.

    Example:
        >>> from lanceloader.compat.lance_torch import ShardedBatchSampler
        >>> sampler = ShardedBatchSampler(rank=1, world_size=2)
        >>> [batch.num_rows for batch in sampler(table, batch_size=4)]
        [4]
    """

    def cut_rows(self, table: ScanTable, batch_size: int) -> CutRows:
        """Return the rows of this rank."""
        ranks = self._world_size
        if table.filter is not None:
            rows = table.rows.shard(self._rank, ranks, "uneven")
            ends = cut_every(rows.num_rows, batch_size)
            starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
            return in_blocks(rows, starts, ends, self._reservoir(len(ends)))
        num_rows = table.rows.num_rows
        stride = ranks * batch_size
        starts = np.arange(self._rank * batch_size, num_rows, stride, dtype=np.int64)
        stops = np.minimum(starts + batch_size, num_rows)
        blocks = self._shuffled(len(starts)) if self._randomize else range(len(starts))
        return in_blocks(table.rows, starts, stops, blocks)

    def _reservoir(self, length: int) -> Iterable[int]:
        """Return the order in which pylance yields the batches of a filtered scan."""
        if not self._randomize:
            return range(length)
        draw = random.Random(self._seed + self._epoch)
        heap: list[Prioritized] = []
        order = []
        for number in range(length):
            entry = Prioritized(draw.randint(0, 2 * RESERVOIR - 1), number)
            if len(heap) < RESERVOIR:
                heapq.heappush(heap, entry)
            else:
                order.append(heapq.heappushpop(heap, entry).number)
        return [*order, *(entry.number for entry in heap)]


class Prioritized:
    """The number of a batch, compared by its priority alone."""

    def __init__(self, priority: int, number: int) -> None:
        self.priority = priority
        self.number = number

    def __lt__(self, other: Prioritized) -> bool:
        return self.priority < other.priority


class ShardedFixedBatchSampler(ShardedBatchSampler):
    """A ``batch_sampler`` of torch's ``DataLoader``: batches of neighbouring positions.

    Each rank gets one run of positions.

    Example:
        >>> from lanceloader.compat.lance_torch import ShardedFixedBatchSampler
        >>> list(ShardedFixedBatchSampler(1, 2, batch_size=3, total_num_rows=10))
        [[5, 6, 7], [8, 9]]
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        randomize: bool = False,  # noqa: FBT001, FBT002
        seed: int = 0,
        batch_size: int = 0,
        total_num_rows: int = 0,
    ) -> None:
        """Create a sampler of one rank.

        Args:
            rank: The rank, in ``range(world_size)``.
            world_size: The number of ranks.
            randomize: Whether batches are shuffled, differently in each epoch.
            seed: The seed of the order.
            batch_size: The number of positions in a batch.
            total_num_rows: The number of positions of all ranks.

        Raises:
            ValueError: If ``rank`` is not in ``range(world_size)``, or there are rows but no
                ``batch_size``.
        """
        super().__init__(rank, world_size, randomize, seed)
        self._total_num_rows = count(total_num_rows, "total_num_rows")
        least = 1 if total_num_rows else 0
        self._batch_size = count(batch_size, "batch_size", least=least)

    @classmethod
    def from_torch(  # type: ignore[override]
        cls,
        batch_size: int,
        total_num_rows: int,
        randomize: bool = False,  # noqa: FBT001, FBT002
        seed: int = 0,
    ) -> Self:
        """Return the sampler of this rank of ``torch.distributed``.

        Raises:
            RuntimeError: If ``torch.distributed`` is not initialised.
        """
        world = world_of_torch()
        return cls(
            *(world.rank, world.world_size, randomize, seed),
            batch_size=batch_size,
            total_num_rows=total_num_rows,
        )

    def __len__(self) -> int:
        """Return the number of batches of a rank."""
        if not self._total_num_rows:
            return 0
        per_rank = math.ceil(self._total_num_rows / self._world_size)
        return math.ceil(per_rank / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        per_rank = math.ceil(self._total_num_rows / self._world_size)
        start = self._rank * per_rank
        stop = min(start + per_rank, self._total_num_rows)
        size = max(1, self._batch_size)
        batches = [range(at, min(at + size, stop)) for at in range(start, stop, size)]
        numbers = self._shuffled(len(batches)) if self._randomize else range(len(batches))  # fmt: skip
        for number in numbers:
            yield list(batches[number])


def world_of_torch() -> World:
    """Return the world of ``torch.distributed``.

    Raises:
        RuntimeError: If it is not initialised.
    """
    world = World.in_use()
    if world is None:
        raise RuntimeError(
            "`from_torch` needs torch.distributed: call torch.distributed.init_process_group() "
            "first, or pass `rank` and `world_size`"
        )
    return world
