"""DataLoader workers on one resident table: memory of each, and time to the first batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peers
from harness.bench import Bench, Figures
from harness.child import function
from harness.process import child, split_by_folder, workers
from harness.tables import BenchTable
from harness.turn import rows_of
from peers import ARROW, LANCEDB, NONE, OURS, Arm

WORKERS = "workers"
IDLE = Arm("torch alone", "", "positions", NONE, "peers.torch_loop:positions")
LANCEDB_ARM = peers.data_loader(LANCEDB, ARROW)
RESIDENT_ARM = replace(
    peers.data_loader(OURS, ARROW, read="resident"), make="peers.loader:fill_resident"
)
CASES = [
    (RESIDENT_ARM, "spawn", 2),
    (RESIDENT_ARM, "spawn", 4),
    (RESIDENT_ARM, "fork", 2),
    (RESIDENT_ARM, "fork", 4),
    (LANCEDB_ARM, "spawn", 2),
]
NUM_BATCHES = 50
"""Batches read before workers are weighed."""


def run(bench: Bench) -> None:
    """Weigh the workers of each case, and as many that imported torch and nothing else.

    Once each: memory hardly varies, and a start takes seconds.
    """
    table = bench.table("narrow")
    # What torch alone weighs is the same whoever is held against it.
    idle: dict[tuple[str, int], Figures] = {}
    with bench.empty_folder() as cache:

        def case(arm: Arm, context: str, count: int, _: int) -> Figures:
            key = (context, count)
            if key not in idle:
                idle[key] = weigh_workers(table, IDLE, context, count, cache)
            found = weigh_workers(table, arm, context, count, cache)
            return {
                "first_batch_s": found["first_batch_s"],
                "idle_first_batch_s": idle[key]["first_batch_s"],
                "rows_per_s": found["rows_per_s"],
                "worker_bytes": found["worker_bytes"],
                "idle_worker_bytes": idle[key]["worker_bytes"],
                "extra_bytes": found["worker_bytes"] - idle[key]["worker_bytes"],
                "shared_rows_bytes": found["rows_bytes"],
                "packed_bytes": size_of(cache),
            }

        cases = {
            f"{arm.library}, {count} workers, {context}": partial(
                case, arm, context, count
            )
            for arm, context, count in (CASES[:1] if bench.quick else CASES)
        }
        bench.measure(WORKERS, cases, rounds=1)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def weigh_workers(
    table: BenchTable, arm: Arm, context: str, count: int, cache: Path
) -> Figures:
    arguments = {"table": table, "arm": arm, "num_workers": count, "context": context}
    with child("scenarios.workers:work", cache=cache, **arguments) as running:
        figures = running.next()
        found = workers(running.pid)
        if len(found) != count:
            message = f"{len(found)} worker processes, wanted {count}"
            raise RuntimeError(message)
        weights = [split_by_folder(pid, cache) for pid in found]
        main, _ = split_by_folder(running.pid, cache)
    return figures | {
        "rows_bytes": main + sum(rows for rows, _ in weights),
        "worker_bytes": statistics.mean(rest for _, rest in weights),
    }


def work(table: BenchTable, arm: Arm, num_workers: int, context: str) -> Iterator[Any]:
    opened = arm.imported()
    options = {**arm.options, "num_workers": num_workers, "context": context}
    if arm.make:
        function(arm.make)(table)
    yield
    start = time.perf_counter()
    batches = opened(table, 1, **options)
    next(batches)
    first = time.perf_counter() - start
    start = time.perf_counter()
    num_rows = sum(rows_of(next(batches)) for _ in range(NUM_BATCHES))
    rate = num_rows / (time.perf_counter() - start)
    yield {"first_batch_s": first, "rows_per_s": rate}
