"""Tables that the native reader reads: Lance tables in files, and Arrow data in memory."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lanceloader._native import Order, Table
from lanceloader.engine import ROW_ID, EngineReader, engine_of_uri
from lanceloader.errors import UnsupportedError
from lanceloader.numbers import numbers_of, numpy_of
from lanceloader.options import ReadOptions
from lanceloader.sources.arrow_sql import ArrowEngine
from lanceloader.sources.base import Reader, Source, answering
from lanceloader.sources.secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import StorageOptions
    from lanceloader.engine import Engine

__all__ = ["LanceSource", "MemorySource", "absolute", "name_of"]


def absolute(uri: str) -> str:
    """Make a path mean the same in every folder; URIs do."""
    return uri if "://" in uri else os.path.abspath(uri)  # noqa: PTH100


def name_of(uri: str) -> str:
    """Call a table by the last part of its address."""
    return uri.rstrip("/").rpartition("/")[2].removesuffix(".lance")


def checked_options(options: Any) -> StorageOptions:
    """Copy storage options.

    Raises:
        TypeError: If one is no string.
    """
    if options is not None and not isinstance(options, Mapping):
        message = f"storage_options of type {type(options).__name__}: wanted a dict"
        raise TypeError(message)
    for name, value in (options or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            message = f"storage_options: option {name!r} of type {type(value).__name__}: wanted a string"
            raise TypeError(message)
    return dict(options or {})


class NativeSource(Source):
    """A source that the native reader reads."""

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
    ) -> Reader:
        options = options or ReadOptions()
        try:
            return self.native.reader(columns, **options.for_native())
        except UnsupportedError:
            # A column that only the table's own library reads; it finds rows by id.
            return EngineReader(self.engine(), columns, ROW_ID, self.native)

    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        return self, self.native.order_of_row_ids(row_ids)

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        with answering("filter", predicate, self.column_names):
            rows = self.native.set_of_row_ids(self.engine().row_ids(predicate))
        return self, order.filtered(rows)

    def row_ids(self, order: Order) -> pa.Array:

        return numbers_of(self.native.row_ids(order, 0, len(order)))

    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        import pyarrow as pa

        del predicate  # the order has answered it
        names = [(ROW_ID, ROW_ID), *((name, name) for name in columns)]
        for found in self.reader(names).load(order, None, False):  # noqa: FBT003
            batch = pa.record_batch(found)
            yield batch.column(0), batch.select(list(range(1, len(names))))


class LanceSource(NativeSource):
    """A Lance table in files, on a disk or in object storage."""

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
            branch: Branch, or ``None`` for the main line.
            tag: Tag, instead of a version.
            storage_options: Options of the object store.
            name: What the table is called; by default the last part of the URI.
            make_engine: Gives the engine of the object it was made from, pinned. Not
                pickled: elsewhere, the table is opened by its address.
        """
        self.uri = absolute(uri)
        self.storage_options = checked_options(storage_options)
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
            self._native = Table.open(
                self.uri,
                version=self.version,
                branch=self.branch,
                storage_options=self.storage_options,
            )
        return self._native

    def describe(self) -> str:
        branch = f" of branch {self.branch}" if self.branch else ""
        return f"{self.uri} at version {self.version}{branch}"

    def engine(self) -> Engine:
        # The handles of another process are dead in this one.
        if self._make_engine is not None and self._pid == os.getpid():
            return self._make_engine()
        options = self.storage_options or None
        return engine_of_uri(self.uri, self.version, self.branch, options)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_native=None, _make_engine=None, _pid=None)
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
        """Take ``data``, an object with ``__arrow_c_stream__``, over.

        Args:
            data: The rows. They are not copied.
            name: What to call them.
            row_ids: The column that is not data, but the ids of the rows.
            version: The version of the table they were read from.
            branch: The branch of that version.
            make_engine: Gives the engine of that table.
        """
        import pyarrow as pa

        self.name = name
        self.version = version
        self.branch = branch
        # By way of pyarrow, which takes null columns as polars makes them. No copy.
        try:
            stream = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowInvalid as error:
            message = (
                f"{type(data).__name__} with a column of a type that pyarrow does not know "
                f"({error}); cast the column, or leave it out"
            )
            raise UnsupportedError(message) from error
        self._native = Table.from_arrow(stream, row_ids=row_ids)
        self._make_engine = make_engine
        names = self.column_names
        twice = [column for column in dict.fromkeys(names) if names.count(column) > 1]
        if twice:
            message = (
                f"{name} has several columns `{twice[0]}`: wanted one of each name"
            )
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
        with answering("filter", predicate, self.column_names):
            found = self.engine().row_ids(predicate).read_all()
        return self, order.filtered(Order.set(numpy_of(found.column(0))))

    def to_arrow(self) -> pa.Table:
        """Give the data, without a copy."""
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
