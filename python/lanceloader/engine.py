"""The table's own library (lancedb or pylance), asked for what the native reader leaves to it.

That is: SQL filters with their scalar indexes, SQL expressions, remote tables, and columns or
files that the native reader refuses. Answers come as Arrow streams. Nothing here is on the
path of a batch of an ordinary table.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.errors import ColumnNotFoundError, TableChangedError, UnsupportedError
from lanceloader.numbers import numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from lanceloader import _native
    from lanceloader._typing import StorageOptions

__all__ = [
    "Engine",
    "EngineReader",
    "LancedbEngine",
    "PylanceEngine",
    "checking_out",
    "engine_of_handle",
    "engine_of_uri",
]

ROW_ID = "_rowid"
ROW_ADDRESS = "_rowaddr"
ROW_OFFSET = "_rowoffset"
SYSTEM = (ROW_ID, ROW_ADDRESS, ROW_OFFSET)
SYSTEM_PATHS = tuple((name,) for name in SYSTEM)
# LanceDB asks servers for the row offset under this name.
ROW_OFFSET_ALIAS = "__lancedb_take_row_offset"

# A take names its rows one by one; servers and parsers take this many at once.
KEYS_PER_TAKE = 8192


class Engine(ABC):
    """A table at one version, as its own library sees it."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Give the schema of the table."""

    @abstractmethod
    def count_rows(self) -> int:
        """Count the live rows."""

    @abstractmethod
    def scan(
        self, columns: dict[str, str], predicate: str | None = None
    ) -> pa.RecordBatchReader:
        """Stream SQL expressions, by output name, over the rows where ``predicate`` is true."""

    def scan_all(self) -> pa.RecordBatchReader:
        """Stream all columns of all rows."""
        return self.scan({name: name for name in self.schema().names})

    @abstractmethod
    def version(self) -> int:
        """Give the version it reads."""

    @abstractmethod
    def take(self, keys: Sequence[int], key: str, columns: Sequence[str]) -> pa.Table:
        """Fetch rows by ``_rowid`` or ``_rowoffset``, in any order, with that column."""

    def row_ids(self, predicate: str | None = None) -> pa.RecordBatchReader:
        """Stream the ids of the rows where ``predicate`` is true."""
        return self.scan({ROW_ID: ROW_ID}, predicate)


class LancedbEngine(Engine):
    """A LanceDB table, local or remote, through its public query interface."""

    def __init__(self, table: Any) -> None:
        """Keep ``table``, a handle that nobody else moves to another version."""
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
                    f"column `{name}`: blobs outside of the table inside a struct or list are not "
                    "read by lancedb; pip install lanceloader[lance] and open the table by its path"
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
        """Name the columns whose values are stored beside the rows."""
        try:
            return list(self.table.blob_columns())
        except NotImplementedError:
            return []


class PylanceEngine(Engine):
    """A dataset of pylance."""

    def __init__(self, dataset: Any) -> None:
        """Keep ``dataset``, a handle that nobody writes through."""
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
        """Fetch columns that hold blobs: only a scan gives their bytes."""
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


class EngineReader:
    """Reads columns through an engine: the interface of the native reader, without its speed."""

    def __init__(
        self,
        engine: Engine,
        columns: Sequence[tuple[str, str]],
        key: str,
        keys: _native.Table | None = None,
    ) -> None:
        """Read ``columns``, pairs of output name and source name.

        Args:
            engine: What to ask.
            columns: What to read.
            key: What orders hold: ``_rowid`` or ``_rowoffset``.
            keys: The table whose row ids the offsets of an order stand for, if orders hold
                offsets and the engine is asked by row id.

        Raises:
            UnsupportedError: If a column is asked for that only such a table knows.
        """
        known = SYSTEM if keys is not None else (key, ROW_ID)
        for _, source in columns:
            if source in SYSTEM and source not in known:
                message = (
                    f"column `{source}`: not known of these rows, as the table is read by its "
                    f"own library; {' and '.join(f'`{name}`' for name in dict.fromkeys(known))} "
                    "may be read"
                )
                raise UnsupportedError(message)
        self._engine = engine
        schema = engine.schema()
        self._columns = [(name, path_of(schema, source)) for name, source in columns]
        self._key = key
        self._keys = keys
        self._schema = self._output_schema()

    def as_signed(self) -> EngineReader:
        """Return the same reader, whose ids, addresses and offsets of rows are signed numbers."""
        import pyarrow as pa

        fields = [
            field.with_type(pa.int64())
            if path in SYSTEM_PATHS and field.type == pa.uint64()
            else field
            for field, (_, path) in zip(self._schema, self._columns, strict=True)
        ]
        new = copy.copy(self)
        new._schema = pa.schema(fields, metadata=self._schema.metadata)
        return new

    def __arrow_c_schema__(self) -> Any:
        """Give the schema of the batches."""
        return self._schema.__arrow_c_schema__()

    def take(self, order: _native.Order, positions: Sequence[int]) -> pa.RecordBatch:
        """Give the rows at ``positions``, in that order."""
        from lanceloader._native import Order

        picked = order.pick(Order.listed(positions))
        return self.read(picked, 0, len(picked))

    def read(self, order: _native.Order, start: int, stop: int) -> pa.RecordBatch:
        """Give the rows at positions ``start`` to ``stop``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        offsets = numbers_of(order.offsets(start, stop))
        keys = offsets
        if self._keys is not None:
            keys = numbers_of(self._keys.row_ids(order, start, stop))
        if len(keys) == 0:
            return empty(self._schema)
        wanted = pc.unique(keys)
        tops = list(dict.fromkeys(top for _, (top, *_) in self._columns))
        rows = self._engine.take(wanted.to_pylist(), self._key, tops)
        found = rows[self._key].combine_chunks()
        places = pc.index_in(keys, value_set=found)
        if places.null_count:
            missing = keys.filter(places.is_null())[0]
            message = f"row {missing} is not in the table any more"
            raise IndexError(message)
        rows = rows.take(places).combine_chunks()
        system = self._system_columns(order, start, stop)
        system.setdefault(self._key, keys)
        columns = []
        for field, (_, path) in zip(self._schema, self._columns, strict=True):
            top, *inner = path
            column = system[top] if top in system else rows[top].combine_chunks()
            if inner:
                column = pc.struct_field(column, inner)
            columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _system_columns(
        self, order: _native.Order, start: int, stop: int
    ) -> dict[str, Any]:
        """Give ids and addresses, if there is a native table that knows them."""
        import pyarrow as pa

        if self._keys is None:
            return {}
        reader = self._keys.reader([(name, name) for name in SYSTEM])
        batch = pa.record_batch(reader.read(order, start, stop))
        return dict(zip(SYSTEM, batch.columns, strict=True))

    def load(
        self,
        order: _native.Order,
        batch_size: int | None,
        drop_last: bool,  # noqa: FBT001
    ) -> Iterator[pa.RecordBatch]:
        """Give all rows in batches of ``batch_size``."""
        batch_size = batch_size or KEYS_PER_TAKE
        for start in range(0, len(order), batch_size):
            stop = min(start + batch_size, len(order))
            if stop - start == batch_size or not drop_last:
                yield self.read(order, start, stop)

    def _output_schema(self) -> pa.Schema:
        import pyarrow as pa

        table = self._engine.schema()
        fields = []
        for name, (top, *inner) in self._columns:
            if top in SYSTEM and top not in table.names:
                fields.append(pa.field(name, pa.uint64()))
                continue
            field = table.field(top)
            for part in inner:
                child = field.type.field(part)
                field = child.with_nullable(child.nullable or field.nullable)
            fields.append(with_bytes(field).with_name(name))
        return pa.schema(fields, metadata=table.metadata)


def path_of(schema: pa.Schema, name: str) -> tuple[str, ...]:
    """Find a column, or a field of structs by its dotted name: names from the top.

    Raises:
        ColumnNotFoundError: If there is none.
    """
    import pyarrow as pa

    if name in schema.names or name in SYSTEM:
        return (name,)

    def paths(fields: Iterable[pa.Field], rest: str) -> Iterator[tuple[str, ...]]:
        for field in fields:
            if rest == field.name:
                yield (field.name,)
            elif rest.startswith(f"{field.name}.") and pa.types.is_struct(field.type):
                inner = paths(list(field.type), rest[len(field.name) + 1 :])
                yield from ((field.name, *path) for path in inner)

    for path in paths(schema, name):
        return path
    known = ", ".join(f"`{column}`" for column in schema.names)
    message = f"column `{name}` does not exist; there are {known}"
    raise ColumnNotFoundError(message)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """Give a batch without rows."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(
        [pa.array([], field.type) for field in schema], schema=schema
    )


def is_blob(field: pa.Field) -> bool:
    """Whether a column's values are stored beside its rows."""
    metadata = field.metadata or {}
    extension = getattr(field.type, "extension_name", None)
    return (
        extension == "lance.blob.v2"
        or metadata.get(b"ARROW:extension:name") == b"lance.blob.v2"
        or b"lance-encoding:blob" in metadata
    )


def with_bytes(field: pa.Field) -> pa.Field:
    """Put binary in the place of blobs, however deep they lie."""
    import pyarrow as pa

    kind = field.type
    if is_blob(field):
        return pa.field(field.name, pa.large_binary(), metadata=field.metadata)
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([with_bytes(child) for child in kind]))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(with_bytes(kind.value_field)))
    if pa.types.is_large_list(kind):
        return field.with_type(pa.large_list(with_bytes(kind.value_field)))
    return field


def holds_blobs(field: pa.Field) -> bool:
    """Whether blobs lie inside the values of a column that is none itself."""
    return not is_blob(field) and with_bytes(field).type != field.type


def quoted(name: str) -> str:
    """Quote a column name for SQL, if it must be."""
    return name if name.isidentifier() and name.islower() else f"`{name}`"


def engine_of_handle(handle: Any, version: int | None, branch: str | None) -> Engine:
    """Give the engine of a LanceDB table or ``lance`` dataset, pinned to a version."""
    if type(handle).__module__.partition(".")[0] == "lance":
        # A handle of its own: writes through the user's move that one.
        with checking_out(handle.uri, version):
            at = handle.checkout_version((branch, version) if branch else version)
        return PylanceEngine(at)
    # A handle of its own: the user's may be moved to another version.
    with checking_out(handle.name, version):
        return LancedbEngine(handle.branches.checkout(branch or "main", version))


@contextmanager
def checking_out(table: str, version: int | None) -> Iterator[None]:
    """Raise ``TableChangedError`` for a version that a library does not find."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        is_gone = re.search("not found|no longer exists", str(error), re.IGNORECASE)
        if version is None or not is_gone:
            raise
        message = (
            f"version {version} of {table} is not there: if it was pinned before, it has been "
            "cleaned away since; tag a version to keep it"
        )
        raise TableChangedError(message) from error


def memory_table(name: str, data: pa.Table) -> Any:
    """Make a LanceDB table in memory, alone in its database.

    Raises:
        ImportError: If lancedb is not installed.
    """
    need("lancedb", "a LanceDB table in memory, as permutation_builder makes one,")
    import lancedb

    return lancedb.connect("memory://").create_table(name, data)


def engine_of_uri(
    uri: str,
    version: int | None,
    branch: str | None,
    storage_options: StorageOptions | None,
) -> Engine:
    """Open a table by address with pylance, or with lancedb if that is what is installed.

    Raises:
        UnsupportedError: If neither is installed.
    """
    if importlib.util.find_spec("lance") is not None:
        lance = importlib.import_module("lance")
        dataset = lance.dataset(uri, storage_options=storage_options)
        if version is not None:
            with checking_out(uri, version):
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
        f"{uri}: this needs the table's own library; "
        "pip install lanceloader[lance] or lanceloader[lancedb]"
    )
    raise UnsupportedError(message)
