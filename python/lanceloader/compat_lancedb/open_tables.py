"""LanceDB tables that are open in this process, and the versions at which iterators pin them."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader import _native
from lanceloader.sources import pinned_source
from lanceloader.sources.opening import is_a

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader.sources import RowReader, Source

__all__ = [
    "OpenTable",
    "is_behind",
    "known_table",
    "open_table",
    "pin",
    "reader_of",
    "tables_in",
    "take",
]


@dataclass(frozen=True)
class OpenTable:
    """A LanceDB table that this process, or its parent before a fork, opened at a version."""

    pid: int
    version: tuple[int, str | None]
    """The number of the version, and its branch."""

    source: Source
    reader: RowReader
    iterators: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """The iterators of ``DataLoader`` that read the table. They pin its version."""

    @property
    def is_pinned(self) -> bool:
        """Whether an iterator of this process pins the version."""
        return self.pid == os.getpid() and len(self.iterators) > 0

    @property
    def is_fixed(self) -> bool:
        """Whether the version must not change: it is pinned, or was opened before a fork.

        LanceDB's handle, which knows the current version, cannot be used in a forked process.
        """
        return self.is_pinned or self.pid != os.getpid()


_open_tables: weakref.WeakKeyDictionary[Any, OpenTable] = weakref.WeakKeyDictionary()


def open_table(table: Any) -> OpenTable:
    """Open a table at its current version, unless its version is fixed."""
    known = _open_tables.get(table)
    if known is not None and known.is_fixed:
        return known
    version = table.version, table.current_branch()
    if known is None or known.version != version:
        source = pinned_source(table, *version)
        known = OpenTable(os.getpid(), version, source, reader_of(source))
        _open_tables[table] = known
    return known


def is_behind(table: Any, iterator: Any) -> bool:
    """Return whether only ``iterator`` pins a table, at another version than the current one."""
    known = _open_tables.get(table)
    if known is None or not known.is_pinned or list(known.iterators) != [iterator]:
        return False
    return known.version != (table.version, table.current_branch())


def reader_of(source: Source) -> RowReader:
    """Return a reader of all columns."""
    return source.reader([(name, name) for name in source.column_names])


def take(source: Source, reader: RowReader, offsets: Sequence[int]) -> pa.Table:
    """Return rows as a table with one chunk, which shares no buffers with the reader."""
    batch = reader.take(source.all_rows(), offsets)
    if isinstance(batch, _native.Batch):
        batch = batch.to_owned()
    return pa.Table.from_batches([pa.record_batch(batch)])


def tables_in(dataset: Any) -> Iterator[Any]:
    """Iterate over the LanceDB tables in a dataset, including nested torch datasets."""
    if is_a(dataset, "lancedb", "LanceTable"):
        yield dataset
    elif type(dataset).__module__.startswith("torch.utils.data."):
        for inner in (
            getattr(dataset, "dataset", None),
            *getattr(dataset, "datasets", ()),
        ):
            yield from tables_in(inner)


def known_table(table: Any) -> OpenTable | None:
    """Return the last result of ``open_table`` for this table, or ``None``."""
    return _open_tables.get(table)


def pin(table: Any, iterator: Any) -> OpenTable:
    """Open a table and pin its version for the lifetime of ``iterator``."""
    known = open_table(table)
    known.iterators.add(iterator)
    return known
