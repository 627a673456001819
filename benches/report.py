"""What a run found, as text: the figures of both README.md, made from loader.json and nothing else.

``python benches/report.py`` prints those of the benches; ``--write`` also puts them and those of
``front.py`` into the pages, and draws the pictures again. ``--check`` compares the pages with the run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contenders import LANCEDB
from epochs import COLD, EXTERNAL
from front import front_page
from layout import Row, table
from orders import ORDERS
from outside import MIB
from races import BATCH_SIZE, IN_STORAGE_ORDER, ROWS, TABLE, WIDTH
from results import Results, ratio
from standings import Standings, matrix_rows, resume_rows
from standings import race_rows as peer_rows
from targets import PACKING, Verdict, verdicts
from wide import COLUMNS, FRAGMENTS, LATER_BATCHES
from workers import WORKERS

HERE = Path(__file__).parent
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NOTHING = "-"
Column = tuple[str, str, float, str]
"""Heading, name of the figure, factor, and how it is written."""

MIB_OF = 1 / MIB
EXPERIMENT_COLUMNS: dict[str, tuple[str, list[Column]]] = {
    COLD: (
        "First epoch, and the second run",
        [
            ("s to first batch", "first_batch_s", 1, ".3f"),
            ("s of the epoch", "epoch_s", 1, ".2f"),
            ("rows/s", "rows_per_s", 1, ",.0f"),
            ("cached before, %", "cached_share", 100, ".0f"),
        ],
    ),
    EXTERNAL: (
        "A table four times larger than the memory",
        [
            ("rows/s, both epochs", "rows_per_s", 1, ",.0f"),
            ("s to first batch", "first_batch_s", 1, ".3f"),
            ("s, epoch 0", "epoch_0_s", 1, ".2f"),
            ("s, epoch 1", "epoch_1_s", 1, ".2f"),
            ("budget, MiB", "memory_limit", MIB_OF, ",.0f"),
            ("peak, MiB", "peak_bytes", MIB_OF, ",.0f"),
            ("anonymous", "peak_anonymous_bytes", MIB_OF, ",.0f"),
            ("of files", "peak_file_bytes", MIB_OF, ",.0f"),
            ("imports", "imported_bytes", MIB_OF, ",.0f"),
        ],
    ),
    WORKERS: (
        "DataLoader workers on a resident table",
        [
            ("s to first batch", "first_batch_s", 1, ".2f"),
            ("s, torch alone", "idle_first_batch_s", 1, ".2f"),
            ("rows/s", "rows_per_s", 1, ",.0f"),
            ("MiB a worker", "worker_bytes", MIB_OF, ",.0f"),
            ("torch alone", "idle_worker_bytes", MIB_OF, ",.0f"),
            ("rows, all together", "shared_rows_bytes", MIB_OF, ",.0f"),
            ("rows, in the cache", "packed_bytes", MIB_OF, ",.0f"),
        ],
    ),
    PACKING: (
        "Packing tokens",
        [
            ("tokens/s", "tokens_per_s", 1, ",.0f"),
            ("fill, %", "fill", 100, ".1f"),
        ],
    ),
    COLUMNS: (
        "Batches of 32 rows by columns",
        [
            ("rows/s", "rows_per_s", 1, ",.0f"),
            ("CPU of a batch, µs", "process_s_per_batch", 1e6, ",.0f"),
            ("ms to first batch", "first_batch_s", 1e3, ",.1f"),
        ],
    ),
    FRAGMENTS: (
        f"Opening, and {LATER_BATCHES} batches of 32 rows at random, by fragments",
        [
            ("ms to first batch", "first_batch_s", 1e3, ",.1f"),
            ("MiB then", "first_bytes", MIB_OF, ",.0f"),
            ("ms a batch, later", "later_batch_s", 1e3, ",.2f"),
            ("MiB later", "later_bytes", MIB_OF, ",.0f"),
            ("anonymous", "later_anonymous_bytes", MIB_OF, ",.0f"),
        ],
    ),
    ORDERS: (
        "Orders from Python",
        [
            ("bytes", "num_bytes", 1, ",.0f"),
            ("s to make it", "make_s", 1, ".2f"),
            ("M offsets/s", "offsets_per_s", 1e-6, ",.1f"),
            ("M/s, shuffled", "shuffled_offsets_per_s", 1e-6, ",.1f"),
            ("µs: epoch, split, shard, resume", "verbs_s", 1e6, ",.1f"),
        ],
    ),
}
PICTURES = {
    "loader": "Rows per second of everyone on each table",
    "curves": "Rows per second by rows of a batch and by columns of a row",
    "growth": "Rows per second and time to first batch by rows of the table",
    "external": "Memory of the process that shuffles more than its budget",
}


def sections(results: Results) -> Iterator[str]:
    """Give the report, a section at a time."""
    yield header(results.run)
    yield "### Targets"
    yield table(list(verdict_rows(list(verdicts(results)))))
    if results.run["failures"]:
        yield "### What could not run"
        yield table(list(failure_rows(results.run["failures"])))
    if results.run["tables"]:
        yield "### Tables"
        yield table(list(table_rows(results.run["tables"])))
    yield from peers(Standings(results))
    yield "### Rows per second"
    for kind in (TABLE, IN_STORAGE_ORDER):
        for race in results.races(kind):
            yield table(list(race_rows(results, race)))
    for kind, title in (
        (BATCH_SIZE, "by rows of a batch"),
        (WIDTH, "by columns of a row"),
        (ROWS, "by rows of the table"),
    ):
        if results.races(kind):
            yield f"### Rows per second {title}"
            yield table(list(curve_rows(results, kind, "rows_per_s", 1, ",.0f")))
    if results.races(ROWS):
        yield "### Milliseconds to the first batch by rows of the table"
        yield table(list(curve_rows(results, ROWS, "first_batch_s", 1e3, ",.1f")))
    yield from costs(results)
    for experiment, (title, columns) in EXPERIMENT_COLUMNS.items():
        if results.cases(experiment):
            yield f"### {title}"
            yield table(list(experiment_rows(results, experiment, columns)))
    if results.run["core"]:
        yield "### Order, plan and gather in Rust"
        yield table(list(core_rows(results.run["core"])))


def peers(standings: Standings) -> Iterator[str]:
    if tables := standings.tables("speed"):
        yield "### Ahead of every peer"
        yield (
            "Rows/s of `loader()` as a multiple of the best arm of each library, **bold** where a "
            "peer is ahead."
        )
        yield table(list(matrix_rows(standings)))
        yield "### Peers in processes of their own"
        for name in tables:
            yield table(list(peer_rows(standings, name)))
    for name in standings.tables("resume"):
        yield "### Resuming"
        yield table(list(resume_rows(standings, name)))


def header(run: dict[str, Any]) -> str:
    machine = run["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in run["versions"].items()
    )
    quick = (
        " **Tables of a twentieth: a test of the bench, no result.**"
        if run["quick"]
        else ""
    )
    return (
        f"On {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory. {versions}. "
        f"{' '.join(runs(run['parts']))}{quick}"
    )  # fmt: skip


def runs(parts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Say of each run what was measured in it."""
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


def verdict_rows(found: list[Verdict]) -> Iterator[Row]:
    yield "target", "what", "found", "wanted", ""
    for one in found:
        unit = f" {one.unit}" if one.unit else ""
        figure = NOTHING if one.found is None else f"{significant(one.found)}{unit}"
        wanted = f"{one.relation} {one.wanted:,g}{unit}"
        yield one.target, one.what, figure, wanted, one.word
    num_met = sum(one.is_met for one in found)
    yield f"{num_met} of {len(found)} met", "", "", "", ""


def significant(value: float) -> str:
    """Write three figures, and no fewer digits than the whole number has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


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


def race_rows(results: Results, race: str) -> Iterator[Row]:
    yield race, "output", "rows/s", "lowest", "highest", "x lancedb", "shuffle"
    base = results.rate(race, LANCEDB)
    for contender, output in results.entries(race):
        samples = results.of(race, contender, output)
        rates = [sample["rows_per_s"] for sample in samples]
        middle = results.rate(race, contender, output)
        numbers = [f"{value:,.0f}" for value in (middle, min(rates), max(rates))]
        over = ratio(middle, results.rate(race, LANCEDB, output) or base)
        text = NOTHING if over is None else f"{over:,.2f}"
        yield contender, output, *numbers, text, samples[0]["shuffle"]


def curve_rows(
    results: Results, kind: str, field: str, factor: float, style: str
) -> Iterator[Row]:
    all_races = results.races(kind)
    yield "", *(race.partition(", ")[2] for race in all_races)
    entries = dict.fromkeys(e for race in all_races for e in results.entries(race))
    for contender, output in entries:
        found = [results.value(field, race, contender, output) for race in all_races]
        yield f"{contender}, {output}", *(written(one, factor, style) for one in found)


def written(value: float | None, factor: float, style: str) -> str:
    return NOTHING if value is None else format(value * factor, style)


def costs(results: Results) -> Iterator[str]:
    """One figure of everyone, a column per table."""
    all_races = results.races(TABLE)
    if not all_races:
        return
    for title, field, factor, style in (
        ("Milliseconds from opening the table to the first batch", "first_batch_s", 1e3, ",.1f"),
        ("CPU of the consumer's thread per batch, µs", "thread_s_per_batch", 1e6, ",.0f"),
        ("CPU of the process per batch, all threads, µs", "process_s_per_batch", 1e6, ",.0f"),
    ):  # fmt: skip
        yield f"### {title}"
        rows: list[Row] = [("", *all_races)]
        rows.extend(list(curve_rows(results, TABLE, field, factor, style))[1:])
        yield table(rows)


def experiment_rows(
    results: Results, experiment: str, columns: list[Column]
) -> Iterator[Row]:
    yield "", *(heading for heading, *_ in columns)
    for case in results.cases(experiment):
        cells = []
        for _, name, factor, style in columns:
            # Of memory, the worst round counts.
            found = (
                results.figure(experiment, case, name, max)
                if name.startswith("peak")
                else results.figure(experiment, case, name)
            )
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


def pictures(folder: Path) -> Iterator[str]:
    for name, what in PICTURES.items():
        if (folder / f"{name}.png").exists():
            yield f"![{what}]({folder.name}/{name}.png)"


def pages(results: Results, folder: Path) -> dict[Path, str]:
    """Return each page, with the figures of a run between its marks."""
    first, *others = sections(results)
    figures = {
        HERE / "README.md": "\n\n".join([first, *pictures(folder), *others]),
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
    results = Results.read(path)
    print("\n\n".join(sections(results)))
    # Late: only this needs matplotlib.
    import picture

    picture.draw(results, path.parent)
    if is_written:
        for page, text in pages(results, path.parent).items():
            page.write_text(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "path", nargs="?", type=Path, default=HERE / "results" / "loader.json"
    )
    arguments.add_argument("--write", action="store_true", help="into both README.md")
    arguments.add_argument(
        "--check", action="store_true", help="whether both README.md agree with it"
    )
    options = arguments.parse_args()
    if options.check:
        lines = stale(Results.read(options.path), options.path.parent)
        sys.exit(
            "\n".join(["figures are not those of the run:", *lines]) if lines else 0
        )
    publish(options.path, is_written=options.write)


if __name__ == "__main__":
    main()
