"""The helper process, as the process sees it that started it: messages, and the end of both."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
import weakref
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from lanceloader.errors import UnsupportedError
from lanceloader.helper.child import (
    CREDIT,
    END,
    ERROR,
    GRACE_S,
    HEAD,
    START,
    STOP,
    run_child,
)
from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.transport.serialization import Layout
from lanceloader.transport.shared_memory import ReadableSegments

if TYPE_CHECKING:
    from lanceloader.helper.producer import PickledProducer, Producer

__all__ = ["ChildLink", "Message", "Method", "check_can_start"]

Method: TypeAlias = Literal["spawn", "forkserver", "fork"]


class Message(NamedTuple):
    """A message of the helper.

    Attributes:
        kind: ``ITEM``, ``END`` or ``ERROR``.
        value: Items, each with the report of the producer; or the exception with its traceback as
            text.
        report: What the producer reports at the end.
    """

    kind: int
    value: Any
    report: Any


def check_can_start() -> None:
    """Check that this process can start a helper process.

    Raises:
        UnsupportedError: If the system is not Linux.
        RuntimeError: If this process is a daemon, such as a worker of a ``DataLoader``.
    """
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError(
            "a helper process is only supported on Linux: pass in_process=True"
        )
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "a worker process cannot start a helper process: pass in_process=True"
        )


class ChildLink:
    """A helper process, which starts at once, and the connection to it.

    It serves one iteration after the other. Nothing refers to it that it refers to, so that its
    owners can end it when they are dropped.

    Args:
        method: The start method of the process.
        depth: The number of messages to make ahead.
        producer: The producer of the first iteration, for a process that is forked.

    Attributes:
        owner: The process that started it, which alone may use it.
        is_running: Whether an iteration was begun whose end has not arrived.
        is_closed: Whether this process has closed the connection, as another thread may notice.
        segments: The shared memory that the process writes.
    """

    def __init__(
        self, method: Method, depth: int, producer: Producer | None = None
    ) -> None:
        self.owner = os.getpid()
        self._producer: PickledProducer | None = None
        """The producer that was sent last."""
        self.is_running = producer is not None
        self.is_closed = False
        self.segments = ReadableSegments()
        self._imports_main = imports_main(method)
        self._has_begun = False
        """Whether the process has sent anything."""
        context: Any = multiprocessing.get_context(method)
        self.connection, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._poll = select.poll()
        self._poll.register(self.connection, select.POLLIN)
        self._pidfd: int | None = None
        self.process = context.Process(
            target=run_child,
            args=(theirs, depth, producer),
            name="lanceloader-helper",
            daemon=True,
        )
        _LIVE.append(weakref.ref(self, _forget))
        try:
            start(self.process, method)
            with contextlib.suppress(OSError, AttributeError):
                # The connection does not show the end of the process if forks keep it open.
                self._pidfd = os.pidfd_open(self.process.pid)
                self._poll.register(self._pidfd, select.POLLIN)
        except BaseException:
            self.end()
            raise
        finally:
            theirs.close()

    def begin(self, producer: PickledProducer, argument: bytes) -> None:
        """Begin an iteration, with the producer that was sent last if it equals this one.

        Args:
            producer: The producer of the items.
            argument: The pickled argument of its ``items``.
        """
        layout, files = Layout(0, 0, 0, 0), []
        if self._producer is None or not producer.equals(self._producer):
            layout, file = producer.write()
            files, self._producer = [file], producer
        try:
            self._send(START.pack(*layout) + argument, files)
        finally:
            for file in files:
                os.close(file)
        self.is_running = True

    def stop(self) -> None:
        """End the current iteration, whose messages that are on their way ``settle`` drops."""
        if self.is_running:
            self._send(STOP)

    def settle(self, limit_s: float) -> bool:
        """Return whether the process is ready for an iteration, within a time."""
        until = time.monotonic() + limit_s
        while self.is_running:
            if not self._wait(max(0, until - time.monotonic())):
                return False
            message, files = self._read()
            if not message:
                return False
            kind, number, _ = self._announced(message, files)
            self.segments.release(number)
            if kind == ERROR:
                return False
        # Whatever there is now is the end of the process.
        return not self.is_closed and not self._wait(0)

    def receive(self, number: int) -> Message:
        """Wait for a message, and grant a credit for an item.

        Args:
            number: The number of the next item, for messages.

        Raises:
            RuntimeError: If the process has ended.
            StopIteration: If the connection was closed in this process.
        """
        # Without a file that stands for the process, look now and then whether it is alive.
        every = None if self._pidfd is not None else 1.0
        while not (ready := self._wait(every)) and self.process.is_alive():
            pass
        if self.connection.fileno() in ready:
            message, files = self._read()
            if message:
                self._has_begun = True
                kind, segment, layout = self._announced(message, files)
                if self.is_running:
                    self._send(CREDIT)
                return Message(kind, *self.segments.load(segment, layout))
        if self.is_closed:
            raise StopIteration
        self.process.join(GRACE_S)
        how = exit_text(self.process.exitcode)
        end = f"the helper process {how} before batch {number} arrived"
        # A process that has started sends its errors.
        if self._imports_main and not self._has_begun and self.process.exitcode == 1:
            end = f"{end}. {UNGUARDED}"
        raise RuntimeError(end)

    def end(self) -> None:
        """End the process without waiting for it."""
        if os.getpid() != self.owner or self.is_closed:
            return
        self.is_closed = True
        with contextlib.suppress(OSError):
            # Shut down, as forks of this process may keep the connection open.
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_files()
        if self.process.pid is None:
            return
        with contextlib.suppress(RuntimeError):
            threading.Thread(
                target=wait_or_kill, args=(self.process,), daemon=True
            ).start()

    def close_files(self) -> None:
        """Close the connection and the file that stands for the process."""
        self.connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _wait(self, limit_s: float | None) -> list[int]:
        """Return the files that are ready, after a time at most."""
        limit_ms = None if limit_s is None else limit_s * 1000
        return [file for file, _ in self._poll.poll(limit_ms)]

    def _read(self) -> tuple[bytes, list[int]]:
        # If the process ended with unread credits, the first read fails before its last messages.
        for _ in range(2):
            try:
                return socket.recv_fds(self.connection, HEAD.size, 2)[:2]
            except ConnectionResetError:
                continue
            except OSError:
                # Closed by another thread just now.
                if not self.is_closed:
                    raise
        return b"", []

    def _announced(self, message: bytes, files: list[int]) -> tuple[int, int, Layout]:
        """Return the kind of a message, and the segment and layout of the object that it announces."""
        kind, is_new, has_blocks, number, capacity, *layout = HEAD.unpack(message)
        if is_new:
            self.segments.map(number, files.pop(0), capacity)
        if has_blocks:
            self.segments.map_blocks(files.pop(0))
        if kind in (END, ERROR):
            self.is_running = False
        return kind, number, Layout(*layout)

    def _send(self, message: bytes, files: list[int] | tuple[()] = ()) -> None:
        # If the process has ended, the next receive() raises.
        with contextlib.suppress(OSError):
            socket.send_fds(self.connection, [message], files)


def start(process: Any, method: Method) -> None:
    """Start a process in which Ctrl-C is blocked until it has a handler."""
    if method == "forkserver":
        # Started before the signal is blocked: the server and all its processes inherit the mask.
        forkserver.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_or_kill(process: Any) -> None:
    """Wait for a process to end, and kill it if it does not."""
    process.join(2 * GRACE_S)
    if process.exitcode is None:
        process.kill()
        process.join()


def exit_text(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"was killed by signal {-code}"


_LIVE: list[weakref.ref[ChildLink]] = []


def _forget(gone: weakref.ref[ChildLink]) -> None:
    with contextlib.suppress(ValueError):
        _LIVE.remove(gone)


def _in_child() -> None:
    # The helper must notice the end of its parent, even if forks of the parent live on.
    for each in _LIVE.copy():
        live = each()
        if live is not None:
            live.close_files()
    _LIVE.clear()


os.register_at_fork(after_in_child=_in_child)
