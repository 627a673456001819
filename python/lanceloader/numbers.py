"""Whole numbers from users."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["count"]


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
