"""LanceDB's permutation tables: the small tables of row ids that its builder makes.

They have the columns ``row_id`` and ``split_id``, one row per row served, and name the
version of the base table and the splits in their schema's metadata.
"""

from __future__ import annotations

import json
import weakref
from typing import TYPE_CHECKING, Any

from lanceloader._typing import ArrowStreamExportable
from lanceloader.numbers import count, numpy_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader.sources.base import Source

__all__ = ["PlanTable", "json_of", "metadata_of", "split_names"]

ROW_ID = "row_id"
SPLIT_ID = "split_id"


class PlanTable:
    """What a permutation table says."""

    def __init__(self, data: pa.Table) -> None:
        """Take the contents of a permutation table.

        Raises:
            ValueError: If a column is missing or does not hold whole numbers, or the
                metadata cannot be read.
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
        """Read a permutation table, once per table and version; or take what was read."""
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
    def num_splits(self) -> int:
        """One more than the highest split that has rows."""
        import pyarrow.compute as pc

        highest = pc.max(self._split_ids).as_py()
        return 0 if highest is None else int(highest) + 1

    def row_ids(self, split: int) -> np.ndarray[Any, Any]:
        """Give the row ids of a split, in its order.

        Raises:
            ValueError: If it has none.
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


def arrow_of(table: Any) -> pa.Table:
    """Give the contents of a LanceDB table or of Arrow data."""
    import pyarrow as pa

    if hasattr(table, "to_arrow"):
        return table.to_arrow()
    if not isinstance(table, ArrowStreamExportable):
        raise not_a_plan(table)
    return pa.RecordBatchReader.from_stream(table).read_all()


def split_names(table: Any) -> list[str] | None:
    """Read the names of the splits from the schema of a permutation table.

    Raises:
        TypeError: If it is no table.
    """
    try:
        metadata = table.schema.metadata
    except AttributeError:
        raise not_a_plan(table) from None
    return split_names_of(metadata or {})


def not_a_plan(table: Any) -> TypeError:
    """Make the error for what is no table."""
    message = (
        f"Invalid input, a permutation table of type {type(table).__name__}: wanted what "
        "PermutationBuilder.execute() gave, or its rows as Arrow data"
    )
    return TypeError(message)


def split_names_of(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Read the names of the splits, or ``None`` if there are none."""
    names = metadata.get(b"split_names")
    if names is None:
        return None
    try:
        found = json.loads(names)
    except ValueError:
        found = None
    if not isinstance(found, list):
        message = f"Invalid input, split_names {names!r} in the permutation table: wanted a JSON list"
        raise ValueError(message)
    return found


def json_of(names: Sequence[str]) -> str:
    """Write the names of splits as LanceDB does."""
    return json.dumps(list(names), separators=(",", ":"), ensure_ascii=False)


def metadata_of(source: Source) -> dict[str, str]:
    """Give the metadata that says which version of a table row ids are of."""
    pin = {"base_version": source.version, "base_branch": source.branch}
    return {name: str(value) for name, value in pin.items() if value is not None}


def base_version_of(metadata: dict[bytes, bytes]) -> int | None:
    """Read the version of the base table, or ``None`` if none was recorded."""
    version = metadata.get(b"base_version")
    if version is None:
        return None
    try:
        return count(int(version), "version")
    except (ValueError, OverflowError):
        message = f"Invalid input, unreadable base_version {version!r} in the permutation table"
        raise ValueError(message) from None


def whole_numbers(data: pa.Table, column: str) -> pa.ChunkedArray:
    """Give a column as ``uint64``.

    Raises:
        ValueError: If it holds anything else, or nulls.
    """
    import pyarrow as pa

    values = data[column]
    if not pa.types.is_integer(values.type) or values.null_count:
        message = (
            f"Invalid input, column {column} of the permutation table has type {values.type} and "
            f"{values.null_count} nulls: wanted uint64 without nulls"
        )
        raise ValueError(message)
    try:
        return values.cast(pa.uint64())
    except pa.ArrowInvalid:
        message = f"Invalid input, column {column} of the permutation table has negative values"
        raise ValueError(message) from None
