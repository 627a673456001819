"""Sources that the native reader reads: Lance tables in files, and Arrow data in memory."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lanceloader._native import Order, Table
from lanceloader.engine import ROW_ID, engine_of_uri
from lanceloader.engine_reader import EngineReader
from lanceloader.errors import TableChangedError, UnsupportedError
from lanceloader.numbers import numbers_of, numpy_of
from lanceloader.options import ReadOptions
from lanceloader.sources.arrow_sql import ArrowEngine
from lanceloader.sources.base import RowReader, Source, sql_errors
from lanceloader.sources.mistakes import warn_of_misspelt
from lanceloader.sources.secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import StorageOptions
    from lanceloader.engine import Engine

__all__ = ["LanceSource", "MemorySource", "absolute", "name_of"]


def absolute(uri: str) -> str:
    """Return an absolute path. URIs are returned unchanged."""
    return uri if "://" in uri else os.path.abspath(uri)  # noqa: PTH100


def name_of(uri: str) -> str:
    """Return the last component of a table's address, without ``.lance``."""
    return uri.rstrip("/").rpartition("/")[2].removesuffix(".lance")


def checked_options(options: Any) -> StorageOptions:
    """Return a copy of storage options.

    Raises:
        TypeError: If they are not a dict of strings.
    """
    if options is not None and not isinstance(options, Mapping):
        message = (
            "`storage_options` must be a dict of strings, not of type "
            f"{type(options).__name__}"
        )
        raise TypeError(message)
    for name, value in (options or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            message = (
                f"`storage_options` must be a dict of strings, but option {name!r} has a value "
                f"of type {type(value).__name__}"
            )
            raise TypeError(message)
    return dict(options or {})


class NativeSource(Source):
    """The base of the sources that the native reader reads."""

    @property
    @abstractmethod
    def native(self) -> Table:
        """The open table."""

    @property
    def schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(self.native)

    @property
    def column_names(self) -> list[str]:
        return self.native.column_names

    @property
    def num_rows(self) -> int:
        return self.native.num_rows

    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        options = options or ReadOptions()
        try:
            return self.native.reader(columns, **options.for_native())
        except UnsupportedError:
            # Only the table's own library reads some columns; it looks rows up by id.
            return EngineReader(self.engine(), columns, ROW_ID, self.native)

    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        return self, self.native.order_of_row_ids(row_ids)

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        with sql_errors("filter", predicate, self.column_names):
            rows = self.native.set_of_row_ids(self.engine().row_ids(predicate))
        return self, order.filtered(rows)

    def row_ids(self, order: Order) -> pa.Array:
        return numbers_of(self.native.row_ids(order, 0, len(order)))

    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        import pyarrow as pa

        del predicate  # `order` holds exactly the matching rows
        names = [(ROW_ID, ROW_ID), *((name, name) for name in columns)]
        for found in self.reader(names).load(order, None, False):  # noqa: FBT003
            batch = pa.record_batch(found)
            yield batch.column(0), batch.select(list(range(1, len(names))))


class LanceSource(NativeSource):
    """A Lance table in files, on disk or in object storage."""

    _identity: str | None = None
    """Which table it is; unknown in pickles of version 0.1.0."""

    def __init__(
        self,
        uri: str,
        *,
        version: int | None = None,
        branch: str | None = None,
        tag: str | None = None,
        storage_options: StorageOptions | None = None,
        name: str | None = None,
        make_engine: Callable[[], Engine] | None = None,
    ) -> None:
        """Open the table; see ``open_source``.

        Args:
            uri: Path or URI.
            version: Version number, or ``None`` for the latest.
            branch: Branch, or ``None`` for the main branch.
            tag: Tag, instead of a version.
            storage_options: Options of the object store.
            name: The name of the table, by default the last component of the URI.
            make_engine: Returns an engine of the user's table object, at this version. It is
                not pickled: other processes open the table by its address.
        """
        self.uri = absolute(uri)
        self.storage_options = checked_options(storage_options)
        if "://" in uri:
            warn_of_misspelt(self.storage_options)
        self._make_engine = make_engine
        self._pid = os.getpid()
        self._native: Table | None = Table.open(
            self.uri,
            version=version,
            branch=branch,
            tag=tag,
            storage_options=self.storage_options,
        )
        self.version = self._native.version
        self.branch = self._native.branch
        self.name = name or name_of(uri)

    @property
    def native(self) -> Table:
        if self._native is None:
            self._native = self.check_same()
        return self._native

    @property
    def identity(self) -> str | None:
        """The identity of the version, by the names of its files: the same for a table that was moved."""
        if self._identity is None:
            self._identity = self.native.identity
        return self._identity

    def check_same(self) -> Table:
        """Open the version again, and check that it is the same table.

        Raises:
            TableChangedError: If the table is gone, or there is another one at its address.
        """
        try:
            table = Table.open(
                self.uri,
                version=self.version,
                branch=self.branch,
                storage_options=self.storage_options,
            )
        except FileNotFoundError as error:
            message = f"the table {self.describe()} is gone: {error}"
            raise TableChangedError(message) from error
        if self._identity is not None and table.identity != self._identity:
            message = (
                f"{self.describe()} is another table than the one that was opened: it was dropped "
                "and created again. Open it again for its current rows"
            )
            raise TableChangedError(message)
        return table

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        # The engine opens the table by its address, where another one may lie by now.
        identity = self.identity
        try:
            found = super().matching(predicate, order)
        except Exception:
            self.check_same()
            raise
        if identity is not None:
            self.check_same()
        return found

    def describe(self) -> str:
        branch = f" of branch {self.branch}" if self.branch else ""
        return f"{self.uri} at version {self.version}{branch}"

    def engine(self) -> Engine:
        # Handles that were opened before a fork do not work in the child.
        if self._make_engine is not None and self._pid == os.getpid():
            return self._make_engine()
        options = self.storage_options or None
        return engine_of_uri(self.uri, self.version, self.branch, options)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_native=None, _make_engine=None, _pid=None)
        # The other process must notice if there is another table at this address by then.
        state["_identity"] = self.identity
        state["storage_options"] = without_secrets(self.storage_options)
        return state


class MemorySource(NativeSource):
    """Arrow data in memory."""

    def __init__(
        self,
        data: Any,
        *,
        name: str = "data",
        row_ids: str | None = None,
        version: int | None = None,
        branch: str | None = None,
        make_engine: Callable[[], Engine] | None = None,
    ) -> None:
        """Wrap Arrow data, without a copy.

        Args:
            data: The rows, an object with ``__arrow_c_stream__``.
            name: The name of the data.
            row_ids: The column that holds row ids instead of data.
            version: The version of the table that the rows were read from.
            branch: The branch of that version.
            make_engine: Returns the engine of that table.

        Raises:
            UnsupportedError: If pyarrow does not support the type of a column.
            ValueError: If two columns have the same name.
        """
        import pyarrow as pa

        self.name = name
        self.version = version
        self.branch = branch
        # pyarrow accepts the null columns that polars exports; the native reader does not.
        try:
            stream = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowInvalid as error:
            message = (
                f"a column of the {type(data).__name__} has a type that pyarrow does not support "
                f"({error}); cast or drop the column"
            )
            raise UnsupportedError(message) from error
        self._native = Table.from_arrow(stream, row_ids=row_ids)
        self._make_engine = make_engine
        names = self.column_names
        repeated = [column for column in names if names.count(column) > 1]
        if repeated:
            message = f"{name} has several columns `{repeated[0]}`; column names must be unique"
            raise ValueError(message)

    @property
    def native(self) -> Table:
        return self._native

    def describe(self) -> str:
        version = "" if self.version is None else f" at version {self.version}"
        return f"{self.name}{version}, in memory"

    def engine(self) -> Engine:
        if self._make_engine is not None:
            return self._make_engine()
        return ArrowEngine(self.to_arrow())

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        if self._make_engine is not None:
            return super().matching(predicate, order)
        with sql_errors("filter", predicate, self.column_names):
            found = self.engine().row_ids(predicate).read_all()
        return self, order.filtered(Order.set(numpy_of(found.column(0))))

    def with_data(self, data: pa.Table) -> MemorySource:
        """Return a source of other data for the same rows, without the engine of a table."""
        state = self.__getstate__()
        if state["row_ids"] is not None:
            data = data.append_column(ROW_ID, state["data"][ROW_ID])
        return MemorySource(**{**state, "data": data})

    def to_arrow(self) -> pa.Table:
        """Return the data, without a copy."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_stream(self.native).read_all()

    def __getstate__(self) -> dict[str, Any]:
        data = self.to_arrow()
        known = self.native.known_row_ids
        row_ids = None
        if known is not None:
            row_ids = ROW_ID
            data = data.append_column(row_ids, numbers_of(known))
        return {
            "data": data,
            "name": self.name,
            "row_ids": row_ids,
            "version": self.version,
            "branch": self.branch,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        MemorySource.__init__(self, **state)
