"""Datasets of `lance.torch`, and ours of the same names, by turns on the same rows."""

from __future__ import annotations

from collections import defaultdict

import peers
from harness.bench import Bench
from harness.tables import BenchTable
from peers import LANCE_TORCH, OURS, Arm

DROP_IN = "lance.torch"
SIZES = (256, 1024, 8192)
"""Rows in a batch of a scan."""
TABLES = ("narrow", "embeddings")
WORKERS = (0, 2)
MODULES = {
    LANCE_TORCH: "lance.torch.data",
    OURS: "lanceloader.compat.lance_torch",
}
OF_OURS, OF_THEIRS, TIMES = "ours_rows_per_s", "theirs_rows_per_s", "times"
CPU_TIMES = "cpu_times"
"""How many times the CPU time of ours theirs takes for the same rows, of all threads.

Other programs slow both down, but hardly change it. That of workers is not counted.
"""


def run(bench: Bench) -> None:
    for name in TABLES:
        if name in bench.options.tables:
            table = bench.table(name)
            table.warm()
            for size in SIZES:
                race(bench, table.of(batch_size=size), scans())
    if "narrow" in bench.options.tables:
        for count in WORKERS:
            race(bench, bench.table("narrow"), rows_at_random(count))


def scans() -> list[Arm]:
    return [
        Arm(
            library, "LanceDataset", peers.TENSORS, peers.NONE, "peers.lance_torch:scan",
            {"library": library}, imports=(module,),
        )
        for library, module in MODULES.items()
    ]  # fmt: skip


def rows_at_random(num_workers: int) -> list[Arm]:
    how = f"SafeLanceDataset, shuffled, {num_workers} workers"
    options = {"num_workers": num_workers}
    return [
        Arm(
            library, how, peers.TENSORS, peers.TORCH, "peers.lance_torch:rows",
            {"library": library, **options},
            make="peers.loader:fill_rows" if library == OURS else "", imports=(module,),
        )
        for library, module in MODULES.items()
    ]  # fmt: skip


def race(bench: Bench, table: BenchTable, arms: list[Arm]) -> None:
    """Race both; each round adds how many times as fast ours was in it."""
    case = f"{table.name}, {arms[0].how}, batches of {table.batch_size:,}"
    rounds: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    for arm, number, figures in bench.race(
        case, table, arms, rounds=bench.rounds, seconds=bench.seconds,
        is_checked=True, is_compared=True,
    ):  # fmt: skip
        rounds[number][arm.library] = figures
    for number, found in rounds.items():
        if len(found) == len(arms):
            ours, theirs = found[OURS], found[LANCE_TORCH]
            figures = {
                OF_OURS: ours["rows_per_s"],
                OF_THEIRS: theirs["rows_per_s"],
                TIMES: ours["rows_per_s"] / theirs["rows_per_s"],
            }
            if not arms[0].options.get("num_workers"):
                cpu = [one["process_s_per_batch"] for one in (theirs, ours)]
                figures[CPU_TIMES] = cpu[0] / cpu[1]
            bench.add(DROP_IN, case, number, figures)
