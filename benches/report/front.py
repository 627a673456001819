"""The figures of the project's README.md, each made from a run: see ``pages.py``.

Every row says which call, output and strategy it is. What others do better is listed too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.process import MIB
from peers import ARROW, LANCEDB, TENSORS
from scenarios.against import EXACT, PEERS, SPEED
from scenarios.epochs import BOUNDED, CACHED, COLD, DROPPED, EXTERNAL, FIRST_RUN, LANCE
from scenarios.packing import OURS_CONCAT, PACKING, THEIRS
from scenarios.tables import TABLES

from report.layout import NOTHING, Row, number, table
from report.results import DATA_LOADER, LOADER, RESIDENT, TAKE, Results, ratio
from report.results import LANCEDB as THROUGH_LANCEDB
from report.standings import RESIDENT as PEERS_RESIDENT
from report.standings import Standings, named
from report.targets import verdicts

SHOWN = {
    "narrow": "narrow: 18 numbers",
    "embeddings": "embeddings: 768 float32",
    "text": "text: 50 to 500 characters",
    "tokens": "tokens: 100 to 2,000 int32",
    "image": "images: 40 to 160 KB",
}
READS = {
    "resident": "packed rows in memory",
    "direct": "the table's files",
    "external": "scratch files",
}


def front_page(results: Results) -> str:
    """Return the section in Markdown."""
    standings = Standings(results)
    points = [f"* {point}" for point in sentences(results, standings) if point]
    parts = [introduction(results), table(speeds(results)), "\n".join(points)]
    if standings.tables(SPEED):
        parts += [
            f"What it costs, beside the peers that shuffle exactly{day(results)}: seconds from "
            "opening the table to the first batch, and memory beyond the imports, mapped files "
            "included.",
            table(costs(standings)),
        ]
    return "\n\n".join(parts)


def introduction(results: Results) -> str:
    part = results.run["parts"][TABLES]
    return (
        "Rows per second of whole Arrow batches, shuffled exactly, without worker processes; "
        "everybody reads the same table, with its files in the page cache and rows packed "
        f"beforehand. Medians of {part['rounds']} interleaved rounds on "
        f"{results.run['machine']['cores']} cores, {part['day']}."
    )


def speeds(results: Results) -> Iterator[Row]:
    yield (
        "table", "batch", "`loader()` reads", "`loader()`", "torch's `DataLoader`",
        "lancedb", "`lance.take`", "a Lance scan, in order",
    )  # fmt: skip
    for one in results.run["tables"]:
        name, batch = one["name"], f"{one['batch_size']:,}"
        if name not in SHOWN:
            continue
        ways = (LOADER, DATA_LOADER, THROUGH_LANCEDB, TAKE)
        rates = [*(results.rate(name, way, ARROW) for way in ways), results.scan(name)]
        yield SHOWN[name], batch, READS[one["reads"]], *map(rate, rates)
        resident = results.rate(name, RESIDENT, ARROW)
        if resident is not None:
            what = f'{SHOWN[name]}, `read="resident"`'
            others = [NOTHING] * (len(rates) - 1)
            yield what, batch, READS["resident"], rate(resident), *others


def sentences(results: Results, standings: Standings) -> Iterator[str]:
    """Return the points below the table; one that was not measured is empty."""
    yield tensors(results)
    yield first_epoch(results)
    yield larger_than_memory(results)
    yield lancedb(results, standings)
    yield libraries(results, standings)
    yield ahead(standings)
    own, theirs = (
        results.figure(PACKING, case, "tokens_per_s") for case in (OURS_CONCAT, THEIRS)
    )
    times = ratio(own, theirs)
    if times is not None:
        yield f"Documents packed into blocks: {number(times)} times lancedb's tokens/s."
    found = list(verdicts(results))
    yield (
        f"Of {len(found)} targets that the benches hold themselves to, "
        f"{sum(one.is_met for one in found)} were met; the others stand beside them."
    )


def tensors(results: Results) -> str:
    found = {
        name: results.rate(name, LOADER, TENSORS)
        for name in ("narrow", "embeddings", "tokens")
    }
    listed = [f"{name} {rate(value)}" for name, value in found.items() if value]
    return sentence("`loader()` as a dict of tensors: {} rows/s.", listed)


def first_epoch(results: Results) -> str:
    case = f"{FIRST_RUN}; {CACHED}"
    own, scan = (
        results.figure(COLD, each, "epoch_s") for each in (case, f"{LANCE}; {CACHED}")
    )
    first = results.figure(COLD, case, "first_batch_s")
    cold = results.figure(COLD, f"{FIRST_RUN}; {DROPPED}", "first_batch_s")
    share = ratio(own, scan)
    if share is None or first is None or cold is None:
        return ""
    return (
        f"First epoch of the narrow table, packing included: {number(share)} times as long as "
        f"one scan. Its first batch came after {number(first)} s; after {number(cold)} s with the "
        "files dropped from the page cache."
    )


def larger_than_memory(results: Results) -> str:
    own, scan = (
        results.figure(EXTERNAL, run, "rows_per_s") for run in (BOUNDED, LANCE)
    )
    limit = results.figure(EXTERNAL, BOUNDED, "memory_limit")
    peak = results.figure(EXTERNAL, BOUNDED, "peak_bytes", max)
    speed = ratio(own, scan)
    if speed is None or limit is None or peak is None:
        return ""
    return (
        f"A narrow table four times larger than `memory_limit`: {number(speed)} times the speed "
        f"of a scan, with a peak of {peak / MIB:,.0f} MiB at a limit of {limit / MIB:,.0f}."
    )


def lancedb(results: Results, standings: Standings) -> str:
    """Return how far ahead ``loader()`` is of the best of lancedb, table by table."""
    listed = []
    for name in standings.tables(SPEED):
        plain = standings.nearest(name, LANCEDB)
        resident = standings.nearest(name, LANCEDB, PEERS_RESIDENT)
        if plain is not None:
            beside = f' ({number(resident)} with `read="resident"`)' if resident else ""
            listed.append(f"{label(name)} {number(plain)}{beside}")
    what = (
        "Beside the best of lancedb's (Permutation and StreamingDataset, 0 and 2 workers; each in "
        f"a process of its own{day(results)}), times as many rows/s: {{}}."
    )
    return sentence(what, listed)


def libraries(results: Results, standings: Standings) -> str:
    """Return the least multiple of each other library's rows/s, and on which table."""
    tables = standings.tables(SPEED)
    names = {arm["library"] for name in tables for arm in standings.peers(name)}
    listed = []
    for library in sorted(names - {LANCEDB}, key=str.lower):
        found = [
            (value, label(name))
            for name in tables
            if (value := standings.nearest(name, library)) is not None
        ]
        ends = (f"{number(value)} ({on})" for value, on in (min(found), max(found)))
        listed.append(f"{library} {' to '.join(ends)}")
    what = (
        "Beside the best way of each other library, also those that shuffle inside windows only"
        f"{day(results)}, times as many rows/s: {{}}."
    )
    return sentence(what, listed)


def ahead(standings: Standings) -> str:
    """Return who gives more rows/s than ``loader()``, and how many times as many."""
    listed = []
    for name in standings.tables(SPEED):
        multiples = [(standings.ahead(name, arm), arm) for arm in standings.peers(name)]
        found = {
            named(arm): 1 / value for value, arm in multiples if value and value < 1
        }
        listed += [
            f"{who} on {label(name)} ({number(times)} times)"
            for who, times in sorted(found.items(), key=lambda pair: -pair[1])
        ]
    return sentence("More rows/s than `loader()` gave: {}.", listed)


def costs(standings: Standings) -> Iterator[Row]:
    """Return what comes before and beside rows/s, against the peer that is best at it."""
    yield "table", "s to first batch", "quickest peer", "MiB", "peer that takes least"
    for name in standings.tables(SPEED):
        cells: list[str] = []
        for field, unit in (("first_batch_s", 1), ("peak_bytes", MIB)):
            own = standings.value(SPEED, name, standings.ours(name, ""), field)
            others = [
                (value, named(arm))
                for arm in standings.peers(name, EXACT)
                if (value := standings.figure(SPEED, name, arm, field)) is not None
            ]
            if own is not None and others:
                least, peer = min(others)
                cells += number(own / unit), f"{number(least / unit)} ({peer})"
        if len(cells) == 4:
            yield label(name), *cells


def day(results: Results) -> str:
    part = results.run["parts"].get(PEERS)
    return f", measured on {part['day']}" if part else ""


def label(table_name: str) -> str:
    return "images" if table_name == "image" else table_name


def sentence(what: str, words: Iterable[str]) -> str:
    """Fill in words as a series; without any there is no sentence."""
    if not words:
        return ""
    *most, last = words
    return what.format(f"{', '.join(most)} and {last}" if most else last)


def rate(value: float | None) -> str:
    """Write rows per second in thousands or millions, to three digits."""
    if value is None:
        return NOTHING
    unit, scale = (" M", 1e6) if value >= 1e6 else (" k", 1e3)
    return f"{number(value / scale)}{unit}"
