"""Batches as Python objects."""

from __future__ import annotations

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
    """A row of ``LazyRows``; its type tells torch that the batch carries its columns."""


def _filled(name: str) -> Callable[..., Any]:
    """Make a method of ``list`` that fills the list before it looks at it."""
    method = getattr(list, name)

    def filled(self: LazyRows, *args: Any, **kwargs: Any) -> Any:
        self._fill()
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
        self._is_filled = False

    def _fill(self) -> None:
        if not self._is_filled:
            self._is_filled = True
            list.extend(self, self.make(self.batch))

    def __getitem__(self, index: Any) -> Any:
        if not self._is_filled and index == 0 and self.batch.num_rows > 0:
            return Row(self.make(self.batch.slice(0, 1))[0])
        self._fill()
        return list.__getitem__(self, index)

    def __iter__(self) -> Iterator[Any]:
        self._fill()
        return list.__iter__(self)

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any:
        # pyarrow reads a list's storage without asking, so it gets the batch.
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
