"""The counters of several readers of the core, summed: of tables, or of windows by their steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader._native import ReadStats, Watch

__all__ = ["SummedReadStats", "Watches", "summed"]


@dataclass(frozen=True)
class SummedReadStats:
    """The counters of ``ReadStats``, summed over several readers."""

    rows_packed: int
    rows_direct: int
    rows_spilled: int
    blocks_filled: int
    blocks_mapped: int
    bytes_kept: int
    fill_nanos: int
    requests: int
    bytes_fetched: int
    bytes_served: int
    bytes_copied: int
    retries: int
    throttled: int
    most_in_flight: int
    busy_nanos: int
    in_flight_nanos: int
    is_shared: bool
    failure: str | None
    copy_failure: str | None


def summed(reads: Sequence[ReadStats]) -> SummedReadStats:
    """Return the sum of the counters of several readers, with the longest time to fill."""
    failures = (stats.failure for stats in reads if stats.failure is not None)
    return SummedReadStats(
        rows_packed=sum(stats.rows_packed for stats in reads),
        rows_direct=sum(stats.rows_direct for stats in reads),
        rows_spilled=sum(stats.rows_spilled for stats in reads),
        blocks_filled=sum(stats.blocks_filled for stats in reads),
        blocks_mapped=sum(stats.blocks_mapped for stats in reads),
        bytes_kept=sum(stats.bytes_kept for stats in reads),
        fill_nanos=max(stats.fill_nanos for stats in reads),
        requests=sum(stats.requests for stats in reads),
        bytes_fetched=sum(stats.bytes_fetched for stats in reads),
        bytes_served=sum(stats.bytes_served for stats in reads),
        bytes_copied=sum(stats.bytes_copied for stats in reads),
        retries=sum(stats.retries for stats in reads),
        throttled=sum(stats.throttled for stats in reads),
        most_in_flight=max(stats.most_in_flight for stats in reads),
        busy_nanos=max(stats.busy_nanos for stats in reads),
        in_flight_nanos=sum(stats.in_flight_nanos for stats in reads),
        is_shared=any(stats.is_shared for stats in reads),
        failure=next(failures, None),
        copy_failure=next(filter(None, (stats.copy_failure for stats in reads)), None),
    )


@dataclass(frozen=True)
class SummedLoadStats:
    """The counters of ``LoadStats``, summed over several loaders."""

    batches: int
    rows: int
    bytes: int
    stage_nanos: tuple[int, ...]
    ready: int


class Watches:
    """The counters of several loaders of the core, each batch of which is a part of a merged batch."""

    def __init__(self, watches: list[Watch]) -> None:
        """Sum the counters of ``watches``, with times on the clock of the first one."""
        self._watches = watches
        now = watches[0].now_nanos
        self._behind = [now - watch.now_nanos for watch in watches]

    def stats(self) -> SummedLoadStats:
        """Return the sums; a batch is ready if all of its parts are."""
        all_stats = [watch.stats() for watch in self._watches]
        return SummedLoadStats(
            batches=min(stats.batches for stats in all_stats),
            rows=sum(stats.rows for stats in all_stats),
            bytes=sum(stats.bytes for stats in all_stats),
            stage_nanos=tuple(
                map(sum, zip(*(stats.stage_nanos for stats in all_stats), strict=True))
            ),
            ready=min(stats.ready for stats in all_stats),
        )

    def trace(self) -> None:
        """Start to record events."""
        for watch in self._watches:
            watch.trace()

    def events(
        self,
    ) -> list[tuple[int, int, int, tuple[int, int, int, int], int, int]]:
        """Return the events of all loaders, with consecutive numbers of threads; thread 0 takes batches."""
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
