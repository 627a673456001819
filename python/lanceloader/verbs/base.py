"""``View``: the state of a permutation, its properties and its representations."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, Self

from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.engine import ROW_ID
from lanceloader.options import ReadOptions
from lanceloader.transport.workers import attach

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from lanceloader._native import Order
    from lanceloader._typing import Transform
    from lanceloader.sources import RowReader, Source

__all__ = ["DEFAULT_BATCH_SIZE", "View"]

CHANGE_READER = ("selection", "source", "read_options", "file_columns")
"""The attributes that the reader depends on."""

DEFAULT_BATCH_SIZE = 100
"""The default number of rows in a batch, the same as in LanceDB."""


class View:
    """The state of a permutation: a source, an order, columns and a transform."""

    split_number: int
    selection: dict[str, str]
    batch_size: int
    transform_fn: Transform
    offset: int | None
    limit: int | None
    connection_factory: Callable[[str], Any] | None
    _base_table: Any
    _permutation_table: Any

    source: Source
    unsliced_order: Order
    """The rows before skip and take."""
    order: Order
    """The rows after skip and take."""
    read_options: ReadOptions
    """How the rows are read."""
    _opened: dict[int, RowReader]
    """The reader of the selected columns, by process; copies that read the same share it."""
    randomness: tuple[int, int] = (0, 0)
    """The seed and the epoch of random transforms: those of the last shuffle or sample."""
    file_columns: tuple[str, ...] = ()
    """The blob columns of the table that are read as files; their row ids are read in their places."""
    is_shard: bool = False
    """Whether these are the rows of one rank already, so that a loader must not shard them again."""
    _warm: RowReader | None = None
    """The reader that keeps the rows packed by ``warm``."""
    _format_reader: tuple[RowReader, Any, RowReader] | None = None
    """The plain reader, the requirements of a format, and the reader that meets them."""

    def assign(
        self,
        source: Source,
        rows: Order,
        split: int,
        selection: dict[str, str] | None = None,
    ) -> None:
        """Set all attributes to LanceDB's defaults.

        Without a selection all columns are selected, which opens the source.
        """
        self.source = source
        self.unsliced_order = rows
        self.order = rows
        self.split_number = split
        if selection is None:
            selection = {name: name for name in source.column_names}
        self.selection = selection
        self.batch_size = DEFAULT_BATCH_SIZE
        self.transform_fn = Transforms.arrow2python
        self.offset = None
        self.limit = None
        self.connection_factory = None
        self.read_options = ReadOptions()
        self._opened = {}

    def assign_tables(self, base_table: Any, permutation_table: Any = None) -> None:
        """Set the tables that the permutation was made from."""
        self._base_table = base_table
        self._permutation_table = permutation_table

    def assigned_tables(self) -> tuple[Any, Any]:
        """Return the two tables, or what makes them again after unpickling."""
        return self._base_table, self._permutation_table

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with changed attributes, which shares the reader if that still applies."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__ | changes)
        if not changes.keys().isdisjoint(CHANGE_READER):
            new._opened = {}
        return new

    def __copy__(self) -> Self:
        return self._replace()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Sources and orders are immutable; a transform may not be.
        return self._replace(
            selection=self.selection.copy(),
            transform_fn=copy.deepcopy(self.transform_fn, memo),
        )

    def with_rows(self, rows: Order, source: Source | None = None) -> Self:
        """Return a copy with other rows, without the skip and take of this one."""
        changes: dict[str, Any] = {"unsliced_order": rows, "order": rows}
        if source is not None and source is not self.source:
            changes["source"] = source
        return self._replace(**changes, offset=None, limit=None)

    def with_seed(self, seed: int, epoch: int = 0) -> Self:
        """Return a copy whose random transforms draw with another seed, in the same order."""
        return self._replace(randomness=(seed, epoch))

    def with_selection(self, selection: dict[str, str]) -> Self:
        """Return a copy with other columns: a dict of names to names in the table."""
        return self._replace(selection=selection)

    def open_reader(self) -> RowReader:
        """Return the reader of the selected columns, opened on first use in each process."""
        pid = os.getpid()
        reader = self._opened.get(pid)
        if reader is None:
            attach()
            columns = [
                (name, ROW_ID if column in self.file_columns else column)
                for name, column in self.selection.items()
            ]
            opened = self.source.reader(columns, self.read_options)
            # Another thread may have been faster; one reader keeps the packed rows for all.
            reader = self._opened.setdefault(pid, opened)
            for inherited in [other for other in self._opened if other != pid]:
                self._opened.pop(inherited, None)
        return reader

    @property
    def reader(self) -> RowReader:
        """The reader of the selected columns."""
        return self.open_reader()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the batches, with the metadata of fields and table."""
        import pyarrow as pa

        return pa.schema(self.open_reader())

    @property
    def num_rows(self) -> int:
        """The number of rows, which never changes."""
        return self.order.num_rows

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return len(self.selection)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in the order of the batches."""
        return list(self.selection)

    @property
    def shape(self) -> tuple[int, int]:
        """``(num_rows, num_columns)``."""
        return self.num_rows, self.num_columns

    @property
    def version(self) -> int | None:
        """The version of the table that is read, or ``None`` for data without versions."""
        return self.source.version

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        columns = "column" if self.num_columns == 1 else "columns"
        return (
            f"<Permutation of {self.num_rows:,} rows and {self.num_columns} {columns} of "
            f"{self.source.describe()}>"
        )
