"""What can be mixed: permutations whose columns have the same names and types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lanceloader._permutation import Permutation
from lanceloader.errors import ColumnNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["grouped", "source_views"]


def source_views(
    sources: Mapping[Any, Permutation] | Sequence[Permutation],
    columns: Sequence[str] | None,
    source_column: str | None,
) -> dict[Any, Permutation]:
    """Give the sources by name, with the columns of the first one in its order.

    Raises:
        ValueError: If there are none, one has no rows, or columns do not fit.
        TypeError: If one is no permutation.
    """
    named = dict(sources if isinstance(sources, Mapping) else enumerate(sources))
    if not named:
        raise ValueError("a mixture of nothing: wanted at least one source")
    for name, view in named.items():
        if not isinstance(view, Permutation):
            message = (
                f"source {name!r} of type {type(view).__name__}: wanted a Permutation"
            )
            raise TypeError(message)
        if view.num_rows == 0:
            message = f"source {name!r} has no rows: wanted at least 1"
            raise ValueError(message)
    if columns is not None:
        named = {
            name: with_columns(name, view, columns) for name, view in named.items()
        }
    first, *others = named
    wanted = named[first]
    if source_column is not None and source_column in wanted.column_names:
        message = f"source_column {source_column!r}: wanted a name that no column has"
        raise ValueError(message)
    found = {first: wanted}
    # Held, so that no other has the number of one.
    known: dict[int, Any] = {}
    for name in others:
        view = aligned(name, named[name], first, wanted.column_names)
        reader = view._ensure_open()
        if id(reader) not in known:
            known[id(reader)] = reader
            check_types(name, view.schema, first, wanted.schema)
        found[name] = view
    return found


def with_columns(name: Any, view: Permutation, columns: Sequence[str]) -> Permutation:
    """Select columns, naming the source that does not have one."""
    try:
        return view.select_columns(columns)
    except ColumnNotFoundError as error:
        message = f"source {name!r}: {error}"
        raise ColumnNotFoundError(message) from None


def aligned(
    name: Any, view: Permutation, first: Any, columns: Sequence[str]
) -> Permutation:
    """Give a source its columns in the order of the first."""
    if view.column_names == columns:
        return view
    missing = [column for column in columns if column not in view.column_names]
    more = [column for column in view.column_names if column not in columns]
    if missing or more:
        column = (missing or more)[0]
        without, having = (name, first) if missing else (first, name)
        message = (
            f"source {without!r} has no column `{column}`, which source {having!r} has: wanted "
            "the same columns in all; columns= chooses them"
        )
        raise ValueError(message)
    return view.select_columns(columns)


def check_types(name: Any, found: pa.Schema, first: Any, wanted: pa.Schema) -> None:
    """Refuse columns of other types.

    Raises:
        ValueError: If there are, naming the source and the column.
    """
    for field, other in zip(found, wanted, strict=True):
        if field.type != other.type:
            message = (
                f"source {name!r}: column `{field.name}` of type {field.type}, in source "
                f"{first!r} of type {other.type}: wanted the same type in all"
            )
            raise ValueError(message)


def grouped(views: Iterable[Permutation]) -> tuple[list[Permutation], list[int]]:
    """Group what is read from one table in one way.

    Returns:
        A view of each group, and the group of each source.
    """
    groups: dict[Any, int] = {}
    readers: list[Permutation] = []
    numbers: list[int] = []
    for view in views:
        key = id(view._source), tuple(view.selection.items()), view._options
        if key not in groups:
            groups[key] = len(readers)
            readers.append(view)
        numbers.append(groups[key])
    # The format of a mixture is that of its first source.
    transform = readers[0].transform_fn
    return [view.with_transform(transform) for view in readers], numbers
