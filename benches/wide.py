"""Wide and fragmented tables: what a batch costs by columns, and the first batch by fragments.

Beside ``take`` of pylance, which reads the same rows of the same table.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
from measure import Failure, Measured, Step, failure, rotated
from outside import child, weigh
from recipes import SEED
from tables import BenchTable, make_once
from timing import time_batches

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

LOADER = "loader()"
DIRECT = "loader(read='direct')"
OUR_TAKE = "take"
TAKE = "pylance take"
ALL, ONE = "all", "one"

Batches = Iterator[pa.RecordBatch | pa.Table]


def run_wide(
    folder: Path, num_rounds: int, seconds: float, step: Step, *, quick: bool
) -> tuple[list[Measured], list[Failure]]:
    measured: list[Measured] = []
    failures: list[Failure] = []
    jobs: list[tuple[str, str, Callable[[int], dict[str, float]]]] = []
    for width in WIDTHS:
        table = wide_table(folder, width, WIDE_ROWS // (8 if quick else 1))
        for selected in (ALL, ONE):
            for arm in ARMS:
                case = case_of_columns(width, selected, arm)
                jobs.append((COLUMNS, case, columns_job(table, selected, arm, seconds)))
    for count in NUM_FRAGMENTS:
        table = fragmented_table(
            folder, count // (10 if quick else 1), FRAGMENT_COLUMNS
        )
        for arm in (OUR_TAKE, TAKE):
            case = case_of_fragments(count, arm)
            jobs.append((FRAGMENTS, case, fragments_job(table, arm)))
    table = fragmented_table(folder, WIDE_FRAGMENTS // (10 if quick else 1), WIDTHS[-1])
    for arm in (OUR_TAKE, TAKE):
        case = f"{WIDE_FRAGMENTS:,} fragments, one of {WIDTHS[-1]:,} columns: {arm}"
        jobs.append((FRAGMENTS, case, fragments_job(one_of(table), arm)))
    for number in range(num_rounds):
        for experiment, case, job in rotated(jobs, number * len(jobs) // num_rounds):
            step(case)
            try:
                measured.append(Measured(experiment, case, number, job(number)))
            except Exception as error:
                failures.append(failure(experiment, case, "", error))
    order = {case: at for at, (_, case, _) in enumerate(jobs)}
    measured.sort(key=lambda one: (one.round, order[one.case]))
    return measured, failures


def case_of_columns(width: int, selected: str, arm: str) -> str:
    return f"{width:,} columns, {selected} read: {arm}"


def case_of_fragments(count: int, arm: str) -> str:
    return f"{count:,} fragments: {arm}"


def columns_job(
    table: BenchTable, selected: str, arm: str, seconds: float
) -> Callable[[int], dict[str, float]]:
    table = one_of(table) if selected == ONE else table

    def job(number: int) -> dict[str, float]:
        gc.collect()
        start = time.perf_counter()
        batches = ARMS[arm](table, number)
        next(batches)
        first_batch_s = time.perf_counter() - start
        # What is kept is filled by then, and what reads ahead has as much ready as in the end.
        time_batches(batches, seconds / 2)
        turn = time_batches(batches, seconds)
        return {
            "rows_per_s": turn.num_rows / turn.wall_s,
            "process_s_per_batch": turn.process_s / turn.num_batches,
            "first_batch_s": first_batch_s,
        }

    return job


def fragments_job(table: BenchTable, arm: str) -> Callable[[int], dict[str, float]]:
    def job(number: int) -> dict[str, float]:
        with child("first", table=table, arm=arm, seed=number) as running:
            before = weigh(running.process.pid)
            running.go_on()
            first_batch_s = running.wait_for("first")["seconds"]
            first = weigh(running.process.pid)
            running.go_on()
            later_s = running.wait_for("later")["seconds"]
            later = weigh(running.process.pid)
            running.go_on()
        return {
            "first_batch_s": first_batch_s,
            "later_batch_s": later_s / LATER_BATCHES,
            "first_bytes": first.all - before.all,
            "later_bytes": later.all - before.all,
            "later_anonymous_bytes": later.anonymous - before.anonymous,
        }

    return job


def loader(table: BenchTable, number: int, read: str | None = None) -> Batches:
    perm = ll.open(table.path)
    if table.columns:
        perm = perm.select_columns(table.columns)
    batches = perm.loader(
        table.batch_size, shuffle=True, seed=number, format="arrow", read=read
    )
    epoch = 0
    while True:
        yield from batches.set_epoch(epoch)
        epoch += 1


def direct(table: BenchTable, number: int) -> Batches:
    return loader(table, number, "direct")


def our_take(table: BenchTable, number: int) -> Batches:
    perm = ll.open(table.path).with_read("direct").with_format("arrow")
    if table.columns:
        perm = perm.select_columns(table.columns)
    return map(perm.take_offsets, positions(table, number))


def their_take(table: BenchTable, number: int) -> Batches:
    dataset = lance.dataset(table.path)
    names = None if table.columns is None else list(table.columns)
    return (dataset.take(rows, columns=names) for rows in positions(table, number))


def positions(table: BenchTable, number: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(number)
    while True:
        yield rng.integers(0, table.num_rows, table.batch_size).tolist()


ARMS: dict[str, Callable[[BenchTable, int], Batches]] = {
    LOADER: loader,
    DIRECT: direct,
    OUR_TAKE: our_take,
    TAKE: their_take,
}


def one_of(table: BenchTable) -> BenchTable:
    return table.features(1)


def wide_table(folder: Path, width: int, num_rows: int) -> BenchTable:
    return table_in(folder, f"columns-{width}", width, num_rows, num_rows)


def fragmented_table(folder: Path, count: int, width: int) -> BenchTable:
    name = f"fragments-{count}-{width}"
    return table_in(folder, name, width, count * FRAGMENT_ROWS, FRAGMENT_ROWS)


def table_in(
    folder: Path, name: str, width: int, num_rows: int, rows_per_file: int
) -> BenchTable:
    """Return a table of columns ``f0``, ``f1``, ... of float32, made now if it is not there."""
    home = folder / f"{name}-{num_rows}"

    def make(home: Path) -> None:
        rng = np.random.default_rng(SEED)
        columns = {
            f"f{at}": rng.random(num_rows, dtype=np.float32) for at in range(width)
        }
        path = home / f"{name}.lance"
        lance.write_dataset(pa.table(columns), path, max_rows_per_file=rows_per_file)

    make_once(home, make)
    what = f"{width:,} x float32"
    return BenchTable(name, what, home, num_rows, BATCH_SIZE, BATCH_SIZE)


def first(
    table: BenchTable, say: Any, wait: Callable[[], object], *, arm: str, seed: int
) -> None:
    """Open a table and read, in a process of its own; stop to be weighed."""
    ll.open  # noqa: B018 (its import is no part of opening)
    say("imported")
    wait()
    start = time.perf_counter()
    batches = ARMS[arm](table, seed)
    next(batches)
    say("first", seconds=time.perf_counter() - start)
    wait()
    start = time.perf_counter()
    for _ in range(LATER_BATCHES):
        next(batches)
    say("later", seconds=time.perf_counter() - start)
    wait()
