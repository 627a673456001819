"""StreamingDataset of lancedb, and ours, with the same arguments: rows as Python objects, and columns."""

from __future__ import annotations

from dataclasses import replace

import peers
from harness.bench import Bench
from harness.tables import BenchTable
from peers import ARROW, ITEMS, LANCEDB, LOADER, OURS, Arm, our_loader

STREAMING = "streaming"
WORKERS = (0, 2)
OBJECTS = replace(our_loader(ITEMS), shuffle="that of loader(), exact")
"""The same objects, made of batches without anything else."""
FIGURES = ("rows_per_s", "peak_bytes", "peak_anonymous_bytes", "first_batch_s")


def run(bench: Bench) -> None:
    for name in bench.options.tables:
        if name in peers.TABLES:
            table = bench.table(name)
            table.warm()
            for output in (ITEMS, ARROW):
                for count in WORKERS:
                    race(bench, table, output, count)


def race(bench: Bench, table: BenchTable, output: str, num_workers: int) -> None:
    case = f"{table.name}, {output}, {num_workers} workers"
    arms = [arm_of(library, output, num_workers) for library in (OURS, LANCEDB)]
    if output == ITEMS and num_workers == 0:
        arms.append(OBJECTS)
    for arm, number, figures in bench.race(
        case, table, arms,
        rounds=bench.rounds, seconds=bench.seconds,
        is_warm=False, is_checked=True, is_compared=True, is_weighed=True,
    ):  # fmt: skip
        kept = {name: figures[name] for name in FIGURES if name in figures}
        who = LOADER if arm is OBJECTS else arm.library
        bench.add(STREAMING, f"{case}: {who}", number, kept)


def arm_of(library: str, output: str, num_workers: int) -> Arm:
    options = {"num_workers": num_workers, "is_columnar": output == ARROW}
    return Arm(
        library, f"StreamingDataset, {num_workers} workers", output, peers.OWN,
        "peers.streaming:two_splits", {"library": library, **options},
        make="peers.loader:fill_rows" if library == OURS else "",
        imports=(f"{library}.streaming",), is_restarted=num_workers > 0,
    )  # fmt: skip
