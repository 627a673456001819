"""The verbs that cut the rows into parts.

Only splits by labels, groups, hashes or values look at values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from lanceloader import _native
from lanceloader.errors import FormatError
from lanceloader.numbers import array_of, count
from lanceloader.splits import Fold, Sizes, Splits, by_hash, codes_of, sequential
from lanceloader.values import listed
from lanceloader.verbs.sampling import SampleVerbs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lanceloader._native import Order
    from lanceloader._permutation import Permutation

__all__ = ["SplitNumber", "SplitVerbs"]


class SplitNumber(int):
    """``perm.split``: the verb, and LanceDB's attribute of this name.

    Called, it cuts the rows into parts. As a number, it is the split of the permutation table
    that ``perm`` was made from, 0 without one.
    """

    _perm: SplitVerbs

    def __new__(cls, number: int, perm: SplitVerbs) -> Self:
        """Be ``number``, and cut ``perm``."""
        new = super().__new__(cls, number)
        new._perm = perm
        return new

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
        progress: bool = False,
    ) -> Splits[Permutation]:
        """Cut the rows into parts that share none.

        Args:
            sizes: Shares of the rows (``{"train": 0.9, "val": 0.1}``), row counts
                (``[900, 100]``), or a number of equal parts; by name or by place. Shares are
                rounded so that no row is lost if they sum to one; rows beyond the last
                part belong to none.
            seed: Chooses the rows of a random split, in ``range(2**64)``.
            how: ``"random"``, or ``"sequential"`` to cut the rows as they stand.
            clump_size: In a random split, this many neighbours stay together.
            stratify_by: Columns; every distinct value has its share in every part, to
                within two rows.
            group_by: Columns; rows with equal values stay in one part, and sizes come as
                close as whole groups allow.
            hash_by: Columns; a row's part depends on its values (and the seed) alone, so it
                stays the same when rows are added. Sizes are shares and come out about
                right.
            progress: Whether to show a bar while columns are read.

        Returns:
            The parts, in the order of ``sizes``. A plain random split shuffles its rows;
            the others keep the order they stand in.

        Raises:
            ValueError: If the sizes are impossible, or a random split has no seed: every
                process must split alike.
            ColumnNotFoundError: If a column does not exist.

        Example:
            >>> train, val = perm.split({"train": 0.8, "val": 0.2}, seed=7)
            >>> len(train), len(val)
            (8, 2)
        """
        perm = self._perm
        wanted = Sizes(sizes)
        ways = {"stratify_by": stratify_by, "group_by": group_by, "hash_by": hash_by}
        given = {way: columns for way, columns in ways.items() if columns is not None}
        if how not in ("random", "sequential"):
            message = f'how={how!r}: wanted "random" or "sequential"'
            raise ValueError(message)
        if len(given) > 1 or (given and how == "sequential"):
            message = f"{', '.join(given)} with how={how!r}: wanted one way to split"
            raise ValueError(message)
        if clump_size != 1 and (given or how == "sequential"):
            message = f"clump_size={clump_size} in a split that is not plain random: wanted none"
            raise ValueError(message)
        if how == "sequential" and seed is not None:
            message = (
                f'seed={seed} with how="sequential": wanted none, as nothing is drawn'
            )
            raise ValueError(message)
        if how == "sequential":
            parts = sequential(perm._order, wanted.counts(perm.num_rows))
            return perm._splits(parts, wanted.names)
        if seed is None:
            message = (
                "a random split without a seed: pass seed=..., so that every process and run "
                'splits alike, or how="sequential"'
            )
            raise ValueError(message)
        seed = count(seed, "seed")
        if not given:
            shuffled = perm._order.shuffled_for_split(
                seed, count(clump_size, "clump_size", least=1)
            )
            parts = sequential(shuffled, wanted.counts(perm.num_rows))
            return perm._splits(parts, wanted.names)
        ((kind, columns),) = given.items()
        table = perm._columns(columns, kind, progress=progress)
        if kind == "hash_by":
            picks = by_hash(table, wanted.shares(), seed)
        else:
            divide = _native.stratified if kind == "stratify_by" else _native.grouped
            picks = divide(codes_of(table), wanted.counts(perm.num_rows), seed)
        return perm._splits(map(perm._order.pick, picks), wanted.names)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class SplitVerbs(SampleVerbs):
    """Split by size, by values, and into folds."""

    @property
    def split(self) -> SplitNumber:
        """Cut the rows into parts: ``perm.split({"train": 0.9, "val": 0.1}, seed=7)``.

        See ``SplitNumber.__call__`` for the arguments. As a number, it is the split of the
        permutation table that this was made from, as in LanceDB.
        """
        return SplitNumber(self._split, self)

    def split_by(self, column: str, *, progress: bool = False) -> Splits[Permutation]:
        """Cut the rows by the values of a column that already says where each belongs.

        Returns:
            A part per distinct value, in order of first appearance, named by
            ``str(value)``; its rows keep the order they stand in.

        Raises:
            ColumnNotFoundError: If the column does not exist.
        """
        orders, values = self._by_value(column, "split_by", progress=progress)
        return self._splits(orders, [str(value) for value in values])

    def strata(self, column: str, *, progress: bool = False) -> dict[Any, Permutation]:
        """Give the rows of each value of a column: what ``lanceloader.mix`` makes batches from.

        A mixture of them has every value in every batch: in proportion to its rows, or as often
        as any other with ``weights="equal"``. Reads the column once.

        Returns:
            A permutation for each distinct value, in order of first appearance; its rows keep the
            order they stand in.

        Raises:
            ColumnNotFoundError: If the column does not exist.

        Example:
            >>> mixture = ll.mix(perm.strata("x"), weights="equal", stop="all")
        """
        orders, values = self._by_value(column, "strata", progress=progress)
        strata = dict(zip(values, self._splits(orders, None), strict=True))
        if len(strata) < len(values):
            # Such as times of nanoseconds, which Python's types round.
            message = (
                f"column `{column}`: some of its {len(values)} values are equal as Python "
                "objects, which name the strata; use split_by"
            )
            raise FormatError(message)
        return strata

    def _by_value(
        self, column: str, what: str, *, progress: bool
    ) -> tuple[list[Order], list[Any]]:
        """Give the rows of each distinct value of a column, and the values."""
        import numpy as np

        table = self._columns(column, what, progress=progress)
        codes = codes_of(table)
        rows = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[rows], np.arange(codes.max(initial=-1) + 1))
        values = listed(table.column(0).take(array_of(rows[starts])))
        picks = map(_native.Order.set, np.split(rows, starts[1:]))
        return (list(map(self._order.pick, picks)) if values else []), values

    def kfold(
        self,
        folds: int,
        *,
        seed: int,
        stratify_by: str | Sequence[str] | None = None,
        group_by: str | Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Fold[Permutation]]:
        """Make the rounds of a cross-validation.

        Args:
            folds: The number of rounds, at least 2.
            seed: Chooses the folds.
            stratify_by: As for ``split``.
            group_by: As for ``split``.
            progress: Whether to show a bar while columns are read.

        Returns:
            ``(train, val)`` for each round; every row is in ``val`` once.
        """
        _native.fold(self.num_rows, folds, 0)  # refuses folds that cannot be
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
                f"{folds} folds: fold {empty[0]} would have no rows; wanted no more folds than "
                f"{group_by} has values"
            )
            raise ValueError(message)
        orders = [part._order for part in parts]
        rest = (
            _native.Order.concat(orders[:fold] + orders[fold + 1 :])
            for fold in range(folds)
        )
        return [
            Fold(*both) for both in zip(self._splits(rest, None), parts, strict=True)
        ]

    def _splits(
        self, orders: Iterable[Order], names: Sequence[str] | None
    ) -> Splits[Permutation]:
        parts = (cast("Permutation", self._with_rows(order)) for order in orders)
        return Splits(parts, names)
