"""What a table is made of, and who reads it."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from lanceloader._html import table_of
from lanceloader.engine import LancedbEngine, PylanceEngine, engine_of_uri
from lanceloader.errors import UnsupportedError
from lanceloader.features import extension_of, features_of, text_of_feature
from lanceloader.sources import open_source
from lanceloader.sources.engine_source import EngineSource
from lanceloader.sources.native import LanceSource, NativeSource
from lanceloader.sources.opening import is_a

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import StorageOptions
    from lanceloader.sources import Source

__all__ = ["ColumnInfo", "IndexInfo", "TableInfo", "table_info"]


@dataclass(frozen=True)
class ColumnInfo:
    """A column of a table.

    Attributes:
        name: Its name.
        type: Its Arrow type, as text.
        nullable: Whether it may hold nulls.
        is_native: Whether the native reader reads it.
        reason: Why the native reader does not read it, or ``None`` if it does.
        feature: What the values mean, if the schema says so: a feature of Hugging Face's
            ``datasets``, as in ``"Image"`` or ``"ClassLabel(cat, dog)"``; or the name of an Arrow
            extension type, as in ``"lance.json"``.
    """

    name: str
    type: str
    nullable: bool
    is_native: bool
    reason: str | None = None
    feature: str | None = None

    @property
    def description(self) -> str:
        """The type, and what the values mean."""
        return self.type if self.feature is None else f"{self.type}: {self.feature}"


@dataclass(frozen=True)
class IndexInfo:
    """An index of a table.

    Attributes:
        name: Its name.
        type: Its type, as in ``"BTree"`` or ``"IVF_PQ"``.
        columns: The indexed columns.
        rows: The number of rows that it covers, or ``None`` if that is unknown.
    """

    name: str
    type: str
    columns: tuple[str, ...]
    rows: int | None = None


@dataclass(frozen=True)
class TableInfo:
    """What a table at one version is made of, and who reads it.

    ``None`` means that a value is unknown. Only the table's own library knows some of them, and
    ``hint`` says what to install.

    Attributes:
        source: The address and version, in words.
        version: The version that is described.
        latest_version: The latest version.
        num_versions: The number of versions, including old ones.
        branch: The branch, or ``None`` for the main line.
        branches: The names of all branches.
        tags: The names and versions of all tags.
        num_rows: The number of rows that are not deleted.
        num_deleted_rows: The number of rows that are deleted, but still in the files.
        num_fragments: The number of fragments.
        num_data_files: The number of data files.
        data_bytes: The bytes of the data files, of all columns.
        file_versions: The versions of Lance's file format, oldest first.
        columns: The columns.
        indices: The indices.
        is_native: Whether the native reader reads the table, though perhaps not all of its columns.
        reason: Why the native reader does not read the table, or ``None`` if it does.
        hint: What to install to learn more.
    """

    source: str
    version: int | None
    latest_version: int | None
    num_versions: int | None
    branch: str | None
    branches: tuple[str, ...] | None
    tags: dict[str, int] | None
    num_rows: int
    num_deleted_rows: int | None
    num_fragments: int | None
    num_data_files: int | None
    data_bytes: int | None
    file_versions: tuple[str, ...] | None
    columns: tuple[ColumnInfo, ...]
    indices: tuple[IndexInfo, ...] | None
    is_native: bool
    reason: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        columns = (
            [escape(column.name), escape(column.description)] for column in self.columns
        )
        facts = (
            [escape(name.replace("_", " ")), escape(str(value))]
            for name, value in vars(self).items()
            if name not in ("columns", "indices") and value is not None
        )
        return table_of(["column", "type"], columns) + table_of(["", ""], facts)


def table_info(
    table: Any,
    *,
    version: int | None = None,
    branch: str | None = None,
    tag: str | None = None,
    storage_options: StorageOptions | None = None,
) -> TableInfo:
    """Describe a table: schema, versions, files, indices, and what the native reader reads of it.

    No rows are read. Old versions, deletions, versions of files and indices are known if pylance
    or lancedb is installed.

    Args:
        table: As for ``open``.
        version: As for ``open``.
        branch: As for ``open``.
        tag: As for ``open``.
        storage_options: As for ``open``.

    Raises:
        FileNotFoundError: If there is no table.
        TableChangedError: If there is no such version.

    Example:
        >>> info = ll.table_info(table)
        >>> info.num_rows, [column.name for column in info.columns], info.is_native
        (10, ['x'], True)
    """
    source = open_source(
        table, version=version, branch=branch, tag=tag, storage_options=storage_options
    )
    native = source.native if isinstance(source, NativeSource) else None
    facts: dict[str, Any] = {
        "num_fragments": None if native is None else native.num_fragments,
        "data_bytes": None if native is None else native.data_bytes,
    }
    facts |= _known_to_its_library(source)
    return TableInfo(
        source=source.describe(),
        version=source.version,
        branch=source.branch,
        num_rows=source.num_rows,
        columns=_columns_of(source),
        is_native=native is not None,
        reason=_why_not(source),
        **_UNKNOWN | facts,
    )


_FIRST_OF_FORMAT_2 = (0, 3)

_UNKNOWN: dict[str, Any] = {
    "latest_version": None,
    "num_versions": None,
    "branches": None,
    "tags": None,
    "num_deleted_rows": None,
    "num_data_files": None,
    "file_versions": None,
    "indices": None,
}


def _columns_of(source: Source) -> tuple[ColumnInfo, ...]:
    schema = source.schema
    features = features_of(schema)
    reasons: dict[str, str | None] = dict.fromkeys(schema.names)
    if isinstance(source, NativeSource):
        pairs = [(name, name) for name in schema.names]
        if _refusal(source, pairs) is not None:
            reasons = {pair[0]: _refusal(source, [pair]) for pair in pairs}
    else:
        reasons = dict.fromkeys(schema.names, _why_not(source))
    return tuple(
        ColumnInfo(
            field.name,
            str(field.type),
            field.nullable,
            reasons[field.name] is None,
            reasons[field.name],
            text_of_feature(features.get(field.name)) or extension_of(field),
        )
        for field in schema
    )


def _refusal(source: NativeSource, columns: list[tuple[str, str]]) -> str | None:
    """Return why the native reader refuses columns, or ``None`` if it does not."""
    try:
        source.native.reader(columns)
    except UnsupportedError as error:
        return str(error)
    return None


def _why_not(source: Source) -> str | None:
    """Return why the native reader does not read a table, or ``None`` if it does."""
    if not isinstance(source, EngineSource):
        return None
    address = source.opener.table
    if not isinstance(address, str):
        return "the table is on a server, which only lancedb can query"
    options = getattr(source.opener, "storage_options", None)
    try:
        LanceSource(
            address,
            version=source.version,
            branch=source.branch,
            storage_options=options,
        )
    except UnsupportedError as error:
        return str(error)
    return None


def _known_to_its_library(source: Source) -> dict[str, Any]:
    """Return what pylance or lancedb knows about a table in files or on a server."""
    if not isinstance(source, EngineSource | LanceSource):
        return {}
    is_there = [
        importlib.util.find_spec(name) is not None for name in ("lance", "lancedb")
    ]
    if not any(is_there):
        hint = 'pip install "lanceloader[lance]" to see old versions, deletions and indices'
        return {"hint": hint}
    if isinstance(source, LanceSource):
        # Pylance knows more than the library of the handle.
        options = source.storage_options or None
        engine = engine_of_uri(source.uri, source.version, source.branch, options)
    else:
        engine = source.engine()
    if isinstance(engine, PylanceEngine):
        return _of_dataset(engine.dataset)
    if isinstance(engine, LancedbEngine):
        return _of_table(engine.table)
    return {}


def _of_dataset(dataset: Any) -> dict[str, Any]:
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    files = [file for fragment in fragments for file in fragment.files]
    deleted = sum(
        fragment.deletion_file.num_deleted_rows or 0
        for fragment in fragments
        if fragment.deletion_file is not None
    )
    sizes = [file.file_size_bytes for file in files]
    versions = sorted(
        {(file.file_major_version, file.file_minor_version) for file in files}
    )
    facts: dict[str, Any] = {
        "latest_version": int(dataset.latest_version),
        "num_versions": len(dataset.versions()),
        "branches": tuple(sorted(dataset.branches.list())),
        "tags": {
            name: int(tag["version"])
            for name, tag in sorted(dataset.tags.list().items())
        },
        "num_deleted_rows": deleted,
        "num_fragments": len(fragments),
        "num_data_files": len(files),
        "file_versions": tuple(dict.fromkeys(map(_name_of_format, versions))),
        "indices": tuple(
            IndexInfo(
                found.name,
                str(found.index_type),
                tuple(found.field_names),
                found.num_rows_indexed,
            )
            for found in dataset.describe_indices()
        ),
    }
    if None not in sizes:
        facts["data_bytes"] = sum(sizes)
    return facts


def _name_of_format(version: tuple[int, int]) -> str:
    """Return the name of a file format; files number the first two formats differently."""
    if version < _FIRST_OF_FORMAT_2:
        return "0.1"
    major, minor = version
    return "2.0" if version == _FIRST_OF_FORMAT_2 else f"{major}.{minor}"


def _of_table(table: Any) -> dict[str, Any]:
    """Return what lancedb knows about a table; a server may not know all of it."""
    versions = _answer(table.list_versions) or []
    indices = _answer(table.list_indices)
    at: dict[str, Any] = next(
        (each for each in versions if each["version"] == table.version), {}
    )
    deleted = at.get("metadata", {}).get("total_deletion_file_rows")
    hint = 'pip install "lanceloader[lance]" to see the versions of the files'
    return {
        "latest_version": max(
            (int(each["version"]) for each in versions), default=None
        ),
        "num_versions": len(versions) or None,
        "num_deleted_rows": None if deleted is None else int(deleted),
        "indices": None if indices is None else tuple(map(_index_of, indices)),
        "hint": None if is_a(table, "lancedb", "RemoteTable") else hint,
    }


def _index_of(found: Any) -> IndexInfo:
    return IndexInfo(
        found.name,
        str(found.index_type),
        tuple(found.columns),
        getattr(found, "num_indexed_rows", None),
    )


def _answer(ask: Callable[[], Any]) -> Any:
    """Return what a library says, or ``None`` if it cannot say it of this table."""
    try:
        return ask()
    except (RuntimeError, NotImplementedError, OSError, ValueError):
        return None
