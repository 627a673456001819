"""LanceDB's own ``Table`` as a dataset of torch's ``DataLoader``; see ``lanceloader.torch``.

LanceDB's ``Table`` implements torch's interface of map-style datasets, but torch's default
collate does not accept its batches, and local tables cannot be pickled for spawned workers.
``install`` fixes both and reads local tables with the native reader. Tables that are pickled while
it is in effect run it in the process that unpickles them, so worker processes need no call of their
own.
"""

from __future__ import annotations

import copyreg
import functools
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader._extras import need

try:
    from torch.utils.data import DataLoader as TorchLoader
    from torch.utils.data._utils.collate import default_collate_fn_map
except ModuleNotFoundError:
    need("torch", "lanceloader.torch")
    raise

from lanceloader.compat_lancedb.open_tables import (
    is_behind,
    known_table,
    open_table,
    pin,
    reader_of,
    tables_in,
    take,
)
from lanceloader.compat_lancedb.table_state import (
    state_of_table,
    table_of_state,
    without_credentials,
)
from lanceloader.formats.torch import register
from lanceloader.sources import EngineSource, MemorySource, Source
from lanceloader.sources.opening import is_a

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lanceloader.sources import RowReader

__all__ = ["TableDataset", "install", "rebuild_remote", "uninstall"]


class TableDataset:
    """A map-style dataset of the rows of a LanceDB table at one version.

    Local LanceDB tables are pickled as this class. Reading rows does not import lancedb. Any
    other attribute is looked up on ``table``, which is opened on first use.
    """

    def __init__(self, source: Source, state: dict[str, Any] | None) -> None:
        """Create a dataset.

        Args:
            source: The table at one version.
            state: The state from which lancedb opens the table, or ``None`` for a table in
                memory.
        """
        self._source = source
        self._state = state
        accept_arrow()

    def __len__(self) -> int:
        return self._source.num_rows

    def __getitems__(self, offsets: Sequence[int]) -> pa.Table:
        """Return the rows at these offsets, in this order, with all columns."""
        return take(self._source, self._reader, offsets)

    @functools.cached_property
    def _reader(self) -> RowReader:
        return reader_of(self._source)

    @functools.cached_property
    def table(self) -> Any:
        """The LanceDB table, checked out at the version of the dataset."""
        state = self._state
        if state is None and isinstance(self._source, MemorySource):
            name = self._source.name
            state = {"kind": "memory", "name": name, "data": self._source.to_arrow()}
        return table_of_state(state or {"kind": None})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.table, name)

    def __repr__(self) -> str:
        return f"<TableDataset of {self._source.describe()}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        make = rebuild_table if is_installed() else TableDataset
        return make, (self._source, without_credentials(self._state))


def install() -> None:
    """Make LanceDB's tables work in torch's ``DataLoader``, by patching torch and lancedb.

    * torch's default collate returns ``pyarrow`` tables and batches unchanged.
    * The native reader reads the batches of local tables. Iterating over a ``DataLoader`` pins
      the table to its current version: its batches and its length are those of this version, also
      in workers, until the iterator is deleted. Persistent workers are started anew if the table
      has another version by then.
    * Local tables can be pickled, as a ``TableDataset``.

    Worker processes that are sent a table, of any start method, need no call of their own. Calling
    it again has no effect, and lancedb may be imported before or after. ``uninstall`` undoes it.

    Example:
        >>> import lanceloader.torch
        >>> from torch.utils.data import DataLoader
        >>> lanceloader.torch.install()
        >>> [batch.num_rows for batch in DataLoader(table, batch_size=7)]
        [7, 3]
        >>> lanceloader.torch.uninstall()
    """
    accept_arrow()
    if not is_installed():
        TorchLoader.__iter__ = pinning_iter(TorchLoader.__iter__)  # type: ignore[method-assign]
    install_lancedb()


def accept_arrow() -> None:
    """Register ``pyarrow`` tables and batches with torch's default collate."""
    register()
    default_collate_fn_map[pa.ChunkedArray] = collate_arrow
    default_collate_fn_map[pa.Array] = collate_arrow


def is_installed() -> bool:
    """Return whether ``install`` is in effect in this process."""
    return hasattr(TorchLoader.__iter__, "_original")


def uninstall() -> None:
    """Undo ``install``: restore torch and lancedb."""
    default_collate_fn_map.pop(pa.ChunkedArray, None)
    default_collate_fn_map.pop(pa.Array, None)
    original = getattr(TorchLoader.__iter__, "_original", None)
    if original is not None:
        TorchLoader.__iter__ = original  # type: ignore[method-assign]
    tables = sys.modules.get("lancedb.table")
    if tables is not None:
        for name in ("__getitems__", "__len__"):
            original = getattr(getattr(tables.Table, name), "_original", None)
            if original is not None:
                setattr(tables.Table, name, original)
        copyreg.dispatch_table.pop(tables.LanceTable, None)
    remote = sys.modules.get("lancedb.remote.table")
    if remote is not None:
        copyreg.dispatch_table.pop(remote.RemoteTable, None)


def install_lancedb() -> None:
    """Patch lancedb's tables if lancedb is imported.

    Every ``DataLoader`` calls this before it starts, in case lancedb was imported later.
    """
    tables = sys.modules.get("lancedb.table")
    if tables is not None and not hasattr(tables.Table.__getitems__, "_original"):
        tables.Table.__getitems__ = native_getitems(tables.Table.__getitems__)
        tables.Table.__len__ = pinned_len(tables.Table.__len__)
        copyreg.pickle(tables.LanceTable, reduce_table)
    remote = sys.modules.get("lancedb.remote.table")
    if remote is not None:
        copyreg.pickle(remote.RemoteTable, reduce_remote)


class UnstartedIterator:
    """A placeholder that pins tables while the iterator of a ``DataLoader`` is being created."""


def pinning_iter(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap ``DataLoader.__iter__`` to open and pin tables before workers are started."""

    @functools.wraps(original)
    def __iter__(self: Any) -> Any:  # noqa: N807
        install_lancedb()
        stop_stale_workers(self)
        unstarted = UnstartedIterator()
        pinned = [pin(table, unstarted) for table in tables_in(self.dataset)]
        iterator = original(self)
        for table in pinned:
            table.iterators.add(iterator)
        return iterator

    __iter__._original = original  # type: ignore[attr-defined]
    return __iter__


def stop_stale_workers(loader: Any) -> None:
    """Stop persistent workers that have an earlier version of a table than the current one.

    torch then starts others, which are sent the current version.
    """
    iterator = loader._iterator
    if iterator is None:
        return
    if any(is_behind(table, iterator) for table in tables_in(loader.dataset)):
        iterator._shutdown_workers()
        loader._iterator = None


def pinned_len(original: Callable[[Any], int]) -> Callable[[Any], int]:
    """Wrap ``Table.__len__`` to return the length of the version that an iterator pins.

    Samplers call ``len`` after an epoch has started, when the table may have a newer version.
    """

    @functools.wraps(original)
    def __len__(self: Any) -> int:  # noqa: N807
        known = known_table(self)
        if known is None or not known.is_fixed:
            return original(self)
        return known.source.num_rows

    __len__._original = original  # type: ignore[attr-defined]
    return __len__


def native_getitems(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Wrap ``Table.__getitems__`` to read local tables with the native reader.

    No offsets result in an empty table, without a query.
    """

    @functools.wraps(original)
    def __getitems__(self: Any, offsets: Sequence[int]) -> pa.Table:  # noqa: N807
        if is_a(self, "lancedb", "LanceTable"):
            known = open_table(self)
            if known.is_pinned or not isinstance(known.source, EngineSource):
                return take(known.source, known.reader, offsets)
        if len(offsets) == 0:
            return self.schema.empty_table()
        return original(self, offsets)

    __getitems__._original = original  # type: ignore[attr-defined]
    return __getitems__


def reduce_table(table: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Reduce a local table to a ``TableDataset`` at its current version; see ``rebuild_table``."""
    source = open_table(table).source
    state = None if isinstance(source, MemorySource) else state_of_table(table)
    return rebuild_table, (source, state)


def rebuild_table(source: Source, state: dict[str, Any] | None) -> TableDataset:
    """Create the dataset of a table that was pickled while ``install`` was in effect."""
    install()
    return TableDataset(source, state)


def reduce_remote(table: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Reduce a remote table to LanceDB's state and a function that runs ``install``."""
    return rebuild_remote, (type(table), table.__getstate__())


def rebuild_remote(cls: Any, state: dict[str, Any]) -> Any:
    """Create a remote table from LanceDB's state, in a process where ``install`` is in effect."""
    install()
    table = cls.__new__(cls)
    table.__setstate__(state)
    return table


def collate_arrow(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Return a ``pyarrow`` table or batch unchanged.

    torch finds this function by the type of ``batch[0]``, the first column.

    Raises:
        TypeError: If ``batch`` is a list of columns.
    """
    del collate_fn_map
    if isinstance(batch, pa.Table | pa.RecordBatch):
        return batch
    message = (
        "the default collate accepts a pyarrow Table or RecordBatch, not a list of "
        f"{type(batch[0]).__name__}; return a whole batch, or pass a `collate_fn`"
    )
    raise TypeError(message)
