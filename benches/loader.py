"""Races lanceloader against lancedb, pylance and others on the same rows, and judges the targets.

Prints tables, and writes loader.json, with every sample, pictures, and the figures of README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import against
import contenders
import core
import machine
import orders
import peers
import races
import wide
import workers
from epochs import COLD, EXTERNAL, run_cold, run_external
from measure import Failure, Measured, Sample, check_equal, failure, run_race
from races import BY_TABLE, Race
from recipes import RECIPES
from tables import CACHE, QUICK, BenchTable, bench_table, table_of
from targets import PACKING
from tqdm.auto import tqdm

HERE = Path(__file__).parent
TABLES = "tables"
CURVES = "curves"
GROWTH = "growth"
# Cold files first: once this process has files mapped, the system does not let go of them.
EXPERIMENTS = (
    COLD,
    EXTERNAL,
    workers.WORKERS,
    orders.ORDERS,
    wide.WIDE,
    TABLES,
    against.PEERS,
    PACKING,
    CURVES,
    GROWTH,
)
ALIKE = 0.02
"""Memory of machines that are alike differs by this share at most."""
CURVE_ROUNDS = 2
"""Curves show a trend; their points need fewer rounds."""
CURVE_SHARE = 0.5
"""A turn of a curve, as a share of one of a table."""


class Bench:
    """What is measured, and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.begin()
        self.tables: dict[str, BenchTable] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.bar = tqdm(unit=" turns", mininterval=1)

    def begin(self) -> None:
        """Begin a part: an experiment, with all that is found in it."""
        self.samples: list[Sample] = []
        self.measured: list[Measured] = []
        self.failures: list[Failure] = []
        self.peers: list[against.PeerRun] = []
        self.timeline: dict[str, Any] = {}
        self.started = time.perf_counter()

    def step(self, what: str) -> None:
        self.bar.set_description(what)
        self.bar.update()

    def table(self, name: str) -> BenchTable:
        if name not in self.tables:
            table = bench_table(name, self.options.folder, quick=self.options.quick)
            self.tables[name] = table
        return self.tables[name]

    def run(self) -> None:
        jobs = {
            TABLES: self.run_tables,
            against.PEERS: self.run_peers,
            PACKING: self.run_packing,
            CURVES: self.run_curves,
            GROWTH: self.run_growth,
            COLD: self.run_cold,
            EXTERNAL: self.run_external,
            workers.WORKERS: self.run_workers,
            orders.ORDERS: self.run_orders,
            wide.WIDE: self.run_wide,
        }
        for name in sorted(self.options.only, key=EXPERIMENTS.index):
            self.begin()
            jobs[name]()
            self.parts[name] = self.part()
        self.bar.close()

    def race(self, race: Race, rounds: int, seconds: float) -> None:
        samples, failures = run_race(race, rounds, seconds, self.step)
        self.samples.extend(samples)
        self.failures.extend(failures)

    def run_tables(self) -> None:
        for name in self.options.tables:
            table = self.table(name)
            table.warm()
            for race in races.table_races(table):
                self.step(f"{race.name}: checking")
                unequal = check_equal(race)
                self.failures.extend(unequal)
                keys = {(failed.contender, failed.output) for failed in unequal}
                running = [
                    one for one in race.contenders if (one.name, one.output) not in keys
                ]
                equal = dataclasses.replace(race, contenders=running)
                self.race(equal, self.options.rounds, self.options.seconds)
            free()

    def run_peers(self) -> None:
        options = self.options
        found = against.run_against(
            [self.table(name) for name in options.tables],
            options.rounds,
            options.seconds,
            self.step,
            words=options.arms,
            quick=options.quick,
        )
        self.peers.extend(found[0])
        self.failures.extend(found[1])

    def run_packing(self) -> None:
        # Late: it has imports of its own, and may not be there.
        if importlib.util.find_spec("packing") is None:
            error = ModuleNotFoundError("no benches/packing.py")
            self.failures.append(failure(PACKING, "packing", "", error))
            return
        packing = importlib.import_module("packing")
        rounds, seconds = self.options.rounds, self.options.seconds
        found = packing.run_packing(self.table("tokens"), rounds, seconds, self.step)
        self.measured.extend(found[0])
        self.failures.extend(found[1])

    def run_curves(self) -> None:
        for made in (
            races.batch_size_races(self.table("narrow")),
            races.width_races(self.table("wide")),
        ):
            self.run_curve(made)

    def run_curve(self, made: Iterable[Race]) -> None:
        rounds = min(CURVE_ROUNDS, self.options.rounds)
        for race in made:
            self.race(race, rounds, self.options.seconds * CURVE_SHARE)
            # The next point may have other columns.
            free()

    def run_growth(self) -> None:
        """Make tables as large as need be, and delete them again."""
        sizes = races.LARGE_NUM_ROWS if self.options.large else races.NUM_ROWS
        folder = Path(tempfile.mkdtemp(prefix="growth-", dir=self.options.folder))
        try:
            for size in sizes:
                num_rows = size // (QUICK if self.options.quick else 1)
                table = table_of(RECIPES["narrow"], folder, num_rows)
                self.run_curve([races.rows_race(table)])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def run_cold(self) -> None:
        found = run_cold(self.table("narrow"), self.options.rounds, self.step)
        self.measured.extend(found[0])
        self.failures.extend(found[1])

    def run_external(self) -> None:
        found = run_external(self.table("narrow"), self.options.rounds, self.step)
        self.measured.extend(found[0])
        self.failures.extend(found[1])
        self.timeline = found[2]

    def run_workers(self) -> None:
        cases = workers.CASES[:1] if self.options.quick else workers.CASES
        found = workers.run_workers(self.table("narrow"), cases, self.step)
        self.measured.extend(found[0])
        self.failures.extend(found[1])

    def run_orders(self) -> None:
        quick, rounds = self.options.quick, self.options.rounds
        found = orders.run_orders(rounds, self.step, quick=quick)
        self.measured.extend(found[0])
        self.failures.extend(found[1])

    def run_wide(self) -> None:
        options = self.options
        rounds = min(CURVE_ROUNDS, options.rounds)
        seconds = options.seconds * CURVE_SHARE
        found = wide.run_wide(
            options.folder, rounds, seconds, self.step, quick=options.quick
        )
        self.measured.extend(found[0])
        self.failures.extend(found[1])

    def part(self) -> dict[str, Any]:
        loads = [sample.load for sample in self.samples] or [os.getloadavg()[0]]
        return {
            "day": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            "kernel": machine.machine()["kernel"],
            "rounds": self.options.rounds,
            "seconds_per_turn": self.options.seconds,
            "took_s": round(time.perf_counter() - self.started, 1),
            "load": [min(loads), max(loads)],
            "samples": as_dicts(self.samples),
            "peers": as_dicts(self.peers),
            "measured": as_dicts(self.measured),
            "failures": as_dicts(self.failures),
            "timeline": self.timeline,
        }

    def as_json(self, before: dict[str, Any]) -> dict[str, Any]:
        """Give all that is known; what was not measured now is that of ``before``."""
        tables = {
            table.name: {
                "name": table.name,
                "columns": table.what,
                "num_rows": table.num_rows,
                "num_bytes": table.num_bytes,
                "batch_size": table.batch_size,
                "large_batch_size": table.large_batch_size,
                "reads": contenders.strategy_of(table),
            }
            for table in self.tables.values()
        }
        parts = before.get("parts", {}) | self.parts
        return {
            "machine": machine.machine(),
            "versions": machine.versions(),
            "quick": self.options.quick,
            "tables": list(
                (
                    {one["name"]: one for one in before.get("tables", [])} | tables
                ).values()
            ),
            "parts": {name: parts[name] for name in EXPERIMENTS if name in parts},
            "core": core.estimates(),
        }


def found_before(path: Path, *, quick: bool) -> dict[str, Any]:
    """Give the results that are there, if they are of such a machine and such tables."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    before, now = found.get("machine"), machine.machine()
    if before is None or found["quick"] != quick:
        return {}
    # A part says itself which kernel it ran on, and a kernel keeps some memory for itself.
    is_alike = all(before[name] == now[name] for name in ("cpu", "cores"))
    is_as_large = abs(before["memory_bytes"] / now["memory_bytes"] - 1) < ALIKE
    return found if is_alike and is_as_large else {}


def as_dicts(records: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(record) for record in records]


def free() -> None:
    """Let go of what the contenders of a race held, before the next comes."""
    peers.forget()
    gc.collect()


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    # Rows that a user's own runs keep are neither used nor added to.
    rows = Path(tempfile.mkdtemp(prefix="rows-", dir=options.folder))
    os.environ["LANCELOADER_CACHE_DIR"] = str(rows)
    os.environ.pop("LANCELOADER_MEMORY_LIMIT", None)
    # Large folders are deleted in the end, also if the run is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = Bench(options)
    try:
        bench.run()
    finally:
        shutil.rmtree(rows, ignore_errors=True)
    path = options.out / "loader.json"
    before = found_before(path, quick=options.quick)
    path.write_text(json.dumps(bench.as_json(before)) + "\n")
    # Here, because processes started above may import this file, and need no matplotlib.
    import report

    report.publish(path, is_written=options.out == HERE / "results")


def parse() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS
    )
    arguments.add_argument(
        "--tables", nargs="+", choices=BY_TABLE, default=list(BY_TABLE)
    )
    arguments.add_argument(
        "--arms", nargs="+", help="of peers: those whose name has one of these in it"
    )
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--seconds", type=float, default=1.0, help="of a turn in a round"
    )
    arguments.add_argument(
        "--quick", action="store_true", help="tables of a twentieth, to test the bench"
    )
    arguments.add_argument(
        "--large", action="store_true", help="follow growth up to 100 million rows"
    )
    arguments.add_argument(
        "--folder", type=Path, default=CACHE, help="where tables are kept"
    )
    arguments.add_argument("--out", type=Path, help="where results go")
    options = arguments.parse_args()
    if options.out is None:
        # A try of the bench is no result.
        options.out = options.folder / "quick" if options.quick else HERE / "results"
    return options


if __name__ == "__main__":
    main()
