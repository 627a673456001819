"""The methods that split the rows into parts.

Values are only read for splits by labels, groups, hashes or values.
"""

from __future__ import annotations

import functools
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    Self,
    TypeVar,
    overload,
)

from lanceloader import _native
from lanceloader.errors import FormatError
from lanceloader.hints import with_hints
from lanceloader.monitor.progress import waiting
from lanceloader.numbers import array_of, count
from lanceloader.splits import Fold, Sizes, Splits, by_hash, codes_of, sequential
from lanceloader.values import listed
from lanceloader.verbs.reading import ReadVerbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lanceloader._native import Order

__all__ = ["SplitNumber", "SplitVerbs"]

ViewT = TypeVar("ViewT", bound="SplitVerbs")

INSTEAD_OF = {
    "by": "pass `stratify_by`, `group_by` or `hash_by`",
    "groups": "pass `group_by`, the name of a column",
    "random_state": "pass `seed`",
    "shuffle": 'pass `seed`, or how="sequential" to keep the order',
    "stratify": "pass `stratify_by`, the name of a column",
    "stratify_by_column": "pass `stratify_by`",
    "train": 'pass the parts as a dict: split({"train": 0.9, "val": 0.1}, seed=7)',
    "test_size": "call train_test_split(), or pass the sizes of all parts",
}
"""Arguments of other libraries' splits, and what to pass instead."""


class SplitNumber(int, Generic[ViewT]):
    """``perm.split``, which is both a method here and an attribute in LanceDB.

    Calling it splits the rows. Its value as an int is LanceDB's attribute: the number of the split
    of the permutation table that the permutation was made from, or 0.
    """

    _perm: ViewT

    def __new__(cls, number: int, perm: ViewT) -> Self:
        """Return the int ``number`` whose calls split ``perm``."""
        new = super().__new__(cls, number)
        new._perm = perm
        return new

    @with_hints("split", INSTEAD_OF)
    def __call__(
        self,
        sizes: Mapping[str, float] | Sequence[float] | int,
        *,
        seed: int | None = None,
        how: str = "random",
        clump_size: int = 1,
        stratify_by: str | Sequence[str] | None = None,
        group_by: str | Sequence[str] | None = None,
        hash_by: str | Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> Splits[ViewT]:
        """Split the rows into disjoint parts.

        Args:
            sizes: Fractions of the rows (``{"train": 0.9, "val": 0.1}``), numbers of rows
                (``[900, 100]``), or the number of equal parts; as a dict by name, or a sequence.
                Fractions that sum to 1 are rounded such that every row is in a part; otherwise
                the remaining rows are in no part.
            seed: The seed of a random split, in ``range(2**64)``.
            how: ``"random"``, or ``"sequential"`` to split the rows in their order.
            clump_size: The number of neighbouring rows that a random split keeps together.
            stratify_by: Columns whose distinct values are distributed over the parts in
                proportion, to within two rows.
            group_by: Columns; rows with equal values are in the same part. Sizes are as close to
                the requested ones as whole groups allow.
            hash_by: Columns; the part of a row depends only on its values and the seed, so it
                stays the same when rows are added. Sizes must be fractions, which are met
                approximately.
            progress: Whether to show a progress bar while columns are read; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            The parts, in the order of ``sizes``. A plain random split shuffles its rows; the
            other splits keep the order of the rows.

        Raises:
            ValueError: If the sizes are impossible, options are mutually exclusive, or a random split
                has no seed, without which processes would not agree on the parts.
            ColumnNotFoundError: If a column does not exist.

        Example:
            >>> train, val = perm.split({"train": 0.8, "val": 0.2}, seed=7)
            >>> len(train), len(val)
            (8, 2)
        """
        perm = self._perm
        requested = Sizes(sizes)
        criteria = {
            "stratify_by": stratify_by,
            "group_by": group_by,
            "hash_by": hash_by,
        }
        passed = {name: names for name, names in criteria.items() if names is not None}
        if how not in ("random", "sequential"):
            message = f'`how` must be "random" or "sequential", got {how!r}'
            raise ValueError(message)
        if len(passed) > 1 or (passed and how == "sequential"):
            names = " and ".join(f"`{name}`" for name in passed)
            message = (
                f"{names} are mutually exclusive: pass one of them"
                if len(passed) > 1
                else f"{names} has no effect with how={how!r}: leave one of them out"
            )
            raise ValueError(message)
        if clump_size != 1 and (passed or how == "sequential"):
            message = f"`clump_size`={clump_size} only applies to a plain random split: leave it out"
            raise ValueError(message)
        if how == "sequential" and seed is not None:
            message = f'`seed`={seed} has no effect with how="sequential": leave it out'
            raise ValueError(message)
        if how == "sequential":
            parts = sequential(perm.order, requested.counts(perm.num_rows))
            return perm._splits(parts, requested.names)
        if seed is None:
            message = (
                "a random split needs a seed, so that all processes and runs agree on the parts: "
                'pass `seed`, or how="sequential"'
            )
            raise ValueError(message)
        seed = count(seed, "seed")
        if not passed:
            shuffled = perm.order.shuffled_for_split(
                seed, count(clump_size, "clump_size", least=1)
            )
            parts = sequential(shuffled, requested.counts(perm.num_rows))
            return perm._splits(parts, requested.names)
        ((criterion, columns),) = passed.items()
        table = perm._columns(columns, criterion, progress=progress)
        with waiting("splitting rows", progress):
            if criterion == "hash_by":
                picks = by_hash(table, requested.shares(), seed)
            else:
                is_stratified = criterion == "stratify_by"
                divide = _native.stratified if is_stratified else _native.grouped
                picks = divide(codes_of(table), requested.counts(perm.num_rows), seed)
            return perm._splits(map(perm.order.pick, picks), requested.names)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class SplitMethod:
    """``Permutation.split``: a function of the class, and a ``SplitNumber`` of an instance."""

    def __init__(self) -> None:
        self.__doc__ = SplitNumber.__call__.__doc__

    @overload
    def __get__(
        self, instance: None, owner: type[ViewT]
    ) -> Callable[Concatenate[ViewT, ...], Splits[ViewT]]: ...

    @overload
    def __get__(self, instance: ViewT, owner: object) -> SplitNumber[ViewT]: ...

    def __get__(self, instance: Any, owner: Any) -> Any:
        """Return the number that can be called, or a function with its signature."""
        if instance is None:
            return split_function()
        return SplitNumber(instance.split_number, instance)

    def __set__(self, instance: Any, value: Any) -> NoReturn:
        # Without this, an instance might get an attribute of this name.
        message = "`split` cannot be set: call perm.split(sizes, seed=...)"
        raise AttributeError(message)


@functools.cache
def split_function() -> Callable[..., Any]:
    """Return ``Permutation.split`` as a function of a permutation, for ``help``."""

    @functools.wraps(SplitNumber.__call__)
    def split(self: SplitVerbs, *args: Any, **options: Any) -> Any:
        return self.split(*args, **options)

    split.__name__ = "split"
    split.__qualname__ = "Permutation.split"
    return split


class SplitVerbs(ReadVerbs):
    """Methods that split rows by size, by values, and into folds."""

    split = SplitMethod()
    """Split the rows into parts; as an int, the number of the split, as in LanceDB."""

    def split_by(self, column: str, *, progress: bool | None = None) -> Splits[Self]:
        """Split the rows by the values of a column, such as one that holds the name of a split.

        Args:
            column: The name of a column, which is read once.
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            A part for each distinct value, in order of first appearance, named ``str(value)``,
            with its rows in the order of this permutation.

        Raises:
            ColumnNotFoundError: If the column does not exist.
        """
        orders, values = self._by_value(column, "split_by", progress=progress)
        return self._splits(orders, [str(value) for value in values])

    def strata(self, column: str, *, progress: bool | None = None) -> dict[Any, Self]:
        """Return the rows of each distinct value of a column, as sources for ``lanceloader.mix``.

        Each batch of a mixture of the strata has rows of all values, in proportion to their
        numbers of rows, or equally many of each with ``weights="equal"``.

        Args:
            column: The name of a column, which is read once.
            progress: Whether to show a progress bar, if it takes long; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            A permutation for each distinct value, in order of first appearance, with its rows in
            the order of this permutation.

        Raises:
            ColumnNotFoundError: If the column does not exist.
            FormatError: If distinct values are equal as Python objects.

        Example:
            >>> mixture = ll.mix(perm.strata("x"), weights="equal", stop="all")
        """
        orders, values = self._by_value(column, "strata", progress=progress)
        strata = dict(zip(values, self._splits(orders, None), strict=True))
        if len(strata) < len(values):
            # Python's types round times to microseconds, for example.
            message = (
                f"column `{column}` has distinct values that are equal as Python objects, which "
                "are the keys of the strata: call split_by() instead"
            )
            raise FormatError(message)
        return strata

    def _by_value(
        self, column: str, what: str, *, progress: bool | None
    ) -> tuple[list[Order], list[Any]]:
        """Return the rows of each distinct value of a column, and the values."""
        import numpy as np

        table = self._columns(column, what, progress=progress)
        with waiting("grouping rows", progress):
            codes = codes_of(table)
            rows = np.argsort(codes, kind="stable")
            starts = np.searchsorted(codes[rows], np.arange(codes.max(initial=-1) + 1))
            values = listed(table.column(0).take(array_of(rows[starts])))
            picks = map(_native.Order.set, np.split(rows, starts[1:]))
            return (list(map(self.order.pick, picks)) if values else []), values

    def kfold(
        self,
        folds: int,
        *,
        seed: int,
        stratify_by: str | Sequence[str] | None = None,
        group_by: str | Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> list[Fold[Self]]:
        """Return the folds of a cross-validation.

        Args:
            folds: The number of folds, at least 2.
            seed: The seed of the random split into folds.
            stratify_by: As for ``split``.
            group_by: As for ``split``.
            progress: Whether to show a progress bar while columns are read; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            A pair ``(train, val)`` for each fold; every row is in exactly one ``val``.

        Raises:
            ValueError: If there are fewer than 2 folds, or fewer rows or groups than folds.
            ColumnNotFoundError: If a column does not exist.
        """
        folds = count(folds, "folds", least=2)
        if folds > self.num_rows:
            message = f"`folds`={folds} exceeds the number of rows, {self.num_rows}: pass fewer folds"
            raise ValueError(message)
        sizes = [_native.fold(self.num_rows, folds, fold)[1] for fold in range(folds)]
        parts = self.split(
            sizes,
            seed=seed,
            stratify_by=stratify_by,
            group_by=group_by,
            progress=progress,
        )
        empty = [fold for fold, part in enumerate(parts) if len(part) == 0]
        if empty:
            message = (
                f"`folds`={folds} exceeds the number of distinct values of {group_by!r}: fold "
                f"{empty[0]} would have no rows; pass fewer folds"
            )
            raise ValueError(message)
        orders = [part.order for part in parts]
        rest = (
            _native.Order.concat(orders[:fold] + orders[fold + 1 :])
            for fold in range(folds)
        )
        return [
            Fold(*both) for both in zip(self._splits(rest, None), parts, strict=True)
        ]

    def _splits(
        self, orders: Iterable[Order], names: Sequence[str] | None
    ) -> Splits[Self]:
        return Splits(map(self.with_rows, orders), names)
