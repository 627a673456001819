"""The statistics of a loader."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lanceloader.monitor import report
from lanceloader.monitor.formatting import readable
from lanceloader.monitor.markup import stats_html
from lanceloader.monitor.measurements import STAGES, Measurements, quantile
from lanceloader.monitor.prometheus import prometheus_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lanceloader._native import ReadStats

__all__ = ["STAGES", "Stats", "readable"]

_SUMMED = (
    *("batches", "rows", "bytes", "rows_packed", "rows_direct", "rows_spilled"),
    *("blocks_filled", "blocks_mapped", "rows_skipped", "rows_filled"),
    *("batches_skipped", "requests", "bytes_fetched", "bytes_served", "bytes_copied"),
    *("retries", "throttled", "in_flight", "most_in_flight"),
)
"""The fields of merged statistics that are sums over the ranks."""


@dataclass(frozen=True, repr=False)
class Stats(Measurements):
    """Statistics of one iteration of a loader in this process, up to now.

    ``str`` returns a report, ``verdict`` its conclusion. The counts of rows read and blocks packed
    include all readers of the same rows in this process.

    Attributes:
        batches: Number of batches returned.
        rows: Number of rows in these batches, before any transform.
        bytes: Size of these batches as Arrow data.
        seconds: Time from the request of the first batch until the end of the iteration or now.
        first_batch_seconds: Time from the request of the first batch until it was returned.
        wait_seconds: Time spent waiting for batches, including the first one. For the rest of
            ``seconds``, the consumer was busy.
        wait_p50: Median of the waits after the first batch, in seconds. Waits are counted in
            classes, so quantiles are too long by up to a quarter.
        wait_p95: 95 % quantile of these waits.
        wait_p99: 99 % quantile of these waits.
        waits: Histogram of these waits: pairs of seconds and the number of waits of this class,
            shortest first.
        read_wait_seconds: Time that the trainer or the threads of a transform waited for the
            threads that read, without the first batch. If this is most of ``wait_seconds``,
            reading is the bottleneck.
        stage_seconds: Time summed over all threads, by stage: ``"order"``, ``"plan"``,
            ``"read"``, ``"gather"``, ``"format"`` (includes ``collate``), ``"transform"`` and
            ``"copy"`` (host time only; copies to a device are asynchronous).
        transform_threads: Number of threads that convert and transform batches. 0 means the
            trainer's own thread.
        ready: Mean number of finished batches when a batch was requested.
        series: Progress at up to a few hundred batches at equal distances, from the first batch
            on: seconds, rows returned so far, and seconds waited so far.
        rank: The rank of this process. For merged statistics, the rank that waited longest.
        world_size: The number of ranks.
        ranks: The statistics of each rank, for merged statistics; else empty.
        rows_packed: Number of rows gathered from packed rows in memory.
        rows_direct: Number of rows read from the table's files.
        rows_spilled: Number of rows written to scratch files.
        blocks_filled: Number of blocks of packed rows that this process decoded.
        blocks_mapped: Number of blocks found in the cache, from another process or an earlier
            run.
        bytes_kept: Size of the packed rows in memory.
        fill_seconds: Time until all rows were packed, or 0 if they are not.
        is_shared: Whether packed rows are shared with other processes.
        requests: Number of requests for data to object storage. Counts of requests include all
            readers of the table in this process.
        bytes_fetched: Size of the answers.
        bytes_served: Bytes of remote files that were needed, from wherever they came.
        bytes_copied: Those of them that came from copies in the cache folder.
        retries: Number of requests that failed and were made again.
        throttled: Those of them that the store refused because there were too many (429, 503).
        in_flight: Mean number of requests in flight, while there were any.
        most_in_flight: The most requests that were in flight at once.
        rows_skipped: Number of rows skipped because a transform failed on them.
        rows_filled: Number of rows replaced because a transform failed on them.
        batches_skipped: Number of batches of which all rows were skipped.
        format: The format of the batches, or ``None`` for a user's transform.
        failure: Why rows could not be packed or stored in files, or ``None``. They were then
            read in another way.
        copy_failure: Why nothing more was kept in the cache folder of what was fetched from object
            storage, or ``None``. It is fetched again in the next epoch.
    """

    @property
    def verdict(self) -> str:
        """A sentence on how much and for which stage the trainer waits, and what would help."""
        return report.verdict(self)

    @classmethod
    def merged(cls, stats: Iterable[Stats]) -> Self:
        """Merge the statistics of several ranks. The report then has a line for each rank.

        Batches, rows, bytes, waits and the seconds of stages are sums over the ranks. The total
        time and the time waited are those of the rank that waited longest, since the other ranks
        wait for it.

        Args:
            stats: The statistics of each rank, as ``torch.distributed.all_gather_object``
                collects them.

        Raises:
            ValueError: If ``stats`` is empty or contains a rank twice.

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
            message = "no statistics to merge; pass those of at least one rank"
            raise ValueError(message)
        numbers = [each.rank for each in ranks]
        if len(set(numbers)) < len(numbers):
            message = f"`stats` must contain each rank once, got ranks {numbers}"
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
            # Ranks that share packed rows hold one copy, assuming they are on one machine.
            bytes_kept=max(kept) if is_shared else sum(kept),
            fill_seconds=max(each.fill_seconds for each in ranks),
            is_shared=is_shared,
            failure=next((each.failure for each in ranks if each.failure), None),
            copy_failure=next(
                (each.copy_failure for each in ranks if each.copy_failure), None
            ),
            format=slowest.format,
        )

    def to_dict(self, prefix: str = "") -> dict[str, int | float]:
        """Return all numbers as a flat dict of scalars, for loggers such as W&B and TensorBoard.

        The keys are the same in every call. The seconds of a stage have the key
        ``"order_seconds"`` and so on. Fields that are not numbers are omitted. Pass the dict to
        ``wandb.log(numbers, step=step)``, or each item to ``writer.add_scalar(name, value, step)``
        of a TensorBoard ``SummaryWriter``.

        Args:
            prefix: A prefix for all keys, such as ``"loader/"``, which loggers show as a group.

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

    def to_prometheus(self, labels: Mapping[str, str] | None = None) -> str:
        """Return all numbers in the text format of Prometheus, for a scrape or a textfile.

        Names begin with ``lanceloader_``; times are in seconds, sizes in bytes. Samples have the
        label ``rank``, and merged statistics one sample for each rank. Counters begin at 0 with
        each iteration, which Prometheus treats as a reset.

        Args:
            labels: Further labels of all samples, such as ``{"job": "train"}``.

        Raises:
            ValueError: If a label has an invalid name, or is ``rank``, ``stage``, ``source`` or
                ``le``.

        Example:
            >>> loader = perm.loader(5)
            >>> print(len(list(loader)))
            2
            >>> lines = loader.stats().to_prometheus({"job": "train"}).splitlines()
            >>> [line for line in lines if line.startswith("lanceloader_rows_total")]
            ['lanceloader_rows_total{job="train",rank="0"} 10']
        """
        return prometheus_text(self.ranks or (self,), labels)

    def __str__(self) -> str:
        return report.text(self)

    def __repr__(self) -> str:
        return report.line(self)

    def _repr_html_(self) -> str:
        return stats_html(self)


def reads_between(
    before: ReadStats | None, after: ReadStats | None
) -> dict[str, int | float | bool | str | None]:
    """Return the fields of ``Stats`` about reading, for the time between two snapshots."""
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
        "requests": after.requests - before.requests,
        "bytes_fetched": after.bytes_fetched - before.bytes_fetched,
        "bytes_served": after.bytes_served - before.bytes_served,
        "bytes_copied": after.bytes_copied - before.bytes_copied,
        "retries": after.retries - before.retries,
        "throttled": after.throttled - before.throttled,
        "in_flight": (after.in_flight_nanos - before.in_flight_nanos) / busy
        if (busy := after.busy_nanos - before.busy_nanos)
        else 0.0,
        "most_in_flight": after.most_in_flight,
        "failure": after.failure,
        "copy_failure": after.copy_failure,
    }
