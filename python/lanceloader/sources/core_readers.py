"""The readers of the core behind a reader: its counters and choices are theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.sources.window_reader import WindowReader

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["core_readers", "core_reads"]


def core_readers(reader: Any) -> list[_native.Reader] | None:
    """Return the readers of the core that ``reader`` reads from.

    Returns:
        The reader itself; for windows, one reader for each set of steps; ``None`` if the table's own
        library reads a column.
    """
    parts = [reader]
    if isinstance(reader, WindowReader):
        parts = [part.reader for part in reader.parts]
    found = [each for each in parts if isinstance(each, _native.Reader)]
    return found if len(found) == len(parts) else None


def core_reads(
    reader: Any, order: _native.Order
) -> Iterator[tuple[_native.Reader, _native.Order]]:
    """Yield the readers of the core that ``reader`` reads from, each with the rows that it reads.

    Args:
        reader: The reader.
        order: The rows that are read, or those of which windows are read.
    """
    if isinstance(reader, WindowReader):
        for part in reader.parts:
            if isinstance(part.reader, _native.Reader):
                yield part.reader, reader.order(part, order)
    elif isinstance(reader, _native.Reader):
        yield reader, order
