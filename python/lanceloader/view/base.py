"""What every permutation holds, and what it says of itself."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, Self

from lanceloader.options import ReadOptions
from lanceloader.transforms import Transforms

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from lanceloader._native import Order
    from lanceloader._typing import Transform
    from lanceloader.sources import Reader, Source

__all__ = ["DEFAULT_BATCH_SIZE", "View"]

DEFAULT_BATCH_SIZE = 100
"""Rows of a batch where none are asked for: LanceDB's number."""


class View:
    """The state of a permutation: a source, an order, columns and a transform."""

    _split: int
    selection: dict[str, str]
    batch_size: int
    transform_fn: Transform
    offset: int | None
    limit: int | None
    connection_factory: Callable[[str], Any] | None

    _source: Source
    _rows: Order
    """The rows before skip and take."""
    _order: Order
    """The rows served."""
    _options: ReadOptions
    """How they are read."""
    _opened: dict[int, Reader]
    """The reader of the selected columns, by process; shared by the copies that read the same."""
    _is_shard: bool = False
    """Whether ``shard`` was asked, so that nobody else should."""
    _serve: Callable[[Any], Any] | None = None
    """Gives what a loader serves of it, if that is not its rows."""
    _formed: tuple[Reader, Any, Reader] | None = None
    """The reader, what a format wants of it, and the reader that gives that."""

    def _assign(
        self,
        source: Source,
        rows: Order,
        split: int,
        selection: dict[str, str] | None = None,
    ) -> None:
        """Set everything, with LanceDB's defaults; without a selection, which opens the source, all columns."""
        self._source = source
        self._rows = rows
        self._order = rows
        self._split = split
        if selection is None:
            selection = {name: name for name in source.column_names}
        self.selection = selection
        self.batch_size = DEFAULT_BATCH_SIZE
        self.transform_fn = Transforms.arrow2python
        self.offset = None
        self.limit = None
        self.connection_factory = None
        self._options = ReadOptions()
        self._opened = {}

    def _replace(self, **changes: Any) -> Self:
        """Copy, with changes. The reader is shared unless what it reads changes."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__ | changes)
        if not changes.keys().isdisjoint(("selection", "_source", "_options")):
            new._opened = {}
        return new

    def __copy__(self) -> Self:
        return self._replace()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # What it reads is immutable; a transform need not be.
        return self._replace(
            selection=self.selection.copy(),
            transform_fn=copy.deepcopy(self.transform_fn, memo),
        )

    def _with_rows(self, rows: Order, source: Source | None = None) -> Self:
        """Serve other rows, in the order they stand; skip and take start afresh."""
        changes: dict[str, Any] = {"_rows": rows, "_order": rows}
        if source is not None and source is not self._source:
            changes["_source"] = source
        return self._replace(**changes, offset=None, limit=None)

    def _with_selection(self, selection: dict[str, str]) -> Self:
        return self._replace(selection=selection)

    def _ensure_open(self) -> Reader:
        """Return the reader of the selected columns, made on first use in each process."""
        pid = os.getpid()
        reader = self._opened.get(pid)
        if reader is None:
            made = self._source.reader(list(self.selection.items()), self._options)
            # Another thread may have been faster; one reader keeps the packed rows of all.
            reader = self._opened.setdefault(pid, made)
            for inherited in [other for other in self._opened if other != pid]:
                self._opened.pop(inherited, None)
        return reader

    @property
    def reader(self) -> Reader:
        """The reader of the selected columns."""
        return self._ensure_open()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the batches, with the metadata of fields and table."""
        import pyarrow as pa

        return pa.schema(self._ensure_open())

    @property
    def num_rows(self) -> int:
        """The number of rows, fixed when it was made."""
        return self._order.num_rows

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return len(self.selection)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in the order they come out."""
        return list(self.selection)

    @property
    def shape(self) -> tuple[int, int]:
        """``(num_rows, num_columns)``."""
        return self.num_rows, self.num_columns

    @property
    def version(self) -> int | None:
        """The version of the table it is pinned to, or ``None`` for data without versions."""
        return self._source.version

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        columns = "column" if self.num_columns == 1 else "columns"
        return (
            f"<Permutation of {self.num_rows:,} rows and {self.num_columns} {columns} of "
            f"{self._source.describe()}>"
        )

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(field.name)}</td><td>{escape(str(field.type))}</td></tr>"
            for field in self.schema
        )
        return (
            f"<p>{escape(repr(self).strip('<>'))}</p>"
            f"<table><thead><tr><th>column</th><th>type</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
