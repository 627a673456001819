"""Batches as Python objects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

__all__ = ["LazyRows", "Row", "columns", "rows"]


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Give a dict per row. A copy of every value."""
    values: list[dict[str, Any]] = batch.to_pylist()
    return values


def columns(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Give a list per column. A copy of every value."""
    values: dict[str, list[Any]] = batch.to_pydict()
    return values


class Row(dict[str, Any]):
    """The first row of ``LazyRows``; its type tells torch that the batch carries its columns.

    Changing it fills the list, which is then collated by rows.
    """

    def __init__(self, values: dict[str, Any], rows: LazyRows) -> None:
        """Be ``values``, the first of ``rows``."""
        super().__init__(values)
        self._rows = rows

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def _filling(name: str) -> Callable[..., Any]:
    """Make a method of ``dict`` that fills the list of a row before it changes the row."""
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
    """Make a method of ``list`` that fills the lists it is given before it looks at them."""
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
    """A list of the rows of a batch that makes them when somebody looks.

    torch's default collate looks at the type of the first row only, finds ``Row``, and
    takes the columns from ``batch`` (see ``lanceloader.formats.torch.collate_rows``): a
    batch of a thousand rows then costs no more than its columns. Everybody else sees a
    list: any access but ``[0]`` fills it first.
    """

    def __init__(
        self, batch: pa.RecordBatch, make: Callable[[pa.RecordBatch], list[Any]]
    ) -> None:
        """Stand for ``make(batch)``, the rows as dicts."""
        super().__init__()
        self.batch = batch
        self.make = make
        self.is_filled = False
        self._first: Row | None = None
        self._lock = threading.Lock()

    def fill(self) -> None:
        """Make the rows, unless it was done before."""
        with self._lock:
            if self.is_filled:
                return
            rows = self.make(self.batch)
            if self._first is not None:
                rows[0] = self._first
            list.extend(self, rows)
            self.is_filled = True

    def __getitem__(self, index: Any) -> Any:
        if not self.is_filled and index == 0 and self.batch.num_rows > 0:
            if self._first is None:
                self._first = Row(self.make(self.batch.slice(0, 1))[0], self)
            return self._first
        self.fill()
        return list.__getitem__(self, index)

    def __radd__(self, other: list[Any]) -> list[Any]:
        # Asked before the list on the left, which would not ask us.
        return [*other, *self]

    def __iter__(self) -> Iterator[Any]:
        self.fill()
        return list.__iter__(self)

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any:
        # pyarrow reads a list's storage without asking, so it gets the batch.
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
