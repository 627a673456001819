"""What runs in the helper process of ``aside``: items are made, packed, written and announced."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from array import array
from typing import TYPE_CHECKING, Any

from lanceloader.helper.serialization import packed
from lanceloader.helper.shared_memory import WritableSegments
from lanceloader.stop_iteration import as_runtime_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["END", "ERROR", "HEAD", "ITEM", "serve"]

ITEM, END, ERROR = range(3)
"""What a message brings: an item, that there are no more, or an exception. Each has statistics."""

HEAD = struct.Struct("=BIQQQQQ")
"""A message: its kind, the segment, its capacity, and the layout of the parcel in it.

The first message of a segment carries its file.
"""

# What it takes to end in order; then the process ends in any case.
GRACE_S = 2.0


class EndedError(BaseException):
    """Nobody wants any more."""


def serve(
    connection: socket.socket, reader: int, depth: int, made: bytes | tuple[Any, Any]
) -> None:
    """Make items and send them, until there are no more or nobody wants them.

    Args:
        connection: To the reader.
        reader: The process that reads.
        depth: Items that may be made and not taken.
        made: What makes the items, and the statistics; a pickle of that unless forked.
    """
    link = ReaderLink(connection, reader, depth)
    try:
        try:
            run(link, *(pickle.loads(made) if isinstance(made, bytes) else made))
        except EndedError:
            raise
        except BaseException as error:
            link.send(ERROR, portable(as_runtime_error(error)))
    except EndedError:
        pass
    except OSError:
        if not link.has_ended:
            # There is no memory, or no file, even to say so.
            raise
    finally:
        # The end is near, and must not be disturbed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(
    link: ReaderLink, make: Callable[[], Any], statistics: Callable[[], Any] | None
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
        # It must not wait here while the next one is made.
        del item


def unless_ended(found: Any) -> None:
    """Say what was raised where nobody could catch it, but for the end, which may come anywhere."""
    if not isinstance(found.exc_value, EndedError):
        sys.__unraisablehook__(found)


class ReaderLink:
    """The connection to the reader, who grants credits, gives segments back, and may go."""

    def __init__(self, connection: socket.socket, reader: int, depth: int) -> None:
        self.connection = connection
        self.credits = threading.Semaphore(depth)
        self.segments = WritableSegments()
        self.lock = threading.Lock()
        self.statistics: Callable[[], Any] | None = None
        self.has_ended = self.is_told = False
        sys.unraisablehook = unless_ended
        # Ctrl-C goes to all processes of a terminal; the reader says what comes of it.
        signal.signal(signal.SIGINT, self.interrupted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self.watch, args=(reader,), daemon=True).start()

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.has_ended and not self.is_told:
            self.is_told = True
            raise EndedError

    def send(self, kind: int, value: Any) -> None:
        """Write an item to shared memory, and say so."""
        reported = None if self.statistics is None else self.statistics()
        layout, runs = packed((value, reported))
        with self.lock:
            segment = self.segments.write(runs, layout.num_bytes)
        del runs
        head = HEAD.pack(kind, segment.number, segment.capacity, *layout)
        files = [] if segment.is_known else [segment.file]
        segment.is_known = True
        socket.send_fds(self.connection, [head], files)

    def watch(self, reader: int) -> None:
        """Hear the reader, until it goes."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        # Processes that the reader forked may keep its end of the connection open.
        with contextlib.suppress(OSError, AttributeError):
            poll.register(os.pidfd_open(reader), select.POLLIN)
        while True:
            ready = [file for file, _ in poll.poll()]
            if self.connection.fileno() not in ready or not self.hear():
                break
        self.has_ended = True
        # What is raised anywhere from here on is the end, and no news.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(1)

    def hear(self) -> bool:
        """Take one message: a credit, and segments that are free. Whether there was one."""
        try:
            message = self.connection.recv(1 << 16)
        except OSError:
            return False
        if not message:
            return False
        with self.lock:
            for number in array("q", message[:-1]):
                self.segments.release(
                    number if number >= 0 else ~number, is_kept=number >= 0
                )
        self.credits.release()
        return True


def portable(error: BaseException) -> tuple[BaseException, str]:
    """Give an exception that can be sent, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text
