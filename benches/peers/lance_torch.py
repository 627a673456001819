"""pylance's datasets for torch, and ours with the same names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from harness.tables import BenchTable

import peers

Batches = Iterator[Any]
OURS = "lanceloader.compat.lance_torch"


def scan(table: BenchTable, _seed: int, *, library: str) -> Batches:
    """Everything in order, epoch after epoch."""
    classes = classes_of(library)
    dataset = classes.LanceDataset(
        str(table.path), table.batch_size, columns=table.names
    )
    while True:
        yield from dataset


def rows(table: BenchTable, seed: int, *, library: str, num_workers: int) -> Batches:
    """Rows at random in torch's DataLoader, which collates them."""
    from peers.torch_loop import batches_of

    classes = classes_of(library)
    dataset = classes.SafeLanceDataset(str(table.path))
    return batches_of(dataset, table, seed, num_workers=num_workers, collate=None)


def classes_of(library: str) -> Any:
    name = "lance.torch.data" if library == peers.LANCE_TORCH else OURS
    return importlib.import_module(name)
