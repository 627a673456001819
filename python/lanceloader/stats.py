"""What a loader did, as numbers and as a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lanceloader._native import ReadStats

__all__ = ["STAGES", "Stats", "readable"]

STAGES = ("order", "plan", "read", "gather", "format", "transform", "copy")
"""The stages of the path of a batch, first to last."""

_ENOUGH = 0.05
"""A trainer that waits no longer than this share of its time would gain nothing worth it."""

_ADVICE = {
    "order": "the order is drawn row by row: a sample without weights, or a shuffle, costs less",
    "plan": "batches of more rows cost less to plan",
    "read": 'rows come from files: more memory (memory_limit) or read="resident" keeps them',
    "gather": "fewer or narrower columns (select_columns) cost less, or a format of one dtype",
    "format": 'a columnar format ("torch_dict", "torch_matrix", "arrow") costs less than rows',
    "transform": "more transform_threads, or in_process=False, take it off the trainer",
    "copy": "pin_memory=True, or batches of fewer bytes, make copies shorter",
}


@dataclass(frozen=True)
class Stats:
    """What one iteration of a loader did so far, in this process.

    Rows read and blocks packed are those of all readers of the same rows in this process.

    Attributes:
        batches: Batches handed out.
        rows: Rows in them, before any transform.
        bytes: Bytes in them, as Arrow data.
        seconds: Since the iteration began.
        first_batch_seconds: From asking for the first batch until it was there.
        wait_seconds: Spent waiting for batches, the first one included: the rest of the time
            was the consumer's.
        wait_p50: What half of the waits after the first did not exceed, in seconds; too long by
            up to a quarter, as waits are counted by class.
        wait_p95: What 95 % of them did not exceed.
        wait_p99: What 99 % of them did not exceed.
        waits: Seconds and how many waits took about as long, shortest first.
        stage_seconds: Seconds of all threads by stage: ``"order"``, ``"plan"``, ``"read"``,
            ``"gather"``, ``"format"``, ``"transform"`` and ``"copy"``.
        ready: Batches that lay ready when one was asked for, on average.
        rank: The rank that was served.
        world_size: The number of ranks.
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
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    ready: float = 0.0
    rank: int = 0
    world_size: int = 1
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
    def verdict(self) -> str:
        """Whether the trainer waits for batches, for which stage most, and what would help."""
        if self.batches < 2:
            return "too few batches to say what is slow"
        share = f"the trainer waits {self.wait_share:.0%} of the time"
        if self.wait_share <= _ENOUGH:
            return f"{share}; reading is not the bottleneck"
        slowest = max(STAGES, key=lambda stage: self.stage_seconds.get(stage, 0.0))
        if not self.stage_seconds.get(slowest):
            return f"{share}; its stages were not measured"
        return f"{share}, most of all for {slowest}; {_ADVICE[slowest]}"

    def __str__(self) -> str:
        share = self.wait_seconds / self.seconds if self.seconds else 0.0
        lines = [
            f"served    {self.batches:,} batches, {self.rows:,} rows, {readable(self.bytes)} "
            f"in {self.seconds:.2f} s ({self.rows_per_second:,.0f} rows/s)",
            f"waited    {self.wait_seconds:.2f} s ({share:.0%}), "
            f"{self.first_batch_seconds * 1e3:.0f} ms of it for the first batch",
        ]
        if self.world_size > 1:
            lines[0] += f" to rank {self.rank} of {self.world_size}"
        if self.batches > 1:
            waits = (self.wait_p50, self.wait_p95, self.wait_p99)
            p50, p95, p99 = (brief(wait) for wait in waits)
            lines.append(
                f"each      {p50} (half of them), {p95} (95 %), {p99} (99 %); "
                f"{self.ready:.1f} batches ready"
            )
        spent = [
            f"{stage} {brief(self.stage_seconds[stage])}"
            for stage in STAGES
            if self.stage_seconds.get(stage, 0.0) >= 1e-6
        ]
        if spent:
            lines.append(f"stages    {', '.join(spent)}, all threads together")
        lines.append(
            f"read      {self.rows_packed:,} rows from memory, {self.rows_direct:,} from the "
            f"table's files, {self.rows_spilled:,} through scratch files"
        )
        if self.bytes_kept:
            where = "shared" if self.is_shared else "of this process"
            lines.append(
                f"kept      {readable(self.bytes_kept)} of packed rows, {where}: "
                f"{self.blocks_filled:,} blocks packed here, {self.blocks_mapped:,} found, "
                f"in {self.fill_seconds:.2f} s"
            )
        if self.rows_skipped or self.rows_filled:
            lines.append(
                f"failed    {self.rows_skipped:,} rows left out "
                f"({self.batches_skipped:,} whole batches), {self.rows_filled:,} filled in"
            )
        if self.failure is not None:
            lines.append(f"did without files: {self.failure}")
        lines.append(f"verdict   {self.verdict}")
        return "\n".join(lines)


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


def readable(size: float) -> str:
    """Give a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def brief(seconds: float) -> str:
    """Give a duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds * 1e6:.0f} µs"
