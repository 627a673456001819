"""The helper process: makes items, writes them to shared memory and notifies the parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from lanceloader.monitor.progress import silence
from lanceloader.stop_iteration import as_runtime_error
from lanceloader.transport.parent import when_ended
from lanceloader.transport.serialization import packed
from lanceloader.transport.shared_memory import WritableSegments

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["END", "ERROR", "HEAD", "ITEM", "run_child"]

ITEM, END, ERROR = range(3)
"""The kinds of messages: an item, the end of the items, or an exception. Each has statistics."""

HEAD = struct.Struct("=BIQQQQQ")
"""A message: its kind, the segment, its capacity, and the layout of the object in it.

The first message of a segment carries the file descriptor.
"""

# The time for an orderly end, after which the process exits in any case.
GRACE_S = 2.0


class ParentEndedError(BaseException):
    """The parent closed the connection or ended."""


def run_child(
    connection: socket.socket, depth: int, factory: bytes | tuple[Any, Any]
) -> None:
    """Make items and send them, until there are no more or the parent closes the connection.

    Args:
        connection: The connection to the parent.
        depth: The number of items to make ahead.
        factory: The functions that make items and statistics; pickled, unless forked.
    """
    silence()
    link = ParentLink(connection, depth)
    try:
        try:
            run(
                link,
                *(pickle.loads(factory) if isinstance(factory, bytes) else factory),
            )
        except ParentEndedError:
            raise
        except BaseException as error:
            link.send(ERROR, portable(as_runtime_error(error)))
    except ParentEndedError:
        pass
    except ConnectionError:
        # The parent closed the connection while this process was writing to it.
        pass
    except OSError:
        if not link.has_ended:
            # Without memory or file descriptors, the error cannot be sent.
            raise
    finally:
        # A signal must not interrupt the end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(
    link: ParentLink, make: Callable[[], Any], statistics: Callable[[], Any] | None
) -> None:
    link.statistics = statistics
    items = iter(make())
    while True:
        link.credits.acquire()
        try:
            item = next(items)
        except StopIteration:
            link.send(END, None)
            return
        link.send(ITEM, item)
        # Do not keep the item alive while the next one is made.
        del item


def raise_unless_ended(found: Any) -> None:
    """Report an unraisable exception, except ``ParentEndedError``, which may be raised anywhere."""
    if not isinstance(found.exc_value, ParentEndedError):
        sys.__unraisablehook__(found)


class ParentLink:
    """The connection to the parent, which grants credits, releases segments, and may end."""

    def __init__(self, connection: socket.socket, depth: int) -> None:
        self.connection = connection
        self.credits = threading.Semaphore(depth)
        self.segments = WritableSegments()
        self.statistics: Callable[[], Any] | None = None
        self.has_ended = self.was_raised = False
        sys.unraisablehook = raise_unless_ended
        # Ctrl-C interrupts all processes of a terminal, but only the parent handles it.
        signal.signal(signal.SIGINT, self.interrupted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self.watch, daemon=True).start()

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.has_ended and not self.was_raised:
            self.was_raised = True
            raise ParentEndedError

    def send(self, kind: int, value: Any) -> None:
        """Write an object and the statistics to shared memory, and notify the parent."""
        report = None if self.statistics is None else self.statistics()
        try:
            layout, runs = packed((value, report))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if kind != ITEM:
                raise
            message = (
                f"the helper process cannot send a batch of type {type(value).__name__} to "
                f"this one, as it cannot be pickled ({error}): let `transform` and `collate` "
                "return arrays, tensors, Arrow data or plain Python objects, without functions, "
                "generators, locks or open files, or leave out in_process=False"
            )
            raise TypeError(message) from error
        segment = self.segments.write(runs, layout.num_bytes)
        del runs
        head = HEAD.pack(kind, segment.number, segment.capacity, *layout)
        files = [] if segment.is_known else [segment.file]
        segment.is_known = True
        socket.send_fds(self.connection, [head], files)

    def watch(self) -> None:
        """Receive messages until the parent ends or closes the connection, then end this process."""
        # The connection alone is not enough: forks of the parent may keep their end of it open.
        when_ended(multiprocessing.parent_process(), self.hang_up)
        while self.receive():
            pass
        self.has_ended = True
        # Errors from here on are consequences of the end, and must not be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(1)

    def hang_up(self) -> None:
        """End the connection, which ends the process."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def receive(self) -> bool:
        """Receive credits; return whether the parent is still connected."""
        try:
            granted = self.connection.recv(1 << 16)
        except OSError:
            return False
        if not granted:
            return False
        self.credits.release(len(granted))
        return True


def portable(error: BaseException) -> tuple[BaseException, str]:
    """Return an exception that can be pickled, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text
