"""Hugging Face datasets: its own Arrow files, mapped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from harness.tables import BenchTable

from peers.torch_loop import batches_of

BUFFER = 10_000
SHARDS = 16


def make(table: BenchTable) -> None:
    table.make_copy("hf", write)


def write(table: BenchTable, folder: Path) -> None:
    import lance

    rows = lance.dataset(table.path).to_table()
    datasets.disable_progress_bars()
    # Otherwise it hashes all rows to find a name for them.
    dataset = datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint="bench")
    dataset.save_to_disk(folder, num_shards=1)


def opened(table: BenchTable, kind: str) -> Any:
    return datasets.load_from_disk(str(table.copy("hf"))).with_format(kind)


def map_style(
    table: BenchTable, seed: int, *, kind: str, num_workers: int = 0, step: int = 0
) -> Iterator[Any]:
    """Its documented fast way: a sampler of batches, so that it is asked for many rows."""
    return batches_of(
        opened(table, kind),
        table,
        seed,
        num_workers=num_workers,
        step=step,
        context="fork",
        is_whole=True,
    )


def iterable(table: BenchTable, seed: int, *, kind: str) -> Iterator[Any]:
    """Shards in another order, and a buffer of rows."""
    rows = opened(table, kind).to_iterable_dataset(num_shards=SHARDS)
    rows = rows.shuffle(seed=seed, buffer_size=BUFFER)
    for epoch in itertools.count():
        rows.set_epoch(epoch)
        yield from rows.iter(table.batch_size, drop_last_batch=True)
