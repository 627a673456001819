"""Packing the rows of a table before anybody reads them, with progress."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lanceloader import _native
from lanceloader.errors import StorageError, UnsupportedError
from lanceloader.monitor.progress import reported
from lanceloader.options import cache_folder
from lanceloader.sources.core_readers import core_readers

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import Progress
    from lanceloader.verbs.base import View

__all__ = ["WarmReport", "fetch_now", "is_fetched", "pack_now"]

_PAUSE_SECONDS = 0.02
_WINDOW_ROWS = 16
_BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class WarmReport:
    """What ``Permutation.warm`` did.

    Attributes:
        rows: Rows of the table; all of them are packed, whatever the permutation leaves out.
        columns: The columns that were packed, by their names in the table.
        bytes: Bytes of packed rows; for rows that were only fetched, bytes of their files.
        blocks_packed: Blocks of rows that this process packed.
        blocks_found: Blocks that were in the cache already.
        seconds: How long it took.
        is_shared: Whether the rows are in files that other processes and later runs use.
        cache_dir: The folder of those files, or ``None`` if the rows are in memory of this
            process only, because there is no cache folder or they are too few to be worth files.
    """

    rows: int
    columns: tuple[str, ...]
    bytes: int
    blocks_packed: int
    blocks_found: int
    seconds: float
    is_shared: bool
    cache_dir: str | None


def pack_now(view: View, progress: Progress | None) -> WarmReport:
    """Pack all rows of the table that ``view`` reads, and return when they are packed.

    Args:
        view: A view whose ``read`` is ``"resident"``.
        progress: Whether to show a bar, or what to call with the bytes so far and in all.

    Raises:
        StorageError: If the rows cannot be written to the cache folder.
        UnsupportedError: If the native reader does not read these columns.
        ValueError: If the rows need more memory than there may be.
    """
    readers = readers_of(view)
    befores = [reader.stats() for reader in readers]
    start = time.perf_counter()
    choices = [reader.choice() for reader in readers]
    for reader, choice in zip(readers, choices, strict=True):
        if choice.num_rows:
            total = choice.row_bytes * choice.num_rows
            with reported("packing", progress, unit="B") as report:
                wait_for(reader, total, report)
    afters = [reader.stats() for reader in readers]
    names = dict.fromkeys(map(view.source.stored_name, view.selection.values()))
    both = list(zip(befores, afters, strict=True))
    is_shared = all(after.is_shared for after in afters)
    return WarmReport(
        rows=choices[0].num_rows,
        columns=tuple(filter(None, names)),
        bytes=sum(after.bytes_kept for after in afters),
        blocks_packed=sum(now.blocks_filled - old.blocks_filled for old, now in both),
        blocks_found=sum(now.blocks_mapped - old.blocks_mapped for old, now in both),
        seconds=time.perf_counter() - start,
        is_shared=is_shared,
        cache_dir=cache_folder(view.read_options.cache_dir) if is_shared else None,
    )


def readers_of(view: View) -> list[_native.Reader]:
    """Return what reads the rows: one reader, or one for all columns of windows with the same steps.

    Raises:
        UnsupportedError: If the table's own library reads a column.
    """
    readers = core_readers(view.open_reader())
    if readers is None:
        message = (
            f"{view.source.describe()}: only rows that the native reader reads can be "
            "packed; copy them with `materialize` first"
        )
        raise UnsupportedError(message)
    return readers


def is_fetched(view: View) -> bool:
    """Return whether rows come from object storage and are read from copies of its files."""
    reader = view.open_reader()
    return (
        isinstance(reader, _native.Reader)
        and reader.is_remote
        and cache_folder(view.read_options.cache_dir) is not None
        and reader.choice().strategy != "resident"
    )


def fetch_now(view: View, progress: Progress | None) -> WarmReport:
    """Fetch all rows of the table that ``view`` reads, and keep what was fetched.

    Args:
        view: A view for which ``is_fetched`` is true.
        progress: As for ``pack_now``.

    Raises:
        StorageError: If there is no room for them in the cache folder.
    """
    reader = view.open_reader()
    assert isinstance(reader, _native.Reader)
    choice = reader.choice()
    row_bytes = max(1, choice.row_bytes)
    total = row_bytes * choice.num_rows
    start = time.perf_counter()
    before = reader.stats()
    rows = max(1, min(_BATCH_BYTES // row_bytes, choice.num_rows))

    done = 0
    order = _native.Order.all(choice.num_rows)
    with reported("fetching", progress, unit="B") as report:
        for batch in reader.load(order, rows, False):  # noqa: FBT003
            done += batch.num_rows * row_bytes
            report(min(done, total), total)
            check_kept(reader)
    check_kept(reader)
    after = reader.stats()
    return WarmReport(
        rows=choice.num_rows,
        columns=tuple(view.selection.values()),
        bytes=after.bytes_served - before.bytes_served,
        blocks_packed=0,
        blocks_found=0,
        seconds=time.perf_counter() - start,
        is_shared=True,
        cache_dir=cache_folder(view.read_options.cache_dir),
    )


def check_kept(reader: _native.Reader) -> None:
    """Check that what is fetched is kept.

    Raises:
        StorageError: If it is not.
    """
    failure = reader.stats().copy_failure
    if failure is not None:
        raise StorageError(failure)


def wait_for(
    reader: _native.Reader, total: int, report: Callable[[int, int | None], object]
) -> None:
    """Start packing by reading a window of rows, and wait until the last block is there."""
    order = _native.Order.all(reader.choice().num_rows).shuffled(0)
    # Held until the end: threads read ahead for it.
    loader = reader.load(order, _WINDOW_ROWS, False)  # noqa: FBT003
    next(loader)
    while True:
        stats = reader.stats()
        report(min(stats.bytes_kept, total), total)
        if stats.failure is not None:
            # If the limit is too low, this is a `ValueError`.
            next(loader, None)
            raise StorageError(stats.failure)
        if stats.fill_nanos:
            break
        time.sleep(_PAUSE_SECONDS)
    # The size of a row was an estimate until now.
    report(stats.bytes_kept, stats.bytes_kept)
