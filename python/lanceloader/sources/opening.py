"""Opening sources from users' tables.

No library is imported unless the user has imported it.
"""

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
from lanceloader.monitor.progress import waiting
from lanceloader.sources.base import Source
from lanceloader.sources.engine_source import EngineSource, TableAddress, TableHandle
from lanceloader.sources.hf_addresses import revision_as_option
from lanceloader.sources.hf_datasets import DatasetSource, raise_not_a_dataset
from lanceloader.sources.mistakes import check_scheme, table_from
from lanceloader.sources.native import LanceSource, MemorySource, absolute, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import StorageOptions
    from lanceloader.engine import Engine

__all__ = ["is_a", "lancedb_options", "open_source", "pinned_source", "sync_table"]


OTHER_DATASETS = ("DatasetDict", "IterableDataset", "IterableDatasetDict")
"""Classes of Hugging Face datasets that have no rows by position."""


def open_source(
    table: Any,
    *,
    version: int | None = None,
    branch: str | None = None,
    tag: str | None = None,
    storage_options: StorageOptions | None = None,
) -> Source:
    """Open a table or Arrow data as a source, pinned to one version.

    Args:
        table: A LanceDB table (local, in memory, in a namespace or remote), a
            ``lance.LanceDataset``, a path or URI, Arrow data (anything with
            ``__arrow_c_stream__``: a pyarrow table, a polars or pandas data frame), a
            ``datasets.Dataset``, or the result of a query (anything with ``to_arrow``).
        version: The version of a path or URI, by default the latest.
        branch: The branch of a path or URI.
        tag: The tag of a path or URI, instead of a version.
        storage_options: The options of the object store of a path or URI.

    Raises:
        FileNotFoundError: If the table does not exist.
        TableChangedError: If the version does not exist.
        TypeError: If ``table`` has another type, if ``branch`` or ``tag`` is no string, or if
            options for paths and URIs are passed with a table object.
    """
    for name, value in (("branch", branch), ("tag", tag)):
        if value is not None and not isinstance(value, str):
            message = f"`{name}` must be a string, not {value!r} of type {type(value).__name__}"
            raise TypeError(message)
    if isinstance(table, str | os.PathLike):
        return uri_source(os.fspath(table), version, branch, tag, storage_options)
    options = {"version": version, "branch": branch, "tag": tag}
    given = [name for name, value in options.items() if value is not None]
    if given or storage_options is not None:
        names = ", ".join(f"`{name}`" for name in given) or "`storage_options`"
        message = (
            f"{names} can only be passed with a path or URI, not with a {type(table).__name__}; "
            "check out the version on the object itself"
        )
        raise TypeError(message)
    return pinned_source(table, None, None)


def pinned_source(table: Any, version: int | None, branch: str | None) -> Source:
    """Open a table at the version that a permutation table or a pickle recorded.

    Args:
        table: As for ``open_source``.
        version: The version, or ``None`` for the current version of ``table``.
        branch: The branch of the version, or ``None`` for the main branch.

    Raises:
        FileNotFoundError: If the table does not exist.
        TableChangedError: If the version does not exist.
        TypeError: If ``table`` is not a table.
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
        message = f"{table!r} is a permutation already: use it as it is, or pass its `base_table`"
        raise TypeError(message)
    if is_a(table, "datasets", "Dataset"):
        return DatasetSource(table)
    if any(is_a(table, "datasets", name) for name in OTHER_DATASETS):
        raise_not_a_dataset(table)
    if isinstance(table, ArrowStreamExportable):
        return MemorySource(table)
    if hasattr(table, "to_arrow"):
        return MemorySource(table.to_arrow())
    message = (
        "`table` must be a LanceDB table, a lance dataset, a path or URI, Arrow data, a Hugging Face "
        f"dataset or a query result, not of type {type(table).__name__}{table_from(table)}"
    )
    raise TypeError(message)


def is_a(value: Any, package: str, name: str) -> bool:
    """Return whether ``value`` is an instance of class ``name`` of ``package``.

    Subclasses count. The package is not imported.
    """
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] == package
        for cls in type(value).__mro__
    )


def sync_table(table: Any) -> Any:
    """Return the ``LanceTable`` of an ``AsyncTable``."""
    from lancedb.background_loop import LOOP
    from lancedb.table import LanceTable

    return LOOP.run(LanceTable.from_inner(table._inner))  # type: ignore[no-untyped-call]


# A LanceDB table in memory is copied once per version, for all permutations over it.
_loaded: weakref.WeakKeyDictionary[
    Any, weakref.WeakValueDictionary[tuple[int, str | None], MemorySource]
] = weakref.WeakKeyDictionary()


def lancedb_source(table: Any, version: int, branch: str | None) -> Source:
    """Open a LanceDB table at a version of a branch."""
    handle = TableHandle(table, version, branch)
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
        # Opened by address, because the handle of a local table cannot be pickled.
        return EngineSource(
            TableAddress(absolute(uri), version, branch, options), **pin
        )


def lancedb_options(table: Any) -> StorageOptions:
    """Return the storage options of a LanceDB table, which override its connection's."""
    options = {
        **(table._conn.storage_options or {}),
        **(table.latest_storage_options() or {}),
    }
    return {name: str(value) for name, value in options.items()}


def load_lancedb(table: Any, version: int, branch: str | None) -> MemorySource:
    """Copy all rows of a LanceDB table in memory, which only lancedb can access."""
    engine = engine_of_handle(table, version, branch)
    columns = [*engine.schema().names, ROW_ID]
    with waiting(f"copying {table.name}"):
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
    """Open a dataset of pylance at a version, or at its current one for ``None``."""
    if version is None:
        version = int(dataset.version)
        # pylance has no attribute for the branch, but the manifest names it.
        branch = branch_of_manifest(dataset._ds.serialized_manifest())
    handle = TableHandle(dataset, version, branch)
    if dataset.uri.startswith("memory:"):
        rows = engine_of_handle(dataset, version, branch).scan_all()
        with waiting("copying the dataset"):
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
    """Open a Lance table by address, with its own library if the native reader cannot."""
    check_scheme(uri)
    uri, storage_options = revision_as_option(uri, storage_options)
    name = name_of(uri)
    with waiting(f"opening {name}"):
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
            address = TableAddress(
                absolute(uri), version, branch, dict(storage_options or {})
            )
            if version is None:
                version = address.engine().version()
                address = replace(address, version=version)
            return EngineSource(address, name=name, version=version, branch=branch)
