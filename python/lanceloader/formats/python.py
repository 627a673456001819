"""Batches as Python objects."""

from __future__ import annotations

import threading
import weakref
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lanceloader._native import small_number_lists
from lanceloader.formats.decoding import images_of, is_images
from lanceloader.heap import keep_freed_memory
from lanceloader.numbers import numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

__all__ = ["LazyRows", "Row", "columns", "rows"]

LARGE = 1 << 20
"""The bytes of a batch from which memory that its objects leave is kept for the next one."""
LONG = 64
"""The average length from which lists are made faster one by one."""
MANY = 1 << 14
"""The number of whole numbers from which it pays to share the objects of all small ones."""
MAX_DISPLAY = 256
"""The number of columns up to which rows are made by a dict display."""


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return a list with one dict per row. Every value is copied."""
    if any(map(is_images, batch.schema)):
        named = columns(batch)
        return [
            {name: column[at] for name, column in named.items()}
            for at in range(batch.num_rows)
        ]
    if batch.nbytes >= LARGE:
        keep_freed_memory()
    names = tuple(batch.schema.names)
    if not 0 < len(names) <= MAX_DISPLAY or len(set(names)) < len(names):
        found: list[dict[str, Any]] = batch.to_pylist()
        return found
    return row_maker(names)(zip(*map(values_of, batch.columns), strict=True))


@lru_cache
def row_maker(names: tuple[str, ...]) -> Callable[[Any], list[dict[str, Any]]]:
    """Return a function from tuples of values to dicts with these keys.

    A dict display whose keys are constants takes half as long as ``dict(zip(names, values))``.
    """
    items = ", ".join(f"{name!r}: v{at}" for at, name in enumerate(names))
    values = "".join(f"v{at}, " for at in range(len(names)))
    # The names are quoted as literals.
    made: Any = eval(f"lambda rows: [{{{items}}} for {values}in rows]")
    return made  # type: ignore[no-any-return]


def values_of(column: pa.Array) -> list[Any]:
    """Return the values of a column, as ``to_pylist`` does; of lists of numbers, faster."""
    found = lists_of(column) if column.null_count == 0 else None
    values: list[Any] = column.to_pylist() if found is None else found
    return values


def lists_of(column: pa.Array) -> list[Any] | None:
    """Return lists of numbers, or None if the values are others or null, or the lists short."""
    import numpy as np
    import pyarrow as pa

    kind, size = column.type, None
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        values = column.values.slice(column.offset * size, len(column) * size)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = column.flatten()
    else:
        return None
    shortest = LONG if size is None else 1
    if not are_numbers(values) or len(values) < max(shortest * len(column), 1):
        return None
    if size is None:
        ends = numpy_of(column.offsets).astype(np.int64)
        ends -= ends[0]
    else:
        ends = np.arange(len(column) + 1) * size
    flat = numpy_of(values)
    if pa.types.is_integer(values.type) and len(values) >= MANY:
        shared = small_number_lists(flat, ends)
        if shared is not None:
            return shared
    if size is not None:
        vectors: list[Any] = flat.reshape(-1, size).tolist()
        return vectors
    return [flat[start:stop].tolist() for start, stop in pairwise(ends.tolist())]


def are_numbers(values: pa.Array) -> bool:
    """Return whether NumPy's ``tolist`` makes the same objects of values as pyarrow."""
    import pyarrow as pa

    kind = values.type
    is_float = pa.types.is_float32(kind) or pa.types.is_float64(kind)
    return bool(values.null_count == 0 and (is_float or pa.types.is_integer(kind)))


def columns(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Return a dict with one list per column. Every value but decoded images is copied."""
    if batch.nbytes >= LARGE:
        keep_freed_memory()
    return {
        field.name: images_of(field, column) if is_images(field) else values_of(column)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }


class Row(dict[str, Any]):
    """The first row of ``LazyRows``.

    torch's collate dispatches on this type and then takes the columns from the batch. Changing
    the row fills the list first, so the batch is then collated row by row.
    """

    def __init__(self, values: dict[str, Any], rows: LazyRows) -> None:
        """Create the row.

        Args:
            values: The values by column.
            rows: The list whose first row this is.
        """
        super().__init__(values)
        self._rows = rows

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def _filling(name: str) -> Callable[..., Any]:
    """Return a ``dict`` method that fills the row's list before it changes the row."""
    method = getattr(dict, name)

    def filling(self: Row, *args: Any, **kwargs: Any) -> Any:
        self._rows.fill()
        return method(self, *args, **kwargs)

    filling.__name__ = name
    return filling


for _name in [
    "__delitem__",
    "__ior__",
    "__setitem__",
    "clear",
    "pop",
    "popitem",
    "setdefault",
    "update",
]:
    setattr(Row, _name, _filling(_name))


def _filled(name: str) -> Callable[..., Any]:
    """Return a ``list`` method that first fills the list and its ``LazyRows`` arguments."""
    method = getattr(list, name)

    def filled(self: LazyRows, *args: Any, **kwargs: Any) -> Any:
        self.fill()
        for other in args:
            if isinstance(other, LazyRows):
                other.fill()
        return method(self, *args, **kwargs)

    filled.__name__ = name
    return filled


class LazyRows(list[Any]):
    """A list of the rows of a batch that is filled on first access.

    torch's default collate looks only at the type of the first row, finds ``Row``, and takes
    the columns from ``batch`` (see ``lanceloader.formats.torch.collate_rows``), so collating
    costs no more than converting the columns. Any access other than ``[0]`` fills the list.
    """

    def __init__(
        self, batch: pa.RecordBatch, make: Callable[[pa.RecordBatch], list[Any]]
    ) -> None:
        """Create an unfilled list.

        Args:
            batch: The batch.
            make: A function that returns the rows of a batch as dicts.
        """
        super().__init__()
        self.batch = batch
        self.make = make
        self.is_filled = False
        # The row refers to the list: a cycle would keep the batch until the garbage collector runs.
        self._first: Callable[[], Row | None] = lambda: None
        self._lock = threading.Lock()

    def fill(self) -> None:
        """Create the rows unless they exist."""
        with self._lock:
            if self.is_filled:
                return
            rows = self.make(self.batch)
            first = self._first()
            if first is not None:
                rows[0] = first
            list.extend(self, rows)
            self.is_filled = True

    def __getitem__(self, index: Any) -> Any:
        if not self.is_filled and index == 0 and self.batch.num_rows > 0:
            first = self._first()
            if first is None:
                first = Row(self.make(self.batch.slice(0, 1))[0], self)
                self._first = weakref.ref(first)
            return first
        self.fill()
        return list.__getitem__(self, index)

    def __radd__(self, other: list[Any]) -> list[Any]:
        # A subclass's __radd__ runs before list.__add__, which would copy unfilled storage.
        return [*other, *self]

    def __iter__(self) -> Iterator[Any]:
        self.fill()
        return list.__iter__(self)

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any:
        # pyarrow reads a list's storage directly, which is empty until the list is filled.
        if self.is_filled:
            import pyarrow as pa

            return pa.array([*self]).__arrow_c_array__(requested_schema)
        return self.batch.__arrow_c_array__(requested_schema)


for _name in [
    "__add__",
    "__contains__",
    "__delitem__",
    "__eq__",
    "__ge__",
    "__gt__",
    "__iadd__",
    "__imul__",
    "__le__",
    "__len__",
    "__lt__",
    "__mul__",
    "__ne__",
    "__repr__",
    "__reversed__",
    "__rmul__",
    "__setitem__",
    "append",
    "clear",
    "copy",
    "count",
    "extend",
    "index",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
]:
    setattr(LazyRows, _name, _filled(_name))
