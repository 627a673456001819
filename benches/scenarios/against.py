"""Every peer on each table: rows/s, first batch and memory; and on one table, resuming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import peers
from harness.bench import Bench, Figures
from harness.child import function
from harness.process import result_of
from harness.tables import BenchTable
from harness.turn import ids
from peers import REPLAYS, WINDOWS, Arm

PEERS = "peers"
SPEED, RESUME, CHECK = "speed", "resume", "check"
EXACT, WINDOWED = "exact", "windowed"
RESUME_TABLE, RESUME_BATCH, RESUME_STEP = "narrow", 16, 1_000_000
QUICK_STEP = 100_000
REPLAY_LIMIT_S = 60.0
"""Who reads up to a step does so for this long; the rest is reckoned from it."""
CHECK_STEP = 200
"""Up to here everyone reads once, so that resuming there can be compared with it."""
SEED = 1


def run(bench: Bench) -> None:
    for name in bench.options.tables:
        if name in peers.TABLES:
            race(bench, bench.table(name))
    if RESUME_TABLE in bench.options.tables:
        resume_all(bench, bench.table(RESUME_TABLE).of(batch_size=RESUME_BATCH))


def race(bench: Bench, table: BenchTable) -> None:
    table.warm()
    for arm, number, figures in bench.race(
        f"{table.name}, {PEERS}", table, arms_of(bench, table),
        rounds=bench.rounds, seconds=bench.seconds,
        is_warm=False, is_checked=True, is_weighed=True,
    ):  # fmt: skip
        for unused in ("thread_s_per_batch", "peak_file_bytes"):
            figures.pop(unused, None)
        add(bench, SPEED, table, arm, number, figures)


def arms_of(bench: Bench, table: BenchTable) -> list[Arm]:
    words = bench.options.arms
    return [
        arm
        for arm in peers.peers_of(table.name)
        if not words or any(word in arm.name for word in words)
    ]


def resume_all(bench: Bench, table: BenchTable) -> None:
    """Have everyone begin at a step, by turns; and once at one that is soon reached."""
    where = f"resuming, {PEERS}"
    running = []
    for arm in bench.prepared(where, table, arms_of(bench, table)):
        with bench.attempt(where, f"{arm.name}, compared", arm.output):
            if arm.resumes != REPLAYS:
                figures = {"is_exact": float(is_exact(table, arm))}
                add(bench, CHECK, table, arm, 0, figures)
            running.append(arm)
    step = QUICK_STEP if bench.quick else RESUME_STEP

    def turn(arm: Arm) -> Figures:
        found = resumed(table, arm, step)
        return {"resume_s": found["seconds"], "share": found["share"]}

    jobs = {arm: lambda _, arm=arm: turn(arm) for arm in running}
    for arm, number, figures in bench.interleave(
        where, jobs, bench.rounds, lambda arm: (arm.name, arm.output)
    ):
        add(bench, RESUME, table, arm, number, figures)


def add(
    bench: Bench, what: str, table: BenchTable, arm: Arm, number: int, figures: Figures
) -> None:
    bench.peers.append(
        {
            "what": what,
            "table": table.name,
            "num_rows": table.num_rows,
            "batch_size": table.batch_size,
            "library": arm.library,
            "how": arm.how,
            "output": arm.output,
            "shuffle": WINDOWED if arm.shuffle == WINDOWS else EXACT,
            "resumes": arm.resumes,
            "round": number,
            "load": bench.load(),
            "figures": figures,
        }
    )


def resumed(table: BenchTable, arm: Arm, step: int) -> dict[str, Any]:
    arguments = {"table": table, "arm": arm, "step": step, "venv": arm.venv}
    at = {"step": step}
    if arm.state:
        at = result_of("scenarios.against:state", **arguments)
    return result_of("scenarios.against:resume", at=at, **arguments)


def is_exact(table: BenchTable, arm: Arm) -> bool:
    """Whether the rows after resuming are those that come without."""
    arguments = {"table": table, "arm": arm, "step": CHECK_STEP, "venv": arm.venv}
    wanted = result_of("scenarios.against:play", **arguments)["ids"]
    return resumed(table, arm, CHECK_STEP)["ids"] == wanted


# In processes of their own


def state(table: BenchTable, arm: Arm, step: int) -> Iterator[Any]:
    """Make the state that a library has at a step."""
    arm.imported()
    yield
    yield {"state": function(arm.state)(table, SEED, step=step, **arm.options)}


def resume(table: BenchTable, arm: Arm, step: int, at: dict[str, Any]) -> Iterator[Any]:
    """Time the first batch at a step; who has no state reads all before it, for a while."""
    opened = arm.imported()
    yield
    replays = arm.resumes == REPLAYS
    steps, skipped = step % table.num_batches, 0
    start = time.perf_counter()
    batches = opened(table, SEED, **arm.options, **({} if replays else at))
    while replays and skipped < steps and time.perf_counter() - start < REPLAY_LIMIT_S:
        next(batches)
        skipped += 1
    batch = next(batches)
    seconds = time.perf_counter() - start
    share = skipped / max(steps, 1) if replays else 1.0
    if replays:
        seconds *= max(steps, 1) / max(skipped, 1)
    yield {"seconds": seconds, "share": share, "ids": ids(batch)}


def play(table: BenchTable, arm: Arm, step: int) -> Iterator[Any]:
    """Read up to a step, and say which rows come then."""
    opened = arm.imported()
    yield
    batches = islice(opened(table, SEED, **arm.options), step, None)
    yield {"ids": ids(next(batches))}
