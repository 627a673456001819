"""The sources of a mixture: permutations whose columns have the same names and types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lanceloader._permutation import Permutation
from lanceloader.errors import ColumnNotFoundError
from lanceloader.formats import format_of
from lanceloader.formats.decoding import Decode
from lanceloader.formats.functions import steps_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["grouped", "source_views"]


def source_views(
    sources: Mapping[Any, Permutation] | Sequence[Permutation],
    columns: Sequence[str] | None,
    source_column: str | None,
) -> dict[Any, Permutation]:
    """Return the sources by name, with their columns in the order of the first source.

    Raises:
        ValueError: If there are no sources, a source has no rows, or columns differ.
        TypeError: If a source is not a permutation.
    """
    named = dict(sources if isinstance(sources, Mapping) else enumerate(sources))
    if not named:
        raise ValueError("`sources` is empty: pass at least one permutation")
    for name, view in named.items():
        if not isinstance(view, Permutation):
            message = (
                f"source {name!r} must be a Permutation, not {type(view).__name__}"
            )
            raise TypeError(message)
        check_steps(name, view)
        if view.num_rows == 0:
            message = f"source {name!r} has no rows: leave it out of the mixture"
            raise ValueError(message)
    if columns is not None:
        named = {
            name: with_columns(name, view, columns) for name, view in named.items()
        }
    first, *others = named
    check_decoding(named)
    expected = named[first]
    if source_column is not None and source_column in expected.column_names:
        message = f"`source_column`={source_column!r} is the name of a column of the sources: pass another name"
        raise ValueError(message)
    found = {first: expected}
    # Keeps the readers alive, as the id of a deleted one may be used again.
    known: dict[int, Any] = {}
    for name in others:
        view = aligned(name, named[name], first, expected.column_names)
        reader = view.open_reader()
        if id(reader) not in known:
            known[id(reader)] = reader
            check_types(name, view.schema, first, expected.schema)
        found[name] = view
    return found


def check_steps(name: Any, view: Permutation) -> None:
    """Check that a source has no functions of ``map``.

    Raises:
        ValueError: If it has; the message names the source.
    """
    if all(isinstance(step, Decode) for step in steps_of(view.transform_fn)):
        return
    message = (
        f"source {name!r} has functions of map(), which a mixture cannot call for its rows "
        "only: pass a function of the mixed batches as `transform` to loader(), or write the "
        "source with materialize()"
    )
    raise ValueError(message)


def check_decoding(named: Mapping[Any, Permutation]) -> None:
    """Check that the same columns of all sources are decoded in the same way.

    Raises:
        ValueError: If a source differs from the first one; the message names both.
    """
    (first, view), *others = named.items()
    for name, other in others:
        if steps_of(other.transform_fn) != steps_of(view.transform_fn):
            message = (
                f"sources {first!r} and {name!r} are decoded differently, but batches of a mixture are "
                "decoded as a whole: call with_decode() on the mixture, or pass `decode` to its loader()"
            )
            raise ValueError(message)


def with_columns(name: Any, view: Permutation, columns: Sequence[str]) -> Permutation:
    """Return a source with selected columns.

    Raises:
        ColumnNotFoundError: If a column does not exist; the message names the source.
    """
    try:
        return view.select_columns(columns)
    except ColumnNotFoundError as error:
        message = f"source {name!r}: {error}"
        raise ColumnNotFoundError(message) from None


def aligned(
    name: Any, view: Permutation, first: Any, columns: Sequence[str]
) -> Permutation:
    """Return a source with its columns in the order of the first source.

    Raises:
        ValueError: If the names of the columns differ.
    """
    if view.column_names == columns:
        return view
    missing = [column for column in columns if column not in view.column_names]
    more = [column for column in view.column_names if column not in columns]
    if missing or more:
        column = (missing or more)[0]
        without, having = (name, first) if missing else (first, name)
        message = (
            f"source {without!r} has no column `{column}`, which source {having!r} has: pass "
            "`columns`, the columns to select in all sources"
        )
        raise ValueError(message)
    return view.select_columns(columns)


def check_types(name: Any, found: pa.Schema, first: Any, expected: pa.Schema) -> None:
    """Check that the columns of a source have the types of the first source.

    Raises:
        ValueError: If a type differs; the message names the source and the column.
    """
    for field, other in zip(found, expected, strict=True):
        if field.type != other.type:
            message = (
                f"column `{field.name}` has type {field.type} in source {name!r}, but type "
                f"{other.type} in source {first!r}: cast one of them, or leave the column out "
                "with `columns`"
            )
            raise ValueError(message)


def grouped(views: Iterable[Permutation]) -> tuple[list[Permutation], list[int]]:
    """Group sources of the same table with the same columns and read options.

    Returns:
        A view of each group, and the number of the group of each source.
    """
    groups: dict[Any, int] = {}
    readers: list[Permutation] = []
    numbers: list[int] = []
    for view in views:
        key = id(view.source), tuple(view.selection.items()), view.read_options
        if key not in groups:
            groups[key] = len(readers)
            readers.append(view)
        numbers.append(groups[key])
    # The format of a mixture is that of its first source; what is decoded is the same in all.
    transform = format_of(readers[0].transform_fn)
    return [view.with_transform(transform) for view in readers], numbers
