"""Measures lanceloader beside lancedb, pylance and others on the same rows, and judges the targets.

Prints tables, and writes loader.json, with every sample, pictures, and the figures of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import scenarios.against
import scenarios.cold
import scenarios.epochs
import scenarios.images
import scenarios.lance_torch
import scenarios.orders
import scenarios.packing
import scenarios.processes
import scenarios.storage
import scenarios.streaming
import scenarios.tables
import scenarios.wide
import scenarios.windows
import scenarios.workers
from harness.bench import Bench
from harness.machine import machine, versions
from harness.tables import CACHE

RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = {
    scenarios.epochs.COLD: scenarios.epochs.run_cold,
    scenarios.epochs.EXTERNAL: scenarios.epochs.run_external,
    scenarios.workers.WORKERS: scenarios.workers.run,
    scenarios.processes.PROCESSES: scenarios.processes.run,
    scenarios.orders.ORDERS: scenarios.orders.run,
    scenarios.wide.WIDE: scenarios.wide.run,
    scenarios.storage.STORAGE: scenarios.storage.run,
    scenarios.cold.COLD_DISK: scenarios.cold.run,
    scenarios.tables.TABLES: scenarios.tables.run_tables,
    scenarios.against.PEERS: scenarios.against.run,
    scenarios.packing.PACKING: scenarios.packing.run,
    scenarios.streaming.STREAMING: scenarios.streaming.run,
    scenarios.lance_torch.DROP_IN: scenarios.lance_torch.run,
    scenarios.images.IMAGES: scenarios.images.run,
    scenarios.windows.WINDOWS: scenarios.windows.run,
    scenarios.tables.CURVES: scenarios.tables.run_curves,
    scenarios.tables.GROWTH: scenarios.tables.run_growth,
}
ALIKE = 0.02
"""Memory of machines that are alike differs by this share at most."""


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
        parts = {
            name: bench.run(run)
            for name, run in EXPERIMENTS.items()
            if name in options.only
        }
    finally:
        bench.bar.close()
        shutil.rmtree(rows, ignore_errors=True)
    path = options.out / "loader.json"
    found = results(bench, parts, found_before(path, quick=options.quick))
    path.write_text(json.dumps(found) + "\n")
    from report.pages import publish

    publish(path, is_written=options.out == RESULTS)


def results(
    bench: Bench, parts: dict[str, dict[str, Any]], before: dict[str, Any]
) -> dict[str, Any]:
    """Return all that is known; what was not measured now is that of ``before``."""
    from peers.loader import strategy_of
    from report.core import estimates

    tables = {one["name"]: one for one in before.get("tables", [])}
    for table in bench.tables.values():
        tables[table.name] = {
            "name": table.name,
            "columns": table.what,
            "num_rows": table.num_rows,
            "num_bytes": table.num_bytes,
            "batch_size": table.batch_size,
            "large_batch_size": table.large_batch_size,
            "reads": strategy_of(table),
        }
    known = before.get("parts", {}) | parts
    return {
        "machine": machine(),
        "versions": versions(),
        "quick": bench.quick,
        "tables": list(tables.values()),
        "parts": {name: known[name] for name in EXPERIMENTS if name in known},
        "core": estimates() or before.get("core", []),
    }


def found_before(path: Path, *, quick: bool) -> dict[str, Any]:
    """Return the results that are there, if they are of such a machine and such tables."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    before, now = found.get("machine"), machine()
    if before is None or found["quick"] != quick:
        return {}
    # A part says itself which kernel it ran on, and a kernel keeps some memory for itself.
    is_alike = all(before[name] == now[name] for name in ("cpu", "cores"))
    is_as_large = abs(before["memory_bytes"] / now["memory_bytes"] - 1) < ALIKE
    return found if is_alike and is_as_large else {}


def parse() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__)
    add = arguments.add_argument
    names = scenarios.tables.NAMES
    add("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    add("--tables", nargs="+", choices=names, default=list(names))
    add("--arms", nargs="+", help="those whose name has one of these in it")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=1.0, help="of a turn in a round")
    add("--quick", action="store_true", help="tables of a twentieth, to test the bench")
    add("--large", action="store_true", help="follow growth up to 100 million rows")
    add("--folder", type=Path, default=CACHE, help="where tables are kept")
    add("--out", type=Path, help="where results go")
    options = arguments.parse_args()
    if options.out is None:
        # A try of the bench is no result.
        options.out = options.folder / "quick" if options.quick else RESULTS
    return options


if __name__ == "__main__":
    main()
