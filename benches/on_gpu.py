"""Training steps on a GPU: how much of the step's own speed is left once it is fed by a loader.

Each way runs in a process of its own, in turns: batches that are on the GPU already (the limit),
``loader(device="cuda")``, tensors in memory through torch's ``DataLoader``, and lancedb's
``Permutation`` through it, both with a worker for each core but one. The step trains a perceptron
of two hidden layers with bfloat16, and takes less than two milliseconds, almost all of it in Python:
larger models leave more time for their batches. ``no step`` only copies batches to the GPU.

Not a part of ``run.py``, as most machines lack a GPU.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from harness.machine import machine, versions
from harness.recipes import RECIPES
from harness.tables import CACHE, BenchTable, table_of
from torch import nn

OURS, TENSORS, LANCEDB = 'loader(device="cuda")', "tensors in memory", "lancedb"
LIMIT, NO_STEP = "on the GPU", f"{OURS}, no step"
NUM_ROWS = {"narrow": 2_000_000, "embeddings": 100_000}
BATCH_SIZE = 1024
NUM_CLASSES, WIDTH = 10, 1024
WARM_STEPS = 20
STEPS_PER_LOSS = 50
"""No script runs far ahead of its GPU: it prints a loss from time to time."""

Batches = Iterator[dict[str, torch.Tensor]]


def ours(table: BenchTable) -> Batches:
    import lanceloader as ll

    yield from ll.open(table.path).loader(
        table.batch_size, shuffle=True, seed=1, epochs=None, drop_last=True,
        format="torch_dict", device="cuda", pin_memory=True,
    )  # fmt: skip


def repeated(table: BenchTable) -> Batches:
    return itertools.repeat(next(ours(table)))


def tensors(table: BenchTable) -> Batches:
    from lancedb import connect
    from peers.processes import TensorRows

    rows = connect(table.folder).open_table(table.name).to_arrow()
    (batch,) = rows.combine_chunks().to_batches()
    return copied(table, TensorRows(to_tensors(batch)))


def lancedb(table: BenchTable) -> Batches:
    from lancedb import connect
    from lancedb.permutation import Permutation

    rows = connect(table.folder).open_table(table.name)
    return copied(table, Permutation.identity(rows).with_transform(to_tensors))


def to_tensors(batch: Any) -> dict[str, torch.Tensor]:
    """Return the columns of a record batch, which are numbers and vectors without nulls."""
    found = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        is_vector = hasattr(column.type, "list_size")
        values = torch.from_numpy(
            (column.flatten() if is_vector else column).to_numpy()
        )
        found[name] = values.view(len(column), -1) if is_vector else values
    return found


def unchanged(batch: Any) -> Any:
    return batch


def copied(table: BenchTable, dataset: Any) -> Batches:
    """Return batches of torch's loader, copied from pinned memory."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, table.batch_size, shuffle=True, drop_last=True, collate_fn=unchanged,
        num_workers=max(1, (os.cpu_count() or 1) - 1), multiprocessing_context="spawn",
        persistent_workers=True, pin_memory=True,
    )  # fmt: skip
    while True:
        for batch in loader:
            yield {
                name: column.to("cuda", non_blocking=True)
                for name, column in batch.items()
            }


WAYS = {
    LIMIT: repeated,
    OURS: ours,
    TENSORS: tensors,
    LANCEDB: lancedb,
    NO_STEP: ours,
}


def inputs_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    vectors = batch.get("vector")
    if vectors is not None:
        return vectors
    return torch.stack([batch[name] for name in batch if name.startswith("f")], 1)


def step_of(
    batch: dict[str, torch.Tensor],
) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a function that trains a model with a batch on the GPU."""
    model = nn.Sequential(
        nn.Linear(inputs_of(batch).shape[1], WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, NUM_CLASSES),
    ).cuda()  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            found = model(inputs_of(batch))
            loss = nn.functional.cross_entropy(found, batch["label"])
        loss.backward()
        optimizer.step()

    return step


def rate(table: BenchTable, way: str, seconds: float) -> float:
    """Return the rows per second of steps with batches made in a way."""
    batches = WAYS[way](table)
    first = next(batches)
    step = unchanged if way == NO_STEP else step_of(first)
    for _ in range(WARM_STEPS):
        step(next(batches))
    torch.cuda.synchronize()
    start, num_steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step(next(batches))
        num_steps += 1
        if num_steps % STEPS_PER_LOSS == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return num_steps * table.batch_size / (time.perf_counter() - start)


def in_process(name: str, way: str, options: argparse.Namespace) -> float:
    arguments = ["--way", way, "--seconds", options.seconds, "--folder", options.folder]
    command = [sys.executable, __file__, "--tables", name, *map(str, arguments)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tables", nargs="+", default=list(NUM_ROWS), choices=NUM_ROWS)
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=5)
    add("--folder", type=Path, default=CACHE)
    add("--out", type=Path, default=Path(__file__).parent / "results")
    add("--way", choices=WAYS, help="run one way only, and print its rows/s")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "on_gpu.py needs a GPU: torch.cuda.is_available() is false\n")
    tables = [
        table_of(RECIPES[name], options.folder, NUM_ROWS[name]).of(
            batch_size=BATCH_SIZE
        )
        for name in options.tables
    ]
    if options.way is not None:
        print(rate(tables[0], options.way, options.seconds), flush=True)
        # Threads of a peer may abort a process that ends in the usual way.
        os._exit(0)
    rates: dict[str, dict[str, list[float]]] = {}
    for table in tables:
        table.warm()
        found = rates[table.name] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, samples in found.items():
                samples.append(in_process(table.name, way, options))
        limit = statistics.median(found[LIMIT])
        for way, samples in found.items():
            median = statistics.median(samples)
            share = f"{median / limit:6.0%} of the step alone"
            print(f"{table.name:12}{way:32}{median:12,.0f} rows/s{share}", flush=True)
    written = {
        "gpu": torch.cuda.get_device_name(),
        "day": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": versions(),
        "rounds": options.rounds,
        "batch_size": BATCH_SIZE,
        "rows_per_s": rates,
    }
    (options.out / "gpu.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
