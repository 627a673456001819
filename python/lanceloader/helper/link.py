"""The parent's side of a helper process: starting it, exchanging messages with it, and ending it."""

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
        report: The report of the producer at the end.
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

    The process serves one iteration after another. The link must not be part of a reference cycle, so
    that its owners can end it when they are dropped.

    Args:
        method: The start method of the process.
        depth: The number of messages to make ahead.
        producer: The producer of the first iteration, for a process that is forked.

    Attributes:
        owner: The identifier of the process that started it, the only one that may use it.
        is_running: Whether an iteration has begun whose end has not arrived.
        is_closed: Whether this process has closed the connection, possibly in another thread.
        segments: The shared memory that the helper writes.
    """

    def __init__(
        self, method: Method, depth: int, producer: Producer | None = None
    ) -> None:
        self.owner = os.getpid()
        self._producer: PickledProducer | None = None
        """The last producer that was sent."""
        self.is_running = producer is not None
        self.is_closed = False
        self.segments = ReadableSegments()
        self._imports_main = imports_main(method)
        self._has_answered = False
        """Whether the helper has sent a message."""
        context: Any = multiprocessing.get_context(method)
        self.connection, child_end = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._poll = select.poll()
        self._poll.register(self.connection, select.POLLIN)
        self._pidfd: int | None = None
        self.process = context.Process(
            target=run_child,
            args=(child_end, depth, producer),
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
            child_end.close()

    def begin(self, producer: PickledProducer, argument: bytes) -> None:
        """Begin an iteration. The producer is only sent if it differs from the last one.

        Args:
            producer: The producer of the items.
            argument: The pickled argument of the producer's ``items``.
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
        """Stop the current iteration. Call ``settle`` to drop the messages that are still in flight."""
        if self.is_running:
            self._send(STOP)

    def settle(self, limit_s: float) -> bool:
        """Drop the messages of a stopped iteration; return whether the helper is ready within a time."""
        until = time.monotonic() + limit_s
        while self.is_running:
            if not self._wait(max(0, until - time.monotonic())):
                return False
            message, files = self._read()
            if not message:
                return False
            kind, number, _ = self._unpack_head(message, files)
            self.segments.release(number)
            if kind == ERROR:
                return False
        # The connection or the pidfd is only ready now if the helper has ended.
        return not self.is_closed and not self._wait(0)

    def receive(self, number: int) -> Message:
        """Wait for a message, and grant a credit for another one.

        Args:
            number: The number of the next item, for error messages.

        Raises:
            RuntimeError: If the process has ended.
            StopIteration: If the connection was closed in this process.
        """
        # Without a pidfd, check every second whether the process is alive.
        interval_s = None if self._pidfd is not None else 1.0
        while not (ready := self._wait(interval_s)) and self.process.is_alive():
            pass
        if self.connection.fileno() in ready:
            message, files = self._read()
            if message:
                self._has_answered = True
                kind, segment, layout = self._unpack_head(message, files)
                if self.is_running:
                    self._send(CREDIT)
                return Message(kind, *self.segments.load(segment, layout))
        if self.is_closed:
            raise StopIteration
        self.process.join(GRACE_S)
        how = exit_text(self.process.exitcode)
        end = f"the helper process {how} before batch {number} arrived"
        # A process that has started sends its errors.
        if self._imports_main and not self._has_answered and self.process.exitcode == 1:
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
        """Close the connection and the pidfd."""
        self.connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _wait(self, limit_s: float | None) -> list[int]:
        """Wait until a file is readable, at most for a time, and return the readable ones."""
        limit_ms = None if limit_s is None else limit_s * 1000
        return [file for file, _ in self._poll.poll(limit_ms)]

    def _read(self) -> tuple[bytes, list[int]]:
        # If the process ended with unread credits, the first read fails although messages are left.
        for _ in range(2):
            try:
                return socket.recv_fds(self.connection, HEAD.size, 2)[:2]
            except ConnectionResetError:
                continue
            except OSError:
                # Another thread may have closed the connection just now.
                if not self.is_closed:
                    raise
        return b"", []

    def _unpack_head(self, message: bytes, files: list[int]) -> tuple[int, int, Layout]:
        """Map the files of a message, and return its kind, and the segment and layout of its object."""
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
    """Start a process in which SIGINT is blocked until a handler is installed."""
    if method == "forkserver":
        # Start the server before the signal is blocked, as its processes inherit the mask.
        forkserver.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_or_kill(process: Any) -> None:
    """Wait for a process to end, and kill it if it does not in time."""
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
    # Forks must not keep connections open, or helpers would not notice the end of their parent.
    for each in _LIVE.copy():
        link = each()
        if link is not None:
            link.close_files()
    _LIVE.clear()


os.register_at_fork(after_in_child=_in_child)
