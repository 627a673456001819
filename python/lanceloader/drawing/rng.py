"""``rng``: what a random transform draws from, keyed by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lanceloader.drawing.normal import inverse_normal
from lanceloader.randomness import GOLDEN, words

if TYPE_CHECKING:
    import torch

    from lanceloader.randomness import RowKeys

__all__ = ["BatchGenerator", "RowDraws", "RowGenerators"]

NAME = "transform"
"""The name of the operation that draws, unless it has another one."""


class BatchGenerator(np.random.Generator):
    """A ``numpy.random.Generator`` for a batch, and generators for its rows.

    A function that is passed as ``transform`` and has a parameter ``rng`` gets one for each batch. What it
    draws depends on the seed, the epoch, the rows and the name of the operation. It is the same for any
    number of ranks, workers and threads, and after resuming.

    * ``rng.per_row`` draws for all rows at once, in arrays of shape (rows, …). What it draws for a
      row is the same for any batch size.
    * ``rng.rows[i]`` is a ``numpy.random.Generator`` of row i alone. It is the same for any batch
      size, too.
    * ``rng`` itself and ``rng.torch`` depend on the first row of the batch, and so on its size.

    Attributes:
        name: The name of the operation.

    Example:
        >>> def noisy(batch, rng):
        ...     batch["x"] = batch["x"] + rng.per_row.integers(0, 100)
        ...     return batch
        >>> for size in (10, 3):
        ...     loader = perm.loader(size, format="numpy_dict", transform=noisy)
        ...     print([x for batch in loader for x in batch["x"].tolist()])
        [51, 43, 89, 13, 66, 14, 86, 12, 85, 55]
        [51, 43, 89, 13, 66, 14, 86, 12, 85, 55]
    """

    def __init__(self, keys: RowKeys, name: str = NAME) -> None:
        """Internal: loaders make these.

        Args:
            keys: The keys of the rows of the batch.
            name: The name of the operation.
        """
        self.name = name
        self._keys = keys
        self._key_of_row = keys.of(name)
        first = int(self._key_of_row[0]) if len(self._key_of_row) else GOLDEN
        self._first = first
        # The second half of the key distinguishes the batch from its first row.
        super().__init__(np.random.Philox(key=first + 2**64))
        self.per_row = RowDraws(self._key_of_row)
        self.rows = RowGenerators(self._key_of_row)
        self._torch: torch.Generator | None = None

    @property
    def num_rows(self) -> int:
        """The number of rows in the batch."""
        return len(self._key_of_row)

    @property
    def places(self) -> np.ndarray[Any, Any]:
        """The place of each row in its table, as ``uint64``; the number of a block in the epoch."""
        return self._keys.places

    @property
    def torch(self) -> torch.Generator:
        """A ``torch.Generator`` for the batch, made on first use."""
        if self._torch is None:
            import torch

            self._torch = torch.Generator().manual_seed(self._first)
        return self._torch

    def named(self, name: str) -> BatchGenerator:
        """Return the generator of another operation on the same batch.

        What it draws does not depend on what other operations draw, so operations may be added,
        removed and reordered.

        Args:
            name: The name of the operation.

        Example:
            >>> def flips(batch, rng):
            ...     return (rng.named("flip").per_row.random() < 0.5).tolist()
            >>> list(perm.loader(5, transform=flips))
            [[False, False, False, False, True], [False, False, True, False, False]]
        """
        return BatchGenerator(self._keys, name)

    def __reduce__(self) -> Any:
        return BatchGenerator, (self._keys, self.name)

    def __repr__(self) -> str:
        return f"<BatchGenerator of {self.num_rows} rows for {self.name!r}>"


class RowGenerators(Sequence[np.random.Generator]):
    """A ``numpy.random.Generator`` for each row of a batch, made on first use."""

    def __init__(self, keys: np.ndarray[Any, Any]) -> None:
        self._keys = keys
        self._made: dict[int, np.random.Generator] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> np.random.Generator: ...

    @overload
    def __getitem__(self, at: slice) -> list[np.random.Generator]: ...

    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        if at not in self._made:
            bits = np.random.Philox(key=int(self._keys[at]))
            self._made[at] = np.random.Generator(bits)
        return self._made[at]


class RowDraws:
    """Draws for all rows of a batch at once; what is drawn for a row depends on this row alone.

    All methods return arrays of shape (rows, *size). Each call draws new numbers.
    """

    def __init__(self, keys: np.ndarray[Any, Any]) -> None:
        self._keys = keys
        self._num_drawn = 0

    def words(self, size: int | Sequence[int] = ()) -> np.ndarray[Any, Any]:
        """Return random 64-bit numbers, as ``uint64``."""
        shape = (size,) if isinstance(size, int) else tuple(size)
        count = int(np.prod(shape, dtype=np.int64))
        found = words(self._keys, self._num_drawn, count)
        self._num_drawn += count
        return found.reshape(len(self._keys), *shape)

    def random(self, size: int | Sequence[int] = ()) -> np.ndarray[Any, Any]:
        """Return numbers that are uniform in [0, 1), as ``float64``."""
        return (self.words(size) >> np.uint64(11)) * 2.0**-53

    def uniform(
        self, low: Any = 0.0, high: Any = 1.0, size: int | Sequence[int] = ()
    ) -> np.ndarray[Any, Any]:
        """Return numbers that are uniform in [low, high); both may be arrays of shape (rows, *size)."""
        found: np.ndarray[Any, Any] = low + (high - low) * self.random(size)
        return found

    def integers(
        self, low: int, high: int | None = None, size: int | Sequence[int] = ()
    ) -> np.ndarray[Any, Any]:
        """Return whole numbers that are uniform in [low, high), or in [0, low), as ``int64``.

        Raises:
            ValueError: If there are none in this range, or more than 2**32.
        """
        if high is None:
            low, high = 0, low
        bound = high - low
        if not 0 < bound <= 2**32:
            message = (
                f"integers({low}, {high}) has {max(bound, 0):,} numbers to choose from: pass "
                "bounds that have 1 to 2**32 numbers between them"
            )
            raise ValueError(message)
        word, half = self.words(size), np.uint64(32)
        lower = (word & np.uint64(2**32 - 1)) * np.uint64(bound) >> half
        upper = ((word >> half) * np.uint64(bound) + lower) >> half
        return upper.astype(np.int64) + low

    def normal(
        self, loc: Any = 0.0, scale: Any = 1.0, size: int | Sequence[int] = ()
    ) -> np.ndarray[Any, Any]:
        """Return normal numbers of a mean and a standard deviation, as ``float64``."""
        uniform = ((self.words(size) >> np.uint64(12)) + 0.5) * 2.0**-52
        found: np.ndarray[Any, Any] = loc + scale * inverse_normal(uniform)
        return found
