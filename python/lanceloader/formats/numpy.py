"""Batches as numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader.formats._columns import check_nulls, convert

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._typing import Nulls

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
    return batch.to_pandas().to_numpy()


def columns(
    batch: pa.RecordBatch, *, nulls: Nulls = "error", fill_value: Any = None
) -> dict[str, Any]:
    """Give an array per column; see ``Permutation.with_format`` for types and nulls."""
    check_nulls(nulls, fill_value)
    out = convert(batch, array, nulls=nulls, fill_value=fill_value, format="numpy_dict")
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _is_time(column.type):
            out[name] = out[name].view(_time_dtype(column.type))
    return out


def array(column: pa.Array) -> np.ndarray[Any, Any]:
    """Give an Arrow array without nulls as a numpy array, without a copy but for booleans."""
    return column.to_numpy(zero_copy_only=False)


def _is_time(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_date64(kind)
    )


def _time_dtype(kind: pa.DataType) -> np.dtype[Any]:
    import pyarrow as pa

    letter = "m" if pa.types.is_duration(kind) else "M"
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    return np.dtype(f"{letter}8[{unit}]")
