"""What the loaders of several tables count, as if they were one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._native import ReadStats, Watch

__all__ = ["Reads", "Watches", "summed"]


@dataclass(frozen=True)
class Reads:
    """What ``ReadStats`` says of one table, of several."""

    rows_packed: int
    rows_direct: int
    rows_spilled: int
    blocks_filled: int
    blocks_mapped: int
    bytes_kept: int
    fill_nanos: int
    is_shared: bool
    failure: str | None


def summed(reads: Sequence[ReadStats]) -> Reads:
    """Add up what was read of several tables; the longest took as long as all."""
    failures = (of_one.failure for of_one in reads if of_one.failure is not None)
    return Reads(
        rows_packed=sum(of_one.rows_packed for of_one in reads),
        rows_direct=sum(of_one.rows_direct for of_one in reads),
        rows_spilled=sum(of_one.rows_spilled for of_one in reads),
        blocks_filled=sum(of_one.blocks_filled for of_one in reads),
        blocks_mapped=sum(of_one.blocks_mapped for of_one in reads),
        bytes_kept=sum(of_one.bytes_kept for of_one in reads),
        fill_nanos=max(of_one.fill_nanos for of_one in reads),
        is_shared=any(of_one.is_shared for of_one in reads),
        failure=next(failures, None),
    )


@dataclass(frozen=True)
class Sums:
    """What ``LoadStats`` says of one, of all."""

    batches: int
    rows: int
    bytes: int
    stage_nanos: tuple[int, ...]
    ready: int


class Watches:
    """Counts of several loaders. A batch is one of each of them."""

    def __init__(self, watches: list[Watch]) -> None:
        """Add these up; their times are told on the clock of the first."""
        self._watches = watches
        now = watches[0].now_nanos
        self._behind = [now - watch.now_nanos for watch in watches]

    def stats(self) -> Sums:
        """Give the sums; a batch is ready if that of the slowest is."""
        all_stats = [watch.stats() for watch in self._watches]
        return Sums(
            batches=min(stats.batches for stats in all_stats),
            rows=sum(stats.rows for stats in all_stats),
            bytes=sum(stats.bytes for stats in all_stats),
            stage_nanos=tuple(
                map(sum, zip(*(stats.stage_nanos for stats in all_stats), strict=True))
            ),
            ready=min(stats.ready for stats in all_stats),
        )

    def trace(self) -> None:
        """Keep events."""
        for watch in self._watches:
            watch.trace()

    def events(
        self,
    ) -> list[tuple[int, int, int, tuple[int, int, int, int], int, int]]:
        """Give the events of all, threads numbered on; thread 0 takes batches."""
        found: list[tuple[int, int, int, tuple[int, int, int, int], int, int]] = []
        before = 0
        for watch, behind in zip(self._watches, self._behind, strict=True):
            events = watch.events()
            found += [
                (thread and thread + before, start + behind, nanos, stages, rows, size)
                for thread, start, nanos, stages, rows, size in events
            ]
            before += max((event[0] for event in events), default=0)
        return found

    @property
    def now_nanos(self) -> int:
        """Nanoseconds on the clock of the events."""
        return self._watches[0].now_nanos
