"""``drawing``: functions with a parameter ``rng`` as functions of a batch and the keys of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.randomness import Drawing, takes_rng

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["drawing"]


def drawing(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that is called with the keys of rows if ``function`` draws, and itself otherwise.

    Args:
        function: A function of a batch or of a row.
        name: The name of the operation.
    """
    if not takes_rng(function):
        return function
    from lanceloader.drawing.rng import BatchGenerator

    return Drawing(function, name, BatchGenerator)
