"""Rows per second by the process that makes batches, and of a transform that holds the GIL."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import peers
from harness.bench import Bench
from harness.tables import BenchTable
from peers import ARROW, OURS, TENSORS, Arm

PROCESSES = "processes"
TABLES = {"narrow": TENSORS, "embeddings": TENSORS, "image": ARROW, "text": ARROW}
TENSOR_TABLES = [name for name, output in TABLES.items() if output == TENSORS]
WORK_S = 0.005
"""The time that the transform takes for a batch."""
OWN, TORCH = "own DataLoader", "torch's DataLoader"
TORCH_TENSORS = "torch tensors"
"""In memory; workers select the rows of a batch."""
DIRECT, HELPER = "loader()", "loader(in_process=False)"
RATIO = "times"
"""How many times the rows/s of the case that it is held against, in the same round."""


def run(bench: Bench) -> None:
    for name, output in TABLES.items():
        if name in bench.options.tables:
            table = bench.table(name)
            table.warm()
            race(bench, table, ways(output))
    if "narrow" in bench.options.tables:
        slow = [in_workers(OWN, TENSORS, count, WORK_S) for count in (1, 2)]
        race(bench, bench.table("narrow"), slow)


def ways(output: str) -> list[Arm]:
    """Return the ways to make batches: in this process, in a helper, and in workers."""
    arms = [in_loader(output, is_helper) for is_helper in (False, True)]
    counts = {OWN: (0, 2, 4, 8), TORCH: (0, 2)}
    arms += [
        in_workers(library, output, count)
        for library, numbers in counts.items()
        for count in numbers
    ]
    return [*arms, of_tensors(2)] if output == TENSORS else arms


def of_tensors(count: int) -> Arm:
    return Arm(
        "torch in memory", f"{TORCH_TENSORS}, {count} workers", TENSORS, peers.TORCH,
        "peers.processes:of_tensors", {"num_workers": count},
    )  # fmt: skip


def in_loader(output: str, is_helper: bool) -> Arm:  # noqa: FBT001
    how = HELPER if is_helper else DIRECT
    options = {"in_process": not is_helper}
    return arm(how, output, "in_loader", options)


def in_workers(library: str, output: str, count: int, work_s: float = 0) -> Arm:
    how = f"{library}, {count} workers"
    options: dict[str, Any] = {
        "library": "torch" if library == TORCH else OURS,
        "num_workers": count,
    }
    if work_s:
        how += f", {work_s * 1e3:.0f} ms of Python a batch"
        options["work_s"] = work_s
    return arm(how, output, "in_workers", options)


def arm(how: str, output: str, opened: str, options: dict[str, Any]) -> Arm:
    return Arm(
        OURS, how, output, peers.OWN, f"peers.processes:{opened}",
        {"format": peers.FORMATS[output], **options},
        make="peers.loader:fill_rows", imports=(f"{OURS}.torch",),
    )  # fmt: skip


def race(bench: Bench, table: BenchTable, arms: list[Arm]) -> None:
    """Race ways to make the same batches; each is held against its kind with the fewest workers."""
    rates: dict[int, dict[str, float]] = defaultdict(dict)
    for found, number, figures in bench.race(
        f"{table.name}, processes", table, arms, rounds=bench.rounds,
        seconds=bench.seconds, is_checked=True, is_compared=True,
    ):  # fmt: skip
        rates[number][found.how] = figures["rows_per_s"]
    for number, of_round in rates.items():
        for how, rate in of_round.items():
            figures = {"rows_per_s": rate}
            against = of_round.get(baseline_of(how, arms))
            if against is not None and not how.startswith(TORCH_TENSORS):
                figures[RATIO] = rate / against
            bench.add(PROCESSES, f"{table.name}, {how}", number, figures)


def baseline_of(how: str, arms: list[Arm]) -> str:
    """Return the first way of the same kind: of the same DataLoader, or of ``loader()``."""
    kind = how.partition(",")[0]
    if kind == HELPER:
        return DIRECT
    return next(arm.how for arm in arms if arm.how.partition(",")[0] == kind)
