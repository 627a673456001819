"""What windows hold beyond the ends of their episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError
from lanceloader.formats._types import zero_of
from lanceloader.numbers import array_of, numpy_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["clipped", "filled", "filler_of"]


def clipped(column: pa.Array, padding: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return windows without what is beyond the ends, as lists of different lengths.

    Args:
        column: Windows, as fixed-size lists.
        padding: Which of their values are beyond the ends.
        kind: The type of the lists.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    size = column.type.list_size
    kept = pc.invert(padding)
    lengths = numpy_of(kept).reshape(len(column), size).sum(1)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    values = column.values.filter(kept)
    return pa.ListArray.from_arrays(array_of(offsets), values, type=kind)


def filled(column: pa.Array, padding: pa.Array, value: Any) -> pa.Array:
    """Return windows with another value where they are beyond the ends.

    Args:
        column: Windows, as fixed-size lists.
        padding: Which of their values are beyond the ends.
        value: The value; see ``filler_of``.
    """
    import numpy as np
    import pyarrow as pa

    is_beyond = numpy_of(padding)
    if not is_beyond.any():
        return column
    values = column.values
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        values = values.storage
    both = pa.concat_arrays([values, filler_of(values.type, value)])
    picked = np.where(is_beyond, len(values), np.arange(len(values)))
    values = both.take(array_of(picked))
    if isinstance(kind, pa.BaseExtensionType):
        values = pa.ExtensionArray.from_storage(kind, values)
    return pa.FixedSizeListArray.from_arrays(values, type=column.type)


def filler_of(kind: pa.DataType, value: Any) -> pa.Array:
    """Return an array of the one value that fills windows.

    Args:
        kind: The type of a column; every number of a fixed-size list gets the value.
        value: A value of the column, or of each item of its lists; ``None`` for zero, false, or an
            empty text or list.

    Raises:
        FormatError: If the type does not hold the value.
    """
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    is_list = pa.types.is_fixed_size_list(kind)
    if is_list and not isinstance(value, list | tuple):
        items = filler_of(kind.value_type, value)
        items = pa.concat_arrays([items] * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(items, type=kind)
    if pa.types.is_dictionary(kind):
        return filler_of(kind.value_type, value).dictionary_encode().cast(kind)
    try:
        return pa.array([zero_of(kind) if value is None else value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        message = f"`fill_value`={value!r} cannot be stored as {kind}: {error}"
        raise FormatError(message) from error
