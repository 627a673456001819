"""The design's targets, judged by what a run found. A missed one stays in the list."""

from __future__ import annotations

from collections.abc import Iterator

from harness.process import MIB
from peers import ARROW, TENSORS
from scenarios import cold, orders, storage, wide
from scenarios.epochs import BOUNDED, CACHED, COLD, DROPPED, EXTERNAL, FIRST_RUN, LANCE
from scenarios.packing import OURS_CONCAT, PACKING, THEIRS
from scenarios.tables import IN_STORAGE_ORDER
from scenarios.workers import CASES, WORKERS

from report import user_paths
from report.results import (
    COLUMNS,
    DATA_LOADER,
    DIRECT,
    IN_ORDER,
    LANCEDB,
    LITDATA,
    LOADER,
    MEMMAP,
    PYARROW,
    RESIDENT,
    SCANS,
    TAKE,
    Results,
    best,
    ratio,
)
from report.standings import Standings, lines
from report.verdict import AT_LEAST, AT_MOST, Verdict, difference, times, total

COPIES = 1.05
"""One copy of the rows, give or take the pages at its ends."""

NARROW = "shuffled narrow rows, loader()"
IN_TORCH = "the same, DataLoader(perm, shuffle=True)"
OF_DIRECT = "direct, x the best of lancedb and lance.take"
# fmt: off
RATES_OF_NARROW = [
    (NARROW, "x lancedb, Arrow", "narrow", LOADER, ARROW, [LANCEDB], 500),
    (NARROW, "x lancedb, dict of tensors", "narrow", LOADER, TENSORS, [LANCEDB], 500),
    (NARROW, "x index_select of 18 columns", "narrow", LOADER, TENSORS, [COLUMNS], 3),
    (NARROW, "x Lance scan", "narrow", LOADER, ARROW, SCANS, 0.4),
    (IN_TORCH, "x lancedb, Arrow", "narrow", DATA_LOADER, ARROW, [LANCEDB], 100),
    (IN_TORCH, "x lancedb, dict of tensors", "narrow", DATA_LOADER, TENSORS, [LANCEDB], 100),
]
RATES_OF_OTHERS = [
    ("embeddings", "x Lance scan", "embeddings", LOADER, ARROW, SCANS, 2),
    ("embeddings", "x packed numpy memmap", "embeddings", LOADER, TENSORS, [MEMMAP], 0.5),
    ("text", "x lancedb", "text", LOADER, ARROW, [LANCEDB], 30),
    ("text", "x pyarrow take in memory", "text", LOADER, ARROW, [PYARROW], 0.7),
    ("tokens", "x pyarrow take in memory", "tokens", LOADER, ARROW, [PYARROW], 1),
    ("tokens", "x LitData, tensors", "tokens", LOADER, TENSORS, [LITDATA], 2),
    ("images", OF_DIRECT, "image", DIRECT, ARROW, [LANCEDB, TAKE], 1.5),
    ("images", "direct, x Lance scan", "image", DIRECT, ARROW, SCANS, 1),
    ("images", "resident, x LitData", "image", RESIDENT, ARROW, [LITDATA], 1.5),
]
"""Target, what, table, ours, its output, the others of which the best counts, and how many times as fast."""
# fmt: on
Rates = list[tuple[str, str, str, str, str, list[str], float]]


def verdicts(results: Results) -> Iterator[Verdict]:
    """Return a line or more for every target, in the order of the design."""
    yield from raced(results, RATES_OF_NARROW)
    yield from in_order(results)
    yield from whole_epochs(results)
    yield from raced(results, RATES_OF_OTHERS)
    target = "time to first batch, narrow"
    for pages in (CACHED, DROPPED):
        found = results.figure(COLD, f"{FIRST_RUN}; {pages}", "first_batch_s")
        yield Verdict(target, f"no rows cached, {pages}", found, AT_MOST, 0.3, "s")
    yield from of_orders(results)
    yield from shapes(results)
    yield from in_storage(results)
    yield from on_a_cold_disk(results)
    yield from workers(results)
    for what, found, is_more in lines(Standings(results)):
        relation = AT_LEAST if is_more else AT_MOST
        yield Verdict("ahead of every peer", what, found, relation, 1)
    own, theirs = (
        results.figure(PACKING, case, "tokens_per_s") for case in (OURS_CONCAT, THEIRS)
    )
    yield Verdict("packing", "tokens/s, x lancedb", ratio(own, theirs), AT_LEAST, 20)
    thread = results.value("thread_s_per_batch", "narrow", LOADER, TENSORS)
    target = "consumer's share of a batch"
    what = "CPU of the consumer's thread, narrow, dict of 18 tensors"
    yield Verdict(target, what, times(thread, 1e6), AT_MOST, 60, "µs")
    yield from user_paths.verdicts(results)


def raced(results: Results, rates: Rates) -> Iterator[Verdict]:
    for target, what, table, ours, output, others, wanted in rates:
        theirs = best(*(results.alike(table, other, output) for other in others))
        found = ratio(results.rate(table, ours, output), theirs)
        yield Verdict(target, what, found, AT_LEAST, wanted)


def in_order(results: Results) -> Iterator[Verdict]:
    for race in results.races(IN_STORAGE_ORDER) or ["narrow, in order"]:
        what = f"{race.partition(',')[0]}, x Lance scan"
        found = ratio(results.rate(race, IN_ORDER), results.scan(race))
        yield Verdict("no shuffle, large batches", what, found, AT_LEAST, 1.5)


def whole_epochs(results: Results) -> Iterator[Verdict]:
    for pages in (CACHED, DROPPED):
        first, scan = (
            results.figure(COLD, f"{run}; {pages}", "epoch_s")
            for run in (FIRST_RUN, LANCE)
        )
        target, what = "first epoch with the filling", f"x a scan, {pages}"
        yield Verdict(target, what, ratio(first, scan), AT_MOST, 3)
    target = "shuffle of a table 4 x the memory"
    own, scan = (
        results.figure(EXTERNAL, run, "rows_per_s") for run in (BOUNDED, LANCE)
    )
    what = "x Lance scan, two epochs"
    yield Verdict(target, what, ratio(own, scan), AT_LEAST, 0.25)
    limit = results.figure(EXTERNAL, BOUNDED, "memory_limit")
    for name, pages in (
        ("peak_bytes", "all resident"),
        ("peak_anonymous_bytes", "anonymous"),
    ):
        peak = results.figure(EXTERNAL, BOUNDED, name, max)
        what = f"peak above the budget, {pages}"
        above = times(difference(peak, limit), 1 / MIB)
        yield Verdict(target, what, above, AT_MOST, 256, "MiB")


def of_orders(results: Results) -> Iterator[Verdict]:
    in_rust = [
        bench["elements"] / bench["seconds"]
        for bench in results.run["core"]
        if bench["group"] == "order" and "offsets of a run" in bench["name"]
    ]
    sizes = [c for c in results.cases(orders.ORDERS) if c.startswith("shuffle")]
    in_python = [results.figure(orders.ORDERS, case, "offsets_per_s") for case in sizes]
    for where, rates in (("in Rust", in_rust), ("from Python", in_python)):
        what = f"offsets/s {where}, slowest size"
        slowest = times(min(rates, default=None), 1e-6)
        yield Verdict("order", what, slowest, AT_LEAST, 100, "M")
    many = f"shuffle of {orders.MANY_ROWS:,} rows"
    kept = orders.FILTER.format(orders.FILTER_ROWS)
    verbs, filtered = "epoch, split, shard and resume", "filter of 100 M rows"
    # fmt: off
    for target, what, case, name, factor, relation, wanted, unit in (
        ("order", "bytes at 10¹² rows", many, "num_bytes", 1, AT_MOST, 1024, "B"),
        ("order", f"{verbs} at 10¹² rows", many, "verbs_s", 1e3, AT_MOST, 1, "ms"),
        (filtered, "random 50 %", kept, "num_bytes", 1 / MIB, AT_MOST, 16, "MiB"),
        (filtered, "offsets/s, in order", kept, "offsets_per_s", 1e-6, AT_LEAST, 50, "M"),
        (filtered, "offsets/s, shuffled", kept, "shuffled_offsets_per_s", 1e-6, AT_LEAST, 50, "M"),
    ):
        # fmt: on
        found = times(results.figure(orders.ORDERS, case, name), factor)
        yield Verdict(target, what, found, relation, wanted, unit)


def shapes(results: Results) -> Iterator[Verdict]:
    target = "wide and fragmented tables"

    def cpu(width: int, selected: str, arm: str) -> float | None:
        case = wide.case_of_columns(width, selected, arm)
        return results.figure(wide.COLUMNS, case, "process_s_per_batch")

    least, (few, many) = wide.WIDTHS[0], wide.WIDTHS[-2:]
    for arm in (wide.LOADER, wide.DIRECT):
        grown = ratio(cpu(many, wide.ALL, arm), cpu(few, wide.ALL, arm))
        what = f"{arm}: CPU of {many:,} columns, x that of {few:,}"
        yield Verdict(target, what, grown, AT_MOST, 1.2 * many / few)
        grown = ratio(cpu(many, wide.ONE, arm), cpu(least, wide.ONE, arm))
        what = f"{arm}: CPU of one of {many:,} columns, x that of one of {least}"
        yield Verdict(target, what, grown, AT_MOST, 1.2)

    def figure(count: int, arm: str, name: str) -> float | None:
        return results.figure(wide.FRAGMENTS, wide.case_of_fragments(count, arm), name)

    for count in wide.NUM_FRAGMENTS:
        own, theirs = (figure(count, arm, "first_batch_s") for arm in wide.TAKES)
        what = f"{count:,} fragments: time to the first batch, x pylance take"
        yield Verdict(target, what, ratio(own, theirs), AT_MOST, 1.2)
    few, many = wide.NUM_FRAGMENTS[-2:]
    grown = difference(*(figure(n, wide.OUR_TAKE, "later_bytes") for n in (many, few)))
    what = f"memory of {many:,} fragments, beyond that of {few:,}"
    yield Verdict(target, what, times(grown, 1 / MIB), AT_MOST, 128, "MiB")


def in_storage(results: Results) -> Iterator[Verdict]:
    target = "object storage"

    def figure(name: str, arm: str, field: str) -> float | None:
        case = storage.case_of(name, arm)
        return results.figure(storage.STORAGE, case, field)

    def against(name: str, arm: str, epoch: int = 0) -> float | None:
        field = f"rows_per_s_{epoch}"
        return ratio(figure(name, storage.OURS, field), figure(name, arm, field))

    # fmt: off
    for name, arm, what, wanted in (
        ("image", storage.DOWNLOADER, "epoch 0, x the plain downloader", 0.7),
        ("image", storage.LANCEDB, "epoch 0, x lancedb, which the downloader itself limits", 8),
        ("narrow", storage.LANCEDB, "epoch 0, x lancedb", 100),
    ):
        # fmt: on
        yield Verdict(target, f"{name}: {what}", against(name, arm), AT_LEAST, wanted)
    for name in storage.NAMES:
        if name != "image":
            found = figure(name, storage.OURS, "bytes_of_table_0")
            what = f"{name}: bytes fetched in epoch 0, x those of the files"
            yield Verdict(target, what, found, AT_MOST, 1.1)
            ours, *limits = (
                figure(name, arm, "seconds_per_row_0")
                for arm in (storage.OURS, storage.DOWNLOADER, storage.LOCAL)
            )
            what = f"{name}: time of epoch 0, x (the downloader + epoch 0 of a local copy)"
            yield Verdict(target, what, ratio(ours, total(limits)), AT_MOST, 1.5)
        what = f"{name}: rows/s of epoch 1, x a local copy's"
        yield Verdict(target, what, against(name, storage.LOCAL, 1), AT_LEAST, 0.8)
        found = figure(name, storage.OURS, "requests_per_row_1")
        yield Verdict(target, f"{name}: requests of epoch 1", found, AT_MOST, 0)


def on_a_cold_disk(results: Results) -> Iterator[Verdict]:
    target = "cold disk"

    def figure(name: str, arm: str, field: str) -> float | None:
        return results.figure(cold.COLD_DISK, storage.case_of(name, arm), field)

    for name in cold.NAMES:
        found = figure(name, storage.OURS, "bytes_per_useful_byte")
        yield Verdict(target, f"{name}: bytes read, x useful", found, AT_MOST, 1.5)
        # fmt: off
        for field, arm, what, relation, wanted in (
            ("first_batch_s", storage.PYLANCE, "first batch, x pylance take", AT_MOST, 1),
            ("rows_per_s", storage.LANCEDB, "rows/s, x lancedb", AT_LEAST, 2),
            ("rows_per_s", cold.PREADV, "rows/s, x preadv with 32 in flight", AT_LEAST, 0.8),
        ):
            # fmt: on
            ours, theirs = (figure(name, each, field) for each in (storage.OURS, arm))
            yield Verdict(target, f"{name}: {what}", ratio(ours, theirs), relation, wanted)


def workers(results: Results) -> Iterator[Verdict]:
    ours = CASES[0][0].library
    cases = [case for case in results.cases(WORKERS) if case.startswith(ours)]
    for case in cases or [f"{ours}, 2 workers, spawn"]:
        extra, shared, packed = (
            results.figure(WORKERS, case, name)
            for name in ("extra_bytes", "shared_rows_bytes", "packed_bytes")
        )
        for what, found, wanted, unit in (
            ("each beyond importing torch", times(extra, 1 / MIB), 100, "MiB"),
            ("copies of the rows", ratio(shared, packed), COPIES, ""),
        ):
            what = f"{case}: {what}"
            yield Verdict("DataLoader workers", what, found, AT_MOST, wanted, unit)
