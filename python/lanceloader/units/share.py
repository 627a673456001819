"""The share of an epoch that one rank or worker reads: arithmetic, no data.

An epoch is divided into global batches of ``global_batch_size`` units, which are the same for all numbers
of ranks and workers. Each rank gets consecutive units of a global batch; if the batch does not divide
evenly, the first ranks get one unit more. Worker w of n reads every n-th batch of its rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader._typing import Tail
    from lanceloader.world import World

__all__ = ["Share", "share_of"]


@dataclass(frozen=True)
class Share:
    """The units of an epoch that one rank or worker reads.

    Attributes:
        first: The first unit of the first batch.
        size: The number of units in a full batch.
        stride: The difference between the first units of a batch and the next one.
        num_full: The number of full batches.
        last_start: The first unit of the last batch, after the full ones.
        last_size: The number of units in the last batch, which continues with unit 0 after the
            end of the epoch; ``None`` if there is no such batch. 0 is an empty batch, which makes
            all ranks take the same number of steps.
        num_units: The number of units in the epoch, of all ranks.
    """

    first: int
    size: int
    stride: int
    num_full: int
    last_start: int
    last_size: int | None
    num_units: int

    @property
    def num_batches(self) -> int:
        """The number of batches."""
        return self.num_full + (self.last_size is not None)

    @property
    def num_assigned(self) -> int:
        """The number of units in all batches of the share."""
        return self.num_full * self.size + (self.last_size or 0)

    @property
    def is_run(self) -> bool:
        """Whether the units are consecutive and distinct, from ``first`` on."""
        end = self.first + self.num_full * self.size
        follows = not self.last_size or self.last_start == end
        ends = end + (self.last_size or 0) <= self.num_units
        return follows and ends and (self.stride == self.size or self.num_full <= 1)

    def batches(self) -> Iterator[range]:
        """Yield the units of each batch; numbers from ``num_units`` on wrap around to unit 0."""
        for batch in range(self.num_full):
            start = self.first + batch * self.stride
            yield range(start, start + self.size)
        if self.last_size is not None:
            yield range(self.last_start, self.last_start + self.last_size)

    def batch(self, number: int) -> range:
        """Return the units of one batch; see ``batches``."""
        if number < self.num_full:
            start = self.first + number * self.stride
            return range(start, start + self.size)
        return range(self.last_start, self.last_start + (self.last_size or 0))

    def runs(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the units of one batch as runs of the epoch, each from a start to an end."""
        units = self.batch(number)
        start = units.start
        while start < units.stop:
            first = start % self.num_units
            end = min(self.num_units, first + units.stop - start)
            yield first, end
            start += end - first

    def of_worker(self, worker: int, num_workers: int) -> Share:
        """Return the share of every ``num_workers``-th batch, from ``worker % num_workers`` on."""
        if num_workers == 1:
            return self
        worker %= num_workers
        num_full = max(0, -(-(self.num_full - worker) // num_workers))
        has_last = self.last_size is not None and self.num_full % num_workers == worker
        return replace(
            self,
            # Without such a batch, the numbers must not grow beyond 64 bits.
            first=self.first + worker * self.stride * (num_full > 0),
            stride=self.stride * (num_workers if num_full > 1 else 1),
            num_full=num_full,
            last_size=self.last_size if has_last else None,
        )


def share_of(
    num_units: int,
    start: int,
    global_batch_size: int,
    world: World,
    *,
    tail: Tail,
    drop_last: bool,
) -> Share:
    """Return the share of a rank of the units from ``start`` on.

    Args:
        num_units: The number of units in the epoch.
        start: The first unit that was not yielded yet, in ``range(num_units + 1)``.
        global_batch_size: The number of units in a batch of all ranks together; at least the
            number of ranks.
        world: The rank and the number of ranks.
        tail: How a shorter last batch is divided if its units do not divide evenly.
        drop_last: Whether a shorter last batch is dropped.
    """
    rank, ranks = world.rank, world.world_size
    num_full, left = divmod(max(0, num_units - start), global_batch_size)
    each, more = divmod(global_batch_size, ranks)
    size = each + (rank < more)
    first = start + rank * each + min(rank, more)
    last_start = start + num_full * global_batch_size
    last_size: int | None = None
    if left and not drop_last:
        least, over = divmod(left, ranks)
        if tail == "uneven":
            last_size = least + (rank < over)
            last_start += rank * least + min(rank, over)
        elif tail == "drop":
            last_size = least or None
            last_start += rank * least
        else:
            most = least + (over > 0)
            # If the full batch does not divide evenly, ranks from `more` on have room for one less.
            last_size = min(most, each + (rank < more))
            roomy = min(rank, more)
            last_start += roomy * min(most, each + 1) + (rank - roomy) * min(most, each)
    stride = global_batch_size
    if not num_full:
        # The sizes of batches that do not exist must fit into the 64 bits of the core.
        size, stride = (max(1, min(each, num_units)) for each in (size, stride))
        first = min(first, num_units)
    return Share(first, size, stride, num_full, last_start, last_size, num_units)
