"""The reading end of the transport: loads the messages of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from lanceloader.transport.serialization import Layout
from lanceloader.transport.shared_memory import ReadableSegments

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Writer", "receive"]

Writer: TypeAlias = tuple[int, int]
"""The identifier of the writing process, and a number, as process identifiers are reused."""


def receive(
    writer: Writer,
    number: int,
    file: int | Callable[[], int] | None,
    capacity: int,
    layout: tuple[int, ...],
    blocks: int | Callable[[], int] | None,
) -> Any:
    """Load an object that a worker wrote to a segment. Its arrays are views of the segment.

    Args:
        writer: The process that wrote it.
        number: The number of the segment.
        file: The file descriptor of the segment in the writing process; or a function that returns
            one of this process; or ``None`` if the file was sent before.
        capacity: The size of the segment.
        layout: The layout of the object.
        blocks: The file of the blocks, given like ``file``; or ``None`` if the object has no blocks or
            their file was sent before.
    """
    segments = segments_of(writer)
    if not segments.is_mapped(number, capacity):
        segments.map(number, opened(writer[0], file), capacity)
    if blocks is not None and segments.blocks is None:
        segments.map_blocks(opened(writer[0], blocks))
    return segments.load(number, Layout(*layout))


def opened(pid: int, file: int | Callable[[], int] | None) -> int:
    """Open a file of another process in this process, and return its descriptor.

    Raises:
        RuntimeError: If the process did not send the file, or has ended.
    """
    if file is None:
        raise RuntimeError("a worker did not send the shared memory of a batch")
    if not isinstance(file, int):
        return file()
    try:
        return os.open(f"/proc/{pid}/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RuntimeError(
            f"DataLoader worker (pid {pid}) exited unexpectedly: the shared memory of its batch is gone"
        ) from error


_SEGMENTS: dict[Writer, ReadableSegments] = {}


def segments_of(writer: Writer) -> ReadableSegments:
    """Return the segments of a worker, which stay mapped while its ``Process`` object is alive."""
    known = _SEGMENTS.get(writer)
    if known is not None:
        return known
    segments = ReadableSegments()
    for process in multiprocessing.active_children():
        if process.pid == writer[0]:
            _SEGMENTS[writer] = segments
            finalizer = weakref.finalize(process, _SEGMENTS.pop, writer, None)
            finalizer.atexit = False
            break
    return segments


os.register_at_fork(after_in_child=_SEGMENTS.clear)
