"""Race lanceloader against lancedb and pylance: same table, same rows, same DataLoader.

Prints tables, and writes loader.json, with every sample, and loader.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import machine
import report
from contenders import contenders
from measure import (
    NUM_WORKERS,
    WORKER_TABLES,
    check_equal,
    run_collate,
    run_rounds,
    run_workers,
)
from report import Results
from tables import CACHE, RECIPES, BenchTable, bench_table
from tqdm.auto import tqdm

METHOD = (
    "Everyone opens the same table anew in every round and reads the rows that torch's "
    "RandomSampler picks for the round's seed, in whole batches, for a fixed time. Rounds are "
    "interleaved, and each begins with another contender. The first batch is not counted in "
    "rows/s; where windows are read ahead (iter), nor is the first turn, and a turn is twice as "
    "long. Files are read once beforehand, so they come from the page cache. Every contender's "
    "first batch is compared with the others' before the race."
)


def main() -> None:
    options = parse()
    started = time.time()
    tables = [
        bench_table(name, options.folder, quick=options.quick)
        for name in options.tables
    ]
    results = measure(tables, options)
    for table in report.text(results):
        print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    summary = as_json(tables, results, options, time.time() - started)
    (options.out / "loader.json").write_text(json.dumps(summary) + "\n")
    # Here, because workers import this file, and need no matplotlib.
    import picture

    picture.draw(results, options.out / "loader.png")


def parse() -> argparse.Namespace:
    here = Path(__file__).parent
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--tables", nargs="+", choices=RECIPES, default=list(RECIPES)
    )
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--seconds", type=float, default=1.5, help="of a turn in a round"
    )
    arguments.add_argument(
        "--quick", action="store_true", help="tables of a twentieth, to test the bench"
    )
    arguments.add_argument(
        "--folder", type=Path, default=CACHE, help="where tables are kept"
    )
    arguments.add_argument(
        "--out", type=Path, default=here / "results", help="where results go"
    )
    return arguments.parse_args()


def measure(tables: list[BenchTable], options: argparse.Namespace) -> Results:
    rounds, seconds = options.rounds, options.seconds
    turns = sum(rounds * len(contenders(table)) for table in tables)
    turns += 2 * (rounds + 1) * sum(table.name in WORKER_TABLES for table in tables)
    turns += 2 * rounds * any(table.name == "narrow" for table in tables)
    results = Results([], [])
    with tqdm(total=turns, unit=" turns") as bar:

        def step(what: str) -> None:
            bar.set_description(what)
            bar.update()

        for table in tables:
            bar.set_description(f"{table.name}: checking")
            table.warm()
            check_equal(table)
            results.samples.extend(run_rounds(table, rounds, seconds, step))
            if table.name in WORKER_TABLES:
                results.samples.extend(run_workers(table, rounds, seconds, step))
            if table.name == "narrow":
                results.collate.extend(run_collate(table, rounds, step))
    return results


def as_json(
    tables: list[BenchTable],
    results: Results,
    options: argparse.Namespace,
    seconds: float,
) -> dict[str, Any]:
    return {
        "machine": machine.machine(),
        "versions": machine.versions(),
        "method": METHOD,
        "rounds": options.rounds,
        "seconds_per_turn": options.seconds,
        "quick": options.quick,
        "num_workers": NUM_WORKERS,
        "took_s": round(seconds),
        "load_at_end": os.getloadavg()[0],
        "tables": [
            {
                "name": table.name,
                "columns": table.what,
                "num_rows": table.num_rows,
                "num_bytes": table.num_bytes,
                "batch_size": table.batch_size,
            }
            for table in tables
        ],
        "verdicts": [
            {"table": table, "output": output, "ratio": ratio, "against": best}
            for table, output, ratio, best in report.ratios(results)
        ],
        "targets": [
            {"what": what, "found": figure, "wanted": wanted, "met": is_met}
            for what, figure, wanted, is_met in report.found_targets(results)
        ],
        "samples": [dataclasses.asdict(sample) for sample in results.samples],
        "collate_samples": [dataclasses.asdict(sample) for sample in results.collate],
    }


if __name__ == "__main__":
    main()
