"""What a run found, as text: the figures of both README.md, made from loader.json and nothing else."""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.process import MIB
from scenarios.against import RESUME, SPEED
from scenarios.cold import COLD_DISK
from scenarios.epochs import COLD, EXTERNAL
from scenarios.images import IMAGES
from scenarios.lance_torch import CPU_TIMES, DROP_IN, OF_OURS, OF_THEIRS, TIMES
from scenarios.orders import ORDERS
from scenarios.packing import PACKING
from scenarios.processes import PROCESSES, RATIO
from scenarios.storage import STORAGE
from scenarios.streaming import STREAMING
from scenarios.tables import BATCH_SIZE, IN_STORAGE_ORDER, ROWS, TABLE, WIDTH
from scenarios.wide import COLUMNS, FRAGMENTS, LATER_BATCHES
from scenarios.windows import WINDOWS
from scenarios.workers import WORKERS

from report.front import front_page
from report.gpu import gpu_sections
from report.layout import NOTHING, Row, number, table
from report.results import LANCEDB, Results, ratio
from report.standings import Standings, matrix_rows, race_rows, resume_rows, three
from report.targets import verdicts

HERE = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Column = tuple[str, str, float, str]
"""Heading, name of the figure, factor, and how it is written."""

RATE: Column = ("rows/s", "rows_per_s", 1, ",.0f")
MIBS = (1 / MIB, ",.0f")
FIRST_S: Column = ("s to first batch", "first_batch_s", 1, ".3f")
FIRST_MS: Column = ("ms to first batch", "first_batch_s", 1e3, ",.1f")
# fmt: off
EXPERIMENT_COLUMNS: dict[str, tuple[str, list[Column]]] = {
    COLD: ("First epoch, and the second run", [
        FIRST_S,
        ("s of the epoch", "epoch_s", 1, ".2f"),
        RATE,
        ("cached before, %", "cached_share", 100, ".0f"),
    ]),
    EXTERNAL: ("A table four times larger than the memory", [
        ("rows/s, both epochs", "rows_per_s", 1, ",.0f"),
        FIRST_S,
        ("s, epoch 0", "epoch_0_s", 1, ".2f"),
        ("s, epoch 1", "epoch_1_s", 1, ".2f"),
        ("budget, MiB", "memory_limit", *MIBS),
        ("peak, MiB", "peak_bytes", *MIBS),
        ("anonymous", "peak_anonymous_bytes", *MIBS),
        ("of files", "peak_file_bytes", *MIBS),
        ("imports", "imported_bytes", *MIBS),
    ]),
    STORAGE: ("Object storage: 30 ms to a first byte (99 %: 200 ms), 100 MB/s a connection, 5,500 requests/s", [
        ("rows/s, epoch 0", "rows_per_s_0", 1, ",.0f"),
        ("rows/s, epoch 1", "rows_per_s_1", 1, ",.0f"),
        FIRST_S,
        ("requests a row", "requests_per_row_0", 1, ".3f"),
        ("in epoch 1", "requests_per_row_1", 1, ".3f"),
        ("bytes per useful byte", "bytes_per_useful_byte_0", 1, ".2f"),
        ("per byte of the files", "bytes_of_table_0", 1, ".2f"),
        ("CPU of a row, µs", "cpu_us_per_row_0", 1, ",.0f"),
        ("in flight at most", "most_in_flight_0", 1, ",.0f"),
    ]),
    COLD_DISK: ("Cold disk: files dropped from the page cache, an epoch of shuffled rows", [
        RATE,
        FIRST_S,
        ("bytes read per useful byte", "bytes_per_useful_byte", 1, ".2f"),
        ("cached before, %", "cached_share", 100, ".0f"),
    ]),
    WORKERS: ("DataLoader workers on a resident table", [
        ("s to first batch", "first_batch_s", 1, ".2f"),
        ("s, torch alone", "idle_first_batch_s", 1, ".2f"),
        RATE,
        ("MiB a worker", "worker_bytes", *MIBS),
        ("torch alone", "idle_worker_bytes", *MIBS),
        ("rows, all together", "shared_rows_bytes", *MIBS),
        ("rows, in the cache", "packed_bytes", *MIBS),
    ]),
    PROCESSES: ("Where batches are made: this process, a helper, workers (forked)", [
        RATE,
        ("times the rows/s without", RATIO, 1, ".2f"),
    ]),
    PACKING: ("Packing tokens", [
        ("tokens/s", "tokens_per_s", 1, ",.0f"),
        ("fill, %", "fill", 100, ".1f"),
    ]),
    STREAMING: ("StreamingDataset of two splits, with the same arguments", [
        RATE,
        FIRST_S,
        ("MiB", "peak_bytes", *MIBS),
        ("anonymous", "peak_anonymous_bytes", *MIBS),
    ]),
    DROP_IN: ("The names of lance.torch", [
        ("lance.torch, rows/s", OF_THEIRS, 1, ",.0f"),
        ("lanceloader.compat.lance_torch", OF_OURS, 1, ",.0f"),
        ("times", TIMES, 1, ",.2f"),
        ("times, of CPU", CPU_TIMES, 1, ",.2f"),
    ]),
    IMAGES: ("Images decoded, cropped to 224 and flipped, as uint8", [
        ("images/s", "images_per_s", 1, ",.0f"),
        FIRST_S,
    ]),
    WINDOWS: ("Windows of 16 steps over episodes, shuffled", [
        ("windows/s", "windows_per_s", 1, ",.0f"),
        FIRST_S,
    ]),
    COLUMNS: ("Batches of 32 rows by columns", [
        RATE,
        ("CPU of a batch, µs", "process_s_per_batch", 1e6, ",.0f"),
        FIRST_MS,
    ]),
    FRAGMENTS: (f"Opening, and {LATER_BATCHES} batches of 32 rows at random, by fragments", [
        FIRST_MS,
        ("MiB then", "first_bytes", *MIBS),
        ("ms a batch, later", "later_batch_s", 1e3, ",.2f"),
        ("MiB later", "later_bytes", *MIBS),
        ("anonymous", "later_anonymous_bytes", *MIBS),
    ]),
    ORDERS: ("Orders from Python", [
        ("bytes", "num_bytes", 1, ",.0f"),
        ("s to make it", "make_s", 1, ".2f"),
        ("M offsets/s", "offsets_per_s", 1e-6, ",.1f"),
        ("M/s, shuffled", "shuffled_offsets_per_s", 1e-6, ",.1f"),
        ("µs: epoch, split, shard, resume", "verbs_s", 1e6, ",.1f"),
    ]),
}
CURVES = [
    (BATCH_SIZE, "Rows per second by rows of a batch", "rows_per_s", 1, ",.0f"),
    (WIDTH, "Rows per second by columns of a row", "rows_per_s", 1, ",.0f"),
    (ROWS, "Rows per second by rows of the table", "rows_per_s", 1, ",.0f"),
    (ROWS, "Milliseconds to the first batch by rows of the table", "first_batch_s", 1e3, ",.1f"),
    (TABLE, "Milliseconds from opening the table to the first batch", "first_batch_s", 1e3, ",.1f"),
    (TABLE, "CPU of the consumer's thread per batch, µs", "thread_s_per_batch", 1e6, ",.0f"),
    (TABLE, "CPU of the process per batch, all threads, µs", "process_s_per_batch", 1e6, ",.0f"),
]
"""One figure of everyone, a column for each race of a kind."""
# fmt: on
PICTURES = {
    "loader": "Rows per second of everyone on each table",
    "curves": "Rows per second by rows of a batch and by columns of a row",
    "growth": "Rows per second and time to first batch by rows of the table",
    "external": "Memory of the process that shuffles more than its budget",
}


def sections(results: Results) -> Iterator[str]:
    """Return the report, a section at a time."""
    run, standings = results.run, Standings(results)
    yield header(run)
    yield from titled("Targets", verdict_rows(results))
    if run["failures"]:
        yield from titled("What could not run", failure_rows(run["failures"]))
    if run["tables"]:
        yield from titled("Tables", table_rows(run["tables"]))
    if tables := standings.tables(SPEED):
        yield "### Ahead of every peer"
        yield (
            "Rows/s of `loader()` as a multiple of the best arm of each library, **bold** where a "
            "peer is ahead."
        )
        yield table(matrix_rows(standings))
        peers = (race_rows(standings, name) for name in tables)
        yield from titled("Peers in processes of their own", *peers)
    for name in standings.tables(RESUME):
        yield from titled("Resuming", resume_rows(standings, name))
    races = [race for kind in (TABLE, IN_STORAGE_ORDER) for race in results.races(kind)]
    yield from titled(
        "Rows per second", *(sample_rows(results, race) for race in races)
    )
    for kind, title, *column in CURVES:
        if results.races(kind):
            yield from titled(title, curve_rows(results, kind, *column))
    for experiment, (title, columns) in EXPERIMENT_COLUMNS.items():
        if results.cases(experiment):
            yield from titled(title, experiment_rows(results, experiment, columns))
    if run["core"]:
        yield from titled("Order, plan and gather in Rust", core_rows(run["core"]))


def titled(title: str, *tables: Iterator[Row]) -> Iterator[str]:
    yield f"### {title}"
    yield from map(table, tables)


def header(run: dict[str, Any]) -> str:
    machine = run["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in run["versions"].items()
    )
    quick = " **Tables of a twentieth: a test of the bench, no result.**"
    return (
        f"On {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory. {versions}. "
        f"{' '.join(runs(run['parts']))}{quick if run['quick'] else ''}"
    )  # fmt: skip


def runs(parts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a line for the runs that were made alike: what they measured, and when."""
    keys = ("day", "rounds", "seconds_per_turn", "kernel")
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, part in parts.items():
        alike.setdefault(tuple(part.get(key) for key in keys), []).append(name)
    for (day, rounds, seconds, kernel), names in alike.items():
        took = sum(parts[name]["took_s"] for name in names) / 60
        loads = [load for name in names for load in parts[name]["load"]]
        yield (
            f"{day}{f', {kernel}' if kernel else ''}, {took:.0f} minutes, {rounds} rounds, "
            f"{seconds:g} s a turn, load average {min(loads):.1f} to {max(loads):.1f}: "
            f"{', '.join(names)}."
        )


def verdict_rows(results: Results) -> Iterator[Row]:
    found = list(verdicts(results))
    yield "target", "what", "found", "wanted", ""
    for one in found:
        unit = f" {one.unit}" if one.unit else ""
        figure = NOTHING if one.found is None else f"{number(one.found)}{unit}"
        wanted = f"{one.relation} {one.wanted:,g}{unit}"
        yield one.target, one.what, figure, wanted, one.word
    num_met = sum(one.is_met for one in found)
    yield f"{num_met} of {len(found)} met", "", "", "", ""


def failure_rows(failures: list[dict[str, str]]) -> Iterator[Row]:
    yield "where", "who", "why"
    for failed in failures:
        who = ", ".join(filter(None, (failed["contender"], failed["output"])))
        yield failed["where"], who, failed["reason"].replace("|", "/")


def table_rows(tables: list[dict[str, Any]]) -> Iterator[Row]:
    yield "table", "columns", "rows", "bytes on disk", "batch", "batch, in order"
    for one in tables:
        numbers = ("num_rows", "num_bytes", "batch_size", "large_batch_size")
        yield one["name"], one["columns"], *(f"{one[name]:,}" for name in numbers)


def sample_rows(results: Results, race: str) -> Iterator[Row]:
    yield race, "output", "rows/s", "lowest", "highest", "x lancedb", "shuffle"
    for contender, output in results.entries(race):
        samples = results.of(race, contender, output)
        rates = [sample["rows_per_s"] for sample in samples]
        own = results.rate(race, contender, output)
        over = ratio(own, results.alike(race, LANCEDB, output))
        text = written(over, 1, ",.2f")
        yield contender, output, *three(rates, ",.0f"), text, samples[0]["shuffle"]


def curve_rows(
    results: Results, kind: str, name: str, factor: float, style: str
) -> Iterator[Row]:
    races = results.races(kind)
    # What races of a kind have in common is in the heading; races of tables have only their name.
    yield "", *(race if kind == TABLE else race.partition(", ")[2] for race in races)
    entries = dict.fromkeys(entry for race in races for entry in results.entries(race))
    for contender, output in entries:
        found = [results.value(name, race, contender, output) for race in races]
        yield f"{contender}, {output}", *(written(one, factor, style) for one in found)


def written(value: float | None, factor: float, style: str) -> str:
    return NOTHING if value is None else format(value * factor, style)


def experiment_rows(
    results: Results, experiment: str, columns: list[Column]
) -> Iterator[Row]:
    yield "", *(heading for heading, *_ in columns)
    for case in results.cases(experiment):
        cells = []
        for _, name, factor, style in columns:
            # Of memory, the worst round counts.
            worst = {"summary": max} if name.startswith("peak") else {}
            found = results.figure(experiment, case, name, **worst)
            cells.append(written(found, factor, style))
        yield case, *cells


def core_rows(benches: list[dict[str, Any]]) -> Iterator[Row]:
    yield "", "µs", "lowest", "highest", "M/s", "measured"
    for bench in benches:
        seconds = (bench["seconds"], bench["lowest_s"], bench["highest_s"])
        numbers = [f"{value * 1e6:,.2f}" for value in seconds]
        elements = bench["elements"] or 0
        rate = f"{elements / bench['seconds'] / 1e6:,.1f}" if elements > 1 else NOTHING
        day = dt.datetime.fromtimestamp(bench["measured_at"], dt.UTC)
        yield bench["name"], *numbers, rate, f"{day:%Y-%m-%d}"


def pages(results: Results, folder: Path) -> dict[Path, str]:
    """Return each page, with the figures of a run between its marks."""
    first, *others = itertools.chain(sections(results), gpu_sections(folder))
    pictures = [
        f"![{what}]({folder.name}/{name}.png)"
        for name, what in PICTURES.items()
        if (folder / f"{name}.png").exists()
    ]
    figures = {
        HERE / "README.md": "\n\n".join([first, *pictures, *others]),
        HERE.parent / "README.md": front_page(results),
    }
    return {page: filled(page.read_text(), text) for page, text in figures.items()}


def filled(page: str, figures: str) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def stale(results: Results, folder: Path) -> list[str]:
    """Return the lines of the pages that are not what the run found, as a diff."""
    return [
        line
        for page, text in pages(results, folder).items()
        for line in difflib.unified_diff(
            page.read_text().splitlines(),
            text.splitlines(),
            f"{page.relative_to(HERE.parent)} as it is",
            "as it should be",
            lineterm="",
            n=0,
        )
    ]


def publish(path: Path, *, is_written: bool) -> None:
    """Print a run and draw its pictures beside it; put its figures into the pages if it is so wanted."""
    # Late: only this needs matplotlib.
    from report.pictures import draw

    results = Results.read(path)
    print("\n\n".join([*sections(results), *gpu_sections(path.parent)]))
    draw(results, path.parent)
    if is_written:
        for page, text in pages(results, path.parent).items():
            page.write_text(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    results = HERE / "results" / "loader.json"
    arguments.add_argument("path", nargs="?", type=Path, default=results)
    arguments.add_argument("--write", action="store_true", help="into both README.md")
    arguments.add_argument(
        "--check", action="store_true", help="whether both README.md agree with it"
    )
    options = arguments.parse_args()
    if options.check:
        lines = stale(Results.read(options.path), options.path.parent)
        message = "\n".join(["figures are not those of the run:", *lines])
        sys.exit(message if lines else 0)
    publish(options.path, is_written=options.write)
