"""The placeholder for a table that could not be opened while its process was starting."""

# ruff: noqa: ARG002

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from lanceloader.sources.base import RowReader, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions

__all__ = ["Unopened"]


class Unopened(Source):
    """Raises the error of opening the table as soon as the table is used.

    An error that is raised while a worker process unpickles its arguments would end the process
    without a message to the parent.
    """

    def __init__(self, error: Exception, state: dict[str, Any]) -> None:
        """Keep the error.

        Args:
            error: The exception that opening the table raised.
            state: The pickled state of the permutation.
        """
        self._error = error
        self.name = state["base_table_name"]
        self.version = state["version"]
        self.branch = state["branch"]
        self.rows_are_ids = state["rows_are_ids"]

    def _fail(self) -> NoReturn:
        raise self._error

    @property
    def schema(self) -> pa.Schema:
        self._fail()

    @property
    def num_rows(self) -> int:
        self._fail()

    def describe(self) -> str:
        return f"{self.name}, which could not be opened"

    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        self._fail()

    def rows_of_ids(self, row_ids: Any) -> tuple[Source, Order]:
        self._fail()

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        self._fail()

    def row_ids(self, order: Order) -> pa.Array:
        self._fail()

    def scan(
        self, columns: Sequence[str], order: Order, predicate: str | None
    ) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        self._fail()

    def engine(self) -> Engine:
        self._fail()
