"""Functions of rows or of columns between reading and the format: the steps of ``Permutation.map``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError
from lanceloader.formats._rows import values_of
from lanceloader.formats.decoding import Decode
from lanceloader.formats.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from lanceloader._typing import Transform
    from lanceloader.randomness import RowKeys

__all__ = [
    "Mapped",
    "Step",
    "batch_of",
    "decodes",
    "draws",
    "mapped_transform",
    "steps_of",
]


@dataclass(frozen=True)
class Step:
    """A user's function, and what it is called with.

    Attributes:
        function: A function of a row as a dict, or of a batch.
        inputs: A transform to what is passed to ``function``: a dict of columns, or a whole batch.
        by_row: Whether the function takes a row instead of a batch.
        removed: Columns that are removed after the call.
    """

    function: Callable[[Any], Any]
    inputs: Transform
    by_row: bool
    removed: tuple[str, ...] = ()

    def results(self, batch: pa.RecordBatch) -> Any:
        """Return the result for a batch, or a list of those for its rows."""
        inputs = self.inputs(batch)
        if not self.by_row:
            return self.function(inputs)
        rows = values_of(inputs, batch.num_rows, "a batch")
        # Unlike `map`, a comprehension does not end at a StopIteration of the function.
        return [self.function(row) for row in rows]

    def mask(self, batch: pa.RecordBatch) -> Any:
        """Return the booleans that the function returned for the rows of a batch.

        Raises:
            TypeError: If it returned something else.
            ValueError: If it returned another number of them.
        """
        import numpy as np

        results = self.results(batch)
        if isinstance(results, list):
            results = list(map(without_torch, results))
        found = np.asarray(without_torch(results))
        if batch.num_rows == 0:
            return np.zeros(0, np.bool_)
        if found.dtype != np.bool_:
            what = found.ravel().tolist()[0] if found.size else []
            message = (
                f"`predicate` must return True or False for each row, not {what!r}"
            )
            raise TypeError(message)
        if found.shape != (batch.num_rows,):
            message = (
                f"`predicate` returned booleans of shape {found.shape} for "
                f"{batch.num_rows} rows: return one for each"
            )
            raise ValueError(message)
        return found

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch with the columns that the function returned.

        Raises:
            TypeError: If the function returned something else.
            ValueError: If a column does not have a value for each row.
        """
        results = self.results(batch)
        if self.by_row:
            results = columns_of(results)
        if results is None:
            results = {}
        elif not isinstance(results, Mapping):
            return whole(results, batch.num_rows)
        return self.merged(batch, results)

    def merged(self, batch: pa.RecordBatch, found: Mapping[str, Any]) -> pa.RecordBatch:
        """Return the batch with more columns, in place of those of the same name."""
        import pyarrow as pa

        fields = {
            field.name: (field, column)
            for field, column in zip(batch.schema, batch.columns, strict=True)
            if field.name not in self.removed
        }
        for name, values in found.items():
            column = column_of(name, values, batch.num_rows)
            fields[name] = pa.field(name, column.type), column
        schema = pa.schema([field for field, _ in fields.values()])
        columns = [column for _, column in fields.values()]
        if not columns:
            # A batch without columns has no rows.
            message = (
                "map() leaves no column: return one, or pass fewer `remove_columns`"
            )
            raise ValueError(message)
        return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class Mapped:
    """A transform that calls functions before it converts a batch to its format.

    Attributes:
        steps: The functions, in order, and columns that are decoded.
        transform: The transform to the format.
    """

    steps: tuple[Step | Decode, ...]
    transform: Transform

    def __call__(self, batch: pa.RecordBatch, keys: RowKeys | None = None) -> Any:
        """Return the mapped batch in its format."""
        return self.transform(self.mapped(batch, keys))

    def mapped(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> pa.RecordBatch:
        """Return the batch after all functions."""
        for step in self.steps:
            batch = step(batch, keys) if isinstance(step, Decode) else step(batch)
        return batch


def steps_of(transform: Transform) -> tuple[Step | Decode, ...]:
    """Return the functions that a transform calls before it converts a batch."""
    return transform.steps if isinstance(transform, Mapped) else ()


def decodes(transform: Transform) -> bool:
    """Return whether a transform decodes columns."""
    return any(isinstance(step, Decode) for step in steps_of(transform))


def draws(transform: Transform) -> bool:
    """Return whether a transform needs the keys of the rows, as what it decodes is random."""
    return any(isinstance(step, Decode) and step.draws for step in steps_of(transform))


def mapped_transform(
    old: Transform,
    *,
    transform: Transform | None = None,
    step: Step | Decode | None = None,
) -> Transform:
    """Return a transform with the functions of another one.

    Args:
        old: The transform whose functions are called.
        transform: The transform to the format; by default that of ``old``.
        step: One more function.
    """
    if isinstance(old, Mapped):
        new = old if transform is None else replace(old, transform=transform)
    elif step is None:
        return old if transform is None else transform
    else:
        new = Mapped((), old if transform is None else transform)
    return new if step is None else replace(new, steps=(*new.steps, step))


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
