"""Whole numbers: from users, and from the core."""

from __future__ import annotations

import operator
import reprlib
from typing import TYPE_CHECKING, Any

from lanceloader.errors import BoundsError

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._native import Batch, Order

__all__ = ["count", "numbers_of", "offsets_of"]


def numbers_of(batch: Batch) -> pa.Array:
    """Give the only column of a batch of numbers."""
    import pyarrow as pa

    return pa.record_batch(batch).column(0)


def offsets_of(order: Order) -> pa.Array:
    """Give what an order holds, position by position."""
    return numbers_of(order.offsets(0, len(order)))


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
