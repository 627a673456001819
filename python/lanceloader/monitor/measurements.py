"""The figures of ``Stats``, from which its report is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FINISHING", "READING", "STAGES", "Measurements", "quantile"]

READING = ("order", "plan", "read", "gather")
"""The stages of the threads that read."""

FINISHING = ("format", "transform", "copy")
"""The stages after reading, in the threads of the transform or the trainer's own."""

STAGES = (*READING, *FINISHING)
"""All stages that a batch passes through, first to last."""


@dataclass(frozen=True, repr=False)
class Measurements:
    """The fields of ``Stats``, where they are documented, and figures derived from them."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    first_batch_seconds: float = 0.0
    wait_seconds: float = 0.0
    wait_p50: float = 0.0
    wait_p95: float = 0.0
    wait_p99: float = 0.0
    waits: tuple[tuple[float, int], ...] = ()
    read_wait_seconds: float = 0.0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    transform_threads: int = 0
    ready: float = 0.0
    series: tuple[tuple[float, int, float], ...] = ()
    rank: int = 0
    world_size: int = 1
    ranks: tuple[Self, ...] = ()
    rows_packed: int = 0
    rows_direct: int = 0
    rows_spilled: int = 0
    blocks_filled: int = 0
    blocks_mapped: int = 0
    bytes_kept: int = 0
    fill_seconds: float = 0.0
    is_shared: bool = False
    requests: int = 0
    bytes_fetched: int = 0
    bytes_served: int = 0
    bytes_copied: int = 0
    retries: int = 0
    throttled: int = 0
    in_flight: float = 0.0
    most_in_flight: int = 0
    rows_skipped: int = 0
    rows_filled: int = 0
    batches_skipped: int = 0
    failure: str | None = None
    copy_failure: str | None = None
    format: str | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows per second, from the request of the first batch until the iteration ended."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """The share of the time after the first batch that the trainer waited, from 0 to 1."""
        seconds = self.seconds - self.first_batch_seconds
        waited = max(0.0, self.wait_seconds - self.first_batch_seconds)
        return min(1.0, waited / seconds) if seconds > 0 else 0.0

    @property
    def hits(self) -> float:
        """The share of rows that were read from packed rows in memory, from 0 to 1."""
        rows = self.rows_packed + self.rows_direct + self.rows_spilled
        return self.rows_packed / rows if rows else 0.0

    @property
    def slowest(self) -> str | None:
        """The stage that the trainer waited for most, or ``None`` if stages were not measured.

        If most of the waiting was for reading, this is the slowest stage of reading, else the
        slowest of the later stages. For merged statistics, it is that of the rank that waited
        longest.
        """
        if self.ranks:
            return next(each for each in self.ranks if each.rank == self.rank).slowest
        waited = self.wait_seconds - self.first_batch_seconds
        is_reading = self.read_wait_seconds >= waited / 2
        threads = max(1, self.transform_threads)
        seconds = {
            stage: self.stage_seconds.get(stage, 0.0)
            / (threads if stage in ("format", "transform") else 1)
            for stage in STAGES
        }
        for stages in (READING if is_reading else FINISHING, STAGES):
            slowest = max(stages, key=lambda stage: seconds[stage])
            if seconds[slowest] > 0:
                return slowest
        return None


def quantile(waits: Iterable[tuple[float, int]], share: float) -> float:
    """Return a quantile of a histogram of waits, in seconds.

    Args:
        waits: Pairs of seconds and the number of waits of this class, shortest first.
        share: The quantile, from 0 to 1.

    Returns:
        The smallest class that ``share`` of the waits does not exceed; 0 for no waits.
    """
    waits = tuple(waits)
    rank = share * sum(number for _, number in waits)
    cumulative = 0
    for seconds, number in waits:
        cumulative += number
        if cumulative >= rank:
            return seconds
    return 0.0
