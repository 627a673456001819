"""Concatenation of batches of one row, as transforms return them, and their numbers of rows.

Batches are lists, tensors, arrays, data frames, Arrow data, and dicts and tuples of these.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from lanceloader.formats.ragged import Ragged

__all__ = ["concat", "empty_like", "num_rows_of"]

LIBRARIES = ("torch", "numpy", "pyarrow", "pandas", "polars")


def num_rows_of(value: Any) -> int:
    """Return the number of rows in a batch.

    Raises:
        ValueError: If the value is not a batch, or its parts have different numbers of rows.
    """
    if isinstance(value, Ragged):
        return len(value.offsets) - 1
    if isinstance(value, Mapping):
        return common_num_rows(
            value, {name: num_rows_of(part) for name, part in value.items()}
        )
    if isinstance(value, tuple):
        return common_num_rows(
            value, {at: num_rows_of(part) for at, part in enumerate(value)}
        )
    if library_of(value) is not None:
        shape = getattr(value, "shape", None) or (getattr(value, "num_rows", None),)
        if isinstance(shape[0], int):
            return shape[0]
        if hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0:
            return len(value)
    if isinstance(value, list):
        return len(value)
    message = (
        f"a transform must return one output row per input row, but {type(value).__name__} "
        f"{str(value)[:60]!r} has no rows: return a list, a tensor, an array, Arrow data, or a "
        "dict or tuple of these"
    )
    raise ValueError(message)


def common_num_rows(value: Any, counts: dict[Any, int]) -> int:
    """Return the number of rows, which must be the same for all parts of a batch.

    Raises:
        ValueError: If it is not.
    """
    if len(set(counts.values())) != 1:
        message = (
            f"a transform must return one output row per input row, but the parts of a "
            f"{type(value).__name__} have different numbers of rows, {counts}"
        )
        raise ValueError(message)
    return next(iter(counts.values()))


def concat(parts: list[Any]) -> Any:
    """Return the concatenation of batches.

    Args:
        parts: At least one batch, all of the same type.

    Raises:
        ValueError: If the types differ, or the batches cannot be concatenated.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    kinds = {type(part).__name__ for part in parts}
    # Users' functions return plain dicts in place of the dicts of formats.
    if len(kinds) > 1 and not all(isinstance(part, Mapping) for part in parts):
        message = f"rows of different types cannot be concatenated: {', '.join(sorted(kinds))}"
        raise ValueError(message)
    if isinstance(first, Ragged):
        return concat_ragged(parts)
    if isinstance(first, Mapping):
        return concat_dicts(parts)
    if isinstance(first, tuple):
        if len({len(part) for part in parts}) > 1:
            raise ValueError("tuples of different lengths cannot be concatenated")
        elements = [concat(list(values)) for values in zip(*parts, strict=True)]
        return tuple_like(first, elements)
    if isinstance(first, list):
        return list(itertools.chain.from_iterable(parts))
    try:
        return concat_arrays(library_of(first), parts)
    except (RuntimeError, TypeError, ValueError) as error:
        # In most cases each row was padded to another length.
        message = f"the results of a transform for single rows cannot be concatenated: {error}"
        raise ValueError(message) from error


def empty_like(value: Any) -> Any:
    """Return a batch of the same type without rows.

    Raises:
        ValueError: If the value is not a batch.
    """
    num_rows_of(value)
    if isinstance(value, Ragged):
        return Ragged(value.values[:0], value.offsets[:1] * 0)
    if isinstance(value, Mapping):
        return dict_like(
            value, {name: empty_like(part) for name, part in value.items()}
        )
    if isinstance(value, tuple):
        return tuple_like(value, [empty_like(part) for part in value])
    if library_of(value) == "pandas":
        return value.iloc[:0]
    return value[:0]


def concat_dicts(parts: list[Any]) -> Any:
    first = parts[0]
    if any(part.keys() != first.keys() for part in parts):
        keys = {tuple(part.keys()) for part in parts}
        message = f"dicts of different keys cannot be concatenated: {keys}"
        raise ValueError(message)
    return dict_like(
        first, {name: concat([part[name] for part in parts]) for name in first}
    )


def dict_like(first: Any, columns: dict[Any, Any]) -> Any:
    """Return columns as a dict of the same class as ``first``."""
    if not isinstance(first, dict) or type(first) is dict:
        return columns
    new = copy.copy(first)
    new.update(columns)
    return new


def tuple_like(first: Any, parts: list[Any]) -> Any:
    """Return parts as a tuple of the same class as ``first``."""
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def concat_ragged(parts: list[Ragged]) -> Ragged:
    values: list[Any] = []
    offsets: list[Any] = []
    end = 0
    for part in parts:
        start, stop = int(part.offsets[0]), int(part.offsets[-1])
        values.append(part.values[start:stop])
        shifted = part.offsets + (end - start)
        offsets.append(shifted[1:] if offsets else shifted)
        end += stop - start
    return Ragged(concat(values), concat(offsets))


def library_of(value: Any) -> str | None:
    """Return the library of a tensor, array or data frame, without importing it."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in LIBRARIES:
            return library
    return None


def concat_arrays(library: str | None, parts: list[Any]) -> Any:
    if library == "torch":
        import torch

        return torch.cat(parts)
    if library == "numpy":
        import numpy as np

        return np.concatenate(parts)
    if library == "pandas":
        import pandas as pd

        return pd.concat(parts, ignore_index=True)
    if library == "polars":
        import polars as pl

        return pl.concat(parts)
    if library == "pyarrow":
        return concat_arrow(parts)
    message = f"values of type {type(parts[0]).__name__} are neither lists, tensors, arrays nor Arrow data"
    raise TypeError(message)


def concat_arrow(parts: list[Any]) -> Any:
    import pyarrow as pa

    first = parts[0]
    if isinstance(first, pa.Table):
        return pa.concat_tables(parts)
    if isinstance(first, pa.ChunkedArray):
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    if isinstance(first, pa.Array):
        return pa.concat_arrays(parts)
    if first.num_columns == 0:
        # Arrays would say how many rows there are.
        return pa.concat_batches(parts)
    columns = [
        pa.concat_arrays([part.column(at) for part in parts])
        for at in range(first.num_columns)
    ]
    if any(part.schema != first.schema for part in parts):
        raise ValueError("their schemas differ")
    return pa.RecordBatch.from_arrays(columns, schema=first.schema)
