"""DataLoader workers on one resident table: memory of each, and time to the first batch."""

from __future__ import annotations

import statistics
from pathlib import Path

from epochs import empty_folder
from measure import Failure, Measured, Step, failure
from outside import child, proportional, workers
from tables import BenchTable

WORKERS = "workers"
OURS = "lanceloader"
IDLE = "torch alone"
CASES = [
    (OURS, "spawn", 2),
    (OURS, "spawn", 4),
    (OURS, "fork", 2),
    (OURS, "fork", 4),
    ("lancedb", "spawn", 2),
]


def run_workers(
    table: BenchTable, cases: list[tuple[str, str, int]], step: Step
) -> tuple[list[Measured], list[Failure]]:
    """Weigh the workers of each case, and as many that imported torch and nothing else.

    Once each: memory hardly varies, and a start takes seconds.
    """
    measured, failures = [], []
    # What torch alone weighs is the same whoever is held against it.
    idle: dict[tuple[str, int], dict[str, float]] = {}
    with empty_folder(table.folder.parent) as cache:
        for who, context, num_workers in cases:
            name = f"{who}, {num_workers} workers, {context}"
            step(name)
            key = (context, num_workers)
            try:
                if key not in idle:
                    idle[key] = weigh_workers(table, IDLE, num_workers, context, cache)
                ours = weigh_workers(table, who, num_workers, context, cache)
                figures = compared(ours, idle[key], cache)
            except Exception as error:
                failures.append(failure(WORKERS, name, "", error))
            else:
                measured.append(Measured(WORKERS, name, 0, figures))
    return measured, failures


def compared(
    ours: dict[str, float], idle: dict[str, float], cache: Path
) -> dict[str, float]:
    packed = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return {
        "first_batch_s": ours["first_batch_s"],
        "idle_first_batch_s": idle["first_batch_s"],
        "rows_per_s": ours["rows_per_s"],
        "worker_bytes": ours["worker_bytes"],
        "idle_worker_bytes": idle["worker_bytes"],
        "extra_bytes": ours["worker_bytes"] - idle["worker_bytes"],
        "shared_rows_bytes": ours["rows_bytes"],
        "packed_bytes": packed,
    }


def weigh_workers(
    table: BenchTable, who: str, num_workers: int, context: str, cache: Path
) -> dict[str, float]:
    arguments = {"who": who, "num_workers": num_workers, "context": context}
    with child("work", cache, table=table, **arguments) as running:
        running.go_on()
        first = running.wait_for("first")["seconds"]
        rate = running.wait_for("steady")["rows_per_s"]
        found = workers(running.process.pid)
        if len(found) != num_workers:
            message = f"{len(found)} worker processes, wanted {num_workers}"
            raise RuntimeError(message)
        weights = [proportional(pid, cache) for pid in found]
        main, _ = proportional(running.process.pid, cache)
        running.go_on()
    return {
        "first_batch_s": first,
        "rows_per_s": rate,
        "rows_bytes": main + sum(rows for rows, _ in weights),
        "worker_bytes": statistics.mean(rest for _, rest in weights),
    }
