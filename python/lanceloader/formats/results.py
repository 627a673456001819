"""What functions of ``Permutation.map`` return, as Arrow data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError
from lanceloader.formats.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = ["batch_of", "column_of", "columns_of", "whole", "without_torch"]


def columns_of(rows: Sequence[Any]) -> dict[str, list[Any]] | None:
    """Return results for single rows as a dict of columns.

    Raises:
        TypeError: If one is not a dict.
    """
    if all(row is None for row in rows):
        return None
    names: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, Mapping):
            message = (
                "`function` of map() must return a dict of the columns of a row, not "
                f"{type(row).__name__}; with batched=True, one of columns"
            )
            raise TypeError(message)
        names |= dict.fromkeys(row)
    return {name: [row.get(name) for row in rows] for name in names}


def whole(result: Any, num_rows: int) -> pa.RecordBatch:
    """Return a batch that a function returned, such as a data frame, as Arrow data.

    Raises:
        TypeError: If it is not a batch.
        ValueError: If it has another number of rows.
    """
    batch = batch_of(result)
    if batch is None:
        message = (
            "`function` of map() must return a dict of columns, or a batch in the format of the "
            f"permutation, not {type(result).__name__}"
        )
        raise TypeError(message)
    if batch.num_rows != num_rows:
        raise another_number("the batch", batch.num_rows, num_rows)
    return batch


def batch_of(result: Any) -> pa.RecordBatch | None:
    """Return Arrow data or a data frame as a batch; ``None`` for anything else."""
    import pyarrow as pa

    if isinstance(result, pa.RecordBatch):
        return result
    package = type(result).__module__.partition(".")[0]
    if package == "pandas" and hasattr(result, "columns"):
        return pa.RecordBatch.from_pandas(result, preserve_index=False)
    if hasattr(result, "__arrow_c_stream__") and hasattr(result, "columns"):
        table = pa.table(result).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)
    return None


def column_of(name: str, values: Any, num_rows: int) -> pa.Array:
    """Return the values of a column as Arrow data.

    Args:
        name: The name of the column, for messages.
        values: A list with a value for each row, an array, a tensor, ``Ragged``, Arrow data, or a
            dict of these, which are the fields of a struct.
        num_rows: The number of rows.

    Raises:
        TypeError: If ``values`` is none of these.
        ValueError: If there is not one value for each row.
        FormatError: If Arrow cannot hold a value.
    """
    import pyarrow as pa

    if isinstance(values, Mapping):
        fields = [
            column_of(f"{name}.{field}", inner, num_rows)
            for field, inner in values.items()
        ]
        return pa.StructArray.from_arrays(fields, list(values))
    values = without_torch(values)
    if isinstance(values, Ragged):
        items = column_of(name, values.values, len(values.values))
        offsets = pa.array(values.offsets, pa.int64())
        column = pa.LargeListArray.from_arrays(offsets, items)
    elif isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        message = (
            f"`function` of map() must return a value of `{name}` for each row, in a list or an "
            f"array, not {type(values).__name__}"
        )
        raise TypeError(message)
    else:
        try:
            column = arrow_of(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            message = (
                f"the values of `{name}` that `function` of map() returned cannot be stored as "
                f"Arrow data: {error}; return numbers, text, arrays, lists or dicts, or call "
                "the function with loader(transform=...)"
            )
            raise FormatError(message) from error
    if len(column) != num_rows:
        raise another_number(f"`{name}`", len(column), num_rows)
    return column


def another_number(what: str, found: int, num_rows: int) -> ValueError:
    """Return the error for a result with another number of rows."""
    message = (
        f"`function` of map() returned {found} values of {what} for {num_rows} rows, but the "
        "number of rows must stay the same: return one value for each"
    )
    return ValueError(message)


def arrow_of(values: Any) -> pa.Array:
    """Return a sequence or array as Arrow data; further dimensions become fixed-size lists."""
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return pa.concat_arrays(values.chunks or [pa.nulls(0, values.type)])
    if isinstance(values, pa.Array):
        return values
    if hasattr(values, "to_arrow"):  # A series of polars.
        return arrow_of(values.to_arrow())
    if not isinstance(values, np.ndarray):
        package = type(values).__module__.partition(".")[0]
        if package == "pandas":
            return arrow_of(pa.Array.from_pandas(values))
        cells = [without_torch(value) for value in values]
        arrays = [cell for cell in cells if isinstance(cell, np.ndarray)]
        if not arrays or len(arrays) < len(cells):
            return pa.array(cells)
        if arrays[0].ndim == 1:
            # Lists, even where all have one length: the type is that of other batches.
            return pa.array(arrays)
        values = np.stack(arrays)
    if values.ndim < 2:
        return pa.array(values)
    items = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        items = pa.FixedSizeListArray.from_arrays(items, size)
    return items


def without_torch(value: Any) -> Any:
    """Return a tensor as an array of NumPy, and any other value as it is."""
    torch = sys.modules.get("torch")
    if isinstance(value, Ragged):
        return Ragged(*map(without_torch, value))
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.dtype is torch.bfloat16:
            value = value.float()
        return value.numpy() if value.ndim else value.item()
    return value
