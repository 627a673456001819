"""The verbs that choose and order rows. Each gives a new permutation.

Only those that look at values read anything: ``filter``, and splits by labels, groups or
hashes.
"""

from __future__ import annotations

import secrets
import warnings
from typing import TYPE_CHECKING, Any, Self

from lanceloader import _native
from lanceloader.numbers import count
from lanceloader.splits import Fold, Sizes, Splits, by_hash, codes_of, sequential
from lanceloader.view.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader._typing import Tail

__all__ = ["RowVerbs"]


class RowVerbs(Reading):
    """Skip, take, repeat, filter, shuffle, split, shard, sample."""

    def with_skip(self, skip: int) -> Self:
        """Leave the first ``skip`` rows out; a second call replaces the first.

        Raises:
            ValueError: If there are fewer, counting what ``with_take`` keeps.
        """
        skip = count(skip)
        return self._replace(offset=skip, _order=self._sliced(skip, self.limit))

    def with_take(self, limit: int) -> Self:
        """Keep ``limit`` rows, after those that ``with_skip`` leaves out.

        Raises:
            ValueError: If there are fewer.
        """
        limit = count(limit)
        return self._replace(limit=limit, _order=self._sliced(self.offset, limit))

    def with_repeat(self, times: int) -> Self:
        """Serve the rows ``times`` times over, in the same order each time."""
        return self._with_rows(self._order.repeat(count(times)))

    def skip(self, skip: int) -> Self:
        """Call ``with_skip`` instead."""
        deprecated("skip")
        return self.with_skip(skip)

    def take(self, limit: int) -> Self:
        """Call ``with_take`` instead."""
        deprecated("take")
        return self.with_take(limit)

    def repeat(self, times: int) -> Self:
        """Call ``with_repeat`` instead."""
        deprecated("repeat")
        return self.with_repeat(times)

    def _sliced(self, offset: int | None, limit: int | None) -> Order:
        available = len(self._rows)
        start = offset or 0
        stop = available if limit is None else start + limit
        if start > available:
            message = (
                f"Invalid input, Offset is greater than the number of rows in the permutation "
                f"table: {start} of {available}"
            )
            raise ValueError(message)
        if stop > available:
            message = (
                f"Invalid input, Limit is greater than the number of rows in the permutation "
                f"table: {start} skipped and {limit} kept of {available}"
            )
            raise ValueError(message)
        return self._rows.slice(start, stop - start)

    def filter(self, predicate: str | Sequence[bool] | Any) -> Self:
        """Keep the rows for which ``predicate`` is true, in the order they stand.

        Args:
            predicate: An SQL expression over the columns of the table, answered by its own
                library, with its scalar indexes; rows where it is null are left out. Or a
                boolean array with a place for each row of this permutation.

        Returns:
            A new permutation. The answer is kept as a bitmap: a bit per row at most.

        Raises:
            ValueError: If the expression does not parse or names no column, or the array
                has another length.
            UnsupportedError: If the table's own library is not installed.

        Example:
            >>> perm.filter("x >= 8").head()
            [{'x': 8}, {'x': 9}]
        """
        if isinstance(predicate, str):
            source, rows = self._source.matching(predicate, self._order)
            return self._with_rows(rows, source)
        import numpy as np

        mask = np.asarray(predicate)
        if mask.dtype != np.bool_ or mask.shape != (self.num_rows,):
            message = (
                f"a filter of dtype {mask.dtype} and shape {mask.shape}: wanted an SQL string "
                f"or {self.num_rows} booleans"
            )
            raise ValueError(message)
        kept = _native.Order.set(np.flatnonzero(mask))
        return self._with_rows(self._order.pick(kept))

    def shuffle(
        self, seed: int | None = None, *, epoch: int = 0, clump_size: int = 1
    ) -> Self:
        """Shuffle the rows.

        Nothing is stored or sorted, at any number of rows: the order is computed. The same
        ``(seed, epoch, clump_size)`` gives the same rows on every machine and release; see
        ``docs/determinism.md``.

        Args:
            seed: Chooses the order, in ``range(2**64)``; by default at random.
            epoch: Chooses another order for the same seed.
            clump_size: This many neighbours stay together, in order.
        """
        if seed is None:
            seed = secrets.randbits(64)
        return self._with_rows(
            self._order.shuffled(count(seed), count(epoch), count(clump_size))
        )

    def split(
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
    ) -> Splits:
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
        wanted = Sizes(sizes)
        given = {"stratify_by": stratify_by, "group_by": group_by, "hash_by": hash_by}
        given = {name: columns for name, columns in given.items() if columns is not None}
        if how not in ("random", "sequential"):
            message = f'how={how!r}: wanted "random" or "sequential"'
            raise ValueError(message)
        if len(given) > 1 or (given and how == "sequential"):
            message = f"{', '.join(given)} with how={how!r}: wanted one way to split"
            raise ValueError(message)
        if how == "sequential":
            rows = sequential(self._order, wanted.counts(self.num_rows))
            return Splits(map(self._with_rows, rows), wanted.names)
        if seed is None:
            message = (
                "a random split without a seed: pass seed=..., so that every process and run "
                'splits alike, or how="sequential"'
            )
            raise ValueError(message)
        seed = count(seed)
        if not given:
            shuffled = self._order.shuffled_for_split(seed, count(clump_size))
            rows = sequential(shuffled, wanted.counts(self.num_rows))
            return Splits(map(self._with_rows, rows), wanted.names)
        ((kind, columns),) = given.items()
        table = self._columns(columns, kind, progress=progress)
        if kind == "hash_by":
            parts = by_hash(table, wanted.shares(), seed)
        else:
            divide = _native.stratified if kind == "stratify_by" else _native.grouped
            parts = divide(codes_of(table), wanted.counts(self.num_rows), seed)
        return Splits(
            (self._with_rows(self._order.pick(part)) for part in parts), wanted.names
        )

    def split_by(self, column: str, *, progress: bool = False) -> Splits:
        """Cut the rows by the values of a column that already says where each belongs.

        Returns:
            A part per distinct value, in order of first appearance, named by
            ``str(value)``; its rows keep the order they stand in.

        Raises:
            ColumnNotFoundError: If the column does not exist.
        """
        import numpy as np

        table = self._columns(column, "split", progress=progress)
        codes = codes_of(table)
        values = [table.column(0)[int(np.argmax(codes == c))].as_py() for c in np.unique(codes)]
        picks = (_native.Order.set(np.flatnonzero(codes == c)) for c in np.unique(codes))
        parts = (self._with_rows(self._order.pick(pick)) for pick in picks)
        return Splits(parts, [str(value) for value in values])

    def kfold(
        self,
        folds: int,
        *,
        seed: int,
        stratify_by: str | Sequence[str] | None = None,
        group_by: str | Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Fold]:
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
        sizes = [_native.fold(self.num_rows, folds, fold)[1] for fold in range(folds)]
        parts = self.split(
            sizes or [0],
            seed=seed,
            stratify_by=stratify_by,
            group_by=group_by,
            progress=progress,
        )
        orders = [part._order for part in parts]
        rest = (
            _native.Order.concat(orders[:fold] + orders[fold + 1 :]) for fold in range(folds)
        )
        return [
            Fold(self._with_rows(train), val)
            for train, val in zip(rest, parts, strict=True)
        ]

    def shard(self, rank: int, world_size: int, *, tail: Tail = "uneven") -> Self:
        """Keep the rows that one of ``world_size`` readers gets: every ``world_size``-th.

        A shard depends only on ``(len(self), rank, world_size, tail)``, so ranks need not
        talk to agree.

        Args:
            rank: This reader, in ``range(world_size)``.
            world_size: Number of readers, at least 1.
            tail: What becomes of the ``len(self) % world_size`` rows left over.
                ``"uneven"`` gives one each to the first ranks, ``"drop"`` leaves them out,
                ``"pad"`` evens the ranks up by serving some rows twice.

        Raises:
            ValueError: If ``rank`` is not in ``range(world_size)``.

        Example:
            >>> [len(perm.shard(rank, 4)) for rank in range(4)]
            [3, 3, 2, 2]
        """
        return self._with_rows(self._order.shard(count(rank), count(world_size), tail))

    def sample(self, size: float, *, seed: int) -> Self:
        """Keep ``size`` rows drawn at random, none twice, in random order.

        Args:
            size: A number of rows, or a share of them as a float between 0 and 1.
            seed: Chooses the rows, in ``range(2**64)``.

        Raises:
            ValueError: If there are fewer rows.
        """
        rows = size
        if isinstance(size, float):
            if not 0 <= size <= 1:
                message = f"a sample of {size} of the rows: wanted a share between 0 and 1"
                raise ValueError(message)
            rows = round(size * self.num_rows)
        rows = count(rows)
        if rows > self.num_rows:
            message = f"a sample of {rows} rows: there are {self.num_rows}"
            raise ValueError(message)
        return self._with_rows(self._order.shuffled_for_sample(count(seed)).slice(0, rows))

    def _columns(
        self, columns: str | Sequence[str], what: str, *, progress: bool
    ) -> pa.Table:
        """Read columns of all rows, also ones that are not selected."""
        names = [columns] if isinstance(columns, str) else list(columns)
        if not names:
            message = f"{what} without columns: wanted at least one"
            raise ValueError(message)
        known = self._source.schema.names
        whole = self._replace(selection={name: name for name in known} | self.selection)
        selection = {name: whole._resolve(name) for name in names}
        return self._with_selection(selection).to_arrow(progress=progress)


def deprecated(name: str) -> None:
    """Warn that a name of HuggingFace's has a clearer one here."""
    message = f"{name} is deprecated. Use with_{name} instead"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
