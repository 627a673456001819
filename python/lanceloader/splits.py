"""Splitting an order by sizes, labels, groups or hashes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from lanceloader import _native
from lanceloader.errors import FormatError
from lanceloader.monitor.markup import table
from lanceloader.numbers import numbers_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from typing_extensions import TypeVar

    from lanceloader._native import Order

    PermutationT = TypeVar("PermutationT", default=Any)
else:
    # Defaults of type variables need Python 3.13.
    from typing import TypeVar

    PermutationT = TypeVar("PermutationT")

__all__ = ["Fold", "Splits"]


class Splits(Sequence[PermutationT]):
    """Disjoint permutations, accessed by index or name.

    Unpacks like a tuple: ``train, val = perm.split({"train": 0.9, "val": 0.1}, seed=7)``.

    Attributes:
        names: The names of the splits, or an empty list if they have none.
    """

    def __init__(
        self, parts: Iterable[PermutationT], names: Sequence[str] | None
    ) -> None:
        """Create splits.

        Args:
            parts: The permutations.
            names: One name per permutation, or ``None``.
        """
        self._parts = tuple(parts)
        self.names = list(names) if names is not None else []

    def __getitem__(self, key: Any) -> Any:
        """Return a permutation by index or name, or a tuple of them for a slice.

        Raises:
            IndexError: If there is no split with this index.
            KeyError: If there is no split with this name.
        """
        if not isinstance(key, str):
            return self._parts[key]
        if key not in self.names:
            names = (
                f"the names are {', '.join(self.names)}"
                if self.names
                else "splits have no names"
            )
            raise KeyError(f"no split is named {key!r}; {names}")
        return self._parts[self.names.index(key)]

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, key: object) -> bool:
        """Return whether there is a split with this name, or whether this is one of the splits."""
        return key in self.names if isinstance(key, str) else key in self._parts

    def keys(self) -> list[str]:
        """Return the names, so that ``dict(splits)`` works as for a dict of splits."""
        return list(self.names)

    def values(self) -> list[PermutationT]:
        """Return the permutations."""
        return list(self._parts)

    def items(self) -> list[tuple[str, PermutationT]]:
        """Return pairs of a name and a permutation; none if splits have no names."""
        return list(zip(self.names, self._parts, strict=False))

    def __iter__(self) -> Iterator[PermutationT]:
        return iter(self._parts)

    def __repr__(self) -> str:
        names = self.names or [str(index) for index in range(len(self))]
        parts = (
            f"{name}: {len(part):,} rows"  # type: ignore[arg-type]
            for name, part in zip(names, self, strict=True)
        )
        return f"<Splits {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        names = self.names or range(len(self))
        sizes: list[int] = [len(part) for part in self]  # type: ignore[arg-type]
        total = max(1, sum(sizes))
        rows = zip(names, sizes, strict=True)
        return table(
            ("split", "rows", "share"),
            [(name, f"{size:,}", f"{size / total:.1%}") for name, size in rows],
        )


class Fold(NamedTuple, Generic[PermutationT]):
    """The training and validation rows of one round of a cross-validation."""

    train: PermutationT
    """The rows of all other folds."""

    val: PermutationT
    """The rows of this fold."""


class Sizes:
    """The parsed argument ``sizes`` of ``Permutation.split``."""

    def __init__(self, sizes: Any) -> None:
        """Parse sizes.

        Args:
            sizes: A dict by name or a sequence, of shares or of row counts; or a number of equal
                parts.

        Raises:
            TypeError: If ``sizes`` is none of these.
        """
        self.names: list[str] | None = None
        self._given: dict[str, Any]
        if isinstance(sizes, Mapping):
            self.names = [str(name) for name in sizes]
            sizes = list(sizes.values())
        is_text = isinstance(sizes, str | bytes | bytearray | memoryview)
        if hasattr(sizes, "tolist") and not is_text:
            sizes = sizes.tolist()
        if isinstance(sizes, int) and not isinstance(sizes, bool):
            self._given = {"fixed": sizes}
            return
        if is_text or not isinstance(sizes, Sequence) or not sizes:
            message = (
                "`sizes` must be a dict or sequence of shares such as (0.9, 0.1) or of row counts "
                f"such as (900, 100), or a number of equal parts, got {sizes!r}"
            )
            raise TypeError(message)
        sizes = [size.tolist() if hasattr(size, "tolist") else size for size in sizes]
        kinds = {type(size) for size in sizes}
        if kinds == {int}:
            self._given = {"counts": list(sizes)}
        elif kinds <= {int, float}:
            self._given = {"ratios": without_excess([float(size) for size in sizes])}
        else:
            message = f"`sizes` must be whole numbers or shares between 0 and 1, got {sizes!r}"
            raise TypeError(message)

    def counts(self, num_rows: int) -> list[int]:
        """Return the number of rows of each part.

        Raises:
            ValueError: If the sizes do not fit ``num_rows``.
        """
        return _native.split_counts(num_rows, **self._given)

    def shares(self) -> list[float]:
        """Return the share of each part, for ``hash_by``.

        Raises:
            ValueError: If the sizes are row counts, or if a share is not above 0 or their sum is
                above 1.
        """
        if "counts" in self._given:
            message = (
                "`sizes` must be shares with `hash_by`, because a hash cannot produce exact row "
                f"counts, got {self._given['counts']}"
            )
            raise ValueError(message)
        if "fixed" in self._given:
            parts = self._given["fixed"]
            if parts < 1:
                message = f"`sizes` must be at least 1 part, got {parts}"
                raise ValueError(message)
            return [1 / parts] * parts
        shares: list[float] = self._given["ratios"]
        if not all(0 < share <= 1 for share in shares) or sum(shares) > 1:
            message = f"each share of `sizes` must be above 0 and their sum at most 1, got {shares}"
            raise ValueError(message)
        return shares


def without_excess(shares: list[float]) -> list[float]:
    """Return shares whose sum is at most 1, if it exceeds 1 only by rounding errors.

    The excess is subtracted from the largest share, in place.
    """
    excess = sum(shares) - 1
    if 0 < excess < 1e-9:
        largest = shares.index(max(shares))
        shares[largest] -= excess
        while sum(shares) > 1:
            shares[largest] = math.nextafter(shares[largest], 0)
    return shares


def sequential(order: Order, counts: Sequence[int]) -> list[Order]:
    """Divide an order into consecutive parts with these numbers of rows."""
    parts, start = [], 0
    for count in counts:
        parts.append(order.slice(start, count))
        start += count
    return parts


def codes_of(columns: pa.Table) -> np.ndarray[Any, Any]:
    """Return a code for each row of a table, with equal codes for equal rows.

    Args:
        columns: The columns, as ``canonical`` returns them.

    Returns:
        The codes as int64, numbered from 0 by first appearance.

    Raises:
        FormatError: If the values of a column cannot be compared.
    """
    import numpy as np
    import pyarrow as pa

    codes = np.zeros(columns.num_rows, dtype=np.int64)
    if columns.num_rows == 0:
        return codes
    for name, column in zip(columns.column_names, columns.columns, strict=True):
        try:
            # pyarrow encodes all chunks with one dictionary.
            parts = column.dictionary_encode(null_encoding="encode").chunks
        except pa.ArrowNotImplementedError as error:
            message = (
                f"rows cannot be grouped by column `{name}` of type {column.type}; use a column "
                "of numbers, times, text or bytes"
            )
            raise FormatError(message) from error
        indices = np.concatenate([numpy_of(part.indices) for part in parts])
        codes = codes * len(parts[0].dictionary) + indices.astype(np.int64)
        # Codes depend on the order of rows only, not on values, and are below the row count.
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        ranks = np.empty(len(first), dtype=np.int64)
        ranks[np.argsort(first)] = np.arange(len(first))
        codes = ranks[inverse]
    return codes


def by_hash(columns: pa.Table, shares: Sequence[float], seed: int) -> list[Order]:
    """Assign rows to parts by a hash of their values.

    A row with a hash below ``shares[0] * 2**64`` is in the first part, a row with a higher hash
    below ``(shares[0] + shares[1]) * 2**64`` in the second, and so on. The part of a row does not
    depend on other rows.

    Args:
        columns: The columns, as ``canonical`` returns them.
        shares: The share of each part, with a sum of at most 1.
        seed: The seed of the hash, in ``range(2**64)``.

    Returns:
        The positions of the rows of each part.
    """
    import numpy as np

    hashes = numpy_of(numbers_of(_native.stable_hashes(columns, seed)))
    parts, start, total = [], 0, 0.0
    for share in shares:
        total += share
        end = min(round(total * 2**64), 2**64)
        inside = hashes >= np.uint64(start)
        if end < 2**64:
            inside &= hashes < np.uint64(end)
        parts.append(_native.Order.set(np.flatnonzero(inside)))
        start = min(end, 2**64 - 1)
    return parts
