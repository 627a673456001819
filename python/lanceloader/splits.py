"""Splitting an order: sizes, labels, groups and hashes → positions of each part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader import _native
from lanceloader.errors import FormatError
from lanceloader.numbers import numbers_of, numpy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader._permutation import Permutation

__all__ = ["Fold", "Splits"]


class Splits(Sequence["Permutation"]):
    """Permutations that share no row, by name or by place.

    Unpacks like a tuple: ``train, val = perm.split({"train": 0.9, "val": 0.1}, seed=7)``.
    """

    def __init__(
        self, parts: Iterable[Permutation], names: Sequence[str] | None
    ) -> None:
        """Hold ``parts``; ``names`` has one for each, or is ``None``."""
        self._parts = tuple(parts)
        self.names = list(names) if names is not None else []

    def __getitem__(self, which: Any) -> Any:
        """Give a part by its name or place."""
        if not isinstance(which, str):
            return self._parts[which]
        if which not in self.names:
            message = f"no split named {which!r}; there are {', '.join(self.names) or 'no names'}"
            raise KeyError(message)
        return self._parts[self.names.index(which)]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Permutation]:
        return iter(self._parts)

    def __repr__(self) -> str:
        names = self.names or [str(place) for place in range(len(self))]
        parts = (
            f"{name}: {len(part):,} rows"
            for name, part in zip(names, self, strict=True)
        )
        return f"<Splits {', '.join(parts)}>"


class Fold(NamedTuple):
    """One round of a cross-validation."""

    train: Permutation
    """All rows but those of ``val``."""

    val: Permutation
    """The rows of this fold."""


class Sizes:
    """How large the parts are, as users write it."""

    def __init__(self, sizes: Any) -> None:
        """Read a dict by name or a sequence, of shares or of row counts, or a number of parts.

        Raises:
            TypeError: If ``sizes`` is nothing of the kind.
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
                f"sizes {sizes!r}: wanted a dict or sequence of shares (0.9, 0.1) or of row "
                "counts (900, 100), or a number of equal parts"
            )
            raise TypeError(message)
        sizes = [size.tolist() if hasattr(size, "tolist") else size for size in sizes]
        kinds = {type(size) for size in sizes}
        if kinds == {int}:
            self._given = {"counts": list(sizes)}
        elif kinds <= {int, float}:
            self._given = {"ratios": without_excess([float(size) for size in sizes])}
        else:
            message = f"sizes {sizes!r}: wanted whole numbers or shares between 0 and 1"
            raise TypeError(message)

    def counts(self, num_rows: int) -> list[int]:
        """Give the rows of each part; see ``Permutation.split`` for the rules."""
        return _native.split_counts(num_rows, **self._given)

    def shares(self) -> list[float]:
        """Give the share of each part, for splits that do not count.

        Raises:
            ValueError: If the sizes are row counts, or the shares are impossible.
        """
        if "counts" in self._given:
            message = (
                "row counts with hash_by: wanted shares, as a hash cannot count rows"
            )
            raise ValueError(message)
        if "fixed" in self._given:
            parts = self._given["fixed"]
            if parts < 1:
                message = f"{parts} parts: wanted at least 1"
                raise ValueError(message)
            return [1 / parts] * parts
        shares: list[float] = self._given["ratios"]
        if not all(0 < share <= 1 for share in shares) or sum(shares) > 1:
            message = f"shares {shares}: wanted each above 0 and at most 1 together"
            raise ValueError(message)
        return shares


def without_excess(shares: list[float]) -> list[float]:
    """Make shares that sum to one but for rounding sum to no more than one."""
    excess = sum(shares) - 1
    if 0 < excess < 1e-9:
        largest = shares.index(max(shares))
        shares[largest] -= excess
        while sum(shares) > 1:
            shares[largest] = math.nextafter(shares[largest], 0)
    return shares


def sequential(order: Order, counts: Sequence[int]) -> list[Order]:
    """Cut an order into consecutive parts."""
    parts, start = [], 0
    for count in counts:
        parts.append(order.slice(start, count))
        start += count
    return parts


def codes_of(columns: pa.Table) -> np.ndarray[Any, Any]:
    """Number the distinct rows of canonical columns, and return the number of each row."""
    import numpy as np
    import pyarrow as pa

    codes = np.zeros(columns.num_rows, dtype=np.int64)
    if columns.num_rows == 0:
        return codes
    for name, column in zip(columns.column_names, columns.columns, strict=True):
        try:
            # All chunks have the dictionary of the whole column.
            parts = column.dictionary_encode(null_encoding="encode").chunks
        except pa.ArrowNotImplementedError as error:
            message = f"column `{name}` of type {column.type}: rows are not split by its values"
            raise FormatError(message) from error
        indices = np.concatenate([numpy_of(part.indices) for part in parts])
        codes = codes * len(parts[0].dictionary) + indices.astype(np.int64)
        # By first appearance, so that codes say nothing of the values and stay small.
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        ranks = np.empty(len(first), dtype=np.int64)
        ranks[np.argsort(first)] = np.arange(len(first))
        codes = ranks[inverse]
    return codes


def by_hash(columns: pa.Table, shares: Sequence[float], seed: int) -> list[Order]:
    """Give the positions of each part by a hash of their values.

    A row whose hash ``h`` is below ``share * 2**64`` belongs to the first part, and so on:
    it does not matter which other rows there are.
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
