"""Who reads a copy of a Lance table: rows in memory, numpy, Hugging Face datasets, LitData.

Copies are made from the table, so the rows are the same; making them is not timed.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from contenders import (
    ARROW,
    MATRIX,
    OBJECTS,
    TENSORS,
    TORCH,
    WINDOW,
    Batches,
    Contender,
    as_it_is,
    endless,
)
from records import to_tensor, to_tensors
from tables import BenchTable, make_once
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

PYARROW = "pyarrow in memory, take"
COLUMNS = "torch in memory, a tensor per column"
ONE_MATRIX = "torch in memory, one matrix"
MEMMAP = "numpy memmap of packed rows"
HF_ARROW = "HF datasets, map-style, arrow"
HF_TORCH = "HF datasets, map-style, torch"
HF_STREAM = "HF datasets, iterable, buffer of 10,000"
LITDATA = "LitData"

HF_BUFFER = 10_000
HF_SHARDS = 16
LITDATA_CHUNK = "64MB"

# Neither may ask its hub about anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@functools.lru_cache(maxsize=1)
def in_memory(path: Path, columns: tuple[str, ...] | None) -> pa.Table:
    names = None if columns is None else list(columns)
    return lance.dataset(path).to_table(columns=names).combine_chunks()


def loaded(table: BenchTable) -> pa.Table:
    return in_memory(table.path, table.columns)


@functools.lru_cache(maxsize=1)
def columns_in_memory(path: Path, columns: tuple[str, ...] | None) -> dict[str, Tensor]:
    """Fill tensors batch by batch: a second copy of a large table need not fit."""
    dataset = lance.dataset(path)
    names = None if columns is None else list(columns)
    filled: dict[str, Tensor] = {}
    start = 0
    for batch in dataset.to_batches(columns=names):
        stop = start + batch.num_rows
        for name, column in to_tensors(batch).items():
            if name not in filled:
                shape = (dataset.count_rows(), *column.shape[1:])
                filled[name] = torch.empty(shape, dtype=column.dtype)
            filled[name][start:stop] = column
        start = stop
    return filled


@functools.lru_cache(maxsize=1)
def matrix_in_memory(path: Path, columns: tuple[str, ...] | None) -> Tensor:
    data = in_memory(path, columns)
    return torch.stack([to_tensor(column.chunk(0)) for column in data.columns], dim=1)


def forget() -> None:
    """Free what the peers of one table hold."""
    for held in (in_memory, columns_in_memory, matrix_in_memory, packed_rows):
        held.cache_clear()


def sampler_generator(seed: int) -> torch.Generator:
    """Give the generator as it stands when ``DataLoader`` has its sampler shuffle."""
    generator = torch.Generator().manual_seed(seed)
    # DataLoader draws a seed for its workers first.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return generator


def picks(table: BenchTable, seed: int) -> Iterator[Tensor]:
    """Give the rows of each batch as torch's sampler picks them, without its Python list."""
    generator = sampler_generator(seed)
    while True:
        order = torch.randperm(table.num_rows, generator=generator)
        whole = table.num_rows - table.num_rows % table.batch_size
        yield from order[:whole].split(table.batch_size)


def take_arrow(table: BenchTable, seed: int) -> Batches:
    (batch,) = loaded(table).to_batches()
    for rows in picks(table, seed):
        yield batch.take(pa.array(rows.numpy()))


def select_columns(table: BenchTable, seed: int) -> Batches:
    columns = columns_in_memory(table.path, table.columns)
    for rows in picks(table, seed):
        yield {name: column.index_select(0, rows) for name, column in columns.items()}


def select_matrix(table: BenchTable, seed: int) -> Batches:
    matrix = matrix_in_memory(table.path, table.columns)
    for rows in picks(table, seed):
        yield matrix.index_select(0, rows)


def packed_path(table: BenchTable) -> Path:
    return table.folder.with_name(f"{table.folder.name}-packed") / "rows"


def pack(table: BenchTable) -> None:
    """Write the packed rows once, and touch every page: as in any epoch but the first."""
    make_once(packed_path(table).parent, functools.partial(write_packed, table))
    packed_rows(table).view(np.uint8).reshape(-1)[:: mmap.PAGESIZE].sum()


@functools.lru_cache(maxsize=1)
def packed_rows(table: BenchTable) -> np.memmap:
    dtype = packed_dtype(lance.dataset(table.path).schema)
    return np.memmap(packed_path(table), dtype, mode="r")


def write_packed(table: BenchTable, folder: Path) -> None:
    """Write rows value beside value, as one would by hand."""
    folder.mkdir()
    with (folder / "rows").open("wb") as stream:
        for batch in lance.dataset(table.path).to_batches():
            rows = np.empty(batch.num_rows, packed_dtype(batch.schema))
            for name, column in to_tensors(batch).items():
                rows[name] = column.numpy()
            rows.tofile(stream)


def packed_dtype(schema: pa.Schema) -> np.dtype:
    fields: list[Any] = []
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            inner = field.type.value_type.to_pandas_dtype()
            fields.append((field.name, inner, (field.type.list_size,)))
        else:
            fields.append((field.name, field.type.to_pandas_dtype()))
    return np.dtype(fields)


def gather_packed(table: BenchTable, seed: int) -> Batches:
    mapped = packed_rows(table)
    for rows in picks(table, seed):
        batch = mapped[rows.numpy()]
        # Views into the rows: turning them into whole columns would cost as much again.
        yield {name: torch.from_numpy(batch[name]) for name in batch.dtype.names}


def hf_dataset(table: BenchTable) -> Any:
    import datasets

    rows = datasets.table.InMemoryTable(loaded(table))
    # Otherwise it hashes all rows to find one.
    return datasets.Dataset(rows, fingerprint=table.folder.name)


def hf_map(table: BenchTable, seed: int, *, kind: str) -> Batches:
    """Its documented fast way: a sampler of batches, so that it is asked for many rows."""
    dataset = hf_dataset(table).with_format(kind)
    sampler = RandomSampler(dataset, generator=sampler_generator(seed))
    batches = BatchSampler(sampler, table.batch_size, drop_last=True)
    return endless(DataLoader(dataset, batch_size=None, sampler=batches))


def hf_stream(table: BenchTable, seed: int, *, kind: str) -> Batches:
    streamed = hf_dataset(table).to_iterable_dataset(num_shards=HF_SHARDS)
    shuffled = streamed.shuffle(seed=seed, buffer_size=HF_BUFFER).with_format(kind)
    while True:
        yield from shuffled.iter(table.batch_size, drop_last_batch=True)


def litdata_folder(table: BenchTable) -> Path:
    return table.folder.with_name(f"{table.folder.name}-litdata")


def optimise(table: BenchTable) -> None:
    make_once(litdata_folder(table), functools.partial(write_litdata, table))


def write_litdata(table: BenchTable, folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=LITDATA_CHUNK)
    for at, item in enumerate(items(table)):
        writer[at] = item
    writer.done()
    writer.merge()


def items(table: BenchTable) -> Iterable[dict[str, Any]]:
    for batch in lance.dataset(table.path).to_batches():
        for at in range(batch.num_rows):
            yield {
                name: item_of(column[at])
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }


def item_of(value: pa.Scalar) -> Any:
    """Give lists as numpy arrays: LitData reads those ten times faster than tensors."""
    if pa.types.is_list(value.type) or pa.types.is_fixed_size_list(value.type):
        return value.values.to_numpy()
    return value.as_py()


def litdata(table: BenchTable, seed: int, *, is_stacked: bool = False) -> Batches:
    """LitData in the main process; its own shuffle: of chunks, then inside each."""
    import litdata

    dataset = litdata.StreamingDataset(
        str(litdata_folder(table)), shuffle=True, drop_last=True, seed=seed
    )
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=table.batch_size,
        drop_last=True,
        collate_fn=default_collate if is_stacked else as_it_is,
    )
    return endless(loader)


TAKE_IN_MEMORY = Contender(PYARROW, ARROW, TORCH, take_arrow, prepare=loaded)
TORCH_COLUMNS = Contender(
    COLUMNS,
    TENSORS,
    TORCH,
    select_columns,
    prepare=lambda table: columns_in_memory(table.path, table.columns),
)
TORCH_MATRIX = Contender(
    ONE_MATRIX,
    MATRIX,
    TORCH,
    select_matrix,
    prepare=lambda table: matrix_in_memory(table.path, table.columns),
)
PACKED = Contender(MEMMAP, TENSORS, TORCH, gather_packed, prepare=pack)
HF_MAP_ARROW = Contender(
    HF_ARROW, ARROW, TORCH, functools.partial(hf_map, kind="arrow"), prepare=loaded
)
HF_MAP_TORCH = Contender(
    HF_TORCH, TENSORS, TORCH, functools.partial(hf_map, kind="torch"), prepare=loaded
)
HF_ITERABLE = Contender(
    HF_STREAM,
    TENSORS,
    WINDOW,
    functools.partial(hf_stream, kind="torch"),
    prepare=loaded,
)
LITDATA_ITEMS = Contender(
    LITDATA, OBJECTS, WINDOW, litdata, reads_ahead=True, prepare=optimise
)
LITDATA_STACKED = Contender(
    LITDATA,
    TENSORS,
    WINDOW,
    functools.partial(litdata, is_stacked=True),
    reads_ahead=True,
    prepare=optimise,
)
