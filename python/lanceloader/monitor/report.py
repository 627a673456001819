"""The report of ``Stats`` in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader.monitor.formatting import brief, readable
from lanceloader.monitor.measurements import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lanceloader.monitor.measurements import Measurements

__all__ = ["line", "rank_rows", "text", "topics", "verdict"]

_LOW_WAIT_SHARE = 0.05
"""Up to this share of waiting, a faster loader would hardly speed up training."""

_LONG_FIRST_BATCH_SHARE = 0.2
"""From this share of the time on, the verdict mentions the first batch."""

_FROM_MEMORY = 0.9
"""From this share of rows from memory on, a larger memory limit would hardly help."""

_COLUMNAR = ("arrow", "numpy_dict", "torch_dict", "torch_matrix")
"""Formats whose cost per batch hardly depends on the number of rows."""

_ADVICE = {
    "order": "weighted sampling costs more than a shuffle; larger batches cost less per row",
    "plan": "larger batches cost less per row",
    "read": 'a larger memory_limit or read="resident" keeps rows in memory',
    "gather": "fewer or narrower columns (select_columns), or columns of one dtype, cost less",
    "format": 'a columnar format ("torch_dict", "torch_matrix", "arrow") costs less than rows',
    "transform": "more transform_threads help if it releases the GIL, as NumPy and torch do",
    "copy": "pin_memory=True or smaller batches make copies faster",
}


def verdict(stats: Measurements) -> str:
    """Return a sentence on how much and for what the trainer waits, and what would help."""
    if stats.batches < 2:
        return "too few batches to say what is slow"
    result = f"the trainer waits {stats.wait_share:.0%} of the time"
    if stats.wait_share <= _LOW_WAIT_SHARE:
        result += "; reading is not the bottleneck"
    elif _has_few_long_waits(stats):
        result += ", mostly in a few long waits; loader.trace() shows when"
    elif (slowest := stats.slowest) is None:
        result += "; the stages were not measured"
    else:
        result += f", mostly for {slowest}; {_advice(slowest, stats)}"
    first_batch = stats.first_batch_seconds
    if stats.seconds and first_batch / stats.seconds >= _LONG_FIRST_BATCH_SHARE:
        result += f" (and {brief(first_batch)} for the first batch)"
    return result


def _has_few_long_waits(stats: Measurements) -> bool:
    """Return whether the longest 1 % of the waits make up more than half of the waiting time."""
    long = sum(
        seconds * number for seconds, number in stats.waits if seconds > stats.wait_p99
    )
    return long > (stats.wait_seconds - stats.first_batch_seconds) / 2


def _advice(stage: str, stats: Measurements) -> str:
    if stage == "read" and stats.hits >= _FROM_MEMORY:
        return "rows are in memory already; more threads or narrower columns help"
    if stage == "read" and stats.rows_spilled > stats.rows_direct + stats.rows_packed:
        return "rows pass through scratch files; a larger memory_limit or a faster disk helps"
    advice = _ADVICE[stage]
    if stage == "format" and stats.format in _COLUMNAR:
        advice = "fewer columns (select_columns) and larger batches cost less per row"
    if stage == "format" and not stats.transform_threads:
        return f"transform_threads=1 moves it out of the trainer's thread; {advice}"
    return advice


def text(stats: Measurements) -> str:
    """Return the full report, with one line per topic."""
    lines = _lines(stats)
    if stats.ranks:
        lines += ["", *_table(stats.ranks)]
    return "\n".join(lines)


def topics(stats: Measurements) -> list[tuple[str, str]]:
    """Return the topics of the full report, and the text of each."""
    parts = (line.partition(" ") for line in _lines(stats))
    return [(name, words.strip()) for name, _, words in parts]


def _lines(stats: Measurements) -> list[str]:
    lines = [_served(stats), _waited(stats)]
    if stats.batches > 1:
        waits = (stats.wait_p50, stats.wait_p95, stats.wait_p99)
        p50, p95, p99 = (brief(wait) for wait in waits)
        lines.append(
            f"each      {p50} (50 %), {p95} (95 %), {p99} (99 %); "
            f"{stats.ready:.1f} batches ready"
        )
    stages = [
        f"{stage} {brief(stats.stage_seconds[stage])}"
        for stage in STAGES
        if stats.stage_seconds.get(stage, 0.0) >= 1e-6
    ]
    if stages:
        lines.append(f"stages    {', '.join(stages)}, summed over all threads")
    return [*lines, *_read(stats), f"verdict   {verdict(stats)}"]


def line(stats: Measurements) -> str:
    """Return a summary in one line, for ``repr``."""
    return (
        f"<Stats of {stats.batches:,} batches, {stats.rows:,} rows in {stats.seconds:.2f} s "
        f"({stats.rows_per_second:,.0f} rows/s), waited {brief(stats.wait_seconds)}>"
    )


def _served(stats: Measurements) -> str:
    line = (
        f"served    {stats.batches:,} batches, {stats.rows:,} rows, "
        f"{readable(stats.bytes)} in {stats.seconds:.2f} s "
        f"({stats.rows_per_second:,.0f} rows/s)"
    )
    if stats.ranks:
        return f"{line} to {len(stats.ranks)} of {stats.world_size} ranks"
    if stats.world_size > 1:
        return f"{line} to rank {stats.rank} of {stats.world_size}"
    return line


def _waited(stats: Measurements) -> str:
    share = stats.wait_seconds / stats.seconds if stats.seconds else 0.0
    line = (
        f"waited    {stats.wait_seconds:.2f} s ({share:.0%}), "
        f"{brief(stats.first_batch_seconds)} of it for the first batch"
    )
    return f"{line}; rank {stats.rank}, which waited longest" if stats.ranks else line


def _read(stats: Measurements) -> list[str]:
    lines = [
        f"read      {stats.rows_packed:,} rows from memory, {stats.rows_direct:,} from the "
        f"table's files, {stats.rows_spilled:,} through scratch files"
    ]
    if stats.bytes_kept:
        where = "shared" if stats.is_shared else "of this process"
        lines.append(
            f"kept      {readable(stats.bytes_kept)} of packed rows, {where}: "
            f"{stats.blocks_filled:,} blocks packed, {stats.blocks_mapped:,} found in the cache, "
            f"in {stats.fill_seconds:.2f} s"
        )
    if stats.bytes_served:
        line = (
            f"fetched   {readable(stats.bytes_fetched)} in {stats.requests:,} requests, "
            f"{stats.in_flight:.0f} in flight on average, {stats.most_in_flight:,} at most; "
            f"{stats.bytes_copied / stats.bytes_served:.0%} of {readable(stats.bytes_served)} "
            "came from the cache"
        )
        if stats.retries:
            line += (
                f"; {stats.retries:,} repeated, {stats.throttled:,} of them throttled"
            )
        lines.append(line)
    if stats.rows_skipped or stats.rows_filled:
        lines.append(
            f"failed    {stats.rows_skipped:,} rows skipped "
            f"({stats.batches_skipped:,} whole batches), {stats.rows_filled:,} replaced"
        )
    if stats.failure is not None:
        lines.append(f"fallback  {stats.failure}")
    if stats.copy_failure is not None:
        lines.append(f"not kept  {stats.copy_failure}")
    return lines


def rank_rows(ranks: Sequence[Measurements]) -> list[tuple[str, ...]]:
    """Return the headers of a table of ranks, and a row for each rank."""
    rows: list[tuple[str, ...]] = [
        ("rank", "batches", "rows", "rows/s", "waits", "first", "p50", "p99")
    ]
    rows += [
        (
            f"{each.rank}",
            f"{each.batches:,}",
            f"{each.rows:,}",
            f"{each.rows_per_second:,.0f}",
            f"{each.wait_share:.0%}",
            brief(each.first_batch_seconds),
            brief(each.wait_p50),
            brief(each.wait_p99),
        )
        for each in ranks
    ]
    return rows


def _table(ranks: Sequence[Measurements]) -> list[str]:
    """Return a table with one line per rank."""
    rows = rank_rows(ranks)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
