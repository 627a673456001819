"""LanceDB's own ``Table`` as a dataset: importing this makes ``DataLoader(table)`` work.

    import lanceloader.torch
    loader = DataLoader(table, batch_size=1024, shuffle=True, num_workers=2)

LanceDB's ``Table`` almost is a map-style dataset: torch's default collate does not know its
batches, and its local tables cannot go to spawned workers. ``install``, which runs on import,
mends both, and reads local tables with the native reader. For more than batches of whole rows
use a ``Permutation``.

``DataLoader`` here is torch's over a permutation or its ``loader()``, with exact states.
"""

from __future__ import annotations

import copyreg
import functools
import os
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader._extras import need

try:
    from torch.utils.data import DataLoader as TorchLoader
    from torch.utils.data._utils.collate import default_collate_fn_map
except ModuleNotFoundError:
    need("torch", "lanceloader.torch")
    raise

from lanceloader import _native
from lanceloader.engine import SYSTEM
from lanceloader.formats import is_torch, transform_of
from lanceloader.formats.torch import register
from lanceloader.pickling import (
    _table_from_pickle_state,
    _table_to_pickle_state,
    scrubbed,
)
from lanceloader.sources import EngineSource, MemorySource, Source, pinned_source
from lanceloader.sources.opening import is_a
from lanceloader.torch_loader import DataLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lanceloader._typing import Format, Nulls
    from lanceloader.sources import Reader

__all__ = ["DataLoader", "TableDataset", "collate_as", "install", "uninstall"]


def collate_as(
    format: Format,  # noqa: A002
    *,
    nulls: Nulls | None = None,
    fill_value: Any = None,
) -> Callable[[Any], Any]:
    """Make a ``collate_fn`` that turns a LanceDB table's batches into a format.

    Args:
        format: As for ``Permutation.with_format``.
        nulls: As for ``Permutation.with_format``.
        fill_value: As for ``Permutation.with_format``.

    Returns:
        A function of a ``pyarrow.Table`` or ``RecordBatch``. It pickles.

    Example:
        >>> import lanceloader.torch
        >>> from torch.utils.data import DataLoader
        >>> collate = lanceloader.torch.collate_as("torch_dict")
        >>> next(iter(DataLoader(table, batch_size=3, collate_fn=collate)))
        {'x': tensor([0, 1, 2])}
    """
    options = {"nulls": nulls, "fill_value": fill_value}
    given = {name: value for name, value in options.items() if value is not None}
    return functools.partial(_collate, transform_of(format, **given))


def _collate(transform: Callable[[Any], Any], batch: Any) -> Any:
    batch = one_batch(batch) if isinstance(batch, pa.Table) else batch
    return transform(with_signed_rows(batch) if is_torch(transform) else batch)


def with_signed_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose ids, addresses and offsets of rows are signed, as torch wants them."""
    for at, column in enumerate(batch.schema):
        if column.name in SYSTEM and column.type == pa.uint64():
            signed = batch.column(at).view(pa.int64())
            batch = batch.set_column(at, column.with_type(pa.int64()), signed)
    return batch


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """Give a table as one batch."""
    batches = table.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    if batches:
        message = f"{table.num_rows} rows with a column of more than 2 GiB: wanted a smaller batch_size"
        raise ValueError(message)
    arrays = [pa.array([], field.type) for field in table.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


class TableDataset:
    """What a local LanceDB table is in another process: its rows at one version.

    Light: it opens without lancedb. Attributes that no dataset needs are those of the table,
    which is opened when one is asked for.
    """

    def __init__(self, source: Source, state: dict[str, Any] | None) -> None:
        """Read ``source``.

        Args:
            source: The table, pinned.
            state: What opens it in LanceDB, or ``None`` for a table in memory.
        """
        self._source = source
        self._state = state

    def __len__(self) -> int:
        return self._source.num_rows

    def __getitems__(self, offsets: Sequence[int]) -> pa.Table:
        """Give the rows at these offsets, in this order, with all columns."""
        return take(self._source, self._reader, offsets)

    @functools.cached_property
    def _reader(self) -> Reader:
        return reader_of(self._source)

    @functools.cached_property
    def table(self) -> Any:
        """The LanceDB table, checked out at the version it was pinned to."""
        state = self._state
        if state is None and isinstance(self._source, MemorySource):
            name = self._source.name
            state = {"kind": "memory", "name": name, "data": self._source.to_arrow()}
        return _table_from_pickle_state(state or {"kind": None})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.table, name)

    def __repr__(self) -> str:
        return f"<TableDataset of {self._source.describe()}>"

    def __reduce__(self) -> tuple[type[TableDataset], tuple[Any, ...]]:
        return TableDataset, (self._source, scrubbed(self._state))


@dataclass(frozen=True)
class Opened:
    """A table as this process, or the one it was forked from, last read it."""

    pid: int
    version: tuple[int, str | None]
    source: Source
    reader: Reader
    iterators: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """The loaders' iterators that read it: while there are any, it is pinned."""

    @property
    def is_pinned(self) -> bool:
        """Whether an epoch that this process iterates over reads it."""
        return self.pid == os.getpid() and len(self.iterators) > 0


_opened: weakref.WeakKeyDictionary[Any, Opened] = weakref.WeakKeyDictionary()


def opened(table: Any) -> Opened:
    """Open a table at the version it is at, or that of the epoch that is under way.

    In a forked process it stays at the version the parent opened: LanceDB's handle, which
    would have to be asked, is not safe to use there.
    """
    known = _opened.get(table)
    if known is not None and (known.is_pinned or known.pid != os.getpid()):
        return known
    version = table.version, table.current_branch()
    if known is None or known.version != version:
        source = pinned_source(table, *version)
        known = Opened(os.getpid(), version, source, reader_of(source))
        _opened[table] = known
    return known


def reader_of(source: Source) -> Reader:
    """Read all columns."""
    return source.reader([(name, name) for name in source.column_names])


def take(source: Source, reader: Reader, offsets: Sequence[int]) -> pa.Table:
    """Give rows as a table of one chunk, whose buffers are its own."""
    batch = reader.take(source.all_rows(), offsets)
    if isinstance(batch, _native.Batch):
        batch = batch.to_owned()
    return pa.Table.from_batches([pa.record_batch(batch)])


def tables_in(dataset: Any) -> Iterator[Any]:
    """Find LanceDB's tables in a dataset, also under ``Subset`` and ``ConcatDataset``."""
    if is_a(dataset, "lancedb", "LanceTable"):
        yield dataset
    elif type(dataset).__module__.startswith("torch.utils.data."):
        for inner in (
            getattr(dataset, "dataset", None),
            *getattr(dataset, "datasets", ()),
        ):
            yield from tables_in(inner)


def install() -> None:
    """Make LanceDB's tables work in ``DataLoader``; importing this module does it.

    * torch's default collate passes on ``pyarrow`` tables and batches, in workers too;
    * batches of local tables are read by the native reader. Iterating over a loader pins the
      table to the version it is at: batches, and its length, are those of that version until the
      iterator is gone, also in workers;
    * local tables pickle, as a light ``TableDataset``.

    Calling it again changes nothing. ``uninstall`` takes it back.
    """
    register()
    default_collate_fn_map[pa.ChunkedArray] = pass_on
    default_collate_fn_map[pa.Array] = pass_on
    if not hasattr(TorchLoader.__iter__, "_original"):
        TorchLoader.__iter__ = prepared(TorchLoader.__iter__)  # type: ignore[method-assign]
    install_lancedb()


def uninstall() -> None:
    """Leave torch and lancedb as they were."""
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
    """Change lancedb's tables, if it is imported; a loader asks again before it starts."""
    tables = sys.modules.get("lancedb.table")
    if tables is not None and not hasattr(tables.Table.__getitems__, "_original"):
        tables.Table.__getitems__ = routed(tables.Table.__getitems__)
        tables.Table.__len__ = counted(tables.Table.__len__)
        copyreg.pickle(tables.LanceTable, reduce_table)
    remote = sys.modules.get("lancedb.remote.table")
    if remote is not None:
        copyreg.pickle(remote.RemoteTable, reduce_remote)


class Epoch:
    """Stands for an iterator that is being made."""


def prepared(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Open a loader's tables before it starts workers, and pin them while it is iterated over."""

    @functools.wraps(original)
    def __iter__(self: Any) -> Any:  # noqa: N807
        install_lancedb()
        beginning = Epoch()
        pins = [pinned(table, beginning) for table in tables_in(self.dataset)]
        iterator = original(self)
        for pin in pins:
            pin.iterators.add(iterator)
        return iterator

    __iter__._original = original  # type: ignore[attr-defined]
    return __iter__


def pinned(table: Any, iterator: Any) -> Opened:
    """Open a table, and keep it at its version while ``iterator`` lives."""
    known = opened(table)
    known.iterators.add(iterator)
    return known


def counted(original: Callable[[Any], int]) -> Callable[[Any], int]:
    """Count the rows that are read: samplers ask when an epoch has begun."""

    @functools.wraps(original)
    def __len__(self: Any) -> int:  # noqa: N807
        known = _opened.get(self)
        if known is None or not (known.is_pinned or known.pid != os.getpid()):
            return original(self)
        return known.source.num_rows

    __len__._original = original  # type: ignore[attr-defined]
    return __len__


def routed(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Read local tables natively, and nothing where nothing is asked for."""

    @functools.wraps(original)
    def __getitems__(self: Any, offsets: Sequence[int]) -> pa.Table:  # noqa: N807
        if is_a(self, "lancedb", "LanceTable"):
            known = opened(self)
            if known.is_pinned or not isinstance(known.source, EngineSource):
                return take(known.source, known.reader, offsets)
        if len(offsets) == 0:
            return self.schema.empty_table()
        return original(self, offsets)

    __getitems__._original = original  # type: ignore[attr-defined]
    return __getitems__


def reduce_table(table: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Describe a local table, as a dataset that is pinned to the version it is at."""
    source = opened(table).source
    state = None if isinstance(source, MemorySource) else _table_to_pickle_state(table)
    return TableDataset, (source, state)


def reduce_remote(table: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Describe a remote table as LanceDB does, by a function that brings this module along."""
    return rebuild_remote, (type(table), table.__getstate__())


def rebuild_remote(cls: Any, state: dict[str, Any]) -> Any:
    """Make a remote table again."""
    table = cls.__new__(cls)
    table.__setstate__(state)
    return table


def pass_on(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Collate a batch that is one already.

    Raises:
        TypeError: If it is a list of columns of different batches.
    """
    del collate_fn_map
    if isinstance(batch, pa.Table | pa.RecordBatch):
        return batch
    message = (
        f"a list of {type(batch[0]).__name__}: wanted a pyarrow Table or RecordBatch"
    )
    raise TypeError(message)


install()
