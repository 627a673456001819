"""The figures of the project's README.md, each made from a run: see ``report.py``.

Every row says which call, output and strategy it is. What others do better is listed too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from arms import EXACT, LOADER, RESIDENT, WINDOWED
from arms import OURS as OURS_LIBRARY
from arms import TABLES as PEER_TABLES
from contenders import ARROW, LANCEDB, OURS, TAKE, TENSORS
from contenders import LOADER as THROUGH_LOADER
from contenders import RESIDENT as THROUGH_RESIDENT
from epochs import BOUNDED, CACHED, COLD, DROPPED, EXTERNAL, FIRST_RUN, LANCE
from layout import Row, table
from outside import MIB
from results import Results, ratio
from standings import Standings, key_of, named
from targets import PACKING, scan, verdicts

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
NOTHING = "-"


def front_page(results: Results) -> str:
    """Return the section in Markdown."""
    points = [f"* {point}" for point in sentences(results)]
    parts = [introduction(results), table(list(speeds(results))), "\n".join(points)]
    beside = list(costs(Standings(results)))
    if beside:
        parts += [
            f"What it costs, beside the peers that shuffle exactly{day(Standings(results))}: seconds "
            "from opening the table to the first batch, and memory beyond the imports, mapped files "
            "included.",
            table(beside),
        ]
    return "\n\n".join(parts)


def introduction(results: Results) -> str:
    part = results.run["parts"]["tables"]
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
        name = one["name"]
        if name not in SHOWN:
            continue
        others = (
            results.rate(name, OURS, ARROW),
            results.rate(name, LANCEDB, ARROW),
            results.rate(name, TAKE, ARROW),
            scan(results, name),
        )
        own = results.rate(name, THROUGH_LOADER, ARROW)
        batch = f"{one['batch_size']:,}"
        yield SHOWN[name], batch, READS[one["reads"]], *map(rate, (own, *others))
        resident = results.rate(name, THROUGH_RESIDENT, ARROW)
        if resident is not None:
            yield (
                f'{SHOWN[name]}, `read="resident"`', batch, READS["resident"],
                rate(resident), *(NOTHING for _ in others),
            )  # fmt: skip


def sentences(results: Results) -> Iterator[str]:
    """Return the points below the table; what was not measured is left out."""
    standings = Standings(results)
    for point in (
        tensors(results),
        first_epoch(results),
        larger_than_memory(results),
        lancedb(standings),
        libraries(standings),
        ahead(standings),
        packing(results),
        targets(results),
    ):
        if point:
            yield point


def tensors(results: Results) -> str:
    found = {
        name: results.rate(name, THROUGH_LOADER, TENSORS)
        for name in ("narrow", "embeddings", "tokens")
    }
    listed = [f"{name} {rate(value)}" for name, value in found.items() if value]
    return (
        listed and f"`loader()` as a dict of tensors: {series(listed)} rows/s."
    ) or ""


def first_epoch(results: Results) -> str:
    case = f"{FIRST_RUN}; {CACHED}"
    share = ratio(
        results.figure(COLD, case, "epoch_s"),
        results.figure(COLD, f"{LANCE}; {CACHED}", "epoch_s"),
    )
    first = results.figure(COLD, case, "first_batch_s")
    cold = results.figure(COLD, f"{FIRST_RUN}; {DROPPED}", "first_batch_s")
    if share is None or first is None or cold is None:
        return ""
    return (
        f"First epoch of the narrow table, packing included: {few(share)} times as long as one "
        f"scan. Its first batch came after {few(first)} s; after {few(cold)} s with the files "
        "dropped from the page cache."
    )


def larger_than_memory(results: Results) -> str:
    speed = ratio(
        results.figure(EXTERNAL, BOUNDED, "rows_per_s"),
        results.figure(EXTERNAL, LANCE, "rows_per_s"),
    )
    limit = results.figure(EXTERNAL, BOUNDED, "memory_limit")
    peak = results.figure(EXTERNAL, BOUNDED, "peak_bytes", max)
    if speed is None or limit is None or peak is None:
        return ""
    return (
        f"A narrow table four times larger than `memory_limit`: {few(speed)} times the speed of a "
        f"scan, with a peak of {peak / MIB:,.0f} MiB at a limit of {limit / MIB:,.0f}."
    )


def lancedb(standings: Standings) -> str:
    """Return how far ahead ``loader()`` is of the best of lancedb, table by table."""
    listed = []
    for table_name in standings.tables("speed"):
        plain = nearest(standings, table_name, "lancedb", LOADER)
        if plain is None:
            continue
        word = f"{label(table_name)} {few(plain)}"
        resident = nearest(standings, table_name, "lancedb", RESIDENT)
        if resident is not None:
            word += f' ({few(resident)} with `read="resident"`)'
        listed.append(word)
    if not listed:
        return ""
    return (
        "Beside the best of lancedb's (Permutation and StreamingDataset, 0 and 2 workers; each in "
        f"a process of its own{day(standings)}), times as many rows/s: {series(listed)}."
    )


def libraries(standings: Standings) -> str:
    """Return the least multiple of each other library's rows/s, and on which table."""
    listed = []
    names = sorted(
        {
            arm["library"]
            for name in standings.tables("speed")
            for arm in standings.peers("speed", name)
        }
        - {"lancedb"},
        key=str.lower,
    )
    for library in names:
        found = [
            (value, name)
            for name in standings.tables("speed")
            if (value := nearest(standings, name, library, LOADER)) is not None
        ]
        if found:
            least, most = min(found), max(found)
            listed.append(
                f"{library} {few(least[0])} ({label(least[1])}) to {few(most[0])} "
                f"({label(most[1])})"
            )
    if not listed:
        return ""
    return (
        "Beside the best way of each other library, also those that shuffle inside windows only"
        f"{day(standings)}, times as many rows/s: {series(listed)}."
    )


def ahead(standings: Standings) -> str:
    """Return who gives more rows/s than ``loader()``, and how many times as many."""
    listed = []
    for name in standings.tables("speed"):
        found: dict[str, float] = {}
        for arm in standings.peers("speed", name):
            value = standings.ahead(name, arm)
            if value is not None and value < 1:
                found[named(key_of(arm))] = 1 / value
        listed += [
            f"{who} on {label(name)} ({few(times)} times)"
            for who, times in sorted(found.items(), key=lambda pair: -pair[1])
        ]
    return f"More rows/s than `loader()` gave: {series(listed)}." if listed else ""


def costs(standings: Standings) -> Iterator[Row]:
    """Return what comes before and beside rows/s, against the peer that is best at it."""
    tables = standings.tables("speed")
    if not tables:
        return
    yield "table", "s to first batch", "quickest peer", "MiB", "peer that takes least"
    for name in tables:
        seconds = own_and_least(standings, name, "first_batch_s")
        weight = own_and_least(standings, name, "peak_bytes")
        if seconds is not None and weight is not None:
            yield (
                label(name),
                few(seconds[0]), f"{few(seconds[1])} ({seconds[2]})",
                few(weight[0] / MIB), f"{few(weight[1] / MIB)} ({weight[2]})",
            )  # fmt: skip


def own_and_least(
    standings: Standings, name: str, field: str
) -> tuple[float, float, str] | None:
    """Return our figure, the least of the peers with an exact shuffle, and whose that is."""
    mine = standings.ours("speed", name, "")
    own = standings.value("speed", name, mine, field) if mine else None
    others = [
        (value, named(key_of(arm)))
        for arm in standings.peers("speed", name, EXACT)
        if (value := standings.value("speed", name, key_of(arm), field)) is not None
    ]
    return (own, *min(others)) if own is not None and others else None


def packing(results: Results) -> str:
    own = results.figure(PACKING, f"{OURS_LIBRARY}, concat", "tokens_per_s")
    theirs = results.figure(PACKING, "lancedb, StreamingDataset", "tokens_per_s")
    times = ratio(own, theirs)
    if times is None:
        return ""
    return f"Documents packed into blocks: {few(times)} times lancedb's tokens/s."


def targets(results: Results) -> str:
    found = list(verdicts(results))
    num_met = sum(one.is_met for one in found)
    return (
        f"Of {len(found)} targets that the benches hold themselves to, {num_met} were met; the "
        "others stand beside them."
    )


def nearest(
    standings: Standings, table_name: str, library: str, how: str
) -> float | None:
    """Return our rows/s as a multiple of those of the best arm of a library."""
    found = [
        standings.ahead(table_name, arm, how)
        for shuffle in (EXACT, WINDOWED)
        for arm in standings.peers("speed", table_name, shuffle)
        if arm["library"] == library
    ]
    return min((value for value in found if value is not None), default=None)


def day(standings: Standings) -> str:
    part = standings.results.run["parts"].get("peers")
    return f", measured on {part['day']}" if part else ""


def label(table_name: str) -> str:
    assert table_name in PEER_TABLES
    return "images" if table_name == "image" else table_name


def series(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def rate(value: float | None) -> str:
    """Write rows per second in thousands or millions, to three digits."""
    if value is None:
        return NOTHING
    unit, scale = (" M", 1e6) if value >= 1e6 else (" k", 1e3)
    return f"{few(value / scale)}{unit}"


def few(value: float) -> str:
    """Write three digits, and no fewer than the whole number has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
