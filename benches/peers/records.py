"""Rows as records of bytes, for peers that keep one record for each row.

Numbers are packed side by side: a field per column would cost such a peer several times more.
Worker processes import this file, so it imports little.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from harness.recipes import DIM, NUM_FEATURES
from harness.tables import BenchTable
from torch.utils.dlpack import from_dlpack
from tqdm.auto import tqdm

from peers.torch_loop import as_it_is

NUMBERS = {
    "narrow": np.dtype(
        [
            ("id", "<i8"),
            *((f"f{at}", "<f4") for at in range(NUM_FEATURES)),
            ("label", "<i8"),
        ]
    ),
    "embeddings": np.dtype(
        [("id", "<i8"), ("vector", "<f4", (DIM,)), ("label", "<i8")]
    ),
}
"""The tables whose rows are numbers only, and how a row is packed."""
VALUE = {"text": "text", "tokens": "tokens", "image": "image"}
"""The column of the other tables that has a length of its own."""
ID = np.dtype("<i8").itemsize


SHARD_BYTES = 64_000_000


def of_table(table: BenchTable) -> Iterator[bytes]:
    """Return a record for each row of a table, with a bar."""
    import lance

    with tqdm(total=table.num_rows, desc="copying", unit=" rows", mininterval=1) as bar:
        for batch in lance.dataset(table.path).to_batches():
            yield from encoded(table.name, batch)
            bar.update(batch.num_rows)


def endless(table: BenchTable, epochs: Callable[[int], Iterable[Any]]) -> Iterator[Any]:
    """Return the batches of one epoch after the other, as tensors or rows."""
    for epoch in itertools.count():
        for batch in epochs(epoch):
            yield decoded(table.name, batch)


def encoded(name: str, batch: Any) -> Iterator[bytes]:
    """Return each row of an Arrow batch as a record."""
    if name in NUMBERS:
        rows = packed(name, batch)
        size = rows.dtype.itemsize
        data = rows.tobytes()
        yield from (data[at : at + size] for at in range(0, len(data), size))
        return
    fixed = [batch.column(column).to_numpy() for column in fixed_columns(name)]
    for at, value in enumerate(batch.column(VALUE[name])):
        head = b"".join(column[at].tobytes() for column in fixed)
        yield head + tail_of(name, value)


def fixed_columns(name: str) -> tuple[str, ...]:
    return ("id", "label") if name == "image" else ("id",)


def tail_of(name: str, value: Any) -> bytes:
    if name == "tokens":
        return value.values.to_numpy().tobytes()
    return value.as_buffer().to_pybytes()


def packed(name: str, batch: Any) -> np.ndarray:
    rows = np.empty(batch.num_rows, NUMBERS[name])
    for field in rows.dtype.names:
        column = batch.column(field)
        if rows.dtype[field].shape:
            column = column.flatten()
        rows[field] = column.to_numpy().reshape(rows[field].shape)
    return rows


def items(name: str, batch: Any) -> Sequence[Any]:
    """Return the rows of an Arrow batch as what is cheapest to hand on one by one."""
    if name in NUMBERS:
        return list(encoded(name, batch))
    if name != "tokens":
        return batch.to_pylist()
    ids = batch.column("id").to_pylist()
    lists = batch.column("tokens")
    return [
        {"id": row, "tokens": tokens.values.to_numpy()}
        for row, tokens in zip(ids, lists, strict=True)
    ]


def joined(records: Sequence[bytes]) -> torch.Tensor:
    """Put records of numbers into one buffer: of many small tensors each would cost more."""
    return torch.frombuffer(bytearray().join(records), dtype=torch.uint8)


def apart(records: Sequence[bytes]) -> tuple[torch.Tensor, list[int]]:
    """Put records of any length into one buffer, with the length of each."""
    return joined(records), [len(record) for record in records]


def collate(name: str, num_workers: int) -> Any:
    """Return what becomes of the records of a batch before they are handed on.

    Between processes one buffer is fastest: it goes through shared memory, not through a pipe.
    """
    if name in NUMBERS:
        return joined
    return apart if num_workers else as_it_is


def decoded(name: str, collated: Any) -> Any:
    """Return a batch: a tensor per column, or a list of rows."""
    if name in NUMBERS:
        return columns(collated.numpy().view(NUMBERS[name]))
    if isinstance(collated, tuple):
        collated = split(*collated)
    return [row(name, record) for record in collated]


def split(buffer: torch.Tensor, lengths: Sequence[int]) -> Iterator[memoryview]:
    view, start = memoryview(buffer.numpy()), 0
    for length in lengths:
        yield view[start : start + length]
        start += length


def from_items(name: str, collated: Any) -> Any:
    return decoded(name, collated) if name in NUMBERS else collated


def columns(rows: np.ndarray) -> dict[str, torch.Tensor]:
    # Views into the rows: turning them into whole columns would cost as much again.
    return {name: torch.from_numpy(rows[name]) for name in rows.dtype.names}


def row(name: str, record: bytes) -> dict[str, Any]:
    heads = fixed_columns(name)
    numbers = np.frombuffer(record, "<i8", len(heads)).tolist()
    rest = memoryview(record)[ID * len(heads) :]
    value: Any = rest
    if name == "text":
        value = str(rest, "utf-8")
    elif name == "tokens":
        value = np.frombuffer(rest, np.int32)
    return dict(zip(heads, numbers, strict=True)) | {VALUE[name]: value}


def to_tensors(batch: pa.RecordBatch) -> dict[str, torch.Tensor]:
    """Return a tensor per column without a copy: the best that others can do by hand."""
    return {
        name: to_tensor(column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def to_tensor(column: pa.Array) -> torch.Tensor:
    if pa.types.is_fixed_size_list(column.type):
        return to_tensor(column.flatten()).view(len(column), column.type.list_size)
    return from_dlpack(column.__dlpack__(max_version=(1, 0)))
