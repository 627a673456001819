"""The loop of a training script round a map-style dataset, which can also resume.

Worker processes import this file, so it imports little.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

if TYPE_CHECKING:
    from harness.tables import BenchTable


def as_it_is(batch: Any) -> Any:
    return batch


def generator_of(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class Shuffled:
    """The batches of positions of an epoch, as torch's sampler picks them, from a step on.

    A sampler has no state: whoever resumes draws the epoch's order again, and skips.
    """

    def __init__(self, table: BenchTable, seed: int, step: int) -> None:
        self.table, self.seed = table, seed
        self.epoch, self.start = divmod(step, table.num_batches)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator: DataLoader with workers makes two of them for its first epoch, and uses one.
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        generator = generator_of(self.seed, epoch)
        rows = RandomSampler(range(self.table.num_rows), generator=generator)
        batches = BatchSampler(rows, self.table.batch_size, drop_last=True)
        yield from itertools.islice(batches, start, None)


def batches_of(
    dataset: Any,
    table: BenchTable,
    seed: int,
    *,
    num_workers: int = 0,
    step: int = 0,
    context: str = "spawn",
    is_whole: bool = False,
    collate: Callable[[Any], Any] | None = as_it_is,
) -> Iterator[Any]:
    """Return batches epoch after epoch; ``is_whole`` datasets are asked with a list of positions."""
    sampler: Any = Shuffled(table, seed, step)
    chosen = (
        {"sampler": sampler, "batch_size": None}
        if is_whole
        else {"batch_sampler": sampler, "collate_fn": collate}
    )
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=context if num_workers else None,
        persistent_workers=num_workers > 0,
        **chosen,
    )
    while True:
        yield from loader


class Positions:
    """A dataset of nothing but positions: its workers import torch, and nothing else."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def positions(
    table: BenchTable, seed: int, *, num_workers: int, context: str
) -> Iterator[list[int]]:
    dataset = Positions(table.num_rows)
    return batches_of(dataset, table, seed, num_workers=num_workers, context=context)
