"""Rows in memory: torch, pyarrow, and numpy on a mapped file of packed rows."""

from __future__ import annotations

import functools
import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from harness.tables import BenchTable
from torch import Tensor

from peers.records import NUMBERS, columns, packed, to_tensors
from peers.torch_loop import generator_of

Batches = Iterator[Any]


def picks(table: BenchTable, seed: int, step: int = 0) -> Iterator[Tensor]:
    """Return the rows of each batch as torch's sampler picks them, without its Python list."""
    first, start = divmod(step, table.num_batches)
    for epoch in itertools.count(first):
        order = torch.randperm(table.num_rows, generator=generator_of(seed, epoch))
        whole = order[: table.num_batches * table.batch_size].split(table.batch_size)
        yield from whole[start:]
        start = 0


@functools.lru_cache(maxsize=1)
def arrow_rows(table: BenchTable) -> pa.RecordBatch:
    rows = lance.dataset(table.path).to_table(columns=table.names)
    (batch,) = rows.combine_chunks().to_batches()
    return batch


@functools.lru_cache(maxsize=1)
def tensors(table: BenchTable) -> dict[str, Tensor]:
    """Fill tensors batch by batch: a second copy of a large table need not fit."""
    filled: dict[str, Tensor] = {}
    start = 0
    for batch in lance.dataset(table.path).to_batches(columns=table.names):
        stop = start + batch.num_rows
        for name, column in to_tensors(batch).items():
            if name not in filled:
                shape = (table.num_rows, *column.shape[1:])
                filled[name] = torch.empty(shape, dtype=column.dtype)
            filled[name][start:stop] = column
        start = stop
    return filled


@functools.lru_cache(maxsize=1)
def matrix(table: BenchTable) -> Tensor:
    return torch.stack(list(tensors(table).values()), dim=1)


def take_arrow(table: BenchTable, seed: int, *, step: int = 0) -> Batches:
    batch = arrow_rows(table)
    for rows in picks(table, seed, step):
        yield batch.take(pa.array(rows.numpy()))


def select_columns(table: BenchTable, seed: int, *, step: int = 0) -> Batches:
    of = tensors(table)
    for rows in picks(table, seed, step):
        yield {name: column.index_select(0, rows) for name, column in of.items()}


def select_matrix(table: BenchTable, seed: int) -> Batches:
    rows = matrix(table)
    return (rows.index_select(0, picked) for picked in picks(table, seed))


def gather_packed(table: BenchTable, seed: int) -> Batches:
    rows = packed_rows(table)
    for picked in picks(table, seed):
        yield columns(rows[picked.numpy()])


@functools.lru_cache(maxsize=1)
def packed_rows(table: BenchTable) -> np.memmap:
    rows = np.memmap(table.copy("packed") / "rows", NUMBERS[table.name], mode="r")
    # Every page is touched, as in any epoch but the first.
    rows.view(np.uint8).reshape(-1)[:: mmap.PAGESIZE].sum()
    return rows


def pack(table: BenchTable) -> None:
    table.make_copy("packed", write_packed)


def write_packed(table: BenchTable, folder: Path) -> None:
    """Write rows value beside value, as one would by hand."""
    folder.mkdir()
    with (folder / "rows").open("wb") as stream:
        for batch in lance.dataset(table.path).to_batches():
            packed(table.name, batch).tofile(stream)
