"""Whole epochs in fresh processes: the first one with nothing cached, and one larger than memory.

The clock starts when everything is imported, before the table is opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import peers
from harness.bench import Bench, Figures
from harness.process import RESIDENT, Child, Scale, child
from harness.tables import BenchTable
from peers import ARROW

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
INTERVAL_S = 0.02

Found = list[tuple[str, Figures]]


def run_cold(bench: Bench) -> None:
    """Race first epochs against a scan; the second run finds what the first left in its folder."""
    table = bench.table("narrow")

    def scanned(pages: str) -> Found:
        return [(f"{LANCE}; {pages}", one_epoch("scan", table, pages))]

    def both_runs(pages: str) -> Found:
        with bench.empty_folder() as cache:
            return [
                (f"{name}; {pages}", one_epoch("load", table, pages, cache))
                for name in (FIRST_RUN, SECOND_RUN)
            ]

    jobs: dict[tuple[str, str], Callable[[int], Found]] = {
        (f"{run.__name__}, {pages}", ""): lambda _, run=run, pages=pages: run(pages)
        for pages in (CACHED, DROPPED)
        for run in (scanned, both_runs)
    }
    for _, number, found in bench.interleave(COLD, jobs, bench.rounds, lambda key: key):
        for case, figures in found:
            bench.add(COLD, case, number, figures)


def one_epoch(
    job: str, table: BenchTable, pages: str, cache: Path | None = None
) -> Figures:
    if pages == DROPPED:
        table.cool()
    else:
        table.warm()
    cached_share = table.cached_share()
    with child(f"scenarios.epochs:{job}", cache=cache, table=table) as running:
        epoch = running.next()
        running.finish()
    return {
        "first_batch_s": epoch["first_batch_s"],
        "epoch_s": epoch["seconds"],
        "rows_per_s": epoch["rows"] / epoch["seconds"],
        "cached_share": cached_share,
    }


def run_external(bench: Bench) -> None:
    """Shuffle a table exactly within a quarter of its size, weighed from outside."""
    table = bench.table("narrow")
    table.warm()
    limit = table.row_bytes * table.num_rows // PARTS
    bounded = {"read": "external", "memory_limit": limit}

    def run(job: str, options: dict[str, Any]) -> Figures:
        with (
            bench.empty_folder() as cache,
            child(
                f"scenarios.epochs:{job}", cache=cache, table=table, epochs=EPOCHS,
                **options,
            ) as running,
        ):  # fmt: skip
            figures, timeline = weighed(running)
        if options:
            figures["memory_limit"] = limit
            bench.timeline = timeline
        return figures

    cases = {LANCE: lambda _: run("scan", {}), BOUNDED: lambda _: run("load", bounded)}
    bench.measure(EXTERNAL, cases, bench.rounds)


def weighed(running: Child) -> tuple[Figures, dict[str, Any]]:
    epochs, ends = [], []
    with Scale(running, RESIDENT, INTERVAL_S) as scale:
        for _ in range(EPOCHS):
            epochs.append(running.next())
            ends.append(running.at)
    seconds = [epoch["seconds"] for epoch in epochs]
    figures = {
        "rows_per_s": sum(epoch["rows"] for epoch in epochs) / sum(seconds),
        "first_batch_s": epochs[0]["first_batch_s"],
        "epoch_0_s": seconds[0],
        "epoch_1_s": seconds[1],
    }
    base = scale.base
    timeline = {
        "seconds": [round(one.at - base.at, 3) for one in scale.weights],
        "anonymous": [one.anonymous - base.anonymous for one in scale.weights],
        "file": [one.file - base.file for one in scale.weights],
        "epoch_ends": [round(end - base.at, 3) for end in ends],
    }
    return figures | scale.figures(), timeline


# In processes of their own


def scan(table: BenchTable, epochs: int = 1) -> Iterator[Any]:
    """Lance's own scan, with its own batch size."""
    import lance

    # So that a scan starts from the same imports as ours.
    peers.our_loader(ARROW).imported()
    yield
    yield from timed(lambda: lambda _: lance.dataset(table.path).to_batches(), epochs)


def load(table: BenchTable, epochs: int = 1, **options: Any) -> Iterator[Any]:
    """Our loader, shuffled: whole epochs, from opening the table."""
    import lance  # noqa: F401
    from peers.loader import loader

    peers.our_loader(ARROW).imported()
    yield
    yield from timed(
        lambda: loader(table, 1, format="arrow", **options).set_epoch, epochs
    )


def timed(
    opened: Callable[[], Callable[[int], Iterable[Any]]], epochs: int
) -> Iterator[dict[str, float]]:
    start = time.perf_counter()
    epoch = opened()
    for number in range(epochs):
        batches = iter(epoch(number))
        num_rows = next(batches).num_rows
        first = time.perf_counter() - start
        num_rows += sum(batch.num_rows for batch in batches)
        seconds = time.perf_counter() - start
        yield {"first_batch_s": first, "rows": num_rows, "seconds": seconds}
        start = time.perf_counter()
