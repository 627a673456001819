"""Whole epochs in fresh processes: the first one with nothing cached, and one larger than memory.

Each run is a process of its own that opens the table anew. The clock starts when everything is
imported, before the table is opened.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Failure, Measured, Step, failure, rotated
from outside import Weight, child, watched
from tables import BenchTable

COLD = "first epoch"
EXTERNAL = "larger than memory"
LANCE = "Lance scan, in order"
FIRST_RUN = "lanceloader, first run"
SECOND_RUN = "lanceloader, second run"
BOUNDED = "lanceloader, loader(read='external')"
DROPPED = "files dropped from the page cache"
CACHED = "files in the page cache"

PARTS = 4
"""The memory limit is the bytes of the rows, divided by this."""
EPOCHS = 2
"""Of a table larger than memory: the second is prepared while the first is read."""

Timeline = dict[str, Any]


@contextmanager
def empty_folder(home: Path) -> Iterator[Path]:
    """Give a new folder on the disk that the tables are on."""
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rows-", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_cold(
    table: BenchTable, num_rounds: int, step: Step
) -> tuple[list[Measured], list[Failure]]:
    """Race first epochs against a scan, with and without the files in the page cache.

    The second run of each pair finds what the first left in its cache folder.
    """
    measured: list[Measured] = []
    failures: list[Failure] = []
    for number in range(num_rounds):
        for pages, run in rotated(
            [(pages, run) for pages in (CACHED, DROPPED) for run in (scan, both_runs)],
            number,
        ):
            step(f"{COLD}, {pages}")
            try:
                measured.extend(run(table, pages, number))
            except Exception as error:
                failures.append(failure(f"{COLD}, {pages}", run.__name__, "", error))
    return measured, failures


def scan(table: BenchTable, pages: str, number: int) -> Iterator[Measured]:
    set_pages(table, pages)
    yield epoch_of(LANCE, "scan", table, None, pages, number)


def both_runs(table: BenchTable, pages: str, number: int) -> Iterator[Measured]:
    with empty_folder(table.folder.parent) as cache:
        for name in (FIRST_RUN, SECOND_RUN):
            set_pages(table, pages)
            yield epoch_of(name, "load", table, cache, pages, number)


def set_pages(table: BenchTable, pages: str) -> None:
    if pages == DROPPED:
        table.cool()
    else:
        table.warm()


def epoch_of(
    name: str, job: str, table: BenchTable, cache: Path | None, pages: str, number: int
) -> Measured:
    extra = {"read": None, "memory_limit": None} if job == "load" else {}
    cached_share = table.cached_share()
    with child(job, cache, table=table, epochs=1, **extra) as running:
        running.go_on()
        first = running.wait_for("first")["seconds"]
        epoch = running.wait_for("epoch")
    figures = {
        "first_batch_s": first,
        "epoch_s": epoch["seconds"],
        "rows_per_s": epoch["rows"] / epoch["seconds"],
        "cached_share": cached_share,
    }
    return Measured(COLD, f"{name}; {pages}", number, figures)


def memory_limit(table: BenchTable) -> int:
    return table.row_bytes * table.num_rows // PARTS


def run_external(
    table: BenchTable, num_rounds: int, step: Step
) -> tuple[list[Measured], list[Failure], Timeline]:
    """Shuffle a table exactly within a quarter of its size, weighed from outside."""
    measured: list[Measured] = []
    failures: list[Failure] = []
    timeline: Timeline = {}
    runs: list[Callable[..., tuple[Measured, Timeline]]] = [scanned, bounded]
    table.warm()
    for number in range(num_rounds):
        for run in rotated(runs, number):
            step(f"{EXTERNAL}: {run.__name__}")
            try:
                figures, found = run(table, number)
            except Exception as error:
                failures.append(failure(EXTERNAL, run.__name__, "", error))
            else:
                measured.append(figures)
                timeline = found or timeline
    return measured, failures, timeline


def scanned(table: BenchTable, number: int) -> tuple[Measured, Timeline]:
    return weighed(LANCE, "scan", table, number, {})


def bounded(table: BenchTable, number: int) -> tuple[Measured, Timeline]:
    limit = memory_limit(table)
    return weighed(
        BOUNDED, "load", table, number, {"read": "external", "memory_limit": limit}
    )


def weighed(
    name: str, job: str, table: BenchTable, number: int, extra: dict[str, Any]
) -> tuple[Measured, Timeline]:
    with (
        empty_folder(table.folder.parent) as cache,
        child(job, cache, table=table, epochs=EPOCHS, **extra) as running,
        watched(running) as weights,
    ):
        base = weights[0]
        running.go_on()
        first = running.wait_for("first")
        epochs = [running.wait_for("epoch") for _ in range(EPOCHS)]
    seconds = [epoch["seconds"] for epoch in epochs]
    rows = [epoch["rows"] for epoch in epochs]
    figures = {
        "rows_per_s": sum(rows) / sum(seconds),
        "first_batch_s": first["seconds"],
        "epoch_0_s": seconds[0],
        "epoch_1_s": seconds[1],
        "imported_bytes": base.all,
        "peak_bytes": over(base, weights, lambda weight: weight.all),
        "peak_anonymous_bytes": over(base, weights, lambda weight: weight.anonymous),
        "peak_file_bytes": over(base, weights, lambda weight: weight.file),
    }
    if extra:
        figures["memory_limit"] = extra["memory_limit"]
    timeline = timeline_of(base, weights, epochs) if extra else {}
    return Measured(EXTERNAL, name, number, figures), timeline


def over(base: Weight, weights: list[Weight], value: Callable[[Weight], int]) -> int:
    """Give the peak, less what the imports take."""
    return max(map(value, weights)) - value(base)


def timeline_of(
    base: Weight, weights: list[Weight], epochs: list[dict[str, Any]]
) -> Timeline:
    return {
        "seconds": [round(weight.at - base.at, 3) for weight in weights],
        "anonymous": [weight.anonymous - base.anonymous for weight in weights],
        "file": [weight.file - base.file for weight in weights],
        "epoch_ends": [round(epoch["at"] - base.at, 3) for epoch in epochs],
    }
