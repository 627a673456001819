"""What windows hold beyond the ends of their episodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError, UnsupportedError
from lanceloader.formats._types import zero_of
from lanceloader.numbers import array_of, numpy_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["bits_of_bfloat16", "check_ends", "clipped", "filled", "filler_of"]


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
        found = pa.array([zero_of(kind) if value is None else value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if value is None:
            message = f"there is no default `fill_value` for {kind}: pass one"
        else:
            message = f"`fill_value`={value!r} cannot be stored as {kind}: {error}"
        raise FormatError(message) from error
    if isinstance(value, float) and math.isfinite(value):
        # Arrow cuts off what does not fit.
        stored = found[0].as_py()
        is_cut = pa.types.is_integer(kind) and stored != value
        if is_cut or (pa.types.is_floating(kind) and math.isinf(stored)):
            message = (
                f"`fill_value`={value!r} cannot be stored as {kind}, but as {stored}"
            )
            raise FormatError(message)
    return found


def check_ends(field: pa.Field, ends: str) -> None:
    """Check that what is beyond the ends of episodes can be left out or filled.

    Raises:
        UnsupportedError: If Arrow has no such function for the type of a column.
    """
    import pyarrow as pa

    if ends not in ("fill", "clip"):
        return
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    none = pa.nulls(0, kind)
    try:
        if ends == "clip":
            none.filter(pa.array([], pa.bool_()))
        else:
            pa.concat_arrays([none, none]).take(pa.array([], pa.int64()))
    except pa.ArrowNotImplementedError as error:
        message = (
            f"column `{field.name}` of type {kind} has no windows with ends={ends!r}: pass "
            'ends="edge" or "drop", or copy the rows with materialize() first'
        )
        raise UnsupportedError(message) from error


def bits_of_bfloat16(name: str, value: Any) -> int:
    """Return a number as the 16 bits of a bfloat16, as an int16.

    Raises:
        FormatError: If it is not a number.
    """
    import numpy as np

    try:
        bits = int(np.float32(float(value)).view(np.uint32))
    except (TypeError, ValueError) as error:
        message = f"column `{name}`: `fill_value` must be a number for bfloat16 images, not {value!r}"
        raise FormatError(message) from error
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return int(np.uint16(rounded & 0xFFFF).view(np.int16))
