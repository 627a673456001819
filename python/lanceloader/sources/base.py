"""The interface of all sources and of their readers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader._native import Order
from lanceloader.errors import (
    CorruptFileError,
    LanceloaderError,
    TableChangedError,
)
from lanceloader.sql import sql_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import ArrowArrayExportable
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions

__all__ = ["RowReader", "Source", "sql_errors"]


class RowReader(Protocol):
    """A reader of selected columns, which reads rows by their positions in an order."""

    def __arrow_c_schema__(self) -> Any:
        """Return the schema of the batches as a capsule."""

    def take(self, order: Order, positions: Sequence[int]) -> ArrowArrayExportable:
        """Return the rows at ``positions``, in that order."""

    def read(self, order: Order, start: int, stop: int) -> ArrowArrayExportable:
        """Return the rows at positions ``start`` to ``stop`` (exclusive)."""

    def load(
        self,
        order: Order,
        batch_size: int | None,
        drop_last: bool,  # noqa: FBT001
    ) -> Iterator[ArrowArrayExportable]:
        """Iterate over all rows in batches.

        Args:
            order: The rows.
            batch_size: The rows per batch, or ``None`` for as many as are read at once.
            drop_last: Whether to skip a last batch with fewer rows.
        """


class Source(ABC):
    """A table at one version."""

    name: str
    """The name of the table, with which a connection factory is called."""

    version: int | None
    """The version, or ``None`` for Arrow data, which has no versions."""

    rows_are_ids: bool = False
    """Whether orders hold row ids instead of row offsets."""

    branch: str | None
    """The branch of the version, or ``None`` for the main branch."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The schema of the table."""

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.schema.names)

    @property
    def table(self) -> Source:
        """The source of the table itself, without computed columns and windows."""
        return self

    def stored_name(self, column: str) -> str:
        """Return the column of the table that holds the values of a column; empty if there is none."""
        return column

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The number of rows, without deleted ones."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the source in one line."""

    @abstractmethod
    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        """Create a reader of ``columns``, which are pairs of output name and source name."""

    @abstractmethod
    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        """Return the rows with these ids, in the same order, and the source that reads them."""

    @abstractmethod
    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        """Return the rows of ``order`` that match an SQL predicate, and their source."""

    @abstractmethod
    def row_ids(self, order: Order) -> pa.Array:
        """Return the row ids of ``order`` as uint64."""

    @abstractmethod
    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        """Iterate over the row ids and the values of ``columns`` of the matching rows.

        Args:
            columns: The columns.
            order: The rows that match ``predicate``.
            predicate: The SQL predicate that selected ``order``, or ``None`` for all rows.
        """

    def calculate(self, expressions: dict[str, str], predicate: str | None) -> pa.Table:
        """Evaluate SQL expressions on the rows that match ``predicate``.

        Args:
            expressions: SQL expressions by output name.
            predicate: An SQL predicate, or ``None`` for all rows.

        Returns:
            A table with one column per expression and the column ``_rowid``.
        """
        columns = expressions | {"_rowid": "_rowid"}
        return self.engine().scan(columns, predicate).read_all()

    @abstractmethod
    def engine(self) -> Engine:
        """Return an engine that queries the table with its own library."""

    def all_rows(self) -> Order:
        """Return all rows in storage order."""
        return Order.all(self.num_rows)


@contextmanager
def sql_errors(what: str, text: str, columns: Sequence[str]) -> Iterator[None]:
    """Turn errors of a library about an SQL text into a ``ValueError`` that quotes the text.

    Args:
        what: The kind of text, for the message: ``"filter"`` or ``"expression"``.
        text: The SQL text.
        columns: The names of the existing columns.
    """
    try:
        yield
    except LanceloaderError:
        # Not about the text, and the message is complete.
        raise
    except Exception as error:
        # pylance turns exceptions of a signal handler into errors with the same text.
        if str(error).startswith("External error: KeyboardInterrupt"):
            raise KeyboardInterrupt from error
        # LanceDB's planner panics on some expressions, with a class that is not public.
        is_panic = type(error).__name__ == "RustPanic"
        if not is_panic and not isinstance(error, RuntimeError | ValueError | OSError):
            raise
        fault = storage_fault(what, text, error)
        raise fault or sql_error(what, text, error, columns) from error


_GONE = re.compile(r"Not found: \S+\.lance|Dataset at path .* was not found")
_DAMAGED = re.compile(
    r"failed to fill whole buffer|Invalid range .* for object of size"
)


def storage_fault(what: str, text: str, error: Exception) -> LanceloaderError | None:
    """Return the error for files that are gone or damaged, or ``None`` for other errors.

    The libraries raise the same classes for these as for an SQL text that is wrong.
    """
    if _GONE.search(str(error)):
        message = f"the files of the table are gone, so {what} {text!r} cannot be evaluated: {error}"
        return TableChangedError(message)
    if _DAMAGED.search(str(error)):
        message = f"the files of the table are damaged, so {what} {text!r} cannot be evaluated: {error}"
        return CorruptFileError(message)
    return None
