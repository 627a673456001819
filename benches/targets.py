"""The design's targets, judged by what a run found. A missed one stays in the list."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import wide
from arms import OURS as OURS_LIBRARY
from contenders import (
    ARROW,
    DIRECT,
    LANCEDB,
    LOADER,
    OURS,
    OURS_IN_ORDER,
    RESIDENT,
    SCAN,
    SCAN_DEFAULT,
    TAKE,
    TENSORS,
)
from epochs import (
    BOUNDED,
    CACHED,
    COLD,
    DROPPED,
    EXTERNAL,
    FIRST_RUN,
    LANCE,
)
from orders import FILTER, FILTER_ROWS, MANY_ROWS, ORDERS
from outside import MIB
from peers import COLUMNS, LITDATA, MEMMAP, PYARROW
from races import IN_STORAGE_ORDER
from results import Results, best, ratio
from standings import Standings, lines
from workers import OURS as WORKERS_OF
from workers import WORKERS

PACKING = "packing"
AT_LEAST, AT_MOST = "≥", "≤"
COPIES = 1.05
"""One copy of the rows, give or take the pages at its ends."""


@dataclass(frozen=True)
class Verdict:
    target: str
    what: str
    found: float | None
    """Nothing if it was not measured."""
    relation: str
    wanted: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        compare = operator.ge if self.relation == AT_LEAST else operator.le
        return self.found is not None and compare(self.found, self.wanted)

    @property
    def word(self) -> str:
        if self.found is None:
            return "not measured"
        return "met" if self.is_met else "**missed**"


def verdicts(results: Results) -> Iterator[Verdict]:
    """Give a line or more for every target, in the order of the design."""
    yield from narrow(results)
    yield from in_order(results)
    yield from whole_epochs(results)
    yield from other_tables(results)
    yield from orders(results)
    yield from shapes(results)
    yield from workers(results)
    yield from peers(results)
    yield from packing(results)
    thread = results.value("thread_s_per_batch", "narrow", LOADER, TENSORS)
    yield Verdict(
        "consumer's share of a batch",
        "CPU of the consumer's thread, narrow, dict of 18 tensors",
        times(thread, 1e6),
        AT_MOST,
        60,
        "µs",
    )


def narrow(results: Results) -> Iterator[Verdict]:
    target = "shuffled narrow rows, loader()"
    for output in (ARROW, TENSORS):
        own = results.rate("narrow", LOADER, output)
        theirs = results.rate("narrow", LANCEDB, output)
        yield at_least(target, f"x lancedb, {output}", ratio(own, theirs), 500)
    own = results.rate("narrow", LOADER, TENSORS)
    columns = results.rate("narrow", COLUMNS)
    yield at_least(target, "x index_select of 18 columns", ratio(own, columns), 3)
    own = results.rate("narrow", LOADER, ARROW)
    yield at_least(target, "x Lance scan", ratio(own, scan(results, "narrow")), 0.4)
    target = "the same, DataLoader(perm, shuffle=True)"
    for output in (ARROW, TENSORS):
        own = results.rate("narrow", OURS, output)
        theirs = results.rate("narrow", LANCEDB, output)
        yield at_least(target, f"x lancedb, {output}", ratio(own, theirs), 100)


def in_order(results: Results) -> Iterator[Verdict]:
    races = results.races(IN_STORAGE_ORDER) or ["narrow, in order"]
    for race in races:
        own = results.rate(race, OURS_IN_ORDER)
        table = race.partition(",")[0]
        found = ratio(own, scan(results, race))
        yield at_least(
            "no shuffle, large batches", f"{table}, x Lance scan", found, 1.5
        )


def whole_epochs(results: Results) -> Iterator[Verdict]:
    for pages in (CACHED, DROPPED):
        first = results.figure(COLD, f"{FIRST_RUN}; {pages}", "epoch_s")
        scanned = results.figure(COLD, f"{LANCE}; {pages}", "epoch_s")
        found = ratio(first, scanned)
        yield Verdict(
            "first epoch with the filling", f"x a scan, {pages}", found, AT_MOST, 3
        )
    target = "shuffle of a table 4 x the memory"
    own = results.figure(EXTERNAL, BOUNDED, "rows_per_s")
    scanned = results.figure(EXTERNAL, LANCE, "rows_per_s")
    yield at_least(target, "x Lance scan, two epochs", ratio(own, scanned), 0.25)
    limit = results.figure(EXTERNAL, BOUNDED, "memory_limit")
    for name, what in (
        ("peak_bytes", "peak above the budget, all resident"),
        ("peak_anonymous_bytes", "peak above the budget, anonymous"),
    ):
        peak = results.figure(EXTERNAL, BOUNDED, name, max)
        found = None if peak is None or limit is None else (peak - limit) / MIB
        yield Verdict(target, what, found, AT_MOST, 256, "MiB")


def other_tables(results: Results) -> Iterator[Verdict]:
    own = results.rate("embeddings", LOADER, ARROW)
    found = ratio(own, scan(results, "embeddings"))
    yield at_least("embeddings", "x Lance scan", found, 2)
    own = results.rate("embeddings", LOADER, TENSORS)
    found = ratio(own, results.rate("embeddings", MEMMAP))
    yield at_least("embeddings", "x packed numpy memmap", found, 0.5)
    own = results.rate("text", LOADER, ARROW)
    yield at_least("text", "x lancedb", ratio(own, results.rate("text", LANCEDB)), 30)
    found = ratio(own, results.rate("text", PYARROW))
    yield at_least("text", "x pyarrow take in memory", found, 0.7)
    own = results.rate("tokens", LOADER, ARROW)
    found = ratio(own, results.rate("tokens", PYARROW))
    yield at_least("tokens", "x pyarrow take in memory", found, 1)
    own = results.rate("tokens", LOADER, TENSORS)
    found = ratio(own, results.rate("tokens", LITDATA))
    yield at_least("tokens", "x LitData, tensors", found, 2)
    own = results.rate("image", DIRECT)
    theirs = best(results.rate("image", LANCEDB), results.rate("image", TAKE))
    what = "direct, x the best of lancedb and lance.take"
    yield at_least("images", what, ratio(own, theirs), 1.5)
    found = ratio(own, scan(results, "image"))
    yield at_least("images", "direct, x Lance scan", found, 1)
    own = results.rate("image", RESIDENT)
    found = ratio(own, results.rate("image", LITDATA))
    yield at_least("images", "resident, x LitData", found, 1.5)
    for pages in (CACHED, DROPPED):
        found = results.figure(COLD, f"{FIRST_RUN}; {pages}", "first_batch_s")
        yield Verdict(
            "time to first batch, narrow",
            f"no rows cached, {pages}",
            found,
            AT_MOST,
            0.3,
            "s",
        )


def orders(results: Results) -> Iterator[Verdict]:
    runs = [
        bench["elements"] / bench["seconds"]
        for bench in results.run["core"]
        if bench["group"] == "order" and "offsets of a run" in bench["name"]
    ]
    what = "offsets/s in Rust, slowest size"
    slowest = times(min(runs, default=None), 1e-6)
    yield Verdict("order", what, slowest, AT_LEAST, 100, "M")
    sizes = [case for case in results.cases(ORDERS) if case.startswith("shuffle")]
    rates = [results.figure(ORDERS, case, "offsets_per_s") for case in sizes]
    what = "offsets/s from Python, slowest size"
    slowest = times(min(rates, default=None), 1e-6)
    yield Verdict("order", what, slowest, AT_LEAST, 100, "M")
    many = f"shuffle of {MANY_ROWS:,} rows"
    found = results.figure(ORDERS, many, "num_bytes")
    yield Verdict("order", "bytes at 10¹² rows", found, AT_MOST, 1024, "B")
    found = times(results.figure(ORDERS, many, "verbs_s"), 1e3)
    what = "epoch, split, shard and resume at 10¹² rows"
    yield Verdict("order", what, found, AT_MOST, 1, "ms")
    kept = FILTER.format(FILTER_ROWS)
    found = times(results.figure(ORDERS, kept, "num_bytes"), 1 / MIB)
    yield Verdict("filter of 100 M rows", "random 50 %", found, AT_MOST, 16, "MiB")
    for name, what in (
        ("offsets_per_s", "offsets/s, in order"),
        ("shuffled_offsets_per_s", "offsets/s, shuffled"),
    ):
        found = times(results.figure(ORDERS, kept, name), 1e-6)
        yield Verdict("filter of 100 M rows", what, found, AT_LEAST, 50, "M")


def shapes(results: Results) -> Iterator[Verdict]:
    target = "wide and fragmented tables"

    def cpu(width: int, selected: str, arm: str) -> float | None:
        case = wide.case_of_columns(width, selected, arm)
        return results.figure(wide.COLUMNS, case, "process_s_per_batch")

    few, many = wide.WIDTHS[-2:]
    for arm in (wide.LOADER, wide.DIRECT):
        grown = ratio(cpu(many, wide.ALL, arm), cpu(few, wide.ALL, arm))
        what = f"{arm}: CPU of {many:,} columns, x that of {few:,}"
        yield Verdict(target, what, grown, AT_MOST, 1.2 * many / few)
        grown = ratio(cpu(many, wide.ONE, arm), cpu(wide.WIDTHS[0], wide.ONE, arm))
        what = (
            f"{arm}: CPU of one of {many:,} columns, x that of one of {wide.WIDTHS[0]}"
        )
        yield Verdict(target, what, grown, AT_MOST, 1.2)

    def figure(count: int, arm: str, name: str) -> float | None:
        return results.figure(wide.FRAGMENTS, wide.case_of_fragments(count, arm), name)

    for count in wide.NUM_FRAGMENTS:
        own, theirs = (
            figure(count, arm, "first_batch_s") for arm in (wide.OUR_TAKE, wide.TAKE)
        )
        what = f"{count:,} fragments: time to the first batch, x pylance take"
        yield Verdict(target, what, ratio(own, theirs), AT_MOST, 1.2)
    few, many = wide.NUM_FRAGMENTS[-2:]
    most, least = (figure(count, wide.OUR_TAKE, "later_bytes") for count in (many, few))
    grown = None if most is None or least is None else (most - least) / MIB
    what = f"memory of {many:,} fragments, beyond that of {few:,}"
    yield Verdict(target, what, grown, AT_MOST, 128, "MiB")


def workers(results: Results) -> Iterator[Verdict]:
    cases = [case for case in results.cases(WORKERS) if case.startswith(WORKERS_OF)]
    for case in cases or [f"{WORKERS_OF}, 2 workers, spawn"]:
        extra = times(results.figure(WORKERS, case, "extra_bytes"), 1 / MIB)
        what = f"{case}: each beyond importing torch"
        yield Verdict("DataLoader workers", what, extra, AT_MOST, 100, "MiB")
        shared = results.figure(WORKERS, case, "shared_rows_bytes")
        packed = results.figure(WORKERS, case, "packed_bytes")
        what = f"{case}: copies of the rows"
        yield Verdict(
            "DataLoader workers", what, ratio(shared, packed), AT_MOST, COPIES
        )


def peers(results: Results) -> Iterator[Verdict]:
    """Ours against the best of all peers; what should be little is a share of theirs."""
    for what, found, is_more in lines(Standings(results)):
        relation = AT_LEAST if is_more else AT_MOST
        yield Verdict("ahead of every peer", what, found, relation, 1)


def packing(results: Results) -> Iterator[Verdict]:
    own = results.figure(PACKING, f"{OURS_LIBRARY}, concat", "tokens_per_s")
    theirs = results.figure(PACKING, "lancedb, StreamingDataset", "tokens_per_s")
    yield at_least("packing", "tokens/s, x lancedb", ratio(own, theirs), 20)


def scan(results: Results, race: str) -> float | None:
    """Give the faster of the two scans: batches of our size, or of its own."""
    return best(results.rate(race, SCAN), results.rate(race, SCAN_DEFAULT))


def at_least(target: str, what: str, found: float | None, wanted: float) -> Verdict:
    return Verdict(target, what, found, AT_LEAST, wanted)


def times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
