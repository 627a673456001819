"""Ray Data: an exact shuffle by ``lanceloader.ray.read``, beside a loader, Ray's own shuffle and its scan.

All read the same table to the same batches, in turns that begin with another one in each round, on a
local cluster of two CPUs. The first round warms up. Prints medians and what they cost beside a
loader without Ray, and writes ray.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lanceloader as ll
import lanceloader.ray
import ray
import ray.data
from harness.machine import machine, versions
from harness.tables import CACHE, BenchTable, bench_table

LOADER, READ, SCAN, SHUFFLE = (
    "loader, shuffled",
    "lanceloader.ray.read, shuffled",
    "read_lance, in order",
    "read_lance, random_shuffle",
)
ARMS = (LOADER, READ, SCAN, SHUFFLE)
RESULTS = Path(__file__).parent / "results"


def dataset_of(arm: str, path: Path, seed: int) -> Any:
    if arm == READ:
        return lanceloader.ray.read(ll.open(path).shuffle(seed))
    scan = ray.data.read_lance(str(path))
    return scan if arm == SCAN else scan.random_shuffle(seed=seed)


def batches_of(arm: str, table: BenchTable, seed: int) -> Any:
    """Batches of tensors, or of Arrow data for images, which are bytes and no tensors."""
    is_tensors = table.name == "narrow"
    if arm == LOADER:
        perm = ll.open(table.path, format="torch_dict" if is_tensors else "arrow")
        return perm.loader(table.batch_size, shuffle=True, seed=seed)
    dataset = dataset_of(arm, table.path, seed)
    if is_tensors:
        return dataset.iter_torch_batches(batch_size=table.batch_size)
    return dataset.iter_batches(batch_size=table.batch_size, batch_format="pyarrow")


def seconds_per_batch(arm: str, table: BenchTable, seed: int) -> float:
    start, rows = time.perf_counter(), 0
    for batch in batches_of(arm, table, seed):
        is_arrow = hasattr(batch, "num_rows")
        rows += batch.num_rows if is_arrow else len(next(iter(batch.values())))
    assert rows == table.num_rows
    return (time.perf_counter() - start) / -(-rows // table.batch_size)


def measure(table: BenchTable, rounds: int, shuffles: int) -> dict[str, Any]:
    table.warm()
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(rounds + 1):
        first = seed % len(ARMS)
        for arm in ARMS[first:] + ARMS[:first]:
            if arm == SHUFFLE and not 0 < seed <= shuffles:
                continue
            seconds = seconds_per_batch(arm, table, seed)
            if seed:
                found[arm].append(seconds)
    medians = {arm: statistics.median(found[arm]) for arm in ARMS}
    # Of each round, as other programs slow down all of its turns.
    times = {
        arm: statistics.median(
            other / ours for other, ours in zip(found[arm], found[READ], strict=False)
        )
        for arm in ARMS
    }
    for arm, seconds in medians.items():
        print(
            f"{table.name}: {arm}: {1000 * seconds:.2f} ms for {table.batch_size} rows, "
            f"{times[arm]:.2f} x of ours",
            flush=True,
        )
    return {
        "rows": table.num_rows,
        "batch_size": table.batch_size,
        "seconds_per_batch": found,
        "times_of_read": times,
        "overhead_ms": 1000 * (medians[READ] - medians[LOADER]),
    }


def main() -> None:
    options = parse()
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory(
        prefix="ll-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        os.environ["LANCELOADER_CACHE_DIR"] = f"{folder}/rows"
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=3 << 30,
            log_to_driver=False,
            _temp_dir=folder,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        tables = {
            name: measure(
                bench_table(name, options.folder, quick=options.quick),
                options.rounds,
                options.shuffles,
            )
            for name in options.tables
        }
        ray.shutdown()
    found = {
        "quick": options.quick,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "machine": machine(),
        "versions": versions() | {"ray": ray.__version__},
        "tables": tables,
    }
    if options.out:
        path = options.out / "ray.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["narrow", "image"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--shuffles",
        type=int,
        default=1,
        help="rounds with Ray's own shuffle, the slowest",
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--folder", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
