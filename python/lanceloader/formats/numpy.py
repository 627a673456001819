"""Batches as numpy arrays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from lanceloader._extras import need
from lanceloader.errors import FormatError
from lanceloader.formats._columns import (
    Library,
    as_integers,
    check_nulls,
    convert,
    gather_runs,
    has_bfloat16,
)
from lanceloader.values import as_storable

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
    """Whether numpy and pandas would make of a column's values what they are stored as."""
    return has_bfloat16(field) or hasattr(field.type, "shape")


def matrix_of_cells(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """Return one array of shape (rows, columns), where some are tensors or 16-bit floats."""
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
    """Return a 1-D array of what each row has in the only column."""
    values, mask = (
        convert(column, LIBRARY, nulls="mask", fill_value=None)[name]
        for name in (column.schema.names[0], f"{column.schema.names[0]}_mask")
    )
    if values.ndim == 1 and mask.all():
        return values  # type: ignore[no-any-return]
    out = np.empty(len(mask), object)
    for at in np.flatnonzero(mask):
        out[at] = values[at]
    return out


def columns(
    batch: pa.RecordBatch, *, nulls: Nulls = "error", fill_value: Any = None
) -> dict[str, Any]:
    """Give an array per column; see ``Permutation.with_format`` for types and nulls."""
    check_nulls(nulls, fill_value)
    return convert(batch, LIBRARY, nulls=nulls, fill_value=fill_value)


def from_native(batch: Batch, *, transform: Transform) -> dict[str, Any]:
    """Give what ``columns`` gives, of a batch of the core."""
    return gather_runs(batch, transform, vectors)


def vectors(
    name: str, block: Any, dtype: str, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Return columns of one dtype that lie end to end, the first of which is called ``name``."""
    if dtype == "bfloat16":
        return bfloat16(name, np.frombuffer(block, np.int16)).reshape(shape)
    return np.frombuffer(block, dtype=dtype).reshape(shape)


def bfloat16(name: str, bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return 16-bit integers as floats with these bits, of the dtype of ``ml_dtypes``. No copy.

    Raises:
        FormatError: If ``ml_dtypes`` is not installed.
    """
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError as error:
        message = (
            f"column `{name}` of type lance.bfloat16: numpy has no such dtype; "
            "pip install ml_dtypes, which has, or use a torch format"
        )
        raise FormatError(message) from error
    return bits.view(ml_dtypes.bfloat16)


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


LIBRARY = Library(array, bfloat16, np.transpose, "numpy_dict")
