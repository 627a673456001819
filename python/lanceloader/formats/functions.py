"""Functions of rows or of columns between reading and the format: the steps of ``Permutation.map``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader.formats._rows import values_of
from lanceloader.formats.decoding import Decode
from lanceloader.formats.results import column_of, columns_of, whole, without_torch
from lanceloader.randomness import Drawing, called

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa

    from lanceloader._typing import Transform
    from lanceloader.randomness import RowKeys

__all__ = [
    "Mapped",
    "Mask",
    "Step",
    "decodes",
    "draws",
    "mapped_transform",
    "name_of_step",
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

    @property
    def draws(self) -> bool:
        """Whether the function draws, so that it needs the keys of the rows."""
        return isinstance(self.function, Drawing)

    def results(self, batch: pa.RecordBatch, keys: RowKeys | None = None) -> Any:
        """Return the result for a batch, or a list of those for its rows."""
        inputs = self.inputs(batch)
        if not self.by_row:
            return called(self.function, inputs, keys)
        rows = values_of(inputs, batch.num_rows, "a batch")
        if self.draws and keys is not None:
            return [
                self.function(row, keys.row(at))  # type: ignore[call-arg]
                for at, row in enumerate(rows)
            ]
        # Unlike `map`, a comprehension does not end at a StopIteration of the function.
        return [called(self.function, row, keys) for row in rows]

    def mask(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> np.ndarray[Any, Any]:
        """Return the booleans that the function returned for the rows of a batch.

        Raises:
            TypeError: If it returned something else.
            ValueError: If it returned another number of them.
        """
        import numpy as np

        results = self.results(batch, keys)
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

    def __call__(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> pa.RecordBatch:
        """Return the batch with the columns that the function returned.

        Raises:
            TypeError: If the function returned something else.
            ValueError: If a column does not have a value for each row.
        """
        results = self.results(batch, keys)
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
        mapped = self.mapped(batch, keys)
        if isinstance(self.transform, Mask):
            return self.transform(mapped, keys)
        return called(self.transform, mapped, keys)

    def mapped(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> pa.RecordBatch:
        """Return the batch after all functions."""
        for step in self.steps:
            batch = step(batch, keys)
        return batch


@dataclass(frozen=True)
class Mask:
    """A transform to the booleans that the function of a step returns; see ``Step.mask``."""

    step: Step

    def __call__(
        self, batch: pa.RecordBatch, keys: RowKeys | None = None
    ) -> np.ndarray[Any, Any]:
        """Return a boolean for each row."""
        return self.step.mask(batch, keys)


def steps_of(transform: Transform) -> tuple[Step | Decode, ...]:
    """Return the functions that a transform calls before it converts a batch."""
    return transform.steps if isinstance(transform, Mapped) else ()


def decodes(transform: Transform) -> bool:
    """Return whether a transform decodes columns."""
    return any(isinstance(step, Decode) for step in steps_of(transform))


def draws(transform: Transform) -> bool:
    """Return whether a transform needs the keys of the rows, as something that it calls is random."""
    if isinstance(transform, Mapped):
        if any(step.draws for step in transform.steps):
            return True
        transform = transform.transform
    if isinstance(transform, Mask):
        return transform.step.draws
    return isinstance(transform, Drawing)


def name_of_step(transform: Transform) -> str:
    """Return the name of the next function of ``map`` that draws: "map", "map 2" and so on."""
    before = sum(isinstance(step, Step) and step.draws for step in steps_of(transform))
    return f"map {before + 1}" if before else "map"


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
