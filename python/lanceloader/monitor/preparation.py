"""Bars for what readers do in the background: packing rows, and writing them to scratch files."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lanceloader.monitor.progress import is_wanted, polled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lanceloader import _native
    from lanceloader._typing import Progress

__all__ = ["preparing"]


@contextmanager
def preparing(
    reads: Iterable[tuple[_native.Reader, _native.Order]],
    progress: Progress | None,
    rank: int | None = None,
) -> Iterator[None]:
    """Show a bar for each table whose rows are packed or written to scratch files meanwhile.

    Args:
        reads: The readers of the core, each with the rows that it reads.
        progress: Whether to show bars, as for ``is_wanted``.
        rank: The rank of this process, as for ``is_wanted``.
    """
    with ExitStack() as bars:
        if is_wanted(progress, rank):
            for reader, order in reads:
                strategy = reader.strategy(order)
                if strategy == "resident" and (poll := packing(reader)) is not None:
                    bars.enter_context(polled("packing", poll, unit="B"))
                elif strategy == "external":
                    what = "writing rows to scratch files"
                    poll = writing(reader)
                    bars.enter_context(polled(what, poll, is_counted=False))
        yield


def packing(
    reader: _native.Reader,
) -> Callable[[], tuple[int, int | None] | None] | None:
    """Return a function that returns the bytes packed so far and in all; ``None`` if all are."""
    choice = reader.choice()
    total = choice.row_bytes * choice.num_rows
    has_ended = False

    def poll() -> tuple[int, int | None] | None:
        nonlocal has_ended
        stats = reader.stats()
        if has_ended or stats.failure is not None:
            return None
        # The size of a row is an estimate until all are packed.
        has_ended = stats.fill_nanos > 0
        if has_ended:
            return stats.bytes_kept, stats.bytes_kept
        return min(stats.bytes_kept, total), total

    poll()
    return None if has_ended else poll


def writing(reader: _native.Reader) -> Callable[[], tuple[int, int | None] | None]:
    """Return a function that returns ``None`` when rows of an order were written."""
    before = reader.stats().rows_spilled

    def poll() -> tuple[int, int | None] | None:
        stats = reader.stats()
        has_ended = stats.rows_spilled > before or stats.failure is not None
        return None if has_ended else (0, None)

    return poll
