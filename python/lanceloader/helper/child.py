"""The helper process, which makes items, writes them to shared memory and notifies the parent."""

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
"""The head of a message: kind, which files are attached, segment, its capacity, and layout of the object.

The first message of a segment carries the file of the segment, and the first one with blocks the file of
the blocks.
"""

CREDIT, STOP = b"c", b"s"
"""Messages of the parent: allow one more message of items to be made ahead, or stop the iteration."""

START = struct.Struct("=QQQQ")
"""The message of the parent that begins an iteration: the layout of its producer.

The pickled argument of the iteration follows. The file with the producer is attached, unless the
producer is that of the previous iteration.
"""

MOST_BYTES = 1 << 16
"""The maximum size of a message of the parent."""

# The time for an orderly shutdown, after which the process exits in any case.
GRACE_S = 2.0


class ParentEndedError(BaseException):
    """The parent closed the connection or ended."""


def run_child(connection: socket.socket, depth: int, producer: Producer | None) -> None:
    """Run one iteration after another, until the parent closes the connection.

    An exception ends the process after it has been sent.

    Args:
        connection: The connection to the parent.
        depth: The number of messages to make ahead.
        producer: The producer of the first iteration, if this process was forked; otherwise ``None``.
    """
    silence()
    link: ParentLink | None = None
    try:
        link = ParentLink(connection, depth, producer)
        try:
            while True:
                link.run(link.pending.get())
        except ParentEndedError:
            raise
        except BaseException as error:
            link.send(ERROR, picklable_error(as_runtime_error(error)))
    except ParentEndedError:
        pass
    except ConnectionError:
        # The parent closed the connection while this process was writing to it.
        pass
    except OSError:
        if link is None or not link.has_parent_ended:
            # The error could not be sent, for want of memory or file descriptors.
            raise
    finally:
        # A signal must not interrupt the shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class HelperIteration:
    """An iteration that the parent requested.

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
        """Wait for a credit, and return whether to make another message of items."""
        self._credits.acquire()
        return not self.is_stopped

    def grant(self) -> None:
        """Allow one more message of items."""
        self._credits.release()

    def stop(self) -> None:
        """Stop making items."""
        self.is_stopped = True
        self._credits.release()


def with_reports(
    items: Iterator[Any], producer: Producer
) -> Iterator[tuple[tuple[Any, Any], int]]:
    """Yield each item with the report of its producer, and its number of bytes."""
    for item in items:
        pair = item, producer.report()
        # Do not keep the item alive while the next one is made.
        del item
        yield pair, producer.num_bytes()
        del pair


def report_unraisable(unraisable: Any) -> None:
    """Report an unraisable exception, unless it is ``ParentEndedError``, which may be raised anywhere."""
    if not isinstance(unraisable.exc_value, ParentEndedError):
        sys.__unraisablehook__(unraisable)


class ParentLink:
    """The connection to the parent, which starts and stops iterations.

    Attributes:
        pending: The iterations that the parent requested and that have not started yet.
        has_parent_ended: Whether the parent closed the connection or ended.
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
        self.has_parent_ended = self.has_raised = False
        self.pending: queue.SimpleQueue[HelperIteration] = queue.SimpleQueue()
        self.current: HelperIteration | None = None
        if producer is not None:
            self.begin(pickle.dumps(None), Layout(0, 0, 0, 0), None)
        sys.unraisablehook = report_unraisable
        # Ctrl-C interrupts all processes of a terminal, but only the parent handles it.
        signal.signal(signal.SIGINT, self.on_interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self.watch, daemon=True).start()

    def run(self, iteration: HelperIteration) -> None:
        """Make and send the items of an iteration, until it is exhausted or stopped."""
        if iteration.file is not None:
            self.producer = None
            self.producer = loaded(iteration.layout, iteration.file)
        producer: Any = self.producer
        if not iteration.is_stopped:
            items = iter(producer.items(pickle.loads(iteration.argument)))
            groups = groups_of(with_reports(items, producer), producer.most_items)
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

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: raise ``ParentEndedError``, once, if the parent has ended."""
        del number, frame
        if self.has_parent_ended and not self.has_raised:
            self.has_raised = True
            raise ParentEndedError

    def send(self, kind: int, value: Any) -> None:
        """Send an object with the report of the producer."""
        report = None if self.producer is None else self.producer.report()
        self.send_packed(kind, *packed((value, report)))

    def send_items(self, group: list[tuple[Any, Any]]) -> None:
        """Send items, each with the report that the producer made after it."""
        try:
            serialized = packed((group, None))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if len(group) > 1:
                # The items before the one that cannot be pickled must arrive.
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
        self.send_packed(ITEM, *serialized)

    def send_packed(
        self, kind: int, layout: Layout, runs: list[tuple[int, Any]]
    ) -> None:
        """Write an object to shared memory, and notify the parent."""
        segment = self.segments.write(runs, layout.num_bytes)
        del runs
        files = [] if segment.is_announced else [segment.file]
        has_blocks = bool(segment.blocks) and not self.has_sent_blocks
        if has_blocks:
            files.append(file_of_blocks())
            self.has_sent_blocks = True
        flags = not segment.is_announced, has_blocks
        head = HEAD.pack(kind, *flags, segment.number, segment.capacity, *layout)
        segment.is_announced = True
        socket.send_fds(self.connection, [head], files)

    def watch(self) -> None:
        """Receive messages until the parent ends or closes the connection, then shut this process down."""
        # The connection does not show the parent's end if forks of the parent keep it open.
        when_ended(multiprocessing.parent_process(), self.disconnect)
        while self.receive():
            pass
        self.has_parent_ended = True
        # Errors from here on are consequences of the shutdown, and must not be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(1)

    def disconnect(self) -> None:
        """Shut the connection down, which ends this process."""
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
        """Queue an iteration, to which the following messages of the parent refer."""
        self.current = HelperIteration(self.depth, argument, layout, file)
        self.pending.put(self.current)


def picklable_error(error: BaseException) -> tuple[BaseException, str]:
    """Return the exception, or a picklable one in its place, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text
