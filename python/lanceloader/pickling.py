"""Pickles of permutations.

The state of a permutation is small: the address and version of the table, the order as an
expression, the columns and the transform. Loading it needs neither lancedb nor pylance. States
that LanceDB wrote, in its current and older layouts, can be loaded too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from lanceloader.compat_lancedb.plan_table import (
    json_of,
    metadata_of,
    rows_of_split,
    split_names,
)
from lanceloader.compat_lancedb.table_state import (
    state_of_table,
    table_of_state,
    without_base_version,
    without_credentials,
)
from lanceloader.engine import memory_table
from lanceloader.numbers import array_of, numpy_of, offsets_of
from lanceloader.options import cache_folder
from lanceloader.sources import (
    ComputedSource,
    EngineSource,
    LanceSource,
    MemorySource,
    Source,
    Unopened,
    Windows,
    WindowSource,
    computed,
    pinned_source,
)
from lanceloader.sources.hf_datasets import DatasetSource
from lanceloader.sources.native import NativeSource
from lanceloader.sources.opening import is_a
from lanceloader.world import is_starting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanceloader._native import Order
    from lanceloader.verbs.rows import RowVerbs

__all__ = ["LazyTable", "from_state", "to_state"]


LAYOUT = 1
"""The version of the layout of our states. LanceDB's states have none."""


class LazyTable(ABC):
    """A table object that is not pickled and is created on first access after unpickling."""

    @abstractmethod
    def make(self, perm: RowVerbs) -> Any:
        """Create the table object for this permutation."""


class LazyBaseTable(LazyTable):
    """The base table: an object equivalent to the one from which the permutation was created."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        """Keep the state of a LanceDB table, or ``None`` for any other object."""
        self.state = state

    def make(self, perm: RowVerbs) -> Any:
        source = perm.source.table
        if isinstance(source, DatasetSource):
            return source.dataset
        if isinstance(source, MemorySource):
            # As in LanceDB, a table in memory is created anew, with new row ids.
            data = source.to_arrow()
            return data if self.state is None else memory_table(source.name, data)
        if self.state is not None:
            return table_of_state(self.state)
        if isinstance(source, EngineSource):
            return source.opener.table
        return source.uri if isinstance(source, LanceSource) else source


class LazyPermutationTable(LazyTable):
    """The permutation table, reduced to the rows of the permutation's own split."""

    def __init__(self, split_names: Sequence[str] | None) -> None:
        """Keep the names of all splits, or ``None`` if they have none."""
        self.split_names = split_names

    def make(self, perm: RowVerbs) -> Any:
        import numpy as np
        import pyarrow as pa

        metadata = {}
        if isinstance(perm.source.table, MemorySource):
            # In the table that ``LazyBaseTable`` creates, row ids equal row offsets.
            row_ids = offsets_of(perm.unsliced_order)
        else:
            row_ids = perm.source.row_ids(perm.unsliced_order)
            metadata = metadata_of(perm.source)
        if self.split_names is not None:
            metadata["split_names"] = json_of(self.split_names)
        split_ids = array_of(np.full(len(row_ids), perm.split_number, np.uint64))
        schema = pa.schema(
            [
                pa.field("row_id", pa.uint64()),
                pa.field("split_id", pa.uint64(), nullable=False),
            ],
            metadata=metadata,
        )
        return memory_table(
            "permutation", pa.table([row_ids, split_ids], schema=schema)
        )


def to_state(perm: RowVerbs) -> dict[str, Any]:
    """Return the state of a permutation."""
    source = perm.source
    base, plan = perm.assigned_tables()
    state = {
        "layout": LAYOUT,
        "base_table_name": source.name,
        "split": perm.split_number,
        "selection": perm.selection,
        "batch_size": perm.batch_size,
        "transform_fn": perm.transform_fn,
        "offset": perm.offset,
        "limit": perm.limit,
        "connection_factory": perm.connection_factory,
        "read_options": perm.read_options,
        "version": source.version,
        "branch": source.branch,
        "rows": perm.unsliced_order,
        "is_shard": perm.is_shard,
        "file_columns": perm.file_columns,
        "randomness": perm.randomness,
        "rows_are_ids": source.rows_are_ids,
        "has_permutation_table": plan is not None,
    }
    inner = source
    if isinstance(inner, WindowSource):
        state["windows"], inner = inner.windows, inner.base
    if isinstance(inner, ComputedSource):
        state["expressions"] = inner.expressions
    if isinstance(plan, LazyPermutationTable):
        state["split_names"] = plan.split_names
    elif plan is not None:
        state["split_names"] = split_names(plan)
    if perm.connection_factory is None:
        state.update(source=source, base_table_state=state_of_base(base, source))
    return state


def state_of_base(base: Any, source: Source) -> dict[str, Any] | None:
    """Return the state of the base table if it is a local LanceDB table, else ``None``."""
    if isinstance(base, LazyBaseTable):
        return without_credentials(base.state)
    if not is_a(base, "lancedb", "LanceTable"):
        return None
    if isinstance(source.table, MemorySource):
        return {"kind": "memory"}
    pin = {"version": source.version, "branch": source.branch}
    return state_of_table(base) | pin


def from_state(perm: RowVerbs, state: dict[str, Any]) -> None:
    """Initialise a permutation from its state, or from a state that LanceDB wrote.

    Raises:
        TypeError: If the state is not a dict.
        ValueError: If a newer release of lanceloader wrote the state.
    """
    if not isinstance(state, dict):
        message = f"the state of a permutation must be a dict, not of type {type(state).__name__}"
        raise TypeError(message)
    if state.get("layout", LAYOUT) != LAYOUT:
        message = (
            f"the pickle has layout {state['layout']}, but this release of lanceloader reads only "
            f"layout {LAYOUT}; load it with the release that wrote it, or upgrade"
        )
        raise ValueError(message)
    factory = state["connection_factory"]
    table: Any = None
    if "rows" not in state:
        from_lancedb_state(perm, state)
    elif factory is None:
        source, rows, selection = state["source"], state["rows"], state["selection"]
        perm.assign(source, rows, state["split"], selection)
        table = LazyBaseTable(state["base_table_state"])
    else:
        try:
            table, source, rows = reopened(factory, state)
        except Exception as error:
            if not is_starting():
                raise
            # An error would end the new process silently: raise it when rows are read.
            table, source, rows = None, Unopened(error, state), state["rows"]
        perm.assign(source, rows, state["split"], state["selection"])
    if "rows" in state:
        has_table = state["has_permutation_table"]
        plan = LazyPermutationTable(state["split_names"]) if has_table else None
        perm.assign_tables(table, plan)
    perm.selection = state["selection"]
    perm.batch_size = state["batch_size"]
    perm.transform_fn = state["transform_fn"]
    perm.offset = state["offset"]
    perm.limit = state["limit"]
    perm.connection_factory = factory
    if factory is not None and "expressions" in state:
        reopen_expressions(perm, state)
    if factory is not None and "windows" in state:
        reopen_windows(perm, state["windows"])
    perm.read_options = state.get("read_options", perm.read_options)
    perm.is_shard = state.get("is_shard", False)
    perm.file_columns = state.get("file_columns", ())
    perm.randomness = state.get("randomness", (0, 0))
    perm.order = perm.sliced_order(perm.offset, perm.limit)


def reopen_expressions(perm: RowVerbs, state: dict[str, Any]) -> None:
    """Add the computed columns to a table that a connection factory opened."""
    if not isinstance(perm.source, Unopened):
        folder = cache_folder(state["read_options"].cache_dir)
        perm.source = computed(perm.source, [*state["expressions"].values()], folder)


def reopen_windows(perm: RowVerbs, windows: Windows) -> None:
    """Add the windows to a table that a connection factory opened."""
    if isinstance(perm.source, NativeSource):
        perm.source = WindowSource(perm.source, windows)


def reopened(
    factory: Callable[[str], Any], state: dict[str, Any]
) -> tuple[Any, Source, Order]:
    """Open the table with a connection factory and return it, its source and the rows."""
    table = factory(state["base_table_name"])
    source, rows = source_of_factory(table, state), state["rows"]
    if state["rows_are_ids"]:
        source, rows = source.rows_of_ids(numpy_of(offsets_of(rows)))
    return table, source, rows


def source_of_factory(table: Any, state: dict[str, Any]) -> Source:
    """Open the table that a factory returned at the version that the state names.

    A table in memory is new and has no such version, so its current version is used.
    """
    if is_a(table, "lancedb", "LanceTable") and table.uri.startswith("memory:"):
        return pinned_source(table, None, None)
    return pinned_source(table, state["version"], state["branch"])


def from_lancedb_state(perm: RowVerbs, state: dict[str, Any]) -> None:
    """Initialise a permutation from a state of any release of ``lancedb.permutation``."""
    import lancedb

    factory = state["connection_factory"]
    is_rebuilt = False
    if factory is not None:
        base_table = factory(state["base_table_name"])
    elif "base_table_state" in state:
        is_rebuilt = state["base_table_state"]["kind"] == "memory"
        base_table = table_of_state(state["base_table_state"])
    elif "base_table_data" in state:
        is_rebuilt = True
        base_table = memory_table(state["base_table_name"], state["base_table_data"])
    else:
        database = lancedb.connect(
            state["base_table_uri"], storage_options=state["base_table_storage_options"]
        )
        base_table = database.open_table(
            state["base_table_name"],
            namespace_path=state["base_table_namespace"] or None,
        )
    permutation_table = None
    data = state["permutation_data"]
    if data is not None:
        if is_rebuilt:
            # A table created from Arrow data does not have the recorded version.
            data = without_base_version(data)
        permutation_table = memory_table("permutation", data)
    split = state["split"]
    perm.assign(*rows_of_split(base_table, permutation_table, split), split)
    perm.assign_tables(base_table, permutation_table)
