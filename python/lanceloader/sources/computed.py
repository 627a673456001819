"""Columns that SQL expressions define: computed once by the table's own library, and kept.

For a Lance table, the values are kept in the cache folder as a table of Lance's own: a shallow
clone of the version, whose columns are those of the table and the computed ones. A clone refers to the
files of the table and adds only the values, so rows, row ids and deletions are those of the table. For
Arrow data they are kept in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader.engine import ROW_ID
from lanceloader.errors import StorageError, UnsupportedError
from lanceloader.sources.clones import (
    DESCRIPTION,
    LOCK,
    TABLE,
    clone,
    expression_errors,
    key_of,
    locked,
    locked_folder,
)
from lanceloader.sources.native import LanceSource, MemorySource, NativeSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from lanceloader._native import Order, Table
    from lanceloader._typing import Progress
    from lanceloader.engine import Engine
    from lanceloader.options import ReadOptions
    from lanceloader.sources.base import RowReader, Source

__all__ = ["ComputedSource", "computed", "name_of_expression"]

FOLDER = "computed"
"""The folder of computed columns in the cache folder."""


def name_of_expression(text: str) -> str:
    """Return the name of the column that holds the values of an expression."""
    return "computed_" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def computed(
    source: Source,
    texts: Sequence[str],
    folder: str | None,
    *,
    progress: Progress = False,
) -> ComputedSource:
    """Return a source that also has the columns of some SQL expressions.

    Args:
        source: A source; its computed columns stay.
        texts: The expressions, over the columns of the table.
        folder: The cache folder, or ``None`` for one that lasts as long as this process.
        progress: Whether to show a progress bar while they are computed.

    Raises:
        ColumnNotFoundError: If an expression names a column that does not exist.
        ValueError: If an expression is not valid.
        UnsupportedError: If the source cannot have computed columns.
    """
    base, known = source, {}
    if isinstance(source, ComputedSource):
        base, known = source.base, source.expressions
    if not isinstance(base, LanceSource | MemorySource):
        message = (
            f"expressions cannot be computed for table {base.name!r}, which is read by its own "
            "library: add the column to the table, as with table.add_columns, or compute it in "
            "the `transform` of a loader"
        )
        raise UnsupportedError(message)
    if isinstance(base, LanceSource) and is_remote(base.uri):
        # Lance would write the clone into the object store.
        message = (
            f"expressions are not computed for tables in object storage, such as {base.uri}: add "
            "the column to the table, as with dataset.add_columns, copy the rows to a disk with "
            "materialize, or compute it in the `transform` of a loader"
        )
        raise UnsupportedError(message)
    expressions = {**known, **{name_of_expression(text): text for text in texts}}
    taken = expressions.keys() & {*base.column_names}
    if taken:
        message = f"the table has a column `{min(taken)}`, a name of computed columns"
        raise UnsupportedError(message)
    new = ComputedSource(base, expressions, folder)
    new.compute(progress=progress)
    return new


class ComputedSource(NativeSource):
    """A table with computed columns. Everything but these is that of the table.

    Attributes:
        base: The table.
        expressions: The SQL expressions by the names of their columns.
    """

    def __init__(
        self,
        base: LanceSource | MemorySource,
        expressions: dict[str, str],
        folder: str | None,
    ) -> None:
        """Refer to computed columns, which ``compute`` computes.

        Args:
            base: The table.
            expressions: The SQL expressions by the names of their columns.
            folder: The cache folder, or ``None``.
        """
        self.base = base
        self.expressions = expressions
        self.name, self.version, self.branch = base.name, base.version, base.branch
        self._folder = folder
        self._temporary: str | None = None
        self._values: NativeSource | None = None
        self._lock: Any = None

    def only(self, names: Iterable[str]) -> Source:
        """Return the source with some of its computed columns only, or the table without any."""
        kept = {
            name: self.expressions[name] for name in names if name in self.expressions
        }
        return ComputedSource(self.base, kept, self._folder) if kept else self.base

    @property
    def native(self) -> Table:
        return self.base.native

    @property
    def table(self) -> Source:
        return self.base

    def describe(self) -> str:
        return self.base.describe()

    def reader(
        self, columns: Sequence[tuple[str, str]], options: ReadOptions | None = None
    ) -> RowReader:
        tops = {name.partition(".")[0] for _, name in columns}
        if tops.isdisjoint(self.expressions):
            return self.base.reader(columns, options)
        return self.compute().reader(columns, options)

    def matching(self, predicate: str, order: Order) -> tuple[Source, Order]:
        _, rows = self.base.matching(predicate, order)
        return self, rows

    def row_ids(self, order: Order) -> pa.Array:
        return self.base.row_ids(order)

    def engine(self) -> Engine:
        return self.base.engine()

    def compute(self, *, progress: Progress = False) -> NativeSource:
        """Return the source with the values, which are computed if they are not there yet.

        Raises:
            ColumnNotFoundError: If an expression names a column that does not exist.
            ValueError: If an expression is not valid.
        """
        if self._values is None:
            if isinstance(self.base, MemorySource):
                values = in_memory(self.base, self.expressions)
                self._values = with_columns(self.base, values)
            else:
                self._values = self._opened(self.base, progress)
        return self._values

    def _opened(self, base: LanceSource, progress: Progress) -> NativeSource:
        """Open the clone of a table, which is made if it is not in the cache folder."""
        folder = Path(self._root()) / FOLDER / key_of(base, self.expressions)
        try:
            # One process computes, and the others wait for it.
            making = locked_folder(folder)
        except OSError as error:
            message = f"computed columns cannot be kept in {folder}: {error}"
            raise StorageError(message) from error
        try:
            if not (folder / DESCRIPTION).exists():
                clone(base, self.expressions, folder, progress)
            (folder / DESCRIPTION).touch()
            values = LanceSource(
                str(folder / TABLE), storage_options=base.storage_options
            )
            # Shared with other processes, and other sources of this one.
            lock = locked(folder / LOCK, fcntl.LOCK_SH)
        finally:
            os.close(making)
        self._lock = weakref.finalize(self, os.close, lock)
        return values

    def _root(self) -> str:
        """Return the cache folder, or a temporary one, which workers share while it is there."""
        if self._folder is not None:
            return self._folder
        if self._temporary is None or not Path(self._temporary).exists():
            self._temporary = tempfile.mkdtemp(prefix="lanceloader-")
            weakref.finalize(self, remove_own, self._temporary, os.getpid())
        return self._temporary

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_values": None, "_lock": None}
        if isinstance(self.base, MemorySource) and self._values is not None:
            # Computing them again needs a library that the other process may lack.
            names = list(self.expressions)
            whole: Any = self._values
            state["_values"] = whole.to_arrow().select(names)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._values is not None:
            values: Any = self._values
            memory: Any = self.base
            self._values = with_columns(memory, values)


def is_remote(uri: str) -> bool:
    """Return whether a table lies in an object store."""
    return "://" in uri and not uri.startswith("file://")


def remove_own(folder: str, pid: int) -> None:
    """Remove a folder of this process, unless this is a forked child of it."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def in_memory(base: MemorySource, expressions: dict[str, str]) -> pa.Table:
    """Return the values of expressions for all rows of Arrow data, in their order."""
    import pyarrow.compute as pc

    with expression_errors(expressions, base.column_names):
        found = base.calculate(expressions, None)
    ids = base.row_ids(base.all_rows())
    rows = found[ROW_ID].combine_chunks()
    values = found.select(list(expressions))
    return values.take(pc.index_in(ids, value_set=rows.cast(ids.type)))


def with_columns(base: MemorySource, values: pa.Table) -> MemorySource:
    """Return Arrow data with further columns."""
    data = base.to_arrow()
    for name in values.column_names:
        data = data.append_column(values.schema.field(name), values[name])
    return base.with_data(data)
