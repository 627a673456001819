"""The jobs of one arm, in a process of its own; ``child.py`` starts them.

It imports little: what an arm needs is imported before the clock starts, and nothing else.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sameness import ids, what_differs
from tables import BenchTable
from timing import time_batches, touch_images

SEED = 1
Say = Callable[..., None]
Wait = Callable[[], object]


def function(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def ready(arm: dict[str, Any], say: Say, wait: Wait) -> Callable[..., Iterator[Any]]:
    for module in arm["imports"]:
        importlib.import_module(module)
    opened = function(arm["open"])
    say("imported")
    wait()
    return opened


def make(table: BenchTable, arm: dict[str, Any], say: Say, wait: Wait) -> None:
    """Write what the arm reads."""
    say("imported")
    wait()
    function(arm["make"])(table)
    say("made")


def speed(
    table: BenchTable, arm: dict[str, Any], say: Say, wait: Wait, *,
    number: int, seconds: float, is_weighed: bool,
) -> None:  # fmt: skip
    """Time the first batch, and then those of some seconds; in the end, look at one."""
    opened = ready(arm, say, wait)
    start = time.perf_counter()
    batches = opened(table, SEED + number, **arm["options"])
    next(batches)
    say("first", seconds=time.perf_counter() - start)
    use = touch_images if table.name == "image" else None
    warm = most = None
    if arm["is_restarted"]:
        steps = table.num_rows // table.batch_size - 1
        warm, most = steps // 4, steps - steps // 4
    # As many batches must lie ready when the clock starts as when it stops.
    time_batches(batches, seconds / 2, use, warm)
    say("timing")
    wait()
    turn = time_batches(batches, seconds, use, most)
    say(
        "timed",
        rows_per_s=turn.num_rows / turn.wall_s,
        num_batches=turn.num_batches,
        process_s_per_batch=turn.process_s / turn.num_batches,
    )
    if is_weighed:
        wait()
        if not arm["is_restarted"]:
            time_batches(batches, seconds / 2, use)
        say("weighed")
        wait()
        say("compared", differs=what_differs(table, next(batches)))


def state(
    table: BenchTable, arm: dict[str, Any], say: Say, wait: Wait, *, step: int
) -> None:
    """Make the state that a library has at a step."""
    ready(arm, say, wait)
    found = function(arm["state"])(table, SEED, step=step, **arm["options"])
    say("state", state=found)


def resume(
    table: BenchTable, arm: dict[str, Any], say: Say, wait: Wait, *,
    step: int, state: dict[str, Any] | None, replay_s: float,
) -> None:  # fmt: skip
    """Time the first batch at a step; who has no state reads all before it, for a while."""
    opened = ready(arm, say, wait)
    skipped = 0
    start = time.perf_counter()
    if arm["resumes"] == "reads up to the step":
        batches = opened(table, SEED, **arm["options"])
        steps = step % (table.num_rows // table.batch_size)
        while skipped < steps and time.perf_counter() - start < replay_s:
            next(batches)
            skipped += 1
        batch = next(batches)
        seconds = time.perf_counter() - start
        seconds *= max(steps, 1) / max(skipped, 1)
        say("resumed", seconds=seconds, share=skipped / max(steps, 1), ids=ids(batch))
        return
    at = {"step": step} if state is None else {"state": state}
    batch = next(opened(table, SEED, **arm["options"], **at))
    say("resumed", seconds=time.perf_counter() - start, share=1.0, ids=ids(batch))


def play(
    table: BenchTable, arm: dict[str, Any], say: Say, wait: Wait, *, step: int
) -> None:
    """Read up to a step, and say which rows come then."""
    opened = ready(arm, say, wait)
    batches = islice(opened(table, SEED, **arm["options"]), step, None)
    say("played", ids=ids(next(batches)))


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (make, speed, state, resume, play)
}
