"""Timing: interleaved rounds, so that a busy neighbour slows everyone."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from contenders import NONE, OWN, REFERENCES, TORCH, Contender
from races import Race
from tables import BenchTable
from timing import rows_of, time_batches, touch_images

FILLING_S = 60.0
"""An epoch that leaves rows ready for the race may take this long."""

Step = Callable[[str], object]


@dataclass(frozen=True)
class Sample:
    """One contender's turn in one round."""

    kind: str
    race: str
    table: str
    num_rows: int
    num_columns: int | None
    batch_size: int
    contender: str
    output: str
    shuffle: str
    round: int
    rows_per_s: float
    num_batches: int
    first_batch_s: float
    """From opening the table to the first batch."""
    thread_s_per_batch: float
    """CPU time of the thread that asks for batches."""
    process_s_per_batch: float
    """CPU time of the process, all threads."""
    load: float
    """Load average of the machine over the last minute."""


@dataclass(frozen=True)
class Measured:
    """What an experiment found in one round, by name."""

    experiment: str
    case: str
    round: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """A contender that could not run; it is left out of the race, and told."""

    where: str
    contender: str
    output: str
    reason: str


def run_race(
    race: Race, num_rounds: int, seconds: float, step: Step
) -> tuple[list[Sample], list[Failure]]:
    """Let everyone open the table and read, by turns; each round has another seed.

    Who cannot run is left out from then on.
    """
    samples: list[Sample] = []
    failures: list[Failure] = []
    running = list(race.contenders)
    for number in range(num_rounds):
        for contender in rotated(running, number):
            step(f"{race.name}: {contender.name}")
            try:
                if number == 0:
                    make_ready(race.table, contender)
                samples.append(run_turn(race, contender, number, seconds))
            except Exception as error:
                running.remove(contender)
                failures.append(
                    failure(race.name, contender.name, contender.output, error)
                )
    return samples, failures


def rotated(everyone: Sequence[Any], number: int) -> list[Any]:
    """Begin with another one each round: nobody always follows the same neighbour."""
    start = number % max(len(everyone), 1)
    return [*everyone[start:], *everyone[:start]]


def make_ready(table: BenchTable, contender: Contender) -> None:
    """Make what a contender reads, and let it fill what it keeps."""
    if contender.prepare:
        contender.prepare(table)
    if contender.keeps_rows:
        fill(table, contender)


def failure(where: str, contender: str, output: str, error: Exception) -> Failure:
    first_line = str(error).partition("\n")[0]
    return Failure(where, contender, output, f"{type(error).__name__}: {first_line}")


_filled: set[tuple[Path, tuple[str, ...] | None, str]] = set()


def fill(table: BenchTable, contender: Contender) -> None:
    """Read one epoch, so that the race measures those after it; the first is measured apart."""
    key = (table.path, table.columns, contender.name)
    if key in _filled:
        return
    batches = contender.open(table, 0)
    start = time.perf_counter()
    for _ in range(table.num_rows // table.batch_size):
        next(batches)
        if time.perf_counter() - start > FILLING_S:
            break
    _filled.add(key)


def run_turn(race: Race, contender: Contender, number: int, seconds: float) -> Sample:
    gc.collect()
    start = time.perf_counter()
    batches = contender.open(race.table, number)
    next(batches)
    first_batch_s = time.perf_counter() - start
    use = touch_images if race.table.name == "image" else None
    if contender.reads_ahead:
        # As many batches must lie ready when the clock starts as when it stops.
        time_batches(batches, seconds / 2, use)
    turn = time_batches(batches, seconds, use)
    columns = race.table.columns
    return Sample(
        kind=race.kind,
        race=race.name,
        table=race.table.name,
        num_rows=race.table.num_rows,
        num_columns=None if columns is None else len(columns),
        batch_size=race.table.batch_size,
        contender=contender.name,
        output=contender.output,
        shuffle=contender.shuffle,
        round=number,
        rows_per_s=turn.num_rows / turn.wall_s,
        num_batches=turn.num_batches,
        first_batch_s=first_batch_s,
        thread_s_per_batch=turn.thread_s / turn.num_batches,
        process_s_per_batch=turn.process_s / turn.num_batches,
        load=os.getloadavg()[0],
    )


def check_equal(race: Race) -> list[Failure]:
    """Find contenders that say they give the same rows and do not."""
    firsts: dict[tuple[str, str], tuple[str, Any]] = {}
    failures = []
    extra = [REFERENCES[output] for output in outputs_of(race)]
    for contender in [*extra, *race.contenders]:
        if contender.shuffle not in (TORCH, OWN, NONE):
            continue
        try:
            if contender.prepare:
                contender.prepare(race.table)
            batch = next(contender.open(race.table, 1))
            found = rows_of(batch)
            if found != race.table.batch_size and not contender.own_batch_size:
                message = f"a batch of {found} rows"
                raise AssertionError(message)
            key = (contender.output, contender.shuffle)
            name, wanted = firsts.setdefault(key, (contender.name, batch))
            if not is_same(batch, wanted):
                message = f"other rows than {name}"
                raise AssertionError(message)
        except Exception as error:
            failures.append(failure(race.name, contender.name, contender.output, error))
    return failures


def outputs_of(race: Race) -> list[str]:
    """Give the outputs in which our own shuffle takes part, and has a reference."""
    mine = {one.output for one in race.contenders if one.shuffle == OWN}
    return [output for output in REFERENCES if output in mine]


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, pa.RecordBatch | pa.Table):
        return is_same_arrow(table_of(one), table_of(other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if hasattr(one, "offsets"):
        return is_same(one.values, other.values) and is_same(one.offsets, other.offsets)
    if isinstance(one, dict):
        names = one.keys()
        return names == other.keys() and all(
            is_same(one[name], other[name]) for name in names
        )
    return one == other


def table_of(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    return batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])


def is_same_arrow(one: pa.Table, other: pa.Table) -> bool:
    """Compare values, whatever layout the same text or lists are handed out in."""
    rows = min(one.num_rows, other.num_rows)
    one, other = one.slice(0, rows), other.slice(0, rows)
    if not one.schema.equals(other.schema):
        one = one.cast(other.schema)
    return one.combine_chunks().equals(other.combine_chunks())
