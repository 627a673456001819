"""Engines: access to a table through its own library, lancedb or pylance.

An engine evaluates SQL filters, with scalar indexes, and SQL expressions. It also reads what the
native reader cannot: remote tables, legacy files and some types of columns. Results are Arrow
data. Loading batches of an ordinary table uses no engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.blobs import holds_blobs, is_blob
from lanceloader.errors import TableChangedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import StorageOptions

__all__ = [
    "KEYS_PER_TAKE",
    "ROW_ID",
    "ROW_OFFSET",
    "SYSTEM",
    "Engine",
    "LancedbEngine",
    "PylanceEngine",
    "checkout_errors",
    "engine_of_handle",
    "engine_of_uri",
    "memory_table",
]

ROW_ID = "_rowid"
ROW_ADDRESS = "_rowaddr"
ROW_OFFSET = "_rowoffset"
SYSTEM = (ROW_ID, ROW_ADDRESS, ROW_OFFSET)
"""The system columns: they can be read from every table, and are not part of its schema."""

# Servers return the row offset under this name, as LanceDB requests it.
ROW_OFFSET_ALIAS = "__lancedb_take_row_offset"

# A take lists its keys in an SQL filter; servers and parsers limit the length of filters.
KEYS_PER_TAKE = 8192


class Engine(ABC):
    """A table at one version, opened with its own library."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Return the schema of the table."""

    @abstractmethod
    def count_rows(self) -> int:
        """Return the number of rows, without deleted ones."""

    @abstractmethod
    def scan(
        self, columns: dict[str, str], predicate: str | None = None
    ) -> pa.RecordBatchReader:
        """Scan the rows that match ``predicate``.

        Args:
            columns: SQL expressions by output name.
            predicate: An SQL predicate, or ``None`` for all rows.
        """

    def scan_all(self) -> pa.RecordBatchReader:
        """Scan all columns of all rows."""
        return self.scan({name: name for name in self.schema().names})

    @abstractmethod
    def version(self) -> int:
        """Return the version of the table."""

    @abstractmethod
    def take(self, keys: Sequence[int], key: str, columns: Sequence[str]) -> pa.Table:
        """Return rows by id or offset, in any order.

        Args:
            keys: The distinct ids or offsets of the rows.
            key: ``"_rowid"`` or ``"_rowoffset"``; the result also has this column.
            columns: The names of the columns.
        """

    def row_ids(self, predicate: str | None = None) -> pa.RecordBatchReader:
        """Scan the ids of the rows that match ``predicate``."""
        return self.scan({ROW_ID: ROW_ID}, predicate)


class LancedbEngine(Engine):
    """A LanceDB table, local or remote, accessed through its public query interface."""

    def __init__(self, table: Any) -> None:
        """Keep ``table``, a handle that no other code checks out at another version."""
        self.table = table

    def schema(self) -> pa.Schema:
        return self.table.schema

    def count_rows(self) -> int:
        return int(self.table.count_rows())

    def version(self) -> int:
        return int(self.table.version)

    def scan(
        self, columns: dict[str, str], predicate: str | None = None
    ) -> pa.RecordBatchReader:
        query = self.table.search()
        plain = all(name == expression for name, expression in columns.items())
        query = query.select(list(columns) if plain else columns)
        if predicate is not None:
            query = query.where(predicate)
        return query.to_batches()

    def take(self, keys: Sequence[int], key: str, columns: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        columns = [name for name in columns if name not in SYSTEM]
        for name in columns:
            if holds_blobs(self.schema().field(name)):
                message = (
                    f"column `{name}` has blobs inside a struct or list, which lancedb does not "
                    "read when they are stored outside of the table; "
                    'pip install "lanceloader[lance]" and open the table by its path'
                )
                raise UnsupportedError(message)
        blobs = [name for name in self.blob_columns() if name in columns]
        select = {name: quoted(name) for name in columns if name not in blobs}
        if key == ROW_OFFSET:
            select[ROW_OFFSET_ALIAS] = ROW_OFFSET
        parts = []
        for start in range(0, len(keys), KEYS_PER_TAKE):
            part = ", ".join(map(str, keys[start : start + KEYS_PER_TAKE]))
            query = self.table.search().where(f"{key} IN ({part})")
            query = query.select(select) if select else query.select([ROW_ID])
            parts.append(query.with_row_id(True).to_arrow())  # noqa: FBT003
        rows = pa.concat_tables(parts)
        for name in blobs:
            found = self.table.fetch_blobs(name, rows[ROW_ID].to_pylist())
            rows = rows.append_column(pa.field(name, found.type), found)
        names = [ROW_OFFSET if n == ROW_OFFSET_ALIAS else n for n in rows.column_names]
        return rows.rename_columns(names)

    def blob_columns(self) -> list[str]:
        """Return the names of the blob columns."""
        try:
            return list(self.table.blob_columns())
        except NotImplementedError:
            return []


class PylanceEngine(Engine):
    """A ``lance.LanceDataset``."""

    def __init__(self, dataset: Any) -> None:
        """Keep ``dataset``, a handle that no other code writes through."""
        self.dataset = dataset

    def schema(self) -> pa.Schema:
        return self.dataset.schema

    def count_rows(self) -> int:
        return int(self.dataset.count_rows())

    def version(self) -> int:
        return int(self.dataset.version)

    def scan(
        self, columns: dict[str, str], predicate: str | None = None
    ) -> pa.RecordBatchReader:
        if list(columns) == [ROW_ID]:
            scanner = self.dataset.scanner(
                columns=[], filter=predicate, with_row_id=True
            )
        else:
            scanner = self.dataset.scanner(columns=columns, filter=predicate)
        return scanner.to_reader()

    def take(self, keys: Sequence[int], key: str, columns: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        columns = [name for name in columns if name not in SYSTEM]
        schema = self.schema()
        blobs = [field.name for field in schema if is_blob(field)]
        nested = [name for name in columns if holds_blobs(schema.field(name))]
        plain = [name for name in columns if name not in (*blobs, *nested)]
        if key == ROW_OFFSET:
            rows = self.dataset.take(list(keys), columns=plain)
        else:
            rows = self.dataset._take_rows(list(keys), columns=plain)
        if not plain:
            rows = pa.table({})
        for name in (name for name in columns if name in blobs):
            by = "indices" if key == ROW_OFFSET else "ids"
            files = self.dataset.take_blobs(name, **{by: list(keys)})
            values = [None if file is None else file.readall() for file in files]
            rows = rows.append_column(name, pa.array(values, pa.large_binary()))
        if nested:
            found = self._take_by_scan(keys, key, nested)
            for name in nested:
                rows = rows.append_column(name, found[name])
        return rows.append_column(key, pa.array(keys, pa.uint64()))

    def _take_by_scan(
        self, keys: Sequence[int], key: str, columns: Sequence[str]
    ) -> pa.Table:
        """Return columns with nested blobs; ``take`` would return descriptors, not bytes."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts = []
        for start in range(0, len(keys), KEYS_PER_TAKE):
            part = ", ".join(map(str, keys[start : start + KEYS_PER_TAKE]))
            scanner = self.dataset.scanner(
                columns=[*columns, key],
                filter=f"{key} IN ({part})",
                blob_handling="all_binary",
            )
            parts.append(scanner.to_table())
        rows = pa.concat_tables(parts).combine_chunks()
        return rows.take(pc.index_in(pa.array(keys, pa.uint64()), value_set=rows[key]))


def quoted(name: str) -> str:
    """Return a column name, quoted for SQL if necessary."""
    return name if name.isidentifier() and name.islower() else f"`{name}`"


def engine_of_handle(handle: Any, version: int | None, branch: str | None) -> Engine:
    """Return the engine of a LanceDB table or ``lance`` dataset at a version.

    The engine has its own handle, since writing through the user's handle, or checking it out,
    changes that handle's version.

    Raises:
        TableChangedError: If the version does not exist.
    """
    if type(handle).__module__.partition(".")[0] == "lance":
        with checkout_errors(handle.uri, version):
            pinned = handle.checkout_version((branch, version) if branch else version)
        return PylanceEngine(pinned)
    with checkout_errors(handle.name, version):
        return LancedbEngine(handle.branches.checkout(branch or "main", version))


@contextmanager
def checkout_errors(table: str, version: int | None) -> Iterator[None]:
    """Turn a library's error about a missing version into ``TableChangedError``."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        is_gone = re.search("not found|no longer exists", str(error), re.IGNORECASE)
        if version is None or not is_gone:
            raise
        message = (
            f"version {version} of {table} does not exist; if it was pinned before, a cleanup has "
            "removed it since: tag versions to keep them"
        )
        raise TableChangedError(message) from error


def memory_table(name: str, data: pa.Table) -> Any:
    """Create a LanceDB table in a new database in memory.

    Raises:
        ImportError: If lancedb is not installed.
    """
    need("lancedb", "A LanceDB table in memory, such as a permutation table,")
    import lancedb

    return lancedb.connect("memory://").create_table(name, data)


def engine_of_uri(
    uri: str,
    version: int | None,
    branch: str | None,
    storage_options: StorageOptions | None,
) -> Engine:
    """Open a table by address with pylance, or with lancedb if pylance is not installed.

    Raises:
        TableChangedError: If the version does not exist.
        UnsupportedError: If neither library is installed.
    """
    if importlib.util.find_spec("lance") is not None:
        lance = importlib.import_module("lance")
        dataset = lance.dataset(uri, storage_options=storage_options)
        if version is not None:
            with checkout_errors(uri, version):
                dataset = dataset.checkout_version(
                    (branch, version) if branch else version
                )
        return PylanceEngine(dataset)
    path = PurePosixPath(uri)
    if importlib.util.find_spec("lancedb") is not None and path.suffix == ".lance":
        lancedb = importlib.import_module("lancedb")
        parent = uri[: -len(path.name)].rstrip("/") or "/"
        table = lancedb.connect(parent, storage_options=storage_options).open_table(
            path.stem
        )
        return engine_of_handle(table, version, branch)
    message = (
        f"this operation needs the own library of table {uri}, which is not installed: "
        'pip install "lanceloader[lance]" or "lanceloader[lancedb]"'
    )
    raise UnsupportedError(message)
