"""What a loader did, as numbers and as a text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from lanceloader.monitor import report
from lanceloader.monitor.report import FINISHING, READING, quantile, readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lanceloader._native import ReadStats

__all__ = ["STAGES", "Stats", "readable"]

STAGES = (*READING, *FINISHING)
"""The stages of the path of a batch, first to last."""

_SUMMED = (
    *("batches", "rows", "bytes", "rows_packed", "rows_direct", "rows_spilled"),
    *("blocks_filled", "blocks_mapped", "rows_skipped", "rows_filled"),
    "batches_skipped",
)
"""What ranks have together."""


@dataclass(frozen=True, repr=False)
class Stats:
    """What one iteration of a loader did so far, in this process.

    Rows read and blocks packed are those of all readers of the same rows in this process.

    Attributes:
        batches: Batches handed out.
        rows: Rows in them, before any transform.
        bytes: Bytes in them, as Arrow data.
        seconds: From asking for the first batch until the iteration ended, or until now.
        first_batch_seconds: From asking for the first batch until it was there.
        wait_seconds: Spent waiting for batches, the first one included: the rest of the time
            was the consumer's.
        wait_p50: What half of the waits after the first did not exceed, in seconds; too long by
            up to a quarter, as waits are counted by class.
        wait_p95: What 95 % of them did not exceed.
        wait_p99: What 99 % of them did not exceed.
        waits: Seconds and how many waits took about as long, shortest first.
        read_wait_seconds: Spent waiting for the threads that read, by the trainer or by the
            threads of a transform, but for the first batch: if this is most of
            ``wait_seconds``, reading is behind.
        stage_seconds: Seconds of all threads by stage: ``"order"``, ``"plan"``, ``"read"``,
            ``"gather"``, ``"format"`` (with ``collate``), ``"transform"`` and ``"copy"``. That
            of copies is the time of the host: a device goes on by itself.
        transform_threads: Threads that convert and transform; 0 is the trainer's own.
        ready: Batches that lay ready when one was asked for, on average.
        series: Seconds, rows handed out and seconds waited until then, at some hundred moments
            from the first batch on, evenly many batches apart.
        rank: The rank that was served; of several, the one that waited longest.
        world_size: The number of ranks.
        ranks: Of ``merged`` statistics, those of each rank.
        rows_packed: Rows gathered from packed rows in memory.
        rows_direct: Rows read from the table's files.
        rows_spilled: Rows written to scratch files.
        blocks_filled: Blocks of packed rows that this process decoded.
        blocks_mapped: Blocks that another process or an earlier run had left in the cache.
        bytes_kept: Bytes of packed rows that are in memory.
        fill_seconds: Until all rows were packed; 0 if they are not.
        is_shared: Whether packed rows are shared with other processes.
        rows_skipped: Rows left out because a transform failed on them.
        rows_filled: Rows that something was put in the place of, for the same reason.
        batches_skipped: Batches all of whose rows were left out.
        format: The format of the batches, or ``None`` where a function of the user makes them.
        failure: Why rows could not be packed or written to files, if so; they were then read
            in another way.
    """

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
    ranks: tuple[Stats, ...] = ()
    rows_packed: int = 0
    rows_direct: int = 0
    rows_spilled: int = 0
    blocks_filled: int = 0
    blocks_mapped: int = 0
    bytes_kept: int = 0
    fill_seconds: float = 0.0
    is_shared: bool = False
    rows_skipped: int = 0
    rows_filled: int = 0
    batches_skipped: int = 0
    failure: str | None = None
    format: str | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows handed out per second since the iteration began."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """The share of the time after the first batch that was spent waiting."""
        seconds = self.seconds - self.first_batch_seconds
        waited = max(0.0, self.wait_seconds - self.first_batch_seconds)
        return min(1.0, waited / seconds) if seconds > 0 else 0.0

    @property
    def hits(self) -> float:
        """The share of the rows read that came from memory."""
        rows = self.rows_packed + self.rows_direct + self.rows_spilled
        return self.rows_packed / rows if rows else 0.0

    @property
    def slowest(self) -> str | None:
        """The stage that the trainer waits for most, or ``None`` if stages were not measured.

        Stages are compared among those that are behind: if the threads that read are waited
        for, these are theirs, otherwise what is done with a batch afterwards. Of several
        ranks, it is that of the one that waited longest.
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

    @property
    def verdict(self) -> str:
        """Whether the trainer waits for batches, for which stage most, and what would help."""
        return report.verdict(self)

    @classmethod
    def merged(cls, stats: Iterable[Stats]) -> Self:
        """Put the statistics of several ranks together; ``str`` of them has a line for each.

        Batches, rows, bytes, waits and the seconds of stages are those of all. How long it took
        and how long was waited is that of the rank that waited longest: the others wait for it.

        Args:
            stats: One of each rank, as ``torch.distributed.all_gather_object`` brings them.

        Raises:
            ValueError: If there are none, or two of one rank.

        Example:
            >>> ranks = [perm.loader(2, rank=rank, world_size=2) for rank in range(2)]
            >>> print([len(list(loader)) for loader in ranks])
            [3, 3]
            >>> whole = ll.Stats.merged(loader.stats() for loader in ranks)
            >>> whole.batches, whole.rows, len(whole.ranks)
            (6, 10, 2)
        """
        ranks = tuple(sorted(stats, key=lambda each: each.rank))
        if not ranks:
            raise ValueError(
                "no statistics to merge: wanted those of one rank at least"
            )
        numbers = [each.rank for each in ranks]
        if len(set(numbers)) < len(numbers):
            message = f"statistics of ranks {numbers}: wanted one of each rank"
            raise ValueError(message)
        slowest = max(ranks, key=lambda each: (each.wait_share, each.wait_seconds))
        waits: Counter[float] = Counter()
        stages: Counter[str] = Counter()
        for each in ranks:
            waits.update(dict(each.waits))
            stages.update(each.stage_seconds)
        ordered = tuple(sorted(waits.items()))
        kept = [each.bytes_kept for each in ranks]
        is_shared = any(each.is_shared for each in ranks)
        merged = {name: sum(getattr(each, name) for each in ranks) for name in _SUMMED}
        return cls(
            **merged,
            seconds=slowest.seconds,
            first_batch_seconds=slowest.first_batch_seconds,
            wait_seconds=slowest.wait_seconds,
            wait_p50=quantile(ordered, 0.5),
            wait_p95=quantile(ordered, 0.95),
            wait_p99=quantile(ordered, 0.99),
            waits=ordered,
            read_wait_seconds=slowest.read_wait_seconds,
            stage_seconds=dict(stages),
            transform_threads=slowest.transform_threads,
            ready=min(each.ready for each in ranks),
            series=slowest.series,
            rank=slowest.rank,
            world_size=slowest.world_size,
            ranks=ranks,
            # Those that share rows keep them once, as far as can be seen from here.
            bytes_kept=max(kept) if is_shared else sum(kept),
            fill_seconds=max(each.fill_seconds for each in ranks),
            is_shared=is_shared,
            failure=next((each.failure for each in ranks if each.failure), None),
            format=slowest.format,
        )

    def to_dict(self, prefix: str = "") -> dict[str, int | float]:
        """Give the numbers under flat names, for loggers like W&B and TensorBoard.

        Seconds of stages are ``"order_seconds"`` and so on. What is no number is left out.

        Args:
            prefix: Put before each name, as in ``"loader/"``.

        Example:
            >>> loader = perm.loader(5)
            >>> print(len(list(loader)))
            2
            >>> loader.stats().to_dict("loader/")["loader/rows"]
            10
        """
        numbers: dict[str, int | float] = {
            name: int(value) if isinstance(value, bool) else value
            for name in self.__dataclass_fields__
            if isinstance(value := getattr(self, name), int | float)
        }
        numbers |= {
            "rows_per_second": self.rows_per_second,
            "wait_share": self.wait_share,
            "hits": self.hits,
        }
        numbers |= {
            f"{stage}_seconds": self.stage_seconds.get(stage, 0.0) for stage in STAGES
        }
        return {f"{prefix}{name}": value for name, value in numbers.items()}

    def __str__(self) -> str:
        return report.text(self)

    def __repr__(self) -> str:
        return report.line(self)


def reads_between(
    before: ReadStats | None, after: ReadStats | None
) -> dict[str, int | float | bool | str | None]:
    """Give the fields of ``Stats`` that tell what was read in between."""
    if before is None or after is None:
        return {}
    return {
        "rows_packed": after.rows_packed - before.rows_packed,
        "rows_direct": after.rows_direct - before.rows_direct,
        "rows_spilled": after.rows_spilled - before.rows_spilled,
        "blocks_filled": after.blocks_filled - before.blocks_filled,
        "blocks_mapped": after.blocks_mapped - before.blocks_mapped,
        "bytes_kept": after.bytes_kept,
        "fill_seconds": after.fill_nanos / 1e9,
        "is_shared": after.is_shared,
        "failure": after.failure,
    }
