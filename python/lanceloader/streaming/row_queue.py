"""Transformed rows that wait: lists of rows, or columns of which rows are made when they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from lanceloader._native import round_robin
from lanceloader.errors import LanceloaderError
from lanceloader.stages.concat import concat, library_of

SLICED = "torch", "numpy"


class RowBlock(NamedTuple):
    """Consecutive rows of a stream."""

    start: int
    """The position of the first row."""
    values: Any
    """A list of rows, or columns."""
    num_rows: int


class RowQueue:
    """A queue of blocks; its length is the number of rows."""

    def __init__(self) -> None:
        self._blocks: deque[RowBlock] = deque()
        self._num_rows = 0
        self._rows: deque[tuple[int, Any]] = deque()
        """The rows of the first block, once one of them was taken alone."""
        self._num_taken = 0
        """The rows of the first block that were taken together."""

    def __len__(self) -> int:
        return self._num_rows

    def extend(self, blocks: list[RowBlock]) -> None:
        """Append blocks."""
        for block in blocks:
            if block.num_rows:
                self._blocks.append(block)
                self._num_rows += block.num_rows

    def popleft(self) -> tuple[int, Any]:
        """Remove the first row, and return its position and the row."""
        if not self._rows:
            block = self._blocks.popleft()
            positions = range(block.start, block.start + block.num_rows)
            self._rows.extend(zip(positions, rows_of(block.values), strict=True))
        self._num_rows -= 1
        return self._rows.popleft()

    def take(self, most: int) -> RowBlock:
        """Remove up to ``most`` rows of the first block.

        Rows must not be taken one by one from the same queue.
        """
        block, first = self._blocks[0], self._num_taken
        num_rows = min(most, block.num_rows - first)
        self._num_rows -= num_rows
        self._num_taken = first + num_rows
        if self._num_taken == block.num_rows:
            self._blocks.popleft()
            self._num_taken = 0
        if num_rows == block.num_rows:
            return block
        values = sliced(block.values, first, first + num_rows)
        return RowBlock(block.start + first, values, num_rows)


def is_columnar(values: Any) -> bool:
    """Return whether the result of a transform is kept as columns.

    These are a tensor, an array, a ``pyarrow.RecordBatch``, or a dict of tensors and arrays.
    """
    if isinstance(values, Mapping):
        return len(values) > 0 and all(
            library_of(each) in SLICED and is_columnar(each) for each in values.values()
        )
    if library_of(values) in SLICED:
        # Rows of a masked array are collated with their masks, which tensors do not have.
        return getattr(values, "ndim", 0) > 0 and not hasattr(values, "mask")
    return is_arrow(values)


def is_arrow(values: Any) -> bool:
    """Return whether values are a ``pyarrow.RecordBatch`` or a ``pyarrow.Table``."""
    return library_of(values) == "pyarrow" and hasattr(values, "num_columns")


def sliced(values: Any, start: int, stop: int) -> Any:
    """Return some rows of a list or of columns."""
    if hasattr(values, "num_columns"):
        return values.slice(start, stop - start)
    if isinstance(values, Mapping):
        return {name: each[start:stop] for name, each in values.items()}
    return values[start:stop]


def rows_of(values: Any) -> list[Any]:
    """Return the rows of a list or of columns."""
    if isinstance(values, list):
        return values
    if isinstance(values, Mapping):
        columns = [list(each) for each in values.values()]
        return [
            dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)
        ]
    if hasattr(values, "num_columns"):
        return [values.slice(at, 1) for at in range(values.num_rows)]
    return list(values)


def interleaved(parts: list[list[Any]]) -> Any:
    """Return the order that takes one row of each part in turn.

    Args:
        parts: Lists or columns, each in pieces. The first parts may have one row more.
    """
    kinds = {type(piece) for part in parts for piece in part}
    if len(kinds) == 1 and hasattr(parts[0][0], "num_columns"):
        return interleaved_arrow(parts)
    return interleaved_values([joined(part) for part in parts])


def joined(pieces: list[Any]) -> Any:
    """Return the pieces of a part as one, as a list of rows if they are not alike."""
    are_dicts = all(isinstance(piece, Mapping) for piece in pieces)
    if len({type(piece) for piece in pieces}) > 1 and not are_dicts:
        return [row for piece in pieces for row in rows_of(piece)]
    return concat(pieces)


def interleaved_values(parts: list[Any]) -> Any:
    """Interleave lists, tensors, arrays, and dicts of these."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if not are_alike(parts):
        parts = [rows_of(part) for part in parts]
        first = parts[0]
    if isinstance(first, Mapping):
        return {
            name: interleaved_values([part[name] for part in parts]) for name in first
        }
    turns = len(parts[-1])
    if len(first) > turns:
        rest = [part[turns:] for part in parts if len(part) > turns]
        return concat([interleaved_values([part[:turns] for part in parts]), *rest])
    if isinstance(first, list):
        return [row for turn in zip(*parts, strict=True) for row in turn]
    if library_of(first) == "torch":
        import torch

        return torch.stack(parts, 1).flatten(0, 1)
    import numpy as np

    return np.stack(parts, 1).reshape(turns * len(parts), *first.shape[1:])


def are_alike(parts: list[Any]) -> bool:
    """Return whether parts are of one type, and their columns of one name, type and shape.

    Raises:
        ValueError: If the names of columns differ.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        if not all(isinstance(part, Mapping) for part in parts):
            return False
        names = {tuple(sorted(map(str, part))) for part in parts}
        if len(names) > 1:
            message = f"dicts of different keys cannot be interleaved: {sorted(names)}"
            raise ValueError(message)
        return all(are_alike([part[name] for part in parts]) for name in first)
    shapes = {getattr(part, "shape", (0,))[1:] for part in parts}
    return len({type(part) for part in parts}) == 1 and len(shapes) == 1


def interleaved_arrow(parts: list[list[Any]]) -> Any:
    """Interleave record batches or tables, which the core copies once.

    Raises:
        ValueError: If their schemas differ.
    """
    import pyarrow as pa

    pieces = [piece for part in parts for piece in part]
    first = pieces[0]
    if len(parts) == 1:
        return concat(pieces)
    if any(piece.schema != first.schema for piece in pieces):
        raise ValueError("batches of different schemas cannot be interleaved")
    is_batch = isinstance(first, pa.RecordBatch)
    data = pa.Table.from_batches(pieces) if is_batch else pa.concat_tables(pieces)
    lengths = [sum(piece.num_rows for piece in part) for part in parts]
    try:
        found = pa.record_batch(round_robin(data, lengths))
    except (ValueError, LanceloaderError):
        # Metadata that is no text, or nulls where the schema has none: Arrow allows it.
        found = None
    if found is None or not found.schema.equals(first.schema, check_metadata=True):
        # The core does not know whether dictionaries and maps are sorted.
        return concat(pieces).take(turns_of(lengths))
    return found if is_batch else pa.Table.from_batches([found])


def turns_of(lengths: list[int]) -> Any:
    """Return the numbers of rows that take one row of each part in turn.

    Args:
        lengths: The number of rows of each part, which lie end to end.
    """
    import numpy as np

    rounds = np.concatenate([np.arange(length) for length in lengths])
    return np.argsort(rounds, kind="stable")
