"""Tables that only their own library reads: remote tables, and those in legacy file formats."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader._native import Order
from lanceloader.engine import ROW_ID, ROW_OFFSET, engine_of_handle, engine_of_uri
from lanceloader.engine_reader import EngineReader
from lanceloader.errors import UnsupportedError
from lanceloader.monitor.progress import waiting
from lanceloader.numbers import numpy_of, offsets_of
from lanceloader.sources.base import RowReader, Source, sql_errors
from lanceloader.sources.secrets import may_travel, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import StorageOptions
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions

__all__ = ["EngineSource", "TableAddress", "TableHandle"]


class TableOpener(Protocol):
    """Opens a table with its own library. Its pickle holds no credentials."""

    @property
    def table(self) -> Any:
        """The table object, or the address, from which a user would open the table."""

    def engine(self) -> Engine:
        """Open the table at its version."""


@dataclass(frozen=True)
class TableAddress:
    """Opens a table by its address."""

    table: str
    version: int | None
    branch: str | None
    storage_options: StorageOptions

    def engine(self) -> Engine:
        return engine_of_uri(
            self.table, self.version, self.branch, self.storage_options or None
        )

    def __reduce__(self) -> tuple[type[TableAddress], tuple[Any, ...]]:
        options = without_secrets(self.storage_options)
        return TableAddress, (self.table, self.version, self.branch, options)


class TableHandle:
    """Opens a table through an object of its library, which can be pickled if it is remote."""

    def __init__(self, table: Any, version: int | None, branch: str | None) -> None:
        """Keep the table object. It is never checked out at another version.

        Args:
            table: A LanceDB table or a ``lance`` dataset.
            version: The version to open.
            branch: The branch of the version, or ``None`` for the main branch.
        """
        self.table = table
        self.version = version
        self.branch = branch

    def engine(self) -> Engine:
        try:
            return engine_of_handle(self.table, self.version, self.branch)
        except ValueError as error:
            if "api_key" not in str(error):
                raise
            message = (
                f"table {self.table.name!r} was unpickled without its API key, because pickles "
                "hold no credentials; set LANCEDB_API_KEY in this process, or pass a function "
                "that connects to `with_connection_factory` before pickling"
            )
            raise ValueError(message) from error

    def __getstate__(self) -> dict[str, Any]:
        table = self.table
        if hasattr(table, "_serialized_connection_state") and not may_travel():
            table = copy.copy(table)
            connection = json.loads(table._serialized_connection_state())
            table._connection_state = json.dumps(
                {"api_key": None, **without_secrets(connection)}
            )
        return {**self.__dict__, "table": table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if hasattr(self.table, "_serialized_connection_state"):
            connection = json.loads(self.table._serialized_connection_state())
            if connection.get("api_key") is None:
                connection["api_key"] = os.environ.get("LANCEDB_API_KEY")
            self.table._connection_state = json.dumps(connection)


class EngineSource(Source):
    """A table that is read through an engine.

    Its orders hold row offsets. After a filter or with a permutation table, they hold row ids.
    """

    def __init__(
        self, opener: TableOpener, *, name: str, version: int | None, branch: str | None
    ) -> None:
        """Create the source; nothing is opened yet.

        Args:
            opener: Opens the table.
            name: The name of the table.
            version: The version of the table.
            branch: The branch of the version, or ``None`` for the main branch.
        """
        self.name = name
        self.version = version
        self.branch = branch
        self.opener = opener
        self.rows_are_ids = False
        self._engine: Engine | None = None
        self._pid: int | None = None
        self._num_rows: int | None = None

    @property
    def _key(self) -> str:
        return ROW_ID if self.rows_are_ids else ROW_OFFSET

    @property
    def schema(self) -> pa.Schema:
        return self.engine().schema()

    @property
    def num_rows(self) -> int:
        if self._num_rows is None:
            with waiting(f"counting rows of {self.name}"):
                self._num_rows = self.engine().count_rows()
        return self._num_rows

    def describe(self) -> str:
        return f"{self.name} at version {self.version}, read by its own library"

    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        if options is not None and options.read in ("resident", "external"):
            message = (
                f'`read="{options.read}"` needs the native reader, but table {self.name!r} can '
                "only be read by its own library; copy the table with `materialize` first"
            )
            raise UnsupportedError(message)
        return EngineReader(self.engine(), columns, self._key)

    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        return self._by_row_id(), Order.listed(row_ids)

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        if not self.rows_are_ids and order.num_bytes > Order.all(0).num_bytes:
            message = (
                f"table {self.name!r} is read by its own library and can only be filtered before "
                "it is shuffled, split or sliced; apply the filter first"
            )
            raise UnsupportedError(message)
        with sql_errors("filter", predicate, self.column_names):
            rows = Order.set(_column(self.engine().row_ids(predicate)))
        if not self.rows_are_ids:
            return self._by_row_id(), rows
        return self, order.filtered(rows)

    def row_ids(self, order: Order) -> pa.Array:
        if self.rows_are_ids:
            return offsets_of(order)
        # Servers return rows in any order, so row offsets count rows by ascending id.
        return offsets_of(Order.set(_column(self.engine().row_ids())).pick(order))

    def calculate(self, expressions: dict[str, str], predicate: str | None) -> pa.Table:
        return super().calculate(expressions, predicate).sort_by(ROW_ID)

    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        del order  # `predicate` selects the same rows, in one request
        names = [*columns, ROW_ID]
        found = self.engine().scan({name: name for name in names}, predicate).read_all()
        for batch in found.sort_by(ROW_ID).to_batches():
            yield batch.column(len(columns)), batch.select(list(columns))

    def engine(self) -> Engine:
        # Handles that were opened before a fork do not work in the child.
        if self._engine is None or self._pid != os.getpid():
            self._engine = self.opener.engine()
            self._pid = os.getpid()
        return self._engine

    def _by_row_id(self) -> EngineSource:
        new = object.__new__(EngineSource)
        new.__dict__.update(self.__dict__, rows_are_ids=True)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_pid": None}


def _column(stream: Any) -> Any:
    """Return the only column of a stream as a NumPy array."""
    return numpy_of(stream.read_all().column(0))
