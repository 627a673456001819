"""Whole numbers: from users, and from the core."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

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


def count(value: Any) -> int:
    """Check a number that the core takes as unsigned.

    Raises:
        OverflowError: If it is negative or beyond 64 bits.
        TypeError: If it is no whole number.
    """
    number = operator.index(value)
    if number < 0:
        message = f"can't convert negative int to unsigned: {number}"
        raise OverflowError(message)
    if number >= 2**64:
        message = f"int too big to convert: {number}"
        raise OverflowError(message)
    return number
