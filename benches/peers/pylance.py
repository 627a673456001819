"""pylance by itself: its scan, and the dataset that one writes round its ``take``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
from harness.tables import BenchTable

Batches = Iterator[Any]


class Takes:
    def __init__(self, table: BenchTable) -> None:
        self.dataset = lance.dataset(table.path)
        self.columns = table.names

    def __len__(self) -> int:
        return self.dataset.count_rows()

    def __getitems__(self, indices: list[int]) -> Any:
        rows = self.dataset.take(indices, columns=self.columns)
        (batch,) = rows.combine_chunks().to_batches()
        return batch


def take(table: BenchTable, seed: int) -> Batches:
    from peers.torch_loop import batches_of

    return batches_of(Takes(table), table, seed)


def scan(table: BenchTable, _seed: int, *, is_default: bool = False) -> Batches:
    """Everything in order, in batches of our size or of its own."""
    dataset = lance.dataset(table.path)
    size = None if is_default else table.batch_size
    while True:
        yield from dataset.to_batches(columns=table.names, batch_size=size)


def take_at_random(table: BenchTable, seed: int) -> Batches:
    dataset = lance.dataset(table.path)
    for rows in positions(table, seed):
        yield dataset.take(rows, columns=table.names)


def positions(table: BenchTable, seed: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.integers(0, table.num_rows, table.batch_size).tolist()
