"""Batches as numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader._extras import need
from lanceloader.formats._columns import (
    as_integers,
    check_nulls,
    convert,
    gather_runs,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader._typing import Nulls, Transform

__all__ = ["columns", "matrix"]


def matrix(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Give one array of shape (rows, columns), as pandas would.

    Its dtype is that of all columns, or what they promote to, or ``object``. May be
    read-only and need not be contiguous.
    """
    import pyarrow as pa

    types = {column.type for column in batch.columns}
    if len(types) == 1 and not any(column.null_count for column in batch.columns):
        kind = types.pop()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            arrays = [column.to_numpy(zero_copy_only=True) for column in batch.columns]
            return np.stack(arrays).T
    need("pandas", 'format "numpy" of columns of several types, or with nulls,')
    values: np.ndarray[Any, Any] = batch.to_pandas().to_numpy()
    return values


def columns(
    batch: pa.RecordBatch, *, nulls: Nulls = "error", fill_value: Any = None
) -> dict[str, Any]:
    """Give an array per column; see ``Permutation.with_format`` for types and nulls."""
    check_nulls(nulls, fill_value)
    return convert(
        batch, array, nulls=nulls, fill_value=fill_value, format="numpy_dict"
    )


def from_native(batch: Batch, *, transform: Transform) -> dict[str, Any]:
    """Give what ``columns`` gives, of a batch of the core."""
    return gather_runs(batch, transform, vectors)


def vectors(block: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Give columns of one dtype that lie end to end."""
    return np.frombuffer(block, dtype=dtype).reshape(shape)


def array(column: pa.Array) -> np.ndarray[Any, Any]:
    """Give an Arrow array without nulls as a numpy array.

    Without a copy but for booleans and 32-bit dates. Times of the day are whole numbers, of
    their own unit.
    """
    import pyarrow as pa

    if pa.types.is_time(column.type):
        column = as_integers(column)
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values
