"""LanceDB's permutation tables, which its ``permutation_builder`` returns.

They have the columns ``row_id`` and ``split_id``, with one row per row of the permutation. Their
schema's metadata names the version of the base table and the splits.
"""

from __future__ import annotations

import json
import weakref
from typing import TYPE_CHECKING, Any

from lanceloader._typing import ArrowStreamExportable
from lanceloader.monitor.progress import waiting
from lanceloader.numbers import count, numpy_of
from lanceloader.sources import open_source, pinned_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.sources import Source

__all__ = [
    "PlanTable",
    "arrow_of",
    "json_of",
    "metadata_of",
    "rows_of_split",
    "split_names",
]

ROW_ID = "row_id"
SPLIT_ID = "split_id"


class PlanTable:
    """The parsed contents of a permutation table."""

    def __init__(self, data: pa.Table) -> None:
        """Parse the rows and metadata of a permutation table.

        Raises:
            ValueError: If a column is missing or does not hold whole numbers, or if the metadata
                cannot be parsed.
        """
        for column in (ROW_ID, SPLIT_ID):
            if column not in data.column_names:
                message = f"Invalid input, Permutation table must contain a column named {column}"
                raise ValueError(message)
        metadata = data.schema.metadata or {}
        self._row_ids = whole_numbers(data, ROW_ID)
        self._split_ids = data[SPLIT_ID]
        self.split_names = split_names_of(metadata)
        self.base_version = base_version_of(metadata)
        branch = metadata.get(b"base_branch")
        self.base_branch = None if branch is None else branch.decode()

    @classmethod
    def of(cls, table: Any) -> PlanTable:
        """Return the contents of a permutation table, cached by table and version.

        Args:
            table: A permutation table, its rows as Arrow data, or a ``PlanTable``.

        Raises:
            TypeError: If ``table`` is not a table.
            ValueError: If ``table`` is not a permutation table.
        """
        if isinstance(table, PlanTable):
            return table
        version = getattr(table, "version", None)
        try:
            known = _plans.get(table)
        except TypeError:
            return cls(arrow_of(table))
        if known is None or known[0] != version:
            known = _plans[table] = (version, cls(arrow_of(table)))
        return known[1]

    @property
    def num_rows(self) -> int:
        """The number of rows of all splits."""
        return len(self._row_ids)

    @property
    def num_splits(self) -> int:
        """The number of splits: the highest split id plus one."""
        import pyarrow.compute as pc

        highest = pc.max(self._split_ids).as_py()
        return 0 if highest is None else int(highest) + 1

    def row_ids(self, split: int) -> np.ndarray[Any, Any]:
        """Return the row ids of a split, in the order of the permutation, as uint64.

        Raises:
            ValueError: If the split has no rows.
        """
        import pyarrow as pa

        ids = self._split_ids
        if not pa.types.is_integer(ids.type):
            message = (
                f"Invalid input, split_id of type {ids.type} in the permutation table: "
                "could not convert to literal of type uint64"
            )
            raise ValueError(message)
        known, row_ids = ids.is_valid(), self._row_ids
        if ids.null_count:
            ids, row_ids = ids.filter(known), row_ids.filter(known)
        rows: np.ndarray[Any, Any] = numpy_of(row_ids)[numpy_of(ids) == split]
        if len(rows) == 0:
            message = f"Invalid input, No rows found for split {split} in the permutation table"
            raise ValueError(message)
        return rows


_plans: weakref.WeakKeyDictionary[Any, tuple[Any, PlanTable]] = (
    weakref.WeakKeyDictionary()
)


def rows_of_split(
    base_table: Any, permutation_table: Any | None, split: int
) -> tuple[Source, Order]:
    """Open the base table of a permutation table and return it and the rows of a split.

    Args:
        base_table: The base table. It is opened at the version that the permutation table names.
        permutation_table: The permutation table, or ``None`` for all rows of the base table.
        split: The number of the split.

    Raises:
        ValueError: If the split has no rows.
    """
    if permutation_table is None:
        source = open_source(base_table)
        return source, source.all_rows()
    with waiting("reading the permutation table"):
        plan = PlanTable.of(permutation_table)
    source = pinned_source(base_table, plan.base_version, plan.base_branch)
    with waiting("looking up rows"):
        return source.rows_of_ids(plan.row_ids(split))


def arrow_of(table: Any) -> pa.Table:
    """Return the rows of a LanceDB table or of Arrow data.

    Raises:
        TypeError: If ``table`` is neither.
    """
    import pyarrow as pa

    if hasattr(table, "to_arrow"):
        return table.to_arrow()
    if not isinstance(table, ArrowStreamExportable):
        raise not_a_plan(table)
    return pa.RecordBatchReader.from_stream(table).read_all()


def split_names(table: Any) -> list[str] | None:
    """Return the names of the splits of a permutation table, or ``None`` if it has none.

    Raises:
        TypeError: If ``table`` is not a table.
        ValueError: If the names cannot be parsed.
    """
    try:
        metadata = table.schema.metadata
    except AttributeError:
        raise not_a_plan(table) from None
    return split_names_of(metadata or {})


def not_a_plan(table: Any) -> TypeError:
    """Return the error for an object that is not a table."""
    message = (
        "Invalid input, a permutation table must be the result of `PermutationBuilder.execute()` "
        f"or its rows as Arrow data, not of type {type(table).__name__}"
    )
    return TypeError(message)


def split_names_of(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Return the names of the splits in a schema's metadata, or ``None`` if there are none.

    Raises:
        ValueError: If the names cannot be parsed.
    """
    names = metadata.get(b"split_names")
    if names is None:
        return None
    try:
        found = json.loads(names)
    except ValueError:
        found = None
    if not isinstance(found, list):
        message = (
            "Invalid input, the metadata `split_names` of a permutation table must be a JSON "
            f"list, not {names!r}"
        )
        raise ValueError(message)
    return found


def json_of(names: Sequence[str]) -> str:
    """Return the names of splits as JSON, formatted as LanceDB does."""
    return json.dumps(list(names), separators=(",", ":"), ensure_ascii=False)


def metadata_of(source: Source) -> dict[str, str]:
    """Return the metadata that names the version and branch of the base table."""
    pin = {"base_version": source.version, "base_branch": source.branch}
    return {name: str(value) for name, value in pin.items() if value is not None}


def base_version_of(metadata: dict[bytes, bytes]) -> int | None:
    """Return the recorded version of the base table, or ``None`` if there is none.

    Raises:
        ValueError: If the version cannot be parsed.
    """
    version = metadata.get(b"base_version")
    if version is None:
        return None
    try:
        return count(int(version), "version")
    except (ValueError, OverflowError):
        message = f"Invalid input, unreadable base_version {version!r} in the permutation table"
        raise ValueError(message) from None


def whole_numbers(data: pa.Table, column: str) -> pa.ChunkedArray:
    """Return a column of non-negative integers as uint64.

    Raises:
        ValueError: If the column has other values, or nulls.
    """
    import pyarrow as pa

    values = data[column]
    if not pa.types.is_integer(values.type) or values.null_count:
        message = (
            f"Invalid input, column {column} of a permutation table must hold integers without "
            f"nulls, but has type {values.type} and {values.null_count} nulls"
        )
        raise ValueError(message)
    try:
        return values.cast(pa.uint64())
    except pa.ArrowInvalid:
        message = f"Invalid input, column {column} of the permutation table has negative values"
        raise ValueError(message) from None
