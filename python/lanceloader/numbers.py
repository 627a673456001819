"""Numbers: from users, from the core, and between numpy and Arrow."""

from __future__ import annotations

import operator
import reprlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lanceloader.errors import BoundsError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Batch, Order

__all__ = ["array_of", "count", "numbers_of", "numpy_of", "offsets_of"]


def numbers_of(batch: Batch) -> pa.Array:
    """Give the only column of a batch of numbers."""
    import pyarrow as pa

    return pa.record_batch(batch).column(0)


def offsets_of(order: Order) -> pa.Array:
    """Give what an order holds, position by position."""
    return numbers_of(order.offsets(0, len(order)))


def numpy_of(values: Any) -> np.ndarray[Any, Any]:
    """Return an array of anybody's as one of numpy, which may be read-only.

    pyarrow imports pandas for most ways to do this. That takes half a second, and an interrupt
    that arrives meanwhile is lost; so numbers go by DLPack, and where pandas is needed it is
    imported here, where an interrupt is not lost.
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
    """Return numbers of numpy as an Arrow array, also without pandas."""
    import numpy as np
    import pyarrow as pa

    kind = pa.from_numpy_dtype(numbers.dtype)
    buffer = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(kind, len(numbers), [None, buffer])


def count(value: Any, name: str, *, least: int = 0) -> int:
    """Return an argument as a whole number of 64 bits without a sign.

    Args:
        value: What was passed.
        name: The argument's name, for messages.
        least: The smallest number allowed.

    Raises:
        BoundsError: If it is below ``least`` or does not fit in 64 bits; this is both a
            ``ValueError`` and an ``OverflowError``.
        TypeError: If it is not a whole number.
    """
    try:
        number = operator.index(value)
    except TypeError:
        message = (
            f"`{name}` must be a whole number, not {reprlib.repr(value)} of type "
            f"{type(value).__name__}"
        )
        raise TypeError(message) from None
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
