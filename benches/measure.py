"""Timing: interleaved rounds, so that a busy neighbour slows everyone, and medians."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from contenders import (
    ARROW,
    LANCEDB,
    OURS,
    Batches,
    Contender,
    contenders,
    data_loader,
    dataset_of,
    endless,
    ours,
    theirs,
)
from tables import BenchTable
from torch.utils.data import default_collate

MIN_BATCHES = 3
"""However slow a contender is, a sample has this many batches."""
NUM_WORKERS = 2
WORKER_TABLES = ("narrow", "image")
"""One of narrow and one of wide rows: every start of workers costs a quarter of a minute."""
# torch's prefetch_factor: what workers may have ready while another contender has its turn.
READY_PER_WORKER = 2


@dataclass(frozen=True)
class Sample:
    """One contender's turn in one round."""

    table: str
    output: str
    contender: str
    num_workers: int
    round: int
    rows_per_s: float
    num_batches: int
    first_batch_s: float | None
    """From opening the table to the first batch; once only for workers."""
    thread_s_per_batch: float
    """CPU time of the thread that asks for batches."""
    process_s_per_batch: float
    """CPU time of the main process, all threads."""
    load: float
    """Load average of the machine over the last minute."""


@dataclass(frozen=True)
class CollateSample:
    """Fetching rows as Python objects, then torch's default collate, per batch."""

    table: str
    contender: str
    round: int
    fetch_s: float
    collate_s: float
    collate_thread_s: float


@dataclass(frozen=True)
class Turn:
    num_rows: int
    num_batches: int
    wall_s: float
    thread_s: float
    process_s: float


def time_batches(batches: Batches, seconds: float) -> Turn:
    """Ask for batches until the time is up."""
    num_rows = num_batches = 0
    process, thread = time.process_time(), time.thread_time()
    start = now = time.perf_counter()
    while now - start < seconds or num_batches < MIN_BATCHES:
        num_rows += rows_of(next(batches))
        num_batches += 1
        now = time.perf_counter()
    thread_s = time.thread_time() - thread
    process_s = time.process_time() - process
    return Turn(num_rows, num_batches, now - start, thread_s, process_s)


def rows_of(batch: Any) -> int:
    if isinstance(batch, pa.RecordBatch):
        return batch.num_rows
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)


def run_rounds(
    table: BenchTable, num_rounds: int, seconds: float, step: Callable[[str], object]
) -> list[Sample]:
    """Let everyone open the table and read, by turns; each round has another seed."""
    everyone = contenders(table)
    samples = []
    for number in range(num_rounds):
        for contender in rotated(everyone, number):
            step(f"{table.name}: {contender.name}")
            samples.append(run_turn(table, contender, number, seconds))
    return samples


def rotated(everyone: Sequence[Any], number: int) -> list[Any]:
    """Begin with another one each round: nobody always follows the same neighbour."""
    start = number % len(everyone)
    return [*everyone[start:], *everyone[:start]]


def run_turn(
    table: BenchTable, contender: Contender, number: int, seconds: float
) -> Sample:
    gc.collect()
    start = time.perf_counter()
    batches = contender.open(table, number)
    next(batches)
    first_batch_s = time.perf_counter() - start
    if contender.reads_ahead:
        # Windows grow at first, and then come in lumps of up to half a second.
        time_batches(batches, seconds)
        seconds *= 2
    turn = time_batches(batches, seconds)
    return sample_of(
        turn, table.name, contender.output, contender.name, number, first_batch_s
    )


def run_workers(
    table: BenchTable, num_rounds: int, seconds: float, step: Callable[[str], object]
) -> list[Sample]:
    """The same with worker processes, which stay: starting them takes seconds."""
    samples, running, first = [], {}, {}
    for name in (OURS, LANCEDB):
        step(f"{table.name}: {name}, starting {NUM_WORKERS} workers")
        start = time.perf_counter()
        dataset = dataset_of(name, ARROW, table)
        loader = data_loader(dataset, table, 0, num_workers=NUM_WORKERS)
        running[name] = endless(loader)
        next(running[name])
        first[name] = time.perf_counter() - start
    for number in range(num_rounds):
        for name in rotated(list(running), number):
            step(f"{table.name}: {name}, {NUM_WORKERS} workers")
            # These lay ready while others had their turn.
            for _ in range(NUM_WORKERS * READY_PER_WORKER):
                next(running[name])
            turn = time_batches(running[name], seconds)
            start_s = first[name] if number == 0 else None
            sample = sample_of(
                turn, table.name, ARROW, name, number, start_s, NUM_WORKERS
            )
            samples.append(sample)
    return samples


def sample_of(
    turn: Turn,
    table: str,
    output: str,
    contender: str,
    number: int,
    first_batch_s: float | None,
    num_workers: int = 0,
) -> Sample:
    return Sample(
        table=table,
        output=output,
        contender=contender,
        num_workers=num_workers,
        round=number,
        rows_per_s=turn.num_rows / turn.wall_s,
        num_batches=turn.num_batches,
        first_batch_s=first_batch_s,
        thread_s_per_batch=turn.thread_s / turn.num_batches,
        process_s_per_batch=turn.process_s / turn.num_batches,
        load=os.getloadavg()[0],
    )


def run_collate(
    table: BenchTable, num_rounds: int, step: Callable[[str], object], repeats: int = 5
) -> list[CollateSample]:
    """What default collate costs beyond fetching, in the ``python`` format."""
    datasets = {OURS: ours(table), LANCEDB: theirs(table)}
    samples = []
    for number in range(num_rounds):
        generator = torch.Generator().manual_seed(number)
        size = (repeats + 1, table.batch_size)
        picks = torch.randint(table.num_rows, size, generator=generator).tolist()
        for name in rotated(list(datasets), number):
            step(f"{table.name}: {name}, python format and default collate")
            times = [time_collate(datasets[name], indices) for indices in picks]
            # The first batch opens files.
            fetch, collate, thread = map(
                statistics.median, zip(*times[1:], strict=True)
            )
            sample = CollateSample(table.name, name, number, fetch, collate, thread)
            samples.append(sample)
    return samples


def time_collate(dataset: Any, indices: list[int]) -> tuple[float, float, float]:
    start = time.perf_counter()
    rows = dataset.__getitems__(indices)
    fetched, thread = time.perf_counter(), time.thread_time()
    default_collate(rows)
    collate_s, thread_s = time.perf_counter() - fetched, time.thread_time() - thread
    return fetched - start, collate_s, thread_s


def check_equal(table: BenchTable) -> None:
    """Refuse to compare contenders that say they give the same rows and do not."""
    firsts: dict[tuple[str, str], tuple[str, Any]] = {}
    for contender in contenders(table):
        batch = next(contender.open(table, 1))
        if rows_of(batch) != table.batch_size:
            message = f"{contender.name} gave a batch of {rows_of(batch)} rows"
            raise AssertionError(message)
        if isinstance(batch, list):
            continue
        key = (contender.output, contender.shuffle)
        name, wanted = firsts.setdefault(key, (contender.name, batch))
        if not is_same(batch, wanted):
            message = f"{table.name}: {contender.name} and {name} gave other rows"
            raise AssertionError(message)


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, pa.RecordBatch):
        return one.equals(other)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        for name in one
    )
