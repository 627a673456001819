"""Batches as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader._extras import need
from lanceloader.formats._columns import check_nulls, gather_runs
from lanceloader.formats._convert import Library, convert
from lanceloader.formats._types import as_integers, has_bfloat16
from lanceloader.formats.decoding import is_images, writable
from lanceloader.values import as_bfloat16, as_storable

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader._typing import Nulls, Transform

__all__ = ["columns", "matrix"]


def matrix(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Return an array of shape (rows, columns), as ``pandas.DataFrame.to_numpy`` does.

    The dtype is the common dtype of the columns, or ``object`` if they have none. The array may
    be read-only or not contiguous.

    Raises:
        ImportError: If columns have several types or nulls and pandas is not installed.
    """
    import pyarrow as pa

    if any(is_special(field) for field in batch.schema):
        return matrix_of_cells(batch)
    types = {column.type for column in batch.columns}
    if len(types) == 1 and not any(column.null_count for column in batch.columns):
        kind = types.pop()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            arrays = [column.to_numpy(zero_copy_only=True) for column in batch.columns]
            return np.stack(arrays).T
    need("pandas", 'format "numpy" of columns of several types, or with nulls,')
    values: np.ndarray[Any, Any] = as_storable(batch).to_pandas().to_numpy()
    return values


def is_special(field: pa.Field) -> bool:
    """Return whether a column has tensors, images or bfloat16, which pandas returns as raw storage."""
    return has_bfloat16(field) or hasattr(field.type, "shape") or is_images(field)


def matrix_of_cells(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Return an array of shape (rows, columns) for columns of which some are special."""
    arrays = [
        cells_of(batch.select([at])) if is_special(field) else column.to_pandas()
        for at, (field, column) in enumerate(
            zip(batch.schema, batch.columns, strict=True)
        )
    ]
    kinds = {values.dtype for values in arrays}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype(object)
    out = np.empty((batch.num_rows, len(arrays)), kind)
    for at, values in enumerate(arrays):
        out[:, at] = values
    return out


def cells_of(column: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Return the only column as a 1-D array with one item per row, ``None`` for nulls."""
    values, mask = (
        convert(column, LIBRARY, nulls="mask", fill_value=None)[name]
        for name in (column.schema.names[0], f"{column.schema.names[0]}_mask")
    )
    # Images of different sizes are a list.
    if getattr(values, "ndim", 0) == 1 and mask.all():
        return values  # type: ignore[no-any-return]
    out = np.empty(len(mask), object)
    for at in np.flatnonzero(mask):
        out[at] = values[at]
    return out


def columns(
    batch: pa.RecordBatch,
    *,
    nulls: Nulls = "error",
    fill_value: Any = None,
    pad: Any = None,
) -> dict[str, Any]:
    """Return a dict of one array per column; see ``Permutation.with_format``."""
    check_nulls(nulls, fill_value)
    return convert(batch, LIBRARY, nulls=nulls, fill_value=fill_value, pad=pad)


def from_native(batch: Batch, *, transform: Transform) -> dict[str, Any]:
    """Convert a batch of the core to a dict of one array per column, like ``columns``."""
    return gather_runs(batch, transform, vectors)


def vectors(
    name: str, block: Any, dtype: str, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Return a buffer of adjacent columns as an array of ``shape``, one item per column.

    Args:
        name: The name of the first column, for error messages.
        block: The buffer.
        dtype: The dtype of all columns.
        shape: Columns, rows and, for fixed-size lists, the sizes of the lists.
    """
    if dtype == "bfloat16":
        return as_bfloat16(name, np.frombuffer(block, np.int16)).reshape(shape)
    return np.frombuffer(block, dtype=dtype).reshape(shape)


def array(column: pa.Array) -> np.ndarray[Any, Any]:
    """Convert an Arrow array without nulls.

    Only booleans and 32-bit dates are copied. Times of day become integers in their own unit.
    """
    import pyarrow as pa

    if pa.types.is_time(column.type):
        column = as_integers(column)
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values


LIBRARY = Library(array, writable, as_bfloat16, np.transpose, "numpy_dict")
