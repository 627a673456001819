"""Which rows belong to an episode, and in which order: two columns, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import Episodes
from lanceloader.errors import FormatError
from lanceloader.numbers import numpy_of, offsets_of
from lanceloader.splits import codes_of
from lanceloader.values import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.sources.native import NativeSource

    Array = np.ndarray[Any, Any]

__all__ = ["find_episodes"]


def find_episodes(
    source: NativeSource,
    rows: Order,
    by: Sequence[tuple[str, str]],
    order: tuple[str, str] | None,
) -> Episodes:
    """Return the episodes of a table.

    Args:
        source: The table.
        rows: The rows that belong to an episode, ascending.
        by: The columns with an equal value in all rows of an episode: a name, and that in the table.
        order: The column that orders the rows of an episode, likewise; by default rows are in the
            order of the table.

    Raises:
        ValueError: If a value is null, or NaN, or two rows of an episode have the same place.
        FormatError: If values cannot be compared.
    """
    import numpy as np
    import pyarrow as pa

    columns = [*by, *([] if order is None else [order])]
    codes: Array = np.zeros(len(rows), np.int64)
    keys: Array = np.arange(len(rows))
    if columns:
        reader = source.reader(columns)
        found = map(pa.record_batch, reader.load(rows, None, False))  # noqa: FBT003
        table = canonical(pa.Table.from_batches(found, schema=pa.schema(reader)))
        for name, argument in [
            *((name, "by") for name, _ in by),
            *([] if order is None else [(order[0], "order")]),
        ]:
            check_no_nulls(table[name], name, argument, rows)
        if by:
            codes = codes_of(table.select([name for name, _ in by]))
        if order is not None:
            keys = keys_of(table[order[0]], order[0], rows)
    picked: Array | None = None
    if not are_in_order(codes, keys):
        picked = np.lexsort((keys, codes))
        codes, keys = codes[picked], keys[picked]
        check_distinct(codes, keys, picked, rows, order)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    ends = np.append(starts, len(codes)).astype(np.int64)
    if len(rows) < source.num_rows:
        offsets = numpy_of(offsets_of(rows))
        picked = offsets if picked is None else offsets[picked]
    return Episodes(picked, ends, source.num_rows)


def check_no_nulls(
    column: pa.ChunkedArray, name: str, argument: str, rows: Order
) -> None:
    """Check that each row has a value.

    Raises:
        ValueError: If one has none.
    """
    import pyarrow.compute as pc

    if not column.null_count:
        return
    first = rows.at(pc.index(pc.is_null(column), True).as_py())
    message = (
        f"`{argument}`={name!r} is null in {column.null_count:,} of {len(column):,} rows, first in "
        f"row {first} of the table, so that these belong to no place of an episode: call "
        f'filter("{name} IS NOT NULL") before windows()'
    )
    raise ValueError(message)


def keys_of(column: pa.ChunkedArray, name: str, rows: Order) -> Array:
    """Return numbers that order the rows as the values of a column do.

    Raises:
        ValueError: If a value is NaN.
        FormatError: If values have no order.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        keys = numpy_of(column)
        if (
            keys.dtype.kind == "f"
            and (unordered := np.flatnonzero(np.isnan(keys))).size
        ):
            message = (
                f"`order`={name!r} is NaN in {len(unordered):,} rows, first in row "
                f"{rows.at(int(unordered[0]))} of the table, which have no place in their episode: "
                "filter them before windows()"
            )
            raise ValueError(message)
        return keys
    try:
        return numpy_of(pc.rank(column, tiebreaker="dense"))
    except pa.ArrowNotImplementedError as error:
        message = (
            f"`order`={name!r} of type {kind} does not order rows: pass a column of numbers, times "
            "or text"
        )
        raise FormatError(message) from error


def are_in_order(codes: Array, keys: Array) -> bool:
    """Return whether rows stand episode after episode, each in its order."""
    import numpy as np

    is_same = codes[1:] == codes[:-1]
    is_next = codes[1:] > codes[:-1]
    return bool(np.all(is_next | (is_same & (keys[1:] > keys[:-1]))))


def check_distinct(
    codes: Array,
    keys: Array,
    picked: Array,
    rows: Order,
    order: tuple[str, str] | None,
) -> None:
    """Check that the rows of an episode, sorted, are ordered.

    Raises:
        ValueError: If two have the same place.
    """
    import numpy as np

    twice = np.flatnonzero((codes[1:] == codes[:-1]) & (keys[1:] == keys[:-1]))
    if twice.size:
        first, second = (rows.at(int(picked[twice[0] + at])) for at in (0, 1))
        name = None if order is None else order[0]
        message = (
            f"`order`={name!r} has the same value in rows {first} and {second} of the table, which are "
            "of one episode: pass a column that differs, or more columns as `by`"
        )
        raise ValueError(message)
