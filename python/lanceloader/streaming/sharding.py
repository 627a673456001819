"""Sharding with ``tail``: every row of an epoch for any number of readers.

The rows of an epoch form one sequence. It has one row of each split per cycle, in the order of
the splits, and ends with the rows that do not divide among the splits. Of ``n`` readers, which
are the workers of all ranks, reader ``k`` takes every ``n``-th row beginning with row ``k``.
A global step, which is the next batch of each reader, therefore has the same rows for any
number of readers, and a state is the number of rows of the sequence that are done. If readers
stop in the middle of a step, the next readers begin with the rows that were missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader.streaming.row_stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lanceloader._typing import Tail


@dataclass(frozen=True)
class GlobalOrder:
    """The sequence of all rows of an epoch."""

    num_rows: int
    num_splits: int

    @property
    def rows_per_split(self) -> int:
        """The number of full cycles."""
        return self.num_rows // self.num_splits

    def offsets(self, places: Any) -> Any:
        """Return the offsets in the permutation of the rows at some places of the sequence.

        Places past the end continue at the beginning.
        """
        import numpy as np

        places = places % self.num_rows
        cycles, splits = np.divmod(places, self.num_splits)
        full = self.rows_per_split
        return np.where(cycles == full, places, splits * full + cycles)

    def counts(self, done: int) -> list[int]:
        """Return how many of the first ``done`` rows belong to each split."""
        cycles, more = divmod(done, self.num_splits)
        return [cycles + (split < more) for split in range(self.num_splits)]

    def done(self, counts: Sequence[int]) -> int:
        """Return the number of rows done, given the rows done of each split.

        Raises:
            ValueError: If the counts are not those of the first rows of the sequence.
        """
        done = sum(counts)
        if list(counts) != self.counts(done) or done > self.num_rows:
            message = (
                f"samples_consumed_per_split {list(counts)} is not the beginning of an epoch of "
                f"{self.num_rows} rows in {self.num_splits} splits, so it cannot be resumed "
                "with `tail`. Pass the states of all ranks at one step to merge_state_dicts, "
                "and load its result"
            )
            raise ValueError(message)
        return done


@dataclass(frozen=True)
class StridedShard:
    """The rows of one reader, from the place at which a state stopped."""

    order: GlobalOrder
    tail: Tail
    start: int
    number: int
    num_readers: int
    missed: tuple[int, ...] = ()
    """Places before ``start`` that this reader takes first."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Version 0.1 had another name for it.
        if "interleaving" in state:
            state = {**state, "order": state["interleaving"]}
            del state["interleaving"]
        self.__dict__.update(state)

    @property
    def num_rows(self) -> int:
        """The number of rows that this reader takes."""
        left = self.order.num_rows - self.start
        each, more = divmod(left, self.num_readers)
        extra = {"pad": more > 0, "drop": False, "uneven": self.number < more}
        return len(self.missed) + each + extra[self.tail]

    def place(self, row: int) -> int:
        """Return the place in the sequence of the ``row``-th row of this reader."""
        if row < len(self.missed):
            return self.missed[row]
        return self.start + self.number + (row - len(self.missed)) * self.num_readers

    def offsets(self, start: int, stop: int, step: int = 1) -> Any:
        """Return the offsets in the permutation of some rows of this reader, as an array."""
        import numpy as np

        rows = np.arange(start, stop, step)
        places = self.start + self.number + (rows - len(self.missed)) * self.num_readers
        is_missed = rows < len(self.missed)
        places[is_missed] = np.array(self.missed, np.int64)[rows[is_missed]]
        return self.order.offsets(places).astype(np.uint64)

    def done(self, num_rows: int) -> int:
        """Return how many rows of the sequence are done once each reader took ``num_rows``."""
        done = self.start + max(0, num_rows - len(self.missed)) * self.num_readers
        return min(done, self.order.num_rows)

    def streams(self, perm: Any) -> list[RowStream]:
        """Return the rows of this reader as streams, of which one row each is taken in turn.

        A stream has rows of one split only, and neighbours in the split as far as other readers
        do not take them.
        """
        num_splits = self.order.num_splits
        count = num_splits // math.gcd(num_splits, self.num_readers)
        return [
            self._stream(perm, first, count)
            for first in range(min(count, self.num_rows))
        ]

    def _stream(self, perm: Any, first: int, step: int) -> RowStream:
        rows = range(first, self.num_rows, step)

        def offsets(start: int, stop: int) -> Any:
            found = rows[start:stop]
            return self.offsets(found.start, found.stop, found.step)

        return RowStream(perm, len(rows), 0, offsets)


def are_at_step(shards: Mapping[int, StridedShard], taken: Mapping[int, int]) -> bool:
    """Return whether the readers of a rank took equally many rows, and all missed ones.

    Args:
        shards: The shard of each reader.
        taken: The number of rows that each reader took.
    """
    most = max(taken.values())
    return all(
        taken.get(k, 0) == min(most, shard.num_rows) and most >= len(shard.missed)
        for k, shard in shards.items()
    )


def missed_places(
    shards: Mapping[int, StridedShard], taken: Mapping[int, int]
) -> tuple[int, ...]:
    """Return the places up to that of the furthest reader that the other readers did not take."""
    most = max(taken.values())
    return tuple(
        sorted(
            shard.place(row)
            for k, shard in shards.items()
            for row in range(
                taken.get(k, 0), min(max(most, len(shard.missed)), shard.num_rows)
            )
        )
    )
