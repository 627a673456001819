"""The writing end of the transport: a worker's queue whose messages go through shared memory."""

from __future__ import annotations

import errno
import io
import os
import time
from multiprocessing.reduction import DupFd, ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader.formats import Columns
from lanceloader.transport.blocks import file_of_blocks
from lanceloader.transport.inbox import receive
from lanceloader.transport.queues import DirectWriter
from lanceloader.transport.serialization import packed
from lanceloader.transport.shared_memory import WritableSegments
from lanceloader.transport.torch_groups import (
    BatchGroup,
    GroupingIterator,
    receive_offer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader.transport.shared_memory import Segment

__all__ = ["Outbox"]

INLINE_BYTES = 1 << 12
"""Messages without arrays that are smaller than this are sent through the pipe itself."""


class Outbox:
    """Replaces ``put`` of a queue, and sends its messages through shared memory.

    The queue carries only references to them. References are written to its pipe directly, without the
    queue's feeder thread. Messages that cannot be sent in this way are sent as before. The reader
    gets the same objects either way.

    Args:
        queue: A queue of ``multiprocessing`` that this process writes to.
        reader: The process that reads it, which started this one.
    """

    def __init__(self, queue: Any, reader: int) -> None:
        self._direct_writer = DirectWriter(queue, queue.put)
        self._segments = WritableSegments()
        self._writer = os.getpid(), time.monotonic_ns()
        self._is_readable = can_read_files(reader)
        self._has_sent_blocks = False
        # Objects other than plain tensors are reduced in the same way as by the queue.
        self._reducers: Any = ForkingPickler(io.BytesIO()).dispatch_table
        queue.put = self.put
        Columns.are_sent = True

    def put(
        self,
        message: Any,
        block: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,
    ) -> None:
        """Send a message, as ``Queue.put`` does."""
        if (
            type(message) is tuple
            and len(message) == 2
            and type(message[1]) is BatchGroup
        ):
            message = message[0], message[1].batches
        try:
            self._direct_writer.put(self._to_reference(message), block, timeout)
        except Exception as error:
            message = self._replace_unsendable(message)
            self._direct_writer.put_later(or_error(message, error), block, timeout)

    def _replace_unsendable(self, message: Any) -> Any:
        """Return a message with errors in place of the batches of a group that cannot be sent."""
        if type(message) is not tuple or len(message) != 2:
            return message
        number, group = message
        if type(group) is not list:
            return message
        sendable = []
        for batch in group:
            try:
                packed(batch, self._reducers)
            except Exception as error:
                sendable.append(wrap_error(error))
            else:
                sendable.append(batch)
        return number, sendable

    def _to_reference(self, message: Any) -> Any:
        layout, parts = packed(message, self._reducers)
        is_offering = GroupingIterator.is_offering()
        is_small = layout.num_buffers == 0 and layout.num_bytes < INLINE_BYTES
        if is_small and not is_offering:
            return message
        segment = self._segments.write(parts, layout.num_bytes)
        try:
            file = self._file_of(segment)
            blocks = self._file_of_blocks() if segment.blocks else None
        except BaseException:
            # The reader never hears of it.
            segment.is_announced = False
            segment.release()
            raise
        number, capacity = segment.number, segment.capacity
        arguments = self._writer, number, file, capacity, tuple(layout), blocks
        return MessageReference(receive_offer if is_offering else receive, arguments)

    def _file_of_blocks(self) -> Any:
        if self._is_readable:
            return file_of_blocks()
        if self._has_sent_blocks:
            return None
        sent = DupFd(file_of_blocks()).detach
        self._has_sent_blocks = True
        return sent

    def _file_of(self, segment: Segment) -> Any:
        if self._is_readable:
            return segment.file
        if segment.is_announced:
            return None
        sent = DupFd(segment.file).detach
        segment.is_announced = True
        return sent


class MessageReference:
    """A reference to a message in shared memory, which is unpickled as the message itself."""

    def __init__(self, load: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._load = load
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._load, self._arguments


def can_read_files(reader: int) -> bool:
    """Return whether the reader may open the files of this process by their paths in ``/proc``.

    Assumes so if this process may open those of the reader, as both then belong to one user.
    """
    try:
        next(Path(f"/proc/{reader}/fd").iterdir(), None)
    except OSError:
        return False
    return True


def or_error(message: Any, error: Exception) -> Any:
    """Return a message that a queue can send, or the error in place of the message if it cannot.

    A queue drops messages that cannot be pickled, and the reader would wait for them forever.

    Args:
        message: A message that could not be written to shared memory.
        error: The reason.
    """
    try:
        ForkingPickler.dumps(message)
    except Exception:
        if isinstance(message, tuple) and len(message) == 2:
            return message[0], wrap_error(error)
    return message


def wrap_error(error: Exception) -> Any:
    """Wrap an exception in the type in which workers of torch send exceptions."""
    from torch._utils import ExceptionWrapper

    where, text = "while a DataLoader worker process sent a batch", str(error)
    kind: type[Exception] = TypeError
    if isinstance(error, OSError):
        kind = OSError
        if error.errno in (errno.EMFILE, errno.ENFILE):
            text += ": each batch that is kept has an open file; raise the limit (`ulimit -n`)"
    else:
        where += ", which cannot be pickled"
    raised = kind(text).with_traceback(error.__traceback__)
    return ExceptionWrapper((kind, raised, error.__traceback__), where)  # type: ignore[no-untyped-call]
