"""What users hold → a ``Source``. No library is imported that the user did not import."""

from __future__ import annotations

import functools
import os
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lanceloader._native import branch_of_manifest
from lanceloader._typing import ArrowStreamExportable
from lanceloader.engine import ROW_ID, engine_of_handle
from lanceloader.errors import UnsupportedError
from lanceloader.sources.base import Source
from lanceloader.sources.by_engine import Address, EngineSource, Handle
from lanceloader.sources.native import LanceSource, MemorySource, absolute, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import StorageOptions
    from lanceloader.engine import Engine

__all__ = ["is_a", "lancedb_options", "open_source", "pinned_source", "sync_table"]


def open_source(
    table: Any,
    *,
    version: int | None = None,
    branch: str | None = None,
    tag: str | None = None,
    storage_options: StorageOptions | None = None,
) -> Source:
    """Open anything that holds rows, pinned to one version.

    Args:
        table: A LanceDB table (local, in memory, in a namespace or remote), a
            ``lance.LanceDataset``, a path or URI, Arrow data (anything with
            ``__arrow_c_stream__``: a pyarrow table, a polars or pandas frame), or the
            result of a query (anything with ``to_arrow``).
        version: The version of a path or URI; by default its latest.
        branch: The branch of a path or URI.
        tag: The tag of a path or URI, instead of a version.
        storage_options: Options of the object store of a path or URI.

    Raises:
        FileNotFoundError: If there is no table.
        TableChangedError: If there is no such version.
        TypeError: If ``table`` is nothing of the above, or is given options that only a
            path or URI takes.
    """
    if isinstance(table, str | os.PathLike):
        return uri_source(os.fspath(table), version, branch, tag, storage_options)
    options = {"version": version, "branch": branch, "tag": tag}
    given = [name for name, value in options.items() if value is not None]
    if given or storage_options is not None:
        message = (
            f"{', '.join(given) or 'storage_options'} with a {type(table).__name__}: "
            "wanted a path or URI; check the version out on the object itself"
        )
        raise TypeError(message)
    return pinned_source(table, None, None)


def pinned_source(table: Any, version: int | None, branch: str | None) -> Source:
    """Open what a permutation table was made from, at the version it recorded.

    Args:
        table: As for ``open_source``.
        version: The version, or ``None`` for the one ``table`` is at now.
        branch: The branch of that version.
    """
    if isinstance(table, str | os.PathLike):
        return uri_source(os.fspath(table), version, branch, None, None)
    if is_a(table, "lancedb", "AsyncTable"):
        table = sync_table(table)
    if is_a(table, "lancedb", "LanceTable") or is_a(table, "lancedb", "RemoteTable"):
        if version is None:
            version, branch = table.version, table.current_branch()
        return lancedb_source(table, version, branch)
    if is_a(table, "lance", "LanceDataset"):
        return pylance_source(table, version, branch)
    if isinstance(table, Source):
        return table
    if is_a(table, "lanceloader", "View"):
        message = f"{table!r}: wanted a table; this is a permutation already"
        raise TypeError(message)
    if isinstance(table, ArrowStreamExportable):
        return MemorySource(table)
    if hasattr(table, "to_arrow"):
        return MemorySource(table.to_arrow())
    message = (
        f"{type(table).__name__}: wanted a LanceDB table, a lance dataset, a path or URI, "
        "Arrow data or a query result"
    )
    raise TypeError(message)


def is_a(value: Any, package: str, name: str) -> bool:
    """Whether ``value`` is of a class of another package, without importing that."""
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] == package
        for cls in type(value).__mro__
    )


def sync_table(table: Any) -> Any:
    """Give the synchronous face of an ``AsyncTable``."""
    from lancedb.background_loop import LOOP
    from lancedb.table import LanceTable

    return LOOP.run(LanceTable.from_inner(table._inner))  # type: ignore[no-untyped-call]


# A table in memory is read whole, once for all permutations over a version of it.
_loaded: weakref.WeakKeyDictionary[
    Any, weakref.WeakValueDictionary[tuple[int, str | None], MemorySource]
] = weakref.WeakKeyDictionary()


def lancedb_source(table: Any, version: int, branch: str | None) -> Source:
    """Open a LanceDB table at a version of a branch."""
    handle = Handle(table, version, branch)
    pin = {"name": table.name, "version": version, "branch": branch}
    if is_a(table, "lancedb", "RemoteTable"):
        return EngineSource(handle, **pin)
    uri = table.uri
    if uri.startswith("memory:"):
        loaded = _loaded.setdefault(table, weakref.WeakValueDictionary())
        source = loaded.get((version, branch))
        if source is None:
            source = loaded[version, branch] = load_lancedb(table, version, branch)
        return source
    options = lancedb_options(table)
    try:
        return LanceSource(
            uri,
            **pin,
            storage_options=options,
            make_engine=functools.cache(handle.engine),
        )
    except UnsupportedError:
        # Not through the handle, which does not pickle.
        return EngineSource(Address(absolute(uri), version, branch, options), **pin)


def lancedb_options(table: Any) -> StorageOptions:
    """Give the storage options of a LanceDB table: its connection's, then its own."""
    options = {
        **(table._conn.storage_options or {}),
        **(table.latest_storage_options() or {}),
    }
    return {name: str(value) for name, value in options.items()}


def load_lancedb(table: Any, version: int, branch: str | None) -> MemorySource:
    """Read a table in memory whole: its store is not visible outside its library."""
    engine = engine_of_handle(table, version, branch)
    columns = [*engine.schema().names, ROW_ID]
    data = engine.scan({name: name for name in columns}).read_all()
    return MemorySource(
        data.replace_schema_metadata(engine.schema().metadata),
        name=table.name,
        row_ids=ROW_ID,
        version=version,
        branch=branch,
        make_engine=lambda: engine,
    )


def pylance_source(dataset: Any, version: int | None, branch: str | None) -> Source:
    """Open a dataset of pylance, at a version or the one it is at."""
    if version is None:
        version = int(dataset.version)
        # It does not say its branch, but its manifest does.
        branch = branch_of_manifest(dataset._ds.serialized_manifest())
    handle = Handle(dataset, version, branch)
    if dataset.uri.startswith("memory:"):
        rows = engine_of_handle(dataset, version, branch).scan_all()
        return MemorySource(rows, version=version)
    options = dataset.latest_storage_options()
    make_engine = functools.cache(handle.engine)
    return uri_source(dataset.uri, version, branch, None, options, make_engine)


def uri_source(
    uri: str,
    version: int | None,
    branch: str | None,
    tag: str | None,
    storage_options: StorageOptions | None,
    make_engine: Callable[[], Engine] | None = None,
) -> Source:
    """Open a Lance table by address: natively, or with its own library if that must be."""
    try:
        return LanceSource(
            uri,
            version=version,
            branch=branch,
            tag=tag,
            storage_options=storage_options,
            make_engine=make_engine,
        )
    except UnsupportedError:
        if tag is not None:
            raise
        address = Address(absolute(uri), version, branch, dict(storage_options or {}))
        if version is None:
            version = address.engine().version()
            address = replace(address, version=version)
        name = name_of(uri)
        return EngineSource(address, name=name, version=version, branch=branch)
