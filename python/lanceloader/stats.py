"""What a loader did, as numbers and as a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanceloader._native import LoadStats, ReadStats

__all__ = ["Stats", "readable"]


@dataclass(frozen=True)
class Stats:
    """What one iteration of a loader did so far.

    Rows read and blocks packed are those of all readers of the same rows in this process.

    Attributes:
        batches: Batches handed out.
        rows: Rows in them.
        bytes: Bytes in them, as Arrow data.
        seconds: Since the iteration began.
        first_batch_seconds: Until the first batch was there.
        wait_seconds: Spent waiting for batches, the first one included: the rest of the time
            was the consumer's.
        rows_packed: Rows gathered from packed rows in memory.
        rows_direct: Rows read from the table's files.
        rows_spilled: Rows written to scratch files.
        blocks_filled: Blocks of packed rows that this process decoded.
        blocks_mapped: Blocks that another process or an earlier run had left in the cache.
        bytes_kept: Bytes of packed rows that are in memory.
        fill_seconds: Until all rows were packed; 0 if they are not.
        is_shared: Whether packed rows are shared with other processes.
        failure: Why rows could not be packed or written to files, if so; they were then read
            in another way.
    """

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    first_batch_seconds: float = 0.0
    wait_seconds: float = 0.0
    rows_packed: int = 0
    rows_direct: int = 0
    rows_spilled: int = 0
    blocks_filled: int = 0
    blocks_mapped: int = 0
    bytes_kept: int = 0
    fill_seconds: float = 0.0
    is_shared: bool = False
    failure: str | None = None

    @classmethod
    def of(
        cls,
        load: LoadStats,
        before: ReadStats,
        after: ReadStats,
        seconds: float,
    ) -> Stats:
        """Put what the core counted together."""
        return cls(
            batches=load.batches,
            rows=load.rows,
            bytes=load.bytes,
            seconds=seconds,
            first_batch_seconds=load.first_batch_nanos / 1e9,
            wait_seconds=load.wait_nanos / 1e9,
            rows_packed=after.rows_packed - before.rows_packed,
            rows_direct=after.rows_direct - before.rows_direct,
            rows_spilled=after.rows_spilled - before.rows_spilled,
            blocks_filled=after.blocks_filled - before.blocks_filled,
            blocks_mapped=after.blocks_mapped - before.blocks_mapped,
            bytes_kept=after.bytes_kept,
            fill_seconds=after.fill_nanos / 1e9,
            is_shared=after.is_shared,
            failure=after.failure,
        )

    @property
    def rows_per_second(self) -> float:
        """Rows handed out per second since the iteration began."""
        return self.rows / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        share = self.wait_seconds / self.seconds if self.seconds else 0.0
        lines = [
            f"served    {self.batches:,} batches, {self.rows:,} rows, {readable(self.bytes)} "
            f"in {self.seconds:.2f} s ({self.rows_per_second:,.0f} rows/s)",
            f"waited    {self.wait_seconds:.2f} s ({share:.0%}), "
            f"{self.first_batch_seconds * 1e3:.0f} ms of it for the first batch",
            f"read      {self.rows_packed:,} rows from memory, {self.rows_direct:,} from the "
            f"table's files, {self.rows_spilled:,} through scratch files",
        ]
        if self.bytes_kept:
            where = "shared" if self.is_shared else "of this process"
            lines.append(
                f"kept      {readable(self.bytes_kept)} of packed rows, {where}: "
                f"{self.blocks_filled:,} blocks packed here, {self.blocks_mapped:,} found, "
                f"in {self.fill_seconds:.2f} s"
            )
        if self.failure is not None:
            lines.append(f"did without files: {self.failure}")
        return "\n".join(lines)


def readable(size: float) -> str:
    """Give a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
