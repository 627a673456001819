"""Whole numbers from users, and arrays of numbers from the core, Arrow and NumPy."""

from __future__ import annotations

import operator
import reprlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lanceloader.errors import BoundsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Batch, Order

__all__ = [
    "array_of",
    "count",
    "numbers_of",
    "numpy_of",
    "offsets_of",
    "rows_at",
    "whole_number",
]


def numbers_of(batch: Batch) -> pa.Array:
    """Return the only column of a batch of the core."""
    import pyarrow as pa

    return pa.record_batch(batch).column(0)


def offsets_of(order: Order) -> pa.Array:
    """Return the row offsets (or row ids) of an order, by position, as uint64."""
    return numbers_of(order.offsets(0, len(order)))


def rows_at(order: Order, positions: Iterable[int]) -> np.ndarray[Any, Any]:
    """Return the row offsets (or row ids) at some positions of an order, as a ``uint64`` array.

    Those of a ``range`` of step 1 are computed together.
    """
    import numpy as np

    if isinstance(positions, range) and positions.step == 1:
        return numpy_of(numbers_of(order.offsets(positions.start, positions.stop)))
    return np.array([order.at(int(position)) for position in positions], np.uint64)


def numpy_of(values: Any) -> np.ndarray[Any, Any]:
    """Return an Arrow array, or any other array, as a NumPy array, which may be read-only.

    Most conversions of pyarrow import pandas, which takes half a second and drops interrupts that
    arrive meanwhile. So numbers are converted through DLPack, and otherwise pandas is imported
    here, where an interrupt is raised.
    """
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        chunks = values.chunks or [pa.nulls(0, values.type)]
        values = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    if not isinstance(values, pa.Array):
        return np.asarray(values)
    if not values.null_count:
        if pa.types.is_boolean(values.type):
            return numpy_of(values.cast(pa.uint8())).view(np.bool_)
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            return np.from_dlpack(values)
    with suppress(ImportError):
        import pandas  # noqa: F401, ICN001
    return np.asarray(values)


def array_of(numbers: np.ndarray[Any, Any]) -> pa.Array:
    """Return a NumPy array of numbers as an Arrow array, without importing pandas."""
    import numpy as np
    import pyarrow as pa

    kind = pa.from_numpy_dtype(numbers.dtype)
    buffer = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(kind, len(numbers), [None, buffer])


def whole_number(value: Any, name: str) -> int:
    """Return an argument as an ``int``.

    Args:
        value: The argument.
        name: The argument's name, for error messages.

    Raises:
        TypeError: If the argument is not a whole number.
    """
    try:
        return operator.index(value)
    except TypeError:
        message = (
            f"`{name}` must be a whole number, not {reprlib.repr(value)} of type "
            f"{type(value).__name__}"
        )
        raise TypeError(message) from None


def count(value: Any, name: str, *, least: int = 0) -> int:
    """Return an argument as an ``int`` that fits in an unsigned 64-bit integer.

    Args:
        value: The argument.
        name: The argument's name, for error messages.
        least: The smallest number allowed.

    Raises:
        BoundsError: If the number is below ``least`` or not below ``2**64``. This is both a
            ``ValueError`` and an ``OverflowError``.
        TypeError: If the argument is not a whole number.
    """
    number = whole_number(value, name)
    if number < 0:
        message = f"`{name}` must not be negative, got {number}"
        raise BoundsError(message)
    if number < least:
        message = f"`{name}` must be at least {least}, got {number}"
        raise BoundsError(message)
    if number >= 2**64:
        message = f"`{name}` is too big: pass a number below 2**64 instead of {number}"
        raise BoundsError(message)
    return number
