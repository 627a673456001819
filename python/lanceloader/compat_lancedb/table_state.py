"""The state of a LanceDB table in a pickle, in LanceDB's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.engine import checkout_errors, memory_table
from lanceloader.sources.native import absolute
from lanceloader.sources.opening import is_a, lancedb_options
from lanceloader.sources.secrets import without_secrets

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "state_of_table",
    "table_of_state",
    "without_base_version",
    "without_credentials",
]


def state_of_table(table: Any) -> dict[str, Any]:
    """Return the state from which ``table_of_state`` opens a LanceDB table again.

    The layout is that of LanceDB's ``_table_to_pickle_state``, plus the version and the branch.
    The state of a table in memory holds all of its rows.

    Raises:
        ValueError: If ``table`` is not a LanceDB table.
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


def table_of_state(state: dict[str, Any]) -> Any:
    """Open a LanceDB table from its state, at the version that the state names, if any.

    Raises:
        TableChangedError: If the version no longer exists.
        ValueError: If the state is of an unknown kind.
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
        with checkout_errors(state["name"], version):
            if branch is not None:
                return table.branches.checkout(branch, version)
            if version is not None and version != table.version:
                table.checkout(version)
        return table
    message = f"Unknown table pickle state kind: {kind}"
    raise ValueError(message)


def without_credentials(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a table's state without credentials, unless pickles may hold them now."""
    if state is None or not state.get("storage_options"):
        return state
    options = without_secrets(state["storage_options"])
    return {**state, "storage_options": options or None}


def without_base_version(permutation_data: pa.Table) -> pa.Table:
    """Remove the base table's version and branch from the metadata of a permutation table.

    The base table is then read at its current version.
    """
    metadata = dict(permutation_data.schema.metadata or {})
    if metadata.pop(b"base_version", None) is None:
        return permutation_data
    metadata.pop(b"base_branch", None)
    return permutation_data.replace_schema_metadata(metadata or None)
