"""What transforms made of rows one by one, as one batch: how many rows, and end to end.

Values are lists, tensors, arrays, frames, Arrow data, and dicts and tuples of these.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from lanceloader.formats._columns import Ragged

__all__ = ["emptied", "joined", "num_rows_of"]

LIBRARIES = ("torch", "numpy", "pyarrow", "pandas", "polars")


def num_rows_of(value: Any) -> int:
    """Count the rows that a batch has.

    Raises:
        ValueError: If it is nothing that has rows, or its parts have different numbers.
    """
    if isinstance(value, Ragged):
        return len(value.offsets) - 1
    if isinstance(value, Mapping):
        return agreed(value, {name: num_rows_of(part) for name, part in value.items()})
    if isinstance(value, tuple):
        return agreed(value, {at: num_rows_of(part) for at, part in enumerate(value)})
    if library_of(value) is not None:
        shape = getattr(value, "shape", None) or (getattr(value, "num_rows", None),)
        if isinstance(shape[0], int):
            return shape[0]
        if hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0:
            return len(value)
    if isinstance(value, list):
        return len(value)
    message = (
        f"one output row per input row: {type(value).__name__} {str(value)[:60]!r} has no "
        "rows; wanted a list, a tensor, an array, Arrow data, or a dict or tuple of these"
    )
    raise ValueError(message)


def agreed(value: Any, counts: dict[Any, int]) -> int:
    """Give the number of rows that all parts have."""
    if len(set(counts.values())) != 1:
        message = (
            f"one output row per input row: the parts of a {type(value).__name__} have "
            f"{counts} rows"
        )
        raise ValueError(message)
    return next(iter(counts.values()))


def joined(parts: list[Any]) -> Any:
    """Join batches end to end.

    Args:
        parts: At least one, all of one kind.

    Raises:
        ValueError: If they are of different kinds or cannot be joined.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    kinds = {type(part).__name__ for part in parts}
    if len(kinds) > 1:
        message = f"rows of different kinds, {', '.join(sorted(kinds))}, are no batch"
        raise ValueError(message)
    if isinstance(first, Ragged):
        return joined_lists(parts)
    if isinstance(first, Mapping):
        return joined_dicts(parts)
    if isinstance(first, tuple):
        if len({len(part) for part in parts}) > 1:
            raise ValueError("tuples of different lengths are no batch")
        places = [joined(list(place)) for place in zip(*parts, strict=True)]
        return tuple_like(first, places)
    if isinstance(first, list):
        return list(itertools.chain.from_iterable(parts))
    try:
        return end_to_end(library_of(first), parts)
    except (RuntimeError, TypeError, ValueError) as error:
        # Rows that were padded on their own, mostly.
        message = f"what was made of single rows cannot be joined: {error}"
        raise ValueError(message) from error


def emptied(value: Any) -> Any:
    """Give a batch of the same kind, without rows.

    Raises:
        ValueError: If it is nothing that has rows.
    """
    num_rows_of(value)
    if isinstance(value, Ragged):
        return Ragged(value.values[:0], value.offsets[:1] * 0)
    if isinstance(value, Mapping):
        return like(value, {name: emptied(part) for name, part in value.items()})
    if isinstance(value, tuple):
        return tuple_like(value, [emptied(part) for part in value])
    if library_of(value) == "pandas":
        return value.iloc[:0]
    return value[:0]


def joined_dicts(parts: list[Any]) -> Any:
    first = parts[0]
    if any(part.keys() != first.keys() for part in parts):
        keys = {tuple(part.keys()) for part in parts}
        message = f"dicts of different keys are no batch: {keys}"
        raise ValueError(message)
    return like(first, {name: joined([part[name] for part in parts]) for name in first})


def like(first: Any, columns: dict[Any, Any]) -> Any:
    """Give columns as a dict of the same class."""
    if not isinstance(first, dict) or type(first) is dict:
        return columns
    new = copy.copy(first)
    new.update(columns)
    return new


def tuple_like(first: Any, parts: list[Any]) -> Any:
    """Give parts as a tuple of the same class."""
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def joined_lists(parts: list[Ragged]) -> Ragged:
    values: list[Any] = []
    offsets: list[Any] = []
    end = 0
    for part in parts:
        start, stop = int(part.offsets[0]), int(part.offsets[-1])
        values.append(part.values[start:stop])
        shifted = part.offsets + (end - start)
        offsets.append(shifted[1:] if offsets else shifted)
        end += stop - start
    return Ragged(joined(values), joined(offsets))


def library_of(value: Any) -> str | None:
    """Say whose a tensor, array or frame is, without importing any library."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in LIBRARIES:
            return library
    return None


def end_to_end(library: str | None, parts: list[Any]) -> Any:
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
        return joined_arrow(parts)
    message = f"wanted lists, tensors, arrays or Arrow data, not {type(parts[0])}"
    raise TypeError(message)


def joined_arrow(parts: list[Any]) -> Any:
    import pyarrow as pa

    first = parts[0]
    if isinstance(first, pa.Table):
        return pa.concat_tables(parts)
    if isinstance(first, pa.ChunkedArray):
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    if isinstance(first, pa.Array):
        return pa.concat_arrays(parts)
    columns = [
        pa.concat_arrays([part.column(at) for part in parts])
        for at in range(first.num_columns)
    ]
    if any(part.schema != first.schema for part in parts):
        raise ValueError("their schemas differ")
    return pa.RecordBatch.from_arrays(columns, schema=first.schema)
