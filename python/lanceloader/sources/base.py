"""What a permutation asks of a table, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from lanceloader._native import Order
from lanceloader.errors import LanceloaderError
from lanceloader.sql import complaint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import ArrowArrayExportable
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions

__all__ = ["Reader", "Source", "answering"]


class Reader(Protocol):
    """Reads chosen columns, rows by position in an order."""

    def __arrow_c_schema__(self) -> Any:
        """Give the schema of the batches."""

    def take(self, order: Order, positions: Sequence[int]) -> ArrowArrayExportable:
        """Give the rows at ``positions``, in that order."""

    def read(self, order: Order, start: int, stop: int) -> ArrowArrayExportable:
        """Give the rows at positions ``start`` to ``stop``."""

    def load(
        self,
        order: Order,
        batch_size: int | None,
        drop_last: bool,  # noqa: FBT001
    ) -> Iterator[ArrowArrayExportable]:
        """Give all rows in batches of ``batch_size``, or of what is read at once."""


class Source(ABC):
    """A table at one version."""

    name: str
    """What the table is called; a connection factory is given this name."""

    version: int | None
    """The version it is pinned to, if it has versions."""

    rows_are_ids: bool = False
    """Whether orders hold row ids, not row offsets."""

    branch: str | None
    """The branch of that version, if it is not the main line."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns."""

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.schema.names)

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The number of live rows."""

    @abstractmethod
    def describe(self) -> str:
        """Say in one line where the rows come from."""

    @abstractmethod
    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> Reader:
        """Make a reader of ``columns``, pairs of output name and source name."""

    @abstractmethod
    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        """Find the rows with these ids, in this order."""

    @abstractmethod
    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        """Keep the rows of ``order`` for which an SQL predicate is true."""

    @abstractmethod
    def row_ids(self, order: Order) -> pa.Array:
        """Give the row ids of ``order``."""

    @abstractmethod
    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        """Give the row ids and ``columns`` of ``order``, the rows where ``predicate`` is true."""

    def calculate(self, expressions: dict[str, str], predicate: str | None) -> pa.Table:
        """Give SQL expressions, by output name, and row ids where ``predicate`` is true."""
        columns = expressions | {"_rowid": "_rowid"}
        return self.engine().scan(columns, predicate).read_all()

    @abstractmethod
    def engine(self) -> Engine:
        """Give the table's own library, for what only it can answer."""

    def all_rows(self) -> Order:
        """Give every row, in storage order."""
        return Order.all(self.num_rows)


@contextmanager
def answering(what: str, text: str, columns: Sequence[str]) -> Iterator[None]:
    """Make a ``ValueError`` that names an SQL text of what a library says of it."""
    try:
        yield
    except LanceloaderError:
        # It says itself what is wrong, which is not the text.
        raise
    except Exception as error:
        # Of what a signal handler raised while pylance reads, it keeps the text alone.
        if str(error).startswith("External error: KeyboardInterrupt"):
            raise KeyboardInterrupt from error
        # LanceDB's planner panics on some expressions; its class for that is not public.
        is_panic = type(error).__name__ == "RustPanic"
        if not is_panic and not isinstance(error, RuntimeError | ValueError | OSError):
            raise
        raise complaint(what, text, error, columns) from error
