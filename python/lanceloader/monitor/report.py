"""What a loader did, in words: texts made of ``Stats``, which holds the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lanceloader.monitor.stats import Stats

__all__ = [
    "FINISHING",
    "READING",
    "brief",
    "line",
    "quantile",
    "readable",
    "text",
    "verdict",
]

READING = ("order", "plan", "read", "gather")
"""The stages of the threads that read."""

FINISHING = ("format", "transform", "copy")
"""The stages between those threads and the trainer."""

_ENOUGH = 0.05
"""A trainer that waits no longer than this share of its time would gain nothing worth it."""

_LONG_START = 0.2
"""A first batch that takes this share of the time is worth a word."""

_FROM_MEMORY = 0.9
"""Of rows read this share came from memory: more of it would not help."""

_COLUMNAR = ("arrow", "numpy_dict", "torch_dict", "torch_matrix")
"""Formats that cost little for a batch, however many rows it has."""

_ADVICE = {
    "order": "draws by weight cost more than a shuffle; otherwise batches of more rows cost less a row",
    "plan": "batches of more rows cost less to plan",
    "read": 'rows come from files: more memory (memory_limit) or read="resident" keeps them',
    "gather": "fewer or narrower columns (select_columns) cost less, or a format of one dtype",
    "format": 'a columnar format ("torch_dict", "torch_matrix", "arrow") costs less than rows',
    "transform": "more transform_threads help if it lets go of the GIL, as NumPy and torch do",
    "copy": "pin_memory=True, or batches of fewer bytes, make copies shorter",
}


def verdict(stats: Stats) -> str:
    """Say whether the trainer waits, for which stage most, and what would help."""
    if stats.batches < 2:
        return "too few batches to say what is slow"
    share = f"the trainer waits {stats.wait_share:.0%} of the time"
    if stats.wait_share <= _ENOUGH:
        said = f"{share}; reading is not the bottleneck"
    elif _are_few(stats):
        said = f"{share}, most of it in a few long waits; loader.trace() shows when"
    elif (slowest := stats.slowest) is None:
        said = f"{share}; its stages were not measured"
    else:
        said = f"{share}, most of all for {slowest}; {_advice(slowest, stats)}"
    if stats.seconds and stats.first_batch_seconds / stats.seconds >= _LONG_START:
        said += f" (and {brief(stats.first_batch_seconds)} for the first batch)"
    return said


def _are_few(stats: Stats) -> bool:
    """Whether the longest one in a hundred waits make most of all."""
    long = sum(
        seconds * number for seconds, number in stats.waits if seconds > stats.wait_p99
    )
    return long > (stats.wait_seconds - stats.first_batch_seconds) / 2


def _advice(stage: str, stats: Stats) -> str:
    if stage == "read" and stats.hits >= _FROM_MEMORY:
        return "rows come from memory already: more threads, or narrower columns"
    if stage == "read" and stats.rows_spilled > stats.rows_direct + stats.rows_packed:
        return "rows go through scratch files: more memory (memory_limit), or a faster disk"
    advice = _ADVICE[stage]
    if stage == "format" and stats.format in _COLUMNAR:
        advice = (
            "fewer columns (select_columns) and batches of more rows cost less a row"
        )
    if stage == "format" and not stats.transform_threads:
        return f"transform_threads=1 takes it off the trainer; {advice}"
    return advice


def text(stats: Stats) -> str:
    """Give all that there is to say, line by line."""
    lines = [_served(stats), _waited(stats)]
    if stats.batches > 1:
        waits = (stats.wait_p50, stats.wait_p95, stats.wait_p99)
        p50, p95, p99 = (brief(wait) for wait in waits)
        lines.append(
            f"each      {p50} (half of them), {p95} (95 %), {p99} (99 %); "
            f"{stats.ready:.1f} batches ready"
        )
    spent = [
        f"{stage} {brief(stats.stage_seconds[stage])}"
        for stage in (*READING, *FINISHING)
        if stats.stage_seconds.get(stage, 0.0) >= 1e-6
    ]
    if spent:
        lines.append(f"stages    {', '.join(spent)}, all threads together")
    lines += [*_read(stats), f"verdict   {verdict(stats)}"]
    if stats.ranks:
        lines += ["", *_table(stats.ranks)]
    return "\n".join(lines)


def line(stats: Stats) -> str:
    """Return the sum of it in one line, for ``repr``."""
    return (
        f"<Stats of {stats.batches:,} batches, {stats.rows:,} rows in {stats.seconds:.2f} s "
        f"({stats.rows_per_second:,.0f} rows/s), waited {brief(stats.wait_seconds)}>"
    )


def _served(stats: Stats) -> str:
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


def _waited(stats: Stats) -> str:
    share = stats.wait_seconds / stats.seconds if stats.seconds else 0.0
    line = (
        f"waited    {stats.wait_seconds:.2f} s ({share:.0%}), "
        f"{brief(stats.first_batch_seconds)} of it for the first batch"
    )
    return f"{line}; rank {stats.rank}, the longest" if stats.ranks else line


def _read(stats: Stats) -> list[str]:
    lines = [
        f"read      {stats.rows_packed:,} rows from memory, {stats.rows_direct:,} from the "
        f"table's files, {stats.rows_spilled:,} through scratch files"
    ]
    if stats.bytes_kept:
        where = "shared" if stats.is_shared else "of this process"
        lines.append(
            f"kept      {readable(stats.bytes_kept)} of packed rows, {where}: "
            f"{stats.blocks_filled:,} blocks packed here, {stats.blocks_mapped:,} found, "
            f"in {stats.fill_seconds:.2f} s"
        )
    if stats.rows_skipped or stats.rows_filled:
        lines.append(
            f"failed    {stats.rows_skipped:,} rows left out "
            f"({stats.batches_skipped:,} whole batches), {stats.rows_filled:,} filled in"
        )
    if stats.failure is not None:
        lines.append(f"did without files: {stats.failure}")
    return lines


def _table(ranks: Sequence[Stats]) -> list[str]:
    """Give a line for each rank, in columns."""
    rows = [("rank", "batches", "rows", "rows/s", "waits", "first", "p50", "p99")]
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def quantile(waits: Iterable[tuple[float, int]], share: float) -> float:
    """Give what a share of the waits did not exceed; 0 if there are none.

    Args:
        waits: Seconds and how many waits took about as long, shortest first.
        share: From 0 to 1.
    """
    waits = tuple(waits)
    wanted = share * sum(number for _, number in waits)
    sum_so_far = 0
    for seconds, number in waits:
        sum_so_far += number
        if sum_so_far >= wanted:
            return seconds
    return 0.0


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
