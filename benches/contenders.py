"""Who reads a Lance table: lanceloader, lancedb and pylance.

A contender goes from a table and a seed to an endless run of batches. Those of one shuffle give
the same rows for one seed, as equal batches; ``measure.check_equal`` holds them to it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import lance
import lancedb
import lancedb.permutation
import lanceloader as ll
import pyarrow as pa
import torch
from records import as_they_are as as_it_is
from records import to_tensors
from tables import BenchTable
from torch.utils.data import DataLoader, Dataset

ARROW = "Arrow"
TENSORS = "dict of tensors"
MATRIX = "one matrix"
OBJECTS = "list of items"

LOADER = "lanceloader, loader()"
DIRECT = "lanceloader, loader(read='direct')"
RESIDENT = "lanceloader, loader(read='resident')"
OURS = "lanceloader, DataLoader"
OURS_DIRECT = "lanceloader, DataLoader, direct"
OURS_ITER = "lanceloader, iter()"
OURS_IN_ORDER = "lanceloader, loader(), in order"
LANCEDB = "lancedb, DataLoader"
TAKE = "lance.take, DataLoader"
SCAN = "Lance scan, in order"
SCAN_DEFAULT = "Lance scan, in order, its own batch size"

TORCH = "torch's, exact"
OWN = "its own, exact"
NONE = "none"
WINDOW = "inside windows"

Batches = Iterator[Any]


@dataclass(frozen=True)
class Contender:
    """``open(table, seed)`` opens the table anew, and gives batches without end."""

    name: str
    output: str
    shuffle: str
    open: Callable[[BenchTable, int], Batches]
    reads_ahead: bool = False
    """Whether batches lie ready when a turn begins: it then begins untimed."""
    own_batch_size: bool = False
    """Whether its batches are of a size of its own."""
    keeps_rows: bool = False
    """Whether an epoch leaves rows ready for the next: one is read before the race."""
    prepare: Callable[[BenchTable], object] | None = None
    """Makes what the contender reads instead of the table; not timed."""


def open_table(table: BenchTable) -> Any:
    return lancedb.connect(table.folder).open_table(table.name)


def ours(table: BenchTable) -> ll.Permutation:
    perm = ll.Permutation.identity(open_table(table))
    return perm.select_columns(list(table.columns)) if table.columns else perm


def strategy_of(table: BenchTable) -> str:
    """Return how `loader()` reads a shuffled epoch of a table, as `explain()` says it."""
    lines = ours(table).shuffle(seed=0).explain().splitlines()
    (line,) = (line for line in lines if line.startswith("read "))
    return line.split()[1].rstrip(",")


def theirs(table: BenchTable) -> lancedb.permutation.Permutation:
    perm = lancedb.permutation.Permutation.identity(open_table(table))
    return perm.select_columns(list(table.columns)) if table.columns else perm


class Takes(Dataset[Any]):
    """The dataset that one writes round pylance's ``take``."""

    def __init__(
        self, table: BenchTable, transform: Callable[[pa.RecordBatch], Any]
    ) -> None:
        self.dataset = lance.dataset(table.path)
        self.columns = None if table.columns is None else list(table.columns)
        self.num_rows = self.dataset.count_rows()
        self.transform = transform

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: list[int]) -> Any:
        rows = self.dataset.take(indices, columns=self.columns)
        (batch,) = rows.combine_chunks().to_batches()
        return self.transform(batch)


def data_loader(
    dataset: Any,
    table: BenchTable,
    seed: int,
    *,
    num_workers: int = 0,
    context: str = "spawn",
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
        multiprocessing_context=context if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def endless(epoch: Iterable[Any]) -> Batches:
    while True:
        yield from epoch


def through_loader(
    table: BenchTable,
    seed: int,
    *,
    kind: str = "arrow",
    read: str | None = None,
    shuffle: bool = True,
) -> Batches:
    """Our own loader, epoch after epoch."""
    loader = ours(table).loader(
        table.batch_size,
        drop_last=True,
        shuffle=shuffle,
        seed=seed if shuffle else None,
        format=kind,
        read=read,
    )
    for epoch in itertools.count():
        yield from loader.set_epoch(epoch)


def iterate_shuffled(table: BenchTable, seed: int, *, kind: str = "arrow") -> Batches:
    perm = ours(table).with_format(kind)
    for epoch in itertools.count():
        shuffled = perm.shuffle(seed=seed, epoch=epoch)
        yield from shuffled.iter(table.batch_size, skip_last_batch=True)


def iterate_in_order(table: BenchTable, _seed: int) -> Batches:
    perm = ours(table).with_format("arrow").with_batch_size(table.batch_size)
    return endless(perm)


def scan(table: BenchTable, _seed: int, *, is_default: bool = False) -> Batches:
    dataset = lance.dataset(table.path)
    columns = None if table.columns is None else list(table.columns)
    size = None if is_default else table.batch_size
    while True:
        yield from dataset.to_batches(columns=columns, batch_size=size)


def dataset_of(
    name: str, output: str, table: BenchTable, read: str | None = None
) -> Any:
    """Give the map-style dataset of one of the three that have one."""
    if name == TAKE:
        return Takes(table, as_it_is if output == ARROW else to_tensors)
    if name == LANCEDB:
        perm = theirs(table)
        if output == ARROW:
            return perm.with_format("arrow")
        return perm.with_transform(to_tensors)
    perm = ours(table).with_format("arrow" if output == ARROW else "torch_dict")
    return perm if read is None else perm.with_read(read)


def data_loader_of(name: str, output: str, read: str | None = None) -> Contender:
    # Ours goes through torch's default collate, as a user would have it.
    is_default = name == OURS and output == TENSORS
    collate_fn = None if is_default else as_it_is

    def open_(table: BenchTable, seed: int) -> Batches:
        dataset = dataset_of(name, output, table, read)
        return endless(data_loader(dataset, table, seed, collate_fn=collate_fn))

    return Contender(name, output, TORCH, open_)


def loader_of(name: str, output: str, kind: str, read: str | None = None) -> Contender:
    return Contender(
        name,
        output,
        OWN,
        functools.partial(through_loader, kind=kind, read=read),
        reads_ahead=True,
        keeps_rows=read != "direct",
    )


LOADER_ARROW = loader_of(LOADER, ARROW, "arrow")
LOADER_TENSORS = loader_of(LOADER, TENSORS, "torch_dict")
LOADER_MATRIX = loader_of(LOADER, MATRIX, "torch_matrix")
LOADER_DIRECT = loader_of(DIRECT, ARROW, "arrow", "direct")
LOADER_RESIDENT = loader_of(RESIDENT, ARROW, "arrow", "resident")
OURS_ARROW, LANCEDB_ARROW, TAKE_ARROW = (
    data_loader_of(name, ARROW) for name in (OURS, LANCEDB, TAKE)
)
OURS_TENSORS, LANCEDB_TENSORS, TAKE_TENSORS = (
    data_loader_of(name, TENSORS) for name in (OURS, LANCEDB, TAKE)
)
DATA_LOADER_DIRECT = Contender(
    OURS_DIRECT, ARROW, TORCH, data_loader_of(OURS, ARROW, "direct").open
)
LANCE_SCAN = Contender(SCAN, ARROW, NONE, scan)
LANCE_SCAN_DEFAULT = Contender(
    SCAN_DEFAULT,
    ARROW,
    NONE,
    functools.partial(scan, is_default=True),
    own_batch_size=True,
)
IN_ORDER = [
    Contender(
        OURS_IN_ORDER,
        ARROW,
        NONE,
        functools.partial(through_loader, shuffle=False),
        reads_ahead=True,
    ),
    Contender(OURS_ITER, ARROW, NONE, iterate_in_order, reads_ahead=True),
    LANCE_SCAN,
    LANCE_SCAN_DEFAULT,
]
REFERENCES = {
    output: Contender(
        OURS_ITER, output, OWN, functools.partial(iterate_shuffled, kind=kind)
    )
    for output, kind in ((ARROW, "arrow"), (TENSORS, "torch_dict"))
}
"""What ``loader(shuffle=True)`` must give: not raced, only compared with."""
