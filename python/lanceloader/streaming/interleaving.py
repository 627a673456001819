"""All rows for any number of readers: what ``tail`` puts in place of the rules of division.

The rows of an epoch stand in one sequence: cycle after cycle, one of each split, in the order
of splits, and at the end the rows that do not divide by the splits. Of ``n`` readers (the
workers of all ranks), reader ``k`` takes every ``n``-th row from ``k`` on. So a global step,
the next batch of each reader, has the same rows for any number of readers, and a state is
the number of rows of the sequence that are done. Where readers were left in the middle of a
step, the next readers begin with the rows that those missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanceloader.streaming.fields import Fields
from lanceloader.streaming.pipeline import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lanceloader._typing import Tail


@dataclass(frozen=True)
class Interleaving:
    """The sequence of an epoch."""

    num_rows: int
    num_splits: int

    @property
    def rows_per_split(self) -> int:
        """The number of full cycles."""
        return self.num_rows // self.num_splits

    def offset(self, place: int) -> int:
        """Find the row at a place of the sequence in the order that is cut into splits."""
        place %= self.num_rows
        cycle, split = divmod(place, self.num_splits)
        full = self.rows_per_split
        return place if cycle == full else split * full + cycle

    def counts(self, done: int) -> list[int]:
        """Give the rows of each split among the first ``done`` of the sequence."""
        cycles, more = divmod(done, self.num_splits)
        return [cycles + (split < more) for split in range(self.num_splits)]

    def done(self, counts: Sequence[int]) -> int:
        """Give the number of rows done, from those of each split.

        Raises:
            ValueError: If these are no beginning of the sequence.
        """
        done = sum(counts)
        if list(counts) != self.counts(done) or done > self.num_rows:
            message = (
                f"samples_consumed_per_split {list(counts)}: wanted the beginning of an epoch "
                f"of {self.num_rows} rows in {self.num_splits} splits, as merge_state_dicts "
                "makes of the states of all ranks at a step"
            )
            raise ValueError(message)
        return done


@dataclass(frozen=True)
class Reader:
    """One of the readers of a sequence, from the place where a state stopped."""

    interleaving: Interleaving
    tail: Tail
    start: int
    number: int
    num_readers: int
    missed: tuple[int, ...] = ()
    """Places before the start that it takes first."""

    @property
    def num_rows(self) -> int:
        """How many rows it takes."""
        left = self.interleaving.num_rows - self.start
        each, more = divmod(left, self.num_readers)
        extra = {"pad": more > 0, "drop": False, "uneven": self.number < more}
        return len(self.missed) + each + extra[self.tail]

    def place(self, row: int) -> int:
        """Find the place of its ``row``-th row in the sequence; beyond the end it begins anew."""
        if row < len(self.missed):
            return self.missed[row]
        return self.start + self.number + (row - len(self.missed)) * self.num_readers

    def done(self, num_rows: int) -> int:
        """Give the number of rows done by all, where each has taken ``num_rows``."""
        done = self.start + max(0, num_rows - len(self.missed)) * self.num_readers
        return min(done, self.interleaving.num_rows)

    def streams(self, perm: Any) -> list[Stream]:
        """Give its rows as streams, to be taken in turn; each is of one split.

        They hold neighbours of the split, as far as there are readers for others.
        """
        num_splits = self.interleaving.num_splits
        turns = num_splits // math.gcd(num_splits, self.num_readers)
        return [
            self._stream(perm, turn, turns) for turn in range(min(turns, self.num_rows))
        ]

    def _stream(self, perm: Any, turn: int, turns: int) -> Stream:
        rows = range(turn, self.num_rows, turns)

        def offsets(start: int, stop: int) -> list[int]:
            return [
                self.interleaving.offset(self.place(row)) for row in rows[start:stop]
            ]

        return Stream(perm, len(rows), 0, offsets)


def are_in_step(readers: Mapping[int, Reader], rows: Mapping[int, int]) -> bool:
    """Whether the readers of a rank, by number, have taken as many rows each, and missed none."""
    most = max(rows.values())
    return all(
        rows.get(k, 0) == min(most, reader.num_rows) and most >= len(reader.missed)
        for k, reader in readers.items()
    )


def missed_by(
    readers: Mapping[int, Reader], rows: Mapping[int, int]
) -> tuple[int, ...]:
    """Give the places that readers have not taken, up to the furthest of them."""
    most = max(rows.values())
    return tuple(
        sorted(
            reader.place(row)
            for k, reader in readers.items()
            for row in range(
                rows.get(k, 0), min(max(most, len(reader.missed)), reader.num_rows)
            )
        )
    )


class InSequence(Fields):
    """Where a dataset with a tail is in the sequence."""

    def _start_sequence(self, done: int) -> None:
        """Stand where so many rows of the sequence are done."""
        self._resume_done = done
        self._missed = ()
        self._readers = {}
        self._worker_rows = {}

    def _begin_sequence(self, readers: dict[int, Reader]) -> None:
        """Count what these readers, by worker, take from here on."""
        self._settle()
        self._readers = readers

    def _settle(self) -> None:
        """Stand where readers have come."""
        if self._worker_rows:
            missed = missed_by(self._readers, self._worker_rows)
            self._resume_done, self._missed = self._done, missed
            self._worker_rows = {}

    @property
    def _done(self) -> int:
        """The rows of the sequence that are done by the furthest of the readers."""
        rows = self._worker_rows
        if not rows:
            return self._resume_done
        return next(iter(self._readers.values())).done(max(rows.values()))

    @property
    def _is_in_step(self) -> bool:
        """Whether no row before is missing, where there is a sequence."""
        if not self._worker_rows:
            return not self._missed
        return are_in_step(self._readers, self._worker_rows)

    def _reader(self, worker: int, num_workers: int) -> Reader:
        """Give the part of the sequence that a worker of this rank has from here on."""
        assert self._interleaving is not None
        assert self._tail is not None
        self._settle()
        told = self._worker_info_override
        if told is not None:
            worker, num_workers = told.id, told.num_workers
        return Reader(
            self._interleaving,
            self._tail,
            self._resume_done,
            self._rank * num_workers + worker,
            self._world_size * num_workers,
            self._missed[worker::num_workers],
        )
