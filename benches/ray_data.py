"""Ray Data: an exact shuffle by ``lanceloader.ray.read``, beside Ray's own shuffle and its scan.

All read the same table through the same consumer, in turns, on a local cluster of two CPUs. The
first round warms up. Prints rows per second (medians) and ratios.
"""

from __future__ import annotations

import argparse
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
from harness.tables import BenchTable, bench_table

ARMS = ("lanceloader, shuffled", "Ray, in order", "Ray, shuffled")


def dataset_of(arm: str, path: Path, seed: int) -> Any:
    if arm == ARMS[0]:
        return lanceloader.ray.read(ll.open(path).shuffle(seed))
    scan = ray.data.read_lance(str(path))
    return scan if arm == ARMS[1] else scan.random_shuffle(seed=seed)


def rows_per_second(arm: str, table: BenchTable, seed: int) -> float:
    start, rows = time.perf_counter(), 0
    dataset = dataset_of(arm, table.path, seed)
    if table.name == "narrow":
        for tensors in dataset.iter_torch_batches(batch_size=table.batch_size):
            rows += len(next(iter(tensors.values())))
    else:
        # Images are bytes, which are no tensors.
        batches = dataset.iter_batches(
            batch_size=table.batch_size, batch_format="pyarrow"
        )
        rows = sum(batch.num_rows for batch in batches)
    assert rows == table.num_rows
    return rows / (time.perf_counter() - start)


def measure(table: BenchTable, rounds: int) -> None:
    table.warm()
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(rounds + 1):
        for arm in ARMS:
            speed = rows_per_second(arm, table, seed)
            if seed:
                found[arm].append(speed)
    ours, *others = (statistics.median(found[arm]) for arm in ARMS)
    print(f"{table.name}: {ARMS[0]}, {ours:,.0f} rows/s")
    for arm, speed in zip(ARMS[1:], others, strict=True):
        print(f"{table.name}: {arm}, {speed:,.0f} rows/s; ours is {ours / speed:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["narrow", "image"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    options = parser.parse_args()
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory(
        prefix="ll-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=3 << 30,
            log_to_driver=False,
            _temp_dir=folder,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for name in options.tables:
            measure(bench_table(name, quick=options.quick), options.rounds)
        ray.shutdown()


if __name__ == "__main__":
    main()
