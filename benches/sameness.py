"""Whether a batch holds the rows of the table that its ids say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from tables import BenchTable


def ids(batch: Any) -> list[int]:
    if isinstance(batch, list):
        return [row["id"] for row in batch]
    column = batch["id"]
    return column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()


def what_differs(table: BenchTable, batch: Any) -> str | None:
    """Give what is wrong with a batch, if anything is."""
    import lance

    found = ids(batch)
    if not 0 < len(found) <= table.batch_size or len(set(found)) != len(found):
        return f"{len(found)} rows, {len(set(found))} of them different"
    # In every table of the benches a row's id is its offset.
    wanted = lance.dataset(table.path).take(found)
    for name in wanted.column_names:
        there = wanted.column(name).combine_chunks()
        if not as_arrow(batch, name, there.type).equals(there):
            return f"other values of {name} than the table has"
    return None


def as_arrow(batch: Any, name: str, dtype: pa.DataType) -> pa.Array:
    """Give one column of any output."""
    if isinstance(batch, list):
        values = [row[name] for row in batch]
        if isinstance(values[0], memoryview):
            values = [bytes(value) for value in values]
        return pa.array(values, dtype)
    column = batch[name]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.Array):
        return column.cast(dtype)
    if hasattr(column, "offsets"):
        ends = column.offsets.numpy().astype(np.int32)
        return pa.ListArray.from_arrays(ends, pa.array(column.values.numpy())).cast(
            dtype
        )
    values = column.numpy()
    if values.ndim == 1:
        return pa.array(values, dtype)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(dtype)
