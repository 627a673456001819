"""Which part of an epoch one reader gets: arithmetic, no data.

An epoch is cut into global batches of ``global_batch_size`` units, the same for any number of ranks and
workers. Rank r of a global batch gets a run of neighbours, the first ranks one more if it does not
divide. Worker w of n serves every n-th batch of its rank.
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
    """The units of an epoch that one reader gets.

    Attributes:
        first: The first unit of the first batch.
        size: Units of a batch.
        stride: From the first unit of a batch to that of the next.
        num_full: Batches of ``size`` units.
        last_start: The first unit of one more batch, after them.
        last_size: Units of that batch, counted on from unit 0 beyond the last one; ``None`` if
            there is no such batch. It may be 0, so that all ranks take the same steps.
        num_units: Units of the epoch.
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
    def num_served(self) -> int:
        """The number of units in them."""
        return self.num_full * self.size + (self.last_size or 0)

    @property
    def is_run(self) -> bool:
        """Whether the units are neighbours, from ``first`` on, each once."""
        end = self.first + self.num_full * self.size
        follows = not self.last_size or self.last_start == end
        ends = end + (self.last_size or 0) <= self.num_units
        return follows and ends and (self.stride == self.size or self.num_full <= 1)

    def batches(self) -> Iterator[range]:
        """Give the units of each batch, one by one; beyond ``num_units`` they go on from 0."""
        for batch in range(self.num_full):
            start = self.first + batch * self.stride
            yield range(start, start + self.size)
        if self.last_size is not None:
            yield range(self.last_start, self.last_start + self.last_size)

    def batch(self, number: int) -> range:
        """Return the units of a batch, as ``batches`` does."""
        if number < self.num_full:
            start = self.first + number * self.stride
            return range(start, start + self.size)
        return range(self.last_start, self.last_start + (self.last_size or 0))

    def of_worker(self, worker: int, num_workers: int) -> Share:
        """Give every ``num_workers``-th batch, from batch ``worker % num_workers`` on."""
        if num_workers == 1:
            return self
        worker %= num_workers
        num_full = max(0, -(-(self.num_full - worker) // num_workers))
        has_last = self.last_size is not None and self.num_full % num_workers == worker
        return replace(
            self,
            # Where there is no such batch, numbers need not grow.
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
    """Give what a rank gets of the units from ``start`` on.

    Args:
        num_units: Units of the epoch.
        start: The first one that nobody was served yet, in ``range(num_units + 1)``.
        global_batch_size: Units of a batch, of all ranks together; at least one for each.
        world: The rank, and how many there are.
        tail: What becomes of a short last batch whose units do not divide among the ranks.
        drop_last: Whether a short last batch is left out.
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
            # Where the batch does not divide, ranks from `more` on may have no room for one more.
            last_size = min(most, each + (rank < more))
            roomy = min(rank, more)
            last_start += roomy * min(most, each + 1) + (rank - roomy) * min(most, each)
    stride = global_batch_size
    if not num_full:
        # The core counts in 64 bits: of batches that there are not, no more than there is.
        size, stride = (max(1, min(many, num_units)) for many in (size, stride))
        first = min(first, num_units)
    return Share(first, size, stride, num_full, last_start, last_size, num_units)
