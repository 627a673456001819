"""What a permutation is when it travels: a description, in LanceDB's layout where it has one.

Our own state is light: the address of the table and its version, the order as an expression,
columns and transform. It opens without lancedb and pylance. States that LanceDB wrote, of
this and of older layouts, load as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from lanceloader.compat_lancedb.plan_table import json_of, metadata_of, split_names
from lanceloader.engine import checking_out, memory_table
from lanceloader.numbers import array_of, numpy_of, offsets_of
from lanceloader.sources import (
    EngineSource,
    LanceSource,
    MemorySource,
    Source,
    Unopened,
    pinned_source,
)
from lanceloader.sources.native import absolute
from lanceloader.sources.opening import is_a, lancedb_options
from lanceloader.sources.secrets import without_secrets
from lanceloader.world import is_starting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader._permutation import Permutation

__all__ = ["LeftBehind", "from_state", "to_state"]


# Of our own states; LanceDB's have none.
LAYOUT = 1


class LeftBehind(ABC):
    """Something of a permutation that did not travel, and is made again when asked for."""

    @abstractmethod
    def make(self, perm: Permutation) -> Any:
        """Make it, for this permutation."""


class BaseTable(LeftBehind):
    """The table with the data: the object that the permutation was made from."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        """Keep what opens it again, if it is a LanceDB table."""
        self.state = state

    def make(self, perm: Permutation) -> Any:
        source = perm._source
        if isinstance(source, MemorySource):
            # As in LanceDB, a table in memory is made again of its rows, with new row ids.
            data = source.to_arrow()
            return data if self.state is None else memory_table(source.name, data)
        if self.state is not None:
            return _table_from_pickle_state(self.state)
        if isinstance(source, EngineSource):
            return source.opener.table
        return source.uri if isinstance(source, LanceSource) else source


class PermutationTable(LeftBehind):
    """A permutation table, with the rows of one split."""

    def __init__(self, split_names: Sequence[str] | None) -> None:
        """Keep the names of all splits."""
        self.split_names = split_names

    def make(self, perm: Permutation) -> Any:
        import numpy as np
        import pyarrow as pa

        metadata = {}
        if isinstance(perm._source, MemorySource):
            # The ids that the rows have in the table that ``BaseTable`` makes.
            row_ids = offsets_of(perm._rows)
        else:
            row_ids = perm._source.row_ids(perm._rows)
            metadata = metadata_of(perm._source)
        if self.split_names is not None:
            metadata["split_names"] = json_of(self.split_names)
        split_ids = array_of(np.full(len(row_ids), perm._split, np.uint64))
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


def scrubbed(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave the credentials of a table's state out, unless they may travel."""
    if state is None or not state.get("storage_options"):
        return state
    options = without_secrets(state["storage_options"])
    return {**state, "storage_options": options or None}


def to_state(perm: Permutation) -> dict[str, Any]:
    """Describe a permutation."""
    source = perm._source
    state = {
        "layout": LAYOUT,
        "base_table_name": source.name,
        "split": perm._split,
        "selection": perm.selection,
        "batch_size": perm.batch_size,
        "transform_fn": perm.transform_fn,
        "offset": perm.offset,
        "limit": perm.limit,
        "connection_factory": perm.connection_factory,
        "read_options": perm._options,
        "version": source.version,
        "branch": source.branch,
        "rows": perm._rows,
        "rows_are_ids": source.rows_are_ids,
        "has_permutation_table": perm._permutation_table is not None,
    }
    plan = perm._permutation_table
    if isinstance(plan, PermutationTable):
        state["split_names"] = plan.split_names
    elif plan is not None:
        state["split_names"] = split_names(plan)
    if perm.connection_factory is None:
        state.update(source=source, base_table_state=state_of_base(perm))
    return state


def state_of_base(perm: Permutation) -> dict[str, Any] | None:
    """Say what opens the base table again, if it is a local table of LanceDB."""
    base, source = perm._base_table, perm._source
    if isinstance(base, BaseTable):
        return scrubbed(base.state)
    if not is_a(base, "lancedb", "LanceTable"):
        return None
    if isinstance(source, MemorySource):
        return {"kind": "memory"}
    pin = {"version": source.version, "branch": source.branch}
    return _table_to_pickle_state(base) | pin


def from_state(perm: Permutation, state: dict[str, Any]) -> None:
    """Fill a permutation from its description, or from one that LanceDB wrote."""
    if not isinstance(state, dict):
        message = (
            f"a state of type {type(state).__name__}: wanted that of a permutation"
        )
        raise TypeError(message)
    if state.get("layout", LAYOUT) != LAYOUT:
        message = (
            f"a pickle of layout {state['layout']}: this release reads layout {LAYOUT}"
        )
        raise ValueError(message)
    factory = state["connection_factory"]
    if "rows" not in state:
        from_lancedb_state(perm, state)
    elif factory is None:
        source, rows, selection = state["source"], state["rows"], state["selection"]
        perm._assign(source, rows, state["split"], selection)
        perm._base_table = BaseTable(state["base_table_state"])
    else:
        try:
            table, source, rows = reopened(factory, state)
        except Exception as error:
            if not is_starting():
                raise
            # The trainer is told when it asks for rows.
            table, source, rows = None, Unopened(error, state), state["rows"]
        perm._assign(source, rows, state["split"], state["selection"])
        perm._base_table = table
    if "rows" in state:
        has_table = state["has_permutation_table"]
        perm._permutation_table = (
            PermutationTable(state["split_names"]) if has_table else None
        )
    perm.selection = state["selection"]
    perm.batch_size = state["batch_size"]
    perm.transform_fn = state["transform_fn"]
    perm.offset = state["offset"]
    perm.limit = state["limit"]
    perm.connection_factory = factory
    perm._options = state.get("read_options", perm._options)
    perm._order = perm._sliced(perm.offset, perm.limit)


def reopened(
    factory: Callable[[str], Any], state: dict[str, Any]
) -> tuple[Any, Source, Order]:
    """Open the table again with a factory, and find the rows in it."""
    table = factory(state["base_table_name"])
    source, rows = source_of_factory(table, state), state["rows"]
    if state["rows_are_ids"]:
        source, rows = source.rows_of_ids(numpy_of(offsets_of(rows)))
    return table, source, rows


def source_of_factory(table: Any, state: dict[str, Any]) -> Source:
    """Pin the table that a factory opened to the version that was pinned.

    A table in memory was made anew by the factory and has versions of its own.
    """
    if is_a(table, "lancedb", "LanceTable") and table.uri.startswith("memory:"):
        return pinned_source(table, None, None)
    return pinned_source(table, state["version"], state["branch"])


def from_lancedb_state(perm: Permutation, state: dict[str, Any]) -> None:
    """Fill a permutation from what ``lancedb.permutation`` pickled, now or in older releases."""
    import lancedb

    from lanceloader._permutation import rows_of_split

    factory = state["connection_factory"]
    is_rebuilt = False
    if factory is not None:
        base_table = factory(state["base_table_name"])
    elif "base_table_state" in state:
        is_rebuilt = state["base_table_state"]["kind"] == "memory"
        base_table = _table_from_pickle_state(state["base_table_state"])
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
            # A table made from Arrow has one version, and not the one that was recorded.
            data = _drop_base_version(data)
        permutation_table = memory_table("permutation", data)
    split = state["split"]
    perm._assign(*rows_of_split(base_table, permutation_table, split), split)
    perm._base_table = base_table
    perm._permutation_table = permutation_table


def _table_to_pickle_state(table: Any) -> dict[str, Any]:
    """Describe a LanceDB table: LanceDB's function of this name, with its version and branch.

    Raises:
        ValueError: If it is no LanceDB table.
    """
    if is_a(table, "lancedb", "RemoteTable"):
        return {"kind": "remote", "table": table}
    if not is_a(table, "lancedb", "LanceTable"):
        message = f"Cannot pickle table of type {type(table)!r}"
        raise ValueError(message)
    uri = table._conn.uri
    if uri.startswith("memory://"):
        return {"kind": "memory", "name": table.name, "data": table.to_arrow()}
    return {
        "kind": "local",
        "name": table.name,
        "uri": absolute(uri),
        "namespace": table._namespace_path,
        "storage_options": without_secrets(lancedb_options(table)) or None,
        "version": table.version,
        "branch": table.current_branch(),
    }


def _table_from_pickle_state(state: dict[str, Any]) -> Any:
    """Open what ``_table_to_pickle_state`` described, pinned if it says so.

    Raises:
        ValueError: If the kind is not known.
    """
    import lancedb

    kind = state["kind"]
    if kind == "remote":
        return state["table"]
    if kind == "memory":
        return memory_table(state["name"], state["data"])
    if kind == "local":
        database = lancedb.connect(
            state["uri"], storage_options=state["storage_options"]
        )
        table = database.open_table(
            state["name"], namespace_path=state["namespace"] or None
        )
        version, branch = state.get("version"), state.get("branch")
        with checking_out(state["name"], version):
            if branch is not None:
                return table.branches.checkout(branch, version)
            if version is not None and version != table.version:
                table.checkout(version)
        return table
    message = f"Unknown table pickle state kind: {kind}"
    raise ValueError(message)


def _drop_base_version(permutation_data: pa.Table) -> pa.Table:
    """Strip the recorded version and branch, so that a base table is read as it is."""
    metadata = dict(permutation_data.schema.metadata or {})
    if metadata.pop(b"base_version", None) is None:
        return permutation_data
    metadata.pop(b"base_branch", None)
    return permutation_data.replace_schema_metadata(metadata or None)
