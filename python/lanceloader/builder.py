"""``permutation_builder``: LanceDB's way to say which rows, in which splits and which order.

The result is LanceDB's: a table of row ids and split ids in memory. With a seed, the order of
rows is LanceDB's too, bit for bit; see ``docs/determinism.md`` for its limits.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader._extras import need
from lanceloader.engine import memory_table
from lanceloader.numbers import array_of, count, numbers_of, numpy_of, offsets_of
from lanceloader.plan_table import json_of, metadata_of
from lanceloader.sources import open_source
from lanceloader.sources.base import answering
from lanceloader.sources.opening import is_a, sync_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.sources import Source

__all__ = ["PermutationBuilder", "permutation_builder"]


@dataclass(frozen=True)
class Rows:
    """The columns of a permutation table."""

    row_ids: np.ndarray[Any, Any]
    split_ids: pa.Array
    is_calculated: bool = False
    """Split ids come first, and are of the type of their expression."""


@dataclass(frozen=True)
class Table:
    """The base table while a permutation table is built from it."""

    source: Source
    order: Order
    """The rows that the filter leaves."""
    filter: str | None


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    split: Callable[[Table], Rows]
    split_names: Sequence[str] | None = None
    shuffle: tuple[int, int] | None = None
    """Seed and clump size."""
    filter: str | None = None


class PermutationBuilder:
    """Builds a permutation table; see ``permutation_builder``.

    Methods change the builder and return it. The last split and the last filter count.
    ``execute`` ends it.
    """

    def __init__(self, table: Any) -> None:
        """Build over ``table``.

        Raises:
            RuntimeError: If it is no table.
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
        self._plan: Plan | None = Plan(split=one_split)

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
        """Shuffle all rows and cut them into splits.

        Exactly one of ``ratios``, ``counts`` and ``fixed`` must be given.

        Args:
            ratios: The share of each split, together at most 1.
            counts: The rows of each split.
            fixed: The number of equal splits.
            seed: Chooses the order, in ``range(2**64)``; by default at random.
            clump_size: This many neighbours stay together.
            split_names: Names for the splits.

        Raises:
            ValueError: If not exactly one size is given, or ``clump_size`` is 0. Sizes that
                do not fit the table are found by ``execute``.
        """
        sizes = checked_sizes(ratios, counts, fixed)
        seed, clump = checked_shuffle(seed, clump_size)

        def split(table: Table) -> Rows:
            positions = _native.lancedb_shuffle(len(table.order), seed, clump)
            return cut(table.source, table.order.pick(positions), sizes)

        return self._with(split=split, split_names=split_names)

    def split_sequential(
        self,
        *,
        ratios: list[float] | None = None,
        counts: list[int] | None = None,
        fixed: int | None = None,
        split_names: list[str] | None = None,
    ) -> PermutationBuilder:
        """Cut the rows into splits as they are stored.

        Args and errors as for ``split_random``.
        """
        sizes = checked_sizes(ratios, counts, fixed)

        def split(table: Table) -> Rows:
            return cut(table.source, table.order, sizes)

        return self._with(split=split, split_names=split_names)

    def split_hash(
        self,
        columns: list[str],
        split_weights: list[int],
        *,
        discard_weight: int | None = None,
        split_names: list[str] | None = None,
    ) -> PermutationBuilder:
        """Put rows into splits by a hash of ``columns``.

        Args:
            columns: The columns; rows with equal values share a split.
            split_weights: About how much of the rows each split gets.
            discard_weight: About how much of the rows no split gets, by default nothing.
            split_names: Names for the splits.

        Raises:
            ValueError: By ``execute``, if there are no columns or weights, or a weight is 0.
        """
        names = words(columns, "columns")
        if len(set(names)) < len(names) or "_rowid" in names:
            message = f"Invalid input, Duplicate column name in {names}: wanted each once, and not _rowid"
            raise ValueError(message)
        weights = [count(weight, "split_weights") for weight in split_weights]
        discard = count(discard_weight or 0, "discard_weight")

        def split(table: Table) -> Rows:
            return hashed(table, names, weights, discard)

        return self._with(split=split, split_names=split_names)

    def split_calculated(
        self, calculation: str, split_names: list[str] | None = None
    ) -> PermutationBuilder:
        """Put each row into the split that an SQL expression gives, from 0 on.

        Rows for which it is null or negative are kept, but no split has them.
        """
        calculation = word(calculation, "calculation")

        def split(table: Table) -> Rows:
            return calculated(table, calculation)

        return self._with(split=split, split_names=split_names)

    def shuffle(
        self, *, seed: int | None = None, clump_size: int | None = None
    ) -> PermutationBuilder:
        """Shuffle the rows; each split keeps the rows it has.

        Args:
            seed: Chooses the order, in ``range(2**64)``; by default at random.
            clump_size: This many neighbours stay together.

        Raises:
            ValueError: If ``clump_size`` is 0.
        """
        return self._with(shuffle=checked_shuffle(seed, clump_size))

    def filter(self, filter: str) -> PermutationBuilder:  # noqa: A002
        """Keep the rows for which an SQL expression is true."""
        return self._with(filter=word(filter, "filter"))

    def execute(self) -> Any:
        """Build the permutation table.

        Returns:
            A ``lancedb`` table called "permutation" in a database in memory, with columns
            ``row_id`` and ``split_id`` and the version of the base table in its schema's
            metadata.

        Raises:
            ValueError: If sizes, columns or expressions do not fit the table.
            NotImplementedError: If the table has an LSM write spec.
            RuntimeError: If the builder was executed before.
            ImportError: If lancedb is not installed.
        """
        need("lancedb", "permutation_builder")
        import pyarrow as pa

        plan = self._current()
        self._plan = None
        refuse_lsm(self._table)
        source = open_source(self._table)
        order = source.all_rows()
        if plan.filter is not None:
            source, order = source.matching(plan.filter, order)
        rows = plan.split(Table(source, order, plan.filter))
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
        data = pa.table([values for _, values in columns], schema=schema)
        return memory_table("permutation", data)

    def _current(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("Builder already consumed")
        return self._plan

    def _with(self, **changes: Any) -> PermutationBuilder:
        names = changes.get("split_names")
        if names is not None:
            changes["split_names"] = words(names, "split_names")
        self._plan = replace(self._current(), **changes)
        return self


def permutation_builder(table: Any) -> PermutationBuilder:
    """Say which rows of a table to serve, in which splits and which order.

    Args:
        table: A LanceDB table, or anything else that ``Permutation.identity`` takes.

    Returns:
        A builder. Without any call all rows are in split 0, in storage order.

    Raises:
        RuntimeError: If ``table`` is no table.
        FileNotFoundError: If there is none at this path.

    Example:
        >>> from lanceloader.permutation import permutation_builder
        >>> plan = permutation_builder(table).shuffle(seed=42).execute()
        >>> plan.to_arrow()["row_id"].to_pylist()
        [2, 1, 4, 6, 9, 5, 3, 8, 7, 0]
    """
    return PermutationBuilder(table)


def one_split(table: Table) -> Rows:
    """Put all rows into split 0."""
    return cut(table.source, table.order, None)


def cut(source: Source, order: Order, sizes: dict[str, Any] | None) -> Rows:
    """Put consecutive rows of ``order`` into splits of these sizes, or all into one."""
    import numpy as np

    counts = (
        [len(order)] if sizes is None else _native.split_counts(len(order), **sizes)
    )
    row_ids = numpy_of(source.row_ids(order.slice(0, sum(counts))))
    split_ids = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    return Rows(row_ids, array_of(split_ids))


def hashed(table: Table, columns: list[str], weights: list[int], discard: int) -> Rows:
    """Put rows into splits by LanceDB's hash of their values."""
    import pyarrow as pa

    # Weights are wrong also where there are no rows to hash.
    nothing = pa.table({name: pa.nulls(0, pa.int64()) for name in columns})
    _native.lancedb_hash_splits(nothing, weights, discard)
    ids, splits = [], []
    for row_ids, batch in table.source.scan(columns, table.order, table.filter):
        found = _native.lancedb_hash_splits(batch, weights, discard)
        split_ids = numbers_of(found)
        kept = split_ids.is_valid()
        ids.append(row_ids.filter(kept))
        splits.append(split_ids.filter(kept))
    row_ids = numpy_of(pa.chunked_array(ids, pa.uint64()))
    return Rows(row_ids, pa.chunked_array(splits, pa.uint64()).combine_chunks())


def calculated(table: Table, calculation: str) -> Rows:
    """Put each row into the split that an SQL expression gives."""
    with answering("expression", calculation, table.source.column_names):
        found = table.source.calculate({"split_id": calculation}, table.filter)
    split_ids = found["split_id"].combine_chunks()
    return Rows(numpy_of(found["_rowid"]), split_ids, is_calculated=True)


def shuffled(rows: Rows, seed: int, clump_size: int) -> Rows:
    """Shuffle rows inside their splits."""
    order = _native.lancedb_shuffle(len(rows.row_ids), seed, clump_size)
    positions = offsets_of(order)
    split_ids = rows.split_ids.take(positions)
    by_split = sorted_by_split(split_ids)
    row_ids = rows.row_ids[numpy_of(positions)][numpy_of(by_split)]
    return replace(rows, row_ids=row_ids, split_ids=split_ids.take(by_split))


def sorted_by_split(split_ids: pa.Array) -> pa.Array:
    """Give the places of rows, split by split.

    Inside a split the order is that of LanceDB's sort, which is not stable. Splits that
    are no 32-bit or 64-bit numbers, or null, are sorted stably.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = pa.uint64(), pa.int64(), pa.uint32(), pa.int32()
    if split_ids.type not in kinds or split_ids.null_count or len(split_ids) >= 2**32:
        return pc.sort_indices(split_ids)
    numbers = numpy_of(split_ids)
    bits = split_ids.type.bit_width
    if pa.types.is_signed_integer(split_ids.type):
        # The same comparisons, without a sign.
        unsigned = np.dtype(f"uint{bits}").type
        numbers = numbers.view(unsigned) ^ unsigned(1 << (bits - 1))
    order = _native.lancedb_sort(numbers, bits == 32)
    return offsets_of(order)


def checked_sizes(
    ratios: list[float] | None, counts: list[int] | None, fixed: int | None
) -> dict[str, Any]:
    """Check that exactly one way to give sizes is used.

    Raises:
        ValueError: If none is, or several.
    """
    sizes = {
        "ratios": None if ratios is None else [float(ratio) for ratio in ratios],
        "counts": None
        if counts is None
        else [count(rows, "counts") for rows in counts],
        "fixed": None if fixed is None else count(fixed, "fixed"),
    }
    given = {name: value for name, value in sizes.items() if value is not None}
    if len(given) != 1:
        message = "Exactly one of 'ratios', 'counts', or 'fixed' must be provided"
        raise ValueError(message)
    return given


def checked_shuffle(seed: int | None, clump_size: int | None) -> tuple[int, int]:
    """Check the seed and clump size of a shuffle, drawing a seed if there is none.

    Raises:
        ValueError: If the clump size is 0.
    """
    clump = 1 if clump_size is None else count(clump_size, "clump_size")
    if clump == 0:
        message = "Invalid input, clump_size 0: wanted at least 1 row"
        raise ValueError(message)
    return (secrets.randbits(64) if seed is None else count(seed, "seed")), clump


def word(text: Any, what: str) -> str:
    """Check an argument that must be a string."""
    if not isinstance(text, str):
        message = f"{what} {text!r}: wanted a string"
        raise TypeError(message)
    return text


def words(texts: Any, what: str) -> list[str]:
    """Check an argument that must be a list of strings."""
    if isinstance(texts, str):
        message = f"{what} {texts!r}: wanted a list of strings, as in [{texts!r}]"
        raise TypeError(message)
    return [word(text, what) for text in texts]


def refuse_lsm(table: Any) -> None:
    """Refuse a table whose unflushed rows have no row id.

    Raises:
        NotImplementedError: If it has an LSM write spec.
    """
    if not hasattr(table, "get_lsm_write_spec"):
        return
    try:
        spec = table.get_lsm_write_spec()
    except NotImplementedError:
        return
    if spec is not None:
        message = (
            "the data loader does not support tables with an LSM write spec: rows that have "
            "not been flushed to the base table have no row id, so a permutation cannot "
            "reference them"
        )
        raise NotImplementedError(message)
