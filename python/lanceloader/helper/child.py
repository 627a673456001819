"""The helper process: makes items, writes them to shared memory and notifies the parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from lanceloader.formats import Columns
from lanceloader.helper.producer import loaded
from lanceloader.monitor.progress import silence
from lanceloader.stop_iteration import as_runtime_error
from lanceloader.transport.blocks import file_of_blocks
from lanceloader.transport.groups import groups_of
from lanceloader.transport.parent import when_ended
from lanceloader.transport.serialization import Layout, packed
from lanceloader.transport.shared_memory import WritableSegments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from lanceloader.helper.producer import Producer

__all__ = [
    "CREDIT",
    "END",
    "ERROR",
    "GRACE_S",
    "HEAD",
    "ITEM",
    "START",
    "STOP",
    "run_child",
]

ITEM, END, ERROR = range(3)
"""The kinds of messages: items, each with a report; the end of the items or an exception, with a report."""

HEAD = struct.Struct("=B??IQQQQQ")
"""A message: its kind, what files come with it, the segment, its capacity, and the layout of the object.

The first message of a segment carries its file, and the first one that has blocks the file of these.
"""

CREDIT, STOP = b"c", b"s"
"""Messages of the parent: one more message of items may be made ahead, or the iteration ends."""

START = struct.Struct("=QQQQ")
"""The message of the parent that begins an iteration: the layout of its producer.

The pickled argument of the iteration follows. The file with the producer comes along, unless it is
that of the previous iteration.
"""

MOST_BYTES = 1 << 16
"""The size of the longest message of the parent."""

# The time for an orderly end, after which the process exits in any case.
GRACE_S = 2.0


class ParentEndedError(BaseException):
    """The parent closed the connection or ended."""


def run_child(connection: socket.socket, depth: int, producer: Producer | None) -> None:
    """Make the items of one iteration after the other, until the parent closes the connection.

    An exception ends the process, after it was sent.

    Args:
        connection: The connection to the parent.
        depth: The number of messages to make ahead.
        producer: The producer of the first iteration, if this process was forked.
    """
    silence()
    link: ParentLink | None = None
    try:
        link = ParentLink(connection, depth, producer)
        try:
            while True:
                link.run(link.begun.get())
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
        if link is None or not link.has_ended:
            # Without memory or file descriptors, the error cannot be sent.
            raise
    finally:
        # A signal must not interrupt the end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class HelperIteration:
    """An iteration that the parent began.

    Args:
        depth: The number of messages to make ahead.
        argument: The pickled argument of the ``items`` of the producer.
        layout: The layout of the producer.
        file: The file with the producer, or ``None`` for that of the previous iteration.
    """

    def __init__(
        self, depth: int, argument: bytes, layout: Layout, file: int | None
    ) -> None:
        self.argument = argument
        self.layout = layout
        self.file = file
        self.is_stopped = False
        self._credits = threading.Semaphore(depth)

    def is_wanted(self) -> bool:
        """Wait for a credit, and return whether another item is wanted."""
        self._credits.acquire()
        return not self.is_stopped

    def grant(self) -> None:
        """Allow one more item."""
        self._credits.release()

    def stop(self) -> None:
        """Stop making items."""
        self.is_stopped = True
        self._credits.release()


def reported(
    items: Iterator[Any], producer: Producer
) -> Iterator[tuple[tuple[Any, Any], int]]:
    """Yield each item with the report of its producer, and its bytes."""
    for item in items:
        pair = item, producer.report()
        # Do not keep the item alive while the next one is made.
        del item
        yield pair, producer.num_bytes()
        del pair


def raise_unless_ended(found: Any) -> None:
    """Report an unraisable exception, except ``ParentEndedError``, which may be raised anywhere."""
    if not isinstance(found.exc_value, ParentEndedError):
        sys.__unraisablehook__(found)


class ParentLink:
    """The connection to the parent, which begins and stops iterations, and may end.

    Attributes:
        begun: The iterations that the parent began and that did not start yet.
        has_ended: Whether the parent closed the connection or ended.
    """

    def __init__(
        self,
        connection: socket.socket,
        depth: int,
        producer: Producer | None,
    ) -> None:
        self.connection = connection
        self.depth = depth
        self.segments = WritableSegments()
        self.has_sent_blocks = False
        Columns.are_sent = True
        self.producer = producer
        self.has_ended = self.was_raised = False
        self.begun: queue.SimpleQueue[HelperIteration] = queue.SimpleQueue()
        self.current: HelperIteration | None = None
        if producer is not None:
            self.begin(pickle.dumps(None), Layout(0, 0, 0, 0), None)
        sys.unraisablehook = raise_unless_ended
        # Ctrl-C interrupts all processes of a terminal, but only the parent handles it.
        signal.signal(signal.SIGINT, self.interrupted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self.watch, daemon=True).start()

    def run(self, iteration: HelperIteration) -> None:
        """Make the items of an iteration and send them, until there are no more or it is stopped."""
        if iteration.file is not None:
            self.producer = None
            self.producer = loaded(iteration.layout, iteration.file)
        producer: Any = self.producer
        if not iteration.is_stopped:
            items = iter(producer.items(pickle.loads(iteration.argument)))
            groups = groups_of(reported(items, producer), producer.most_items)
            while iteration.is_wanted():
                group = next(groups, None)
                if group is None:
                    break
                self.send_items(group)
                # Do not keep the items alive while the next ones are made.
                del group
            groups.close()
            close = getattr(items, "close", None)
            if close is not None:
                close()
        self.send(END, None)

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.has_ended and not self.was_raised:
            self.was_raised = True
            raise ParentEndedError

    def send(self, kind: int, value: Any) -> None:
        """Send an object with the report of the producer."""
        report = None if self.producer is None else self.producer.report()
        self.send_packed(kind, *packed((value, report)))

    def send_items(self, group: list[tuple[Any, Any]]) -> None:
        """Send items, each with the report of the producer after it."""
        try:
            found = packed((group, None))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if len(group) > 1:
                # Those before the one that cannot be pickled arrive.
                for pair in group:
                    self.send_items([pair])
                return
            ((item, _),) = group
            message = (
                f"the helper process cannot send a batch of type {type(item).__name__} to "
                f"this one, as it cannot be pickled ({error}): let `transform` and `collate` "
                "return arrays, tensors, Arrow data or plain Python objects, without functions, "
                "generators, locks or open files, or leave out in_process=False"
            )
            raise TypeError(message) from error
        self.send_packed(ITEM, *found)

    def send_packed(
        self, kind: int, layout: Layout, runs: list[tuple[int, Any]]
    ) -> None:
        """Write an object to shared memory, and notify the parent."""
        segment = self.segments.write(runs, layout.num_bytes)
        del runs
        files = [] if segment.is_known else [segment.file]
        has_blocks = bool(segment.blocks) and not self.has_sent_blocks
        if has_blocks:
            files.append(file_of_blocks())
            self.has_sent_blocks = True
        news = not segment.is_known, has_blocks
        head = HEAD.pack(kind, *news, segment.number, segment.capacity, *layout)
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
        """Receive a message; return whether the parent is still connected."""
        try:
            message, files, *_ = socket.recv_fds(self.connection, MOST_BYTES, 1)
        except OSError:
            return False
        if not message:
            return False
        if message not in (CREDIT, STOP):
            layout = Layout(*START.unpack_from(message))
            self.begin(message[START.size :], layout, files[0] if files else None)
        elif self.current is not None:
            (self.current.grant if message == CREDIT else self.current.stop)()
        return True

    def begin(self, argument: bytes, layout: Layout, file: int | None) -> None:
        """Begin an iteration, to which the following messages of the parent belong."""
        self.current = HelperIteration(self.depth, argument, layout, file)
        self.begun.put(self.current)


def portable(error: BaseException) -> tuple[BaseException, str]:
    """Return an exception that can be pickled, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text
