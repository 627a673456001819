"""Assigning rows to splits, and shuffling them within splits, as LanceDB does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.numbers import array_of, numbers_of, numpy_of, offsets_of
from lanceloader.sources.base import sql_errors

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.sources import Source

__all__ = [
    "FilteredTable",
    "SplitRows",
    "calculated",
    "consecutive",
    "hashed",
    "shuffled",
    "sorted_by_split",
]


@dataclass(frozen=True)
class SplitRows:
    """The rows of a permutation table."""

    row_ids: np.ndarray[Any, Any]
    """The row ids, as uint64."""

    split_ids: pa.Array
    """The split of each row."""

    is_calculated: bool = False
    """Whether split ids come from an SQL expression and have its type.

    In the permutation table, LanceDB then puts them before the row ids.
    """


@dataclass(frozen=True)
class FilteredTable:
    """The rows of the base table that match a filter."""

    source: Source
    order: Order
    """The matching rows, in storage order."""

    filter: str | None
    """The SQL predicate, or ``None`` for all rows."""


def consecutive(
    source: Source, order: Order, sizes: dict[str, Any] | None
) -> SplitRows:
    """Assign consecutive rows of ``order`` to splits.

    Args:
        source: The base table.
        order: The rows.
        sizes: The keyword argument of ``_native.split_counts``, or ``None`` for a single split.

    Raises:
        ValueError: If the sizes do not fit the number of rows.
    """
    import numpy as np

    counts = (
        [len(order)] if sizes is None else _native.split_counts(len(order), **sizes)
    )
    row_ids = numpy_of(source.row_ids(order.slice(0, sum(counts))))
    split_ids = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    return SplitRows(row_ids, array_of(split_ids))


def hashed(
    table: FilteredTable, columns: list[str], weights: list[int], discard: int
) -> SplitRows:
    """Assign rows to splits by LanceDB's hash of their values.

    Args:
        table: The rows.
        columns: The columns to hash.
        weights: The relative sizes of the splits.
        discard: The relative size of the rows that are left out.

    Raises:
        ValueError: If there are no columns or weights, or if a weight is 0.
    """
    import pyarrow as pa

    # Invalid weights must raise an error even if there are no rows to hash.
    no_rows = pa.table({name: pa.nulls(0, pa.int64()) for name in columns})
    _native.lancedb_hash_splits(no_rows, weights, discard)
    ids, splits = [], []
    for row_ids, batch in table.source.scan(columns, table.order, table.filter):
        found = _native.lancedb_hash_splits(batch, weights, discard)
        split_ids = numbers_of(found)
        kept = split_ids.is_valid()
        ids.append(row_ids.filter(kept))
        splits.append(split_ids.filter(kept))
    row_ids = numpy_of(pa.chunked_array(ids, pa.uint64()))
    return SplitRows(row_ids, pa.chunked_array(splits, pa.uint64()).combine_chunks())


def calculated(table: FilteredTable, calculation: str) -> SplitRows:
    """Assign each row to the split whose number an SQL expression returns."""
    with sql_errors("expression", calculation, table.source.column_names):
        found = table.source.calculate({"split_id": calculation}, table.filter)
    split_ids = found["split_id"].combine_chunks()
    return SplitRows(numpy_of(found["_rowid"]), split_ids, is_calculated=True)


def shuffled(rows: SplitRows, seed: int, clump_size: int) -> SplitRows:
    """Shuffle rows within their splits."""
    order = _native.lancedb_shuffle(len(rows.row_ids), seed, clump_size)
    positions = offsets_of(order)
    split_ids = rows.split_ids.take(positions)
    by_split = sorted_by_split(split_ids)
    row_ids = rows.row_ids[numpy_of(positions)][numpy_of(by_split)]
    return replace(rows, row_ids=row_ids, split_ids=split_ids.take(by_split))


def sorted_by_split(split_ids: pa.Array) -> pa.Array:
    """Return the indices that sort rows by split.

    Within a split, the order is that of LanceDB's unstable sort if split ids are 32-bit or 64-bit
    integers without nulls; otherwise the sort is stable.
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
        # Flipping the sign bit maps signed integers to unsigned ones in the same order.
        unsigned = np.dtype(f"uint{bits}").type
        numbers = numbers.view(unsigned) ^ unsigned(1 << (bits - 1))
    order = _native.lancedb_sort(numbers, bits == 32)
    return offsets_of(order)
