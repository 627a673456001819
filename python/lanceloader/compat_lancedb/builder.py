"""``permutation_builder``, LanceDB's API for filtering, splitting and shuffling a table.

The result is the same as LanceDB's: a table of row ids and split ids in memory. With a seed, the
order of rows equals LanceDB's too, within the limits stated in ``docs/determinism.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._extras import need
from lanceloader.compat_lancedb.builder_arguments import (
    check_lsm,
    check_string,
    check_strings,
    shuffle_of,
    sizes_of,
)
from lanceloader.compat_lancedb.plan_table import json_of, metadata_of
from lanceloader.compat_lancedb.split_rows import (
    FilteredTable,
    SplitRows,
    calculated,
    consecutive,
    hashed,
    shuffled,
)
from lanceloader.engine import memory_table
from lanceloader.monitor.progress import waiting
from lanceloader.numbers import array_of, count
from lanceloader.sources import open_source
from lanceloader.sources.opening import is_a, sync_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

__all__ = ["PermutationBuilder", "built_rows", "permutation_builder"]


@dataclass(frozen=True)
class BuildPlan:
    """The settings of a builder."""

    split: Callable[[FilteredTable], SplitRows]
    """Assigns rows to splits."""

    split_names: Sequence[str] | None = None
    """The names of the splits."""

    shuffle: tuple[int, int] | None = None
    """The seed and the clump size of a shuffle within the splits."""

    filter: str | None = None
    """The SQL predicate that rows must match."""


class PermutationBuilder:
    """Builder of a permutation table; see ``permutation_builder``.

    Methods change the builder and return it. A later split or filter replaces an earlier one.
    ``execute`` builds the table, after which the builder cannot be used again.
    """

    def __init__(self, table: Any) -> None:
        """Create a builder over ``table``.

        Raises:
            RuntimeError: If ``table`` is not a table.
        """
        try:
            if table is None:
                raise TypeError("None")
            self._table = (
                sync_table(table) if is_a(table, "lancedb", "AsyncTable") else table
            )
            if not is_a(self._table, "lancedb", "LanceTable"):
                open_source(self._table)
        except TypeError as error:
            message = (
                "Provided table does not appear to be a Table or RemoteTable instance: "
                f"{error}"
            )
            raise RuntimeError(message) from None
        self._plan: BuildPlan | None = BuildPlan(split=_one_split)

    def split_random(
        self,
        *,
        ratios: list[float] | None = None,
        counts: list[int] | None = None,
        fixed: int | None = None,
        seed: int | None = None,
        clump_size: int | None = None,
        split_names: list[str] | None = None,
    ) -> PermutationBuilder:
        """Shuffle all rows and divide them into consecutive splits.

        Pass exactly one of ``ratios``, ``counts`` and ``fixed``.

        Args:
            ratios: The share of rows of each split, with a sum of at most 1.
            counts: The number of rows of each split.
            fixed: The number of splits, which are equal up to one row.
            seed: The seed, in ``range(2**64)``. By default, a random one.
            clump_size: The number of adjacent rows that stay together, at least 1.
            split_names: The names of the splits.

        Returns:
            The builder.

        Raises:
            ValueError: If not exactly one kind of size is passed, or if ``clump_size`` is 0.
                ``execute`` raises it for sizes that do not fit the table.
        """
        sizes = sizes_of(ratios, counts, fixed)
        seed, clump = shuffle_of(seed, clump_size)

        def split(table: FilteredTable) -> SplitRows:
            positions = _native.lancedb_shuffle(len(table.order), seed, clump)
            return consecutive(table.source, table.order.pick(positions), sizes)

        return self._with(split=split, split_names=split_names)

    def split_sequential(
        self,
        *,
        ratios: list[float] | None = None,
        counts: list[int] | None = None,
        fixed: int | None = None,
        split_names: list[str] | None = None,
    ) -> PermutationBuilder:
        """Divide the rows, in storage order, into consecutive splits.

        Pass exactly one of ``ratios``, ``counts`` and ``fixed``.

        Args:
            ratios: The share of rows of each split, with a sum of at most 1.
            counts: The number of rows of each split.
            fixed: The number of splits, which are equal up to one row.
            split_names: The names of the splits.

        Returns:
            The builder.

        Raises:
            ValueError: If not exactly one kind of size is passed. ``execute`` raises it for
                sizes that do not fit the table.
        """
        sizes = sizes_of(ratios, counts, fixed)

        def split(table: FilteredTable) -> SplitRows:
            return consecutive(table.source, table.order, sizes)

        return self._with(split=split, split_names=split_names)

    def split_hash(
        self,
        columns: list[str],
        split_weights: list[int],
        *,
        discard_weight: int | None = None,
        split_names: list[str] | None = None,
    ) -> PermutationBuilder:
        """Assign rows to splits by a hash of their values in ``columns``.

        Args:
            columns: The columns. Rows with equal values are in the same split.
            split_weights: The approximate relative sizes of the splits, each at least 1.
            discard_weight: The approximate relative size of the rows that are in no split, by
                default 0.
            split_names: The names of the splits.

        Returns:
            The builder.

        Raises:
            ValueError: If a column is named twice. ``execute`` raises it if there are no columns
                or weights, or if a weight is 0.
        """
        names = check_strings(columns, "columns")
        if len(set(names)) < len(names) or "_rowid" in names:
            message = (
                f"Invalid input, Duplicate column name in {names}; name each column once, and "
                "not `_rowid`"
            )
            raise ValueError(message)
        weights = [count(weight, "split_weights") for weight in split_weights]
        discard = count(discard_weight or 0, "discard_weight")

        def split(table: FilteredTable) -> SplitRows:
            return hashed(table, names, weights, discard)

        return self._with(split=split, split_names=split_names)

    def split_calculated(
        self, calculation: str, split_names: list[str] | None = None
    ) -> PermutationBuilder:
        """Assign each row to the split whose number an SQL expression returns.

        Args:
            calculation: The expression. Rows for which it is null or negative are in the
                permutation table, but in no split.
            split_names: The names of the splits.

        Returns:
            The builder.

        Raises:
            ValueError: By ``execute``, if the expression cannot be evaluated.
        """
        calculation = check_string(calculation, "calculation")

        def split(table: FilteredTable) -> SplitRows:
            return calculated(table, calculation)

        return self._with(split=split, split_names=split_names)

    def shuffle(
        self, *, seed: int | None = None, clump_size: int | None = None
    ) -> PermutationBuilder:
        """Shuffle the rows within their splits.

        Args:
            seed: The seed, in ``range(2**64)``. By default, a random one.
            clump_size: The number of adjacent rows that stay together, at least 1.

        Returns:
            The builder.

        Raises:
            ValueError: If ``clump_size`` is 0.
        """
        return self._with(shuffle=shuffle_of(seed, clump_size))

    def filter(self, filter: str) -> PermutationBuilder:  # noqa: A002
        """Keep only the rows that match an SQL predicate.

        Args:
            filter: The predicate, such as ``"x > 3"``.

        Returns:
            The builder.

        Raises:
            ValueError: By ``execute``, if the predicate cannot be evaluated.
        """
        return self._with(filter=check_string(filter, "filter"))

    def execute(self) -> Any:
        """Build the permutation table.

        Returns:
            A ``lancedb`` table named "permutation" in a database in memory, with the uint64
            columns ``row_id`` and ``split_id``. Its schema's metadata names the version of the
            base table and the splits.

        Raises:
            ValueError: If sizes, columns or expressions do not fit the table.
            NotImplementedError: If the table has an LSM write spec.
            RuntimeError: If ``execute`` was called before.
            ImportError: If lancedb is not installed.
        """
        need("lancedb", "permutation_builder")
        return memory_table("permutation", self._rows())

    def _rows(self) -> pa.Table:
        """Return the rows of the permutation table, and use up the settings."""
        import pyarrow as pa

        plan = self._current()
        self._plan = None
        check_lsm(self._table)
        source = open_source(self._table)
        order = source.all_rows()
        with waiting("building the permutation table"):
            if plan.filter is not None:
                source, order = source.matching(plan.filter, order)
            rows = plan.split(FilteredTable(source, order, plan.filter))
            if plan.shuffle is not None:
                rows = shuffled(rows, *plan.shuffle)
        metadata = metadata_of(source)
        if plan.split_names is not None:
            metadata["split_names"] = json_of(plan.split_names)
        kind = rows.split_ids.type
        columns = [
            (pa.field("row_id", pa.uint64()), array_of(rows.row_ids)),
            (pa.field("split_id", kind, nullable=rows.is_calculated), rows.split_ids),
        ]
        if rows.is_calculated:
            columns.reverse()
        schema = pa.schema([field for field, _ in columns], metadata=metadata)
        return pa.table([values for _, values in columns], schema=schema)

    def _current(self) -> BuildPlan:
        if self._plan is None:
            raise RuntimeError("Builder already consumed")
        return self._plan

    def _with(self, **changes: Any) -> PermutationBuilder:
        names = changes.get("split_names")
        if names is not None:
            changes["split_names"] = check_strings(names, "split_names")
        self._plan = replace(self._current(), **changes)
        return self


def permutation_builder(table: Any) -> PermutationBuilder:
    """Return a builder that filters, splits and shuffles the rows of a table.

    Args:
        table: A LanceDB table, or anything else that ``Permutation.identity`` accepts.

    Returns:
        A builder. By default, all rows are in split 0, in storage order.

    Raises:
        RuntimeError: If ``table`` is not a table.
        FileNotFoundError: If ``table`` is a path at which there is no table.

    Example:
        >>> from lanceloader.permutation import permutation_builder
        >>> plan = permutation_builder(table).shuffle(seed=42).execute()
        >>> plan.to_arrow()["row_id"].to_pylist()
        [2, 1, 4, 6, 9, 5, 3, 8, 7, 0]
    """
    return PermutationBuilder(table)


def built_rows(builder: Any) -> Any:
    """Return the rows of a permutation table as Arrow data, which needs no lancedb.

    A builder of another class returns what its ``execute`` does.
    """
    if type(builder) is PermutationBuilder:
        return builder._rows()
    return builder.execute()


def _one_split(table: FilteredTable) -> SplitRows:
    """Assign all rows to split 0."""
    return consecutive(table.source, table.order, None)
