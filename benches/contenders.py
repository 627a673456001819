"""Who is compared: ways of reading one table, each from a path to an endless run of batches.

All that say so give the rows that torch's own sampler picks for one seed, as equal batches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lance
import lancedb
import lancedb.permutation
import lanceloader as ll
import pyarrow as pa
import torch
from tables import BenchTable
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.dlpack import from_dlpack

ARROW = "whole Arrow batches"
TENSORS = "dicts of tensors"

OURS = "lanceloader"
LANCEDB = "lancedb"
TAKE = "lance.take"
OURS_ITER = "lanceloader, shuffle().iter()"
OURS_SCAN = "lanceloader, in order"
SCAN = "Lance scan, in order"
FLOOR = "DataLoader alone, no rows"

TORCH = "torch's shuffle"
OWN = "its own exact shuffle"
NONE = "no shuffle"

Batches = Iterator[Any]


@dataclass(frozen=True)
class Contender:
    """``open(table, seed)`` opens the table anew, and gives batches without end."""

    name: str
    output: str
    shuffle: str
    open: Callable[[BenchTable, int], Batches]
    reads_ahead: bool = False
    """Whether batches come by the window: a turn is longer then, and begins untimed."""


def contenders(table: BenchTable) -> list[Contender]:
    """Give those that can read a table: text and bytes make no tensors."""
    return [*ARROW_CONTENDERS, *(TENSOR_CONTENDERS if has_tensors(table) else [])]


def has_tensors(table: BenchTable) -> bool:
    return table.name in ("narrow", "embeddings")


def open_table(table: BenchTable) -> Any:
    return lancedb.connect(table.folder).open_table(table.name)


def ours(table: BenchTable) -> ll.Permutation:
    return ll.Permutation.identity(open_table(table))


def theirs(table: BenchTable) -> lancedb.permutation.Permutation:
    return lancedb.permutation.Permutation.identity(open_table(table))


class Takes(Dataset[Any]):
    """The dataset that one writes round pylance's ``take``."""

    def __init__(
        self, table: BenchTable, transform: Callable[[pa.RecordBatch], Any]
    ) -> None:
        self.dataset = lance.dataset(table.path)
        self.num_rows = self.dataset.count_rows()
        self.transform = transform

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: list[int]) -> Any:
        (batch,) = self.dataset.take(indices).combine_chunks().to_batches()
        return self.transform(batch)


class Nothing(Dataset[Any]):
    """Gives positions back: what is left is torch's share of the time."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def as_it_is(batch: Any) -> Any:
    return batch


def to_tensors(batch: pa.RecordBatch) -> dict[str, Tensor]:
    """Give a tensor per column without a copy: the best that others can do by hand."""
    return {
        name: to_tensor(column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def to_tensor(column: pa.Array) -> Tensor:
    if pa.types.is_fixed_size_list(column.type):
        return to_tensor(column.flatten()).view(len(column), column.type.list_size)
    return from_dlpack(column.__dlpack__(max_version=(1, 0)))


def data_loader(
    dataset: Any,
    table: BenchTable,
    seed: int,
    *,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] | None = as_it_is,
) -> DataLoader[Any]:
    """The loop of a training script, the same for everyone."""
    return DataLoader(
        dataset,
        table.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate_fn,
        generator=torch.Generator().manual_seed(seed),
        num_workers=num_workers,
        # The tables' libraries run threads, which a fork does not copy.
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def endless(epoch: Iterable[Any]) -> Batches:
    while True:
        yield from epoch


def iterate_shuffled(
    table: BenchTable, seed: int, kind: Literal["arrow", "torch_dict"] = "arrow"
) -> Batches:
    perm = ours(table).with_format(kind)
    epochs = (
        perm.shuffle(seed=seed, epoch=epoch).iter(table.batch_size, True)  # noqa: FBT003
        for epoch in itertools.count()
    )
    return itertools.chain.from_iterable(epochs)


def iterate_in_order(table: BenchTable, _seed: int) -> Batches:
    perm = ours(table).with_format("arrow").with_batch_size(table.batch_size)
    return endless(perm)


def scan(table: BenchTable, _seed: int) -> Batches:
    dataset = lance.dataset(table.path)
    passes = (
        dataset.to_batches(batch_size=table.batch_size) for _ in itertools.count()
    )
    return itertools.chain.from_iterable(passes)


def dataset_of(name: str, output: str, table: BenchTable) -> Any:
    """Give the map-style dataset of one of the three that have one."""
    if name == TAKE:
        return Takes(table, as_it_is if output == ARROW else to_tensors)
    if name == LANCEDB:
        perm = theirs(table)
        if output == ARROW:
            return perm.with_format("arrow")
        return perm.with_transform(to_tensors)
    return ours(table).with_format("arrow" if output == ARROW else "torch_dict")


def through_data_loader(name: str, output: str) -> Contender:
    # Ours goes through torch's default collate, as a user would have it.
    is_default = name == OURS and output == TENSORS
    collate_fn = None if is_default else as_it_is

    def open_(table: BenchTable, seed: int) -> Batches:
        dataset = dataset_of(name, output, table)
        return endless(data_loader(dataset, table, seed, collate_fn=collate_fn))

    return Contender(name, output, TORCH, open_)


def loader_alone(table: BenchTable, seed: int) -> Batches:
    return endless(data_loader(Nothing(table.num_rows), table, seed))


ARROW_CONTENDERS = [
    *(through_data_loader(name, ARROW) for name in (OURS, LANCEDB, TAKE)),
    Contender(OURS_ITER, ARROW, OWN, iterate_shuffled, reads_ahead=True),
    Contender(SCAN, ARROW, NONE, scan),
    Contender(OURS_SCAN, ARROW, NONE, iterate_in_order),
    Contender(FLOOR, ARROW, TORCH, loader_alone),
]
TENSOR_CONTENDERS = [
    *(through_data_loader(name, TENSORS) for name in (OURS, LANCEDB, TAKE)),
    Contender(
        OURS_ITER,
        TENSORS,
        OWN,
        functools.partial(iterate_shuffled, kind="torch_dict"),
        reads_ahead=True,
    ),
]
