"""Randomness keyed by row: numbers that depend on a seed, an epoch, a row and the name of an operation.

Nothing else matters: neither the batch, the rank, the worker and the thread that a row is in, nor what was
drawn before. ``docs/determinism.md`` publishes the formulas; a change of them is a breaking change.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Numbers: TypeAlias = np.ndarray[Any, Any]
    Keys: TypeAlias = Union[int, Numbers]  # noqa: UP007

__all__ = [
    "Drawing",
    "RowKeys",
    "called",
    "key",
    "keys",
    "row_keys",
    "takes_rng",
    "words",
]

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
"""The increment of SplitMix64."""
PURPOSE = int.from_bytes(b"per row!", "big")
"""The purpose of these keys, which no shuffle, split or sample has."""


def mix64(number: Any) -> Any:
    """Return the finaliser of SplitMix64 of a number, or of each number of a ``uint64`` array."""
    if isinstance(number, int):
        number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
        return number ^ (number >> 31)
    import numpy as np

    # Products of uint64 arrays wrap around.
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def fnv1a(text: str) -> int:
    """Return the 64-bit FNV-1a hash of a text in UTF-8."""
    found = 0xCBF29CE484222325
    for byte in text.encode():
        found = (found ^ byte) * 0x100000001B3 & MASK
    return found


def key(seed: int, epoch: int, name: str) -> int:
    """Return the key of an operation in an epoch.

    Args:
        seed: The seed, in ``range(2**64)``.
        epoch: The epoch, in ``range(2**64)``.
        name: The name of the operation, such as ``"flip"``.
    """
    chosen: int = mix64(mix64(mix64(mix64(PURPOSE) ^ seed) ^ epoch) ^ fnv1a(name))
    return chosen


def keys(seeds: Keys, epochs: Keys, name: str) -> Keys:
    """Return ``key`` for arrays of seeds and of epochs, of which either may be one number."""
    import numpy as np

    if isinstance(seeds, int) and isinstance(epochs, int):
        return key(seeds, epochs, name)
    seeds, epochs = np.asarray(seeds, np.uint64), np.asarray(epochs, np.uint64)
    of_seeds = mix64(np.uint64(mix64(PURPOSE)) ^ np.atleast_1d(seeds))
    found: Numbers = mix64(mix64(of_seeds ^ epochs) ^ np.uint64(fnv1a(name)))
    return found


def row_keys(key: Keys, places: Numbers) -> Numbers:
    """Return the key of each row, as a ``uint64`` array.

    Args:
        key: The key of the operation, or an array with one for each row.
        places: The places of the rows in the table.
    """
    import numpy as np

    places = np.atleast_1d(np.asarray(places, np.uint64))
    start = np.asarray(key, np.uint64)
    found: Numbers = mix64(start + (places + np.uint64(1)) * np.uint64(GOLDEN))
    return found


def words(keys: Numbers, first: int, count: int) -> Numbers:
    """Return words ``first`` to ``first + count`` of each row, as an array of shape (rows, count).

    Args:
        keys: The keys of the rows.
        first: The number of the first word.
        count: The number of words of each row.
    """
    import numpy as np

    numbers = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    found: Numbers = mix64(keys[:, None] + numbers * np.uint64(GOLDEN))
    return found


def takes_rng(function: Callable[..., Any] | None) -> bool:
    """Return whether a function has a parameter named ``rng`` that can be passed by name.

    For a module of torch, this is a parameter of ``forward``. A ``functools.partial`` that sets ``rng``
    has no such parameter.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        if "rng" in inner.keywords:
            return False
        inner = inner.func
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    found = parameters.get("rng")
    if found is not None:
        return found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)
    forward = getattr(inner, "forward", None)
    is_module = callable(forward) and not inspect.isfunction(inner)
    return is_module and takes_rng(forward)


@dataclass(frozen=True)
class Drawing:
    """A function of a batch, or of a row, with a parameter ``rng``.

    Attributes:
        function: The function.
        name: The name of the operation, on which its numbers depend.
        generator: Returns what the function draws from, of the keys of rows and the name.
    """

    function: Callable[..., Any]
    name: str
    generator: Callable[[RowKeys, str], Any]

    def __call__(self, batch: Any, keys: RowKeys) -> Any:
        """Call the function with what it draws from."""
        return self.function(batch, rng=self.generator(keys, self.name))


def called(function: Callable[..., Any], value: Any, keys: RowKeys | None) -> Any:
    """Call a function with a batch or a row, and with the keys if it draws."""
    if not isinstance(function, Drawing):
        return function(value)
    if keys is None:
        raise AssertionError("a function with `rng` needs the keys of the rows")
    return function(value, keys)


class RowKeys:
    """The keys of the rows of a batch, by the name of the operation that draws.

    Args:
        find: Returns the seeds, the epochs and the places of the rows. Seeds and epochs are
            numbers, or arrays with one for each row. It is called once, on first use.
    """

    def __init__(self, find: Callable[[], tuple[Keys, Keys, Numbers]]) -> None:
        self._find = find
        self._found: tuple[Keys, Keys, Numbers] | None = None

    @property
    def found(self) -> tuple[Keys, Keys, Numbers]:
        """The seeds, the epochs and the places of the rows."""
        if self._found is None:
            self._found = self._find()
        return self._found

    @property
    def places(self) -> Numbers:
        """The place of each row in its table, as a ``uint64`` array."""
        return self.found[2]

    def of(self, name: str) -> Numbers:
        """Return the key of each row for an operation, as a ``uint64`` array."""
        seeds, epochs, places = self.found
        return row_keys(keys(seeds, epochs, name), places)

    def row(self, at: int) -> RowKeys:
        """Return the keys of one row of the batch."""

        def find() -> tuple[Keys, Keys, Numbers]:
            seeds, epochs, places = self.found
            one = slice(at, at + 1)
            return (
                seeds if isinstance(seeds, int) else seeds[one],
                epochs if isinstance(epochs, int) else epochs[one],
                places[one],
            )

        return RowKeys(find)
