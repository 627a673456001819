"""Wide and fragmented tables: what a batch costs by columns, and the first batch by fragments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
from harness.bench import Bench, Figures
from harness.process import child, weigh
from harness.recipes import SEED
from harness.tables import BenchTable, make_once
from harness.turn import prepare, timed
from peers import ARROW, DIRECT, LOADER, OUR_TAKE, OURS, PYLANCE_TAKE, WINDOWS, Arm

from scenarios.tables import CURVE_ROUNDS, CURVE_SHARE

WIDE = "wide"
COLUMNS = "columns of a table"
FRAGMENTS = "fragments of a table"

WIDTHS = (10, 100, 1_000, 2_000)
WIDE_ROWS = 8_192
NUM_FRAGMENTS = (10, 1_000, 10_000)
FRAGMENT_ROWS = 10
FRAGMENT_COLUMNS = 20
WIDE_FRAGMENTS = 50
"""Of a table with as many columns as the widest, of which one is read."""
BATCH_SIZE = 32
LATER_BATCHES = 300
"""Batches after which memory is looked at again: most fragments were read from by then."""
ALL, ONE = "all", "one"

TAKES = {
    OUR_TAKE: Arm(OURS, OUR_TAKE, ARROW, WINDOWS, "peers.loader:take", imports=(OURS,)),
    PYLANCE_TAKE: Arm(
        "pylance", "take", ARROW, WINDOWS, "peers.pylance:take_at_random"
    ),
}
ARMS = {
    LOADER: peers.our_loader(ARROW, by_path=True),
    DIRECT: peers.our_loader(ARROW, DIRECT, "direct", by_path=True),
    **TAKES,
}


def run(bench: Bench) -> None:
    rounds = min(CURVE_ROUNDS, bench.rounds)
    seconds = bench.seconds * CURVE_SHARE
    cases = {}
    for width in WIDTHS:
        rows = WIDE_ROWS // (8 if bench.quick else 1)
        table = table_in(bench.folder, f"columns-{width}", width, rows, rows)
        for selected, of in ((ALL, table), (ONE, table.features(1))):
            for name, arm in ARMS.items():
                prepare(of, arm)
                case = case_of_columns(width, selected, name)
                cases[case] = lambda number, of=of, arm=arm: columns(
                    of, arm, number, seconds
                )
    bench.measure(COLUMNS, cases, rounds)
    shapes = [(count, FRAGMENT_COLUMNS) for count in NUM_FRAGMENTS]
    cases = {}
    for count, width in (*shapes, (WIDE_FRAGMENTS, WIDTHS[-1])):
        parts = count // (10 if bench.quick else 1)
        rows, name = parts * FRAGMENT_ROWS, f"fragments-{parts}-{width}"
        table = table_in(bench.folder, name, width, rows, FRAGMENT_ROWS)
        if width == WIDTHS[-1]:
            table = table.features(1)
        for name, arm in TAKES.items():
            case = case_of_fragments(count, name)
            if table.columns:
                case = f"{count:,} fragments, one of {width:,} columns: {name}"
            cases[case] = lambda number, of=table, arm=arm: fragments(of, arm, number)
    bench.measure(FRAGMENTS, cases, rounds)


def case_of_columns(width: int, selected: str, arm: str) -> str:
    return f"{width:,} columns, {selected} read: {arm}"


def case_of_fragments(count: int, arm: str) -> str:
    return f"{count:,} fragments: {arm}"


def columns(table: BenchTable, arm: Arm, number: int, seconds: float) -> Figures:
    found = timed(table, arm, number, seconds, is_warm=True).figures
    kept = ("rows_per_s", "process_s_per_batch", "first_batch_s")
    return {name: found[name] for name in kept}


def fragments(table: BenchTable, arm: Arm, number: int) -> Figures:
    arguments = {"table": table, "arm": arm, "seed": number}
    with child("scenarios.wide:open_and_read", **arguments) as running:
        before = weigh(running.pid)
        first_batch_s = running.next()["seconds"]
        first = weigh(running.pid)
        later_s = running.next()["seconds"]
        later = weigh(running.pid)
    return {
        "first_batch_s": first_batch_s,
        "later_batch_s": later_s / LATER_BATCHES,
        "first_bytes": first.all - before.all,
        "later_bytes": later.all - before.all,
        "later_anonymous_bytes": later.anonymous - before.anonymous,
    }


def open_and_read(table: BenchTable, arm: Arm, seed: int) -> Iterator[Any]:
    # Everyone starts from the same imports.
    import lance  # noqa: F401
    import lanceloader as ll

    ll.open  # noqa: B018 (its import is no part of opening)
    opened = arm.imported()
    yield
    start = time.perf_counter()
    batches = opened(table, seed, **arm.options)
    next(batches)
    yield {"seconds": time.perf_counter() - start}
    start = time.perf_counter()
    for _ in range(LATER_BATCHES):
        next(batches)
    yield {"seconds": time.perf_counter() - start}


def table_in(
    folder: Path, name: str, width: int, num_rows: int, rows_per_file: int
) -> BenchTable:
    """Return a table of columns ``f0``, ``f1``, ... of float32, made now if it is not there."""
    home = folder / f"{name}-{num_rows}"

    def make(home: Path) -> None:
        import lance
        import numpy as np
        import pyarrow as pa

        rng = np.random.default_rng(SEED)
        columns = {
            f"f{at}": rng.random(num_rows, dtype=np.float32) for at in range(width)
        }
        path = home / f"{name}.lance"
        lance.write_dataset(pa.table(columns), path, max_rows_per_file=rows_per_file)

    make_once(home, make)
    what = f"{width:,} x float32"
    return BenchTable(name, what, home, num_rows, BATCH_SIZE, BATCH_SIZE)
