"""``iterate_in_helper``: items of a helper process, which arrive through shared memory without a copy.

Nothing of the helper runs in this process: neither threads nor locks. Linux only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import socket
import threading
import weakref
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from lanceloader.errors import UnsupportedError
from lanceloader.helper.child import END, ERROR, GRACE_S, HEAD, run_child
from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.transport.serialization import Layout, unpacked
from lanceloader.transport.shared_memory import ReadableSegments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["HelperClient", "RemoteTracebackError", "iterate_in_helper"]

Method: TypeAlias = Literal["spawn", "forkserver", "fork"]


class RemoteTracebackError(Exception):
    """The traceback of the helper process, as the cause of an exception that was raised there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def iterate_in_helper(
    make: Callable[[], Iterable[Any]],
    *,
    depth: int = 2,
    method: Method = "spawn",
    statistics: Callable[[], Any] | None = None,
) -> HelperClient:
    """Iterate in a helper process, which starts at once and ends with the iterator.

    Arrays, tensors and Arrow data are writable views of shared memory, which is reused when nothing
    refers to them; other objects are copies. Exceptions keep their type, with the traceback of the
    helper as ``__cause__``.

    Args:
        make: A function that returns the items, which the helper calls. It is pickled, unless
            ``method`` is ``"fork"``.
        depth: The number of items to make ahead.
        method: The start method of the process. ``"fork"`` is fast and pickles nothing, but is
            unsafe in processes with threads.
        statistics: A function that the helper calls after each item and at the end. Its result is
            ``HelperClient.statistics`` when the item is yielded. Objects that it shares with
            ``make``, such as a loader whose methods both are, are shared in the helper.

    Raises:
        ValueError: If ``depth`` is less than 1, or ``method`` is unknown.
        UnsupportedError: If the system is not Linux.
        RuntimeError: If this process is a daemon, such as a worker of a ``DataLoader``.
    """
    if depth < 1:
        message = f"`depth` must be at least 1, got {depth}"
        raise ValueError(message)
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError(
            "a helper process is only supported on Linux: pass in_process=True"
        )
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "a worker process cannot start a helper process: pass in_process=True"
        )
    return HelperClient(make, depth, method, statistics)


class HelperClient:
    """An iterator over the items of a helper process; made by ``iterate_in_helper``.

    Several threads may call ``next``.

    Attributes:
        statistics: The statistics that the helper sent with the item yielded last.
        pid: The process identifier of the helper.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]],
        depth: int,
        method: Method,
        statistics: Callable[[], Any] | None,
    ) -> None:
        self.statistics: Any = None
        self._num_taken = 0
        self._lock = threading.Lock()
        self._segments = ReadableSegments()
        factory: Any = make, statistics
        if method != "fork":
            # Pickled here, as multiprocessing would use torch's reducers, which need named files.
            factory = pickle.dumps(factory, protocol=5)
        context: Any = multiprocessing.get_context(method)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = context.Process(
            target=run_child,
            args=(theirs, depth, factory),
            name="lanceloader-helper",
            daemon=True,
        )
        self._link = ChildLink(ours, process, imports_main=imports_main(method))
        self._finalizer = weakref.finalize(self, self._link.end)
        _LIVE.append(weakref.ref(self, _forget))
        try:
            start(process, method)
            self._link.watch()
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()
        self.pid: int = process.pid

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if os.getpid() != self._link.owner:
            raise RuntimeError(
                "this iterator was made in another process: call iter() in this process"
            )
        try:
            with self._lock:
                return self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> Any:
        if not self._finalizer.alive:
            raise StopIteration
        message, files = self._link.receive(self._num_taken)
        kind, number, capacity, *layout = HEAD.unpack(message)
        if files:
            self._segments.map(number, files[0], capacity)
        place = Layout(*layout)
        memory = self._segments.view(number, place.num_bytes)
        if kind not in (END, ERROR):
            self._link.grant()
        value, statistics = unpacked(memory, place)
        if self.statistics is None or statistics is not None:
            self.statistics = statistics
        if kind == END:
            raise StopIteration
        if kind == ERROR:
            error, text = value
            error.__cause__ = RemoteTracebackError(text)
            raise error
        self._num_taken += 1
        return value

    def close(self) -> None:
        """End the process without waiting for it. Items that were yielded stay valid."""
        self._finalizer()


class ChildLink:
    """The helper process and the connection to it.

    It must not refer to the ``HelperClient``, whose finalizer ends both.
    """

    def __init__(
        self, connection: socket.socket, process: Any, *, imports_main: bool
    ) -> None:
        self.owner = os.getpid()
        self.imports_main = imports_main
        self.has_begun = False
        """Whether the process has sent anything."""
        self.is_closed = False
        """Whether this process has closed the connection, as another thread may notice."""
        self.connection = connection
        self.process = process
        self.poll = select.poll()
        self.poll.register(connection, select.POLLIN)
        self.pidfd: int | None = None
        # Without a file descriptor of the process, poll whether it is alive.
        self.every: int | None = 1000

    def watch(self) -> None:
        """Watch for the end of the process, which the connection does not show if forks keep it open."""
        with contextlib.suppress(OSError, AttributeError):
            self.pidfd = os.pidfd_open(self.process.pid)
            self.poll.register(self.pidfd, select.POLLIN)
            self.every = None

    def receive(self, number: int) -> tuple[bytes, list[int]]:
        """Wait for a message, and return it with its file descriptors.

        Args:
            number: The number of the next item, for messages.

        Raises:
            RuntimeError: If the process has ended.
            StopIteration: If the connection was closed in this process.
        """
        ready: list[int] = []
        while not ready:
            ready = [file for file, _ in self.poll.poll(self.every)]
            if not ready and not self.process.is_alive():
                break
        if self.connection.fileno() in ready:
            message, files = self.read()
            if message:
                self.has_begun = True
                return message, files
        if self.is_closed:
            raise StopIteration
        self.process.join(GRACE_S)
        how = exit_text(self.process.exitcode)
        end = f"the helper process {how} before batch {number} arrived"
        # A process that has started sends its errors.
        if self.imports_main and not self.has_begun and self.process.exitcode == 1:
            end = f"{end}. {UNGUARDED}"
        raise RuntimeError(end)

    def read(self) -> tuple[bytes, list[int]]:
        # If the process ended with unread credits, the first read fails before its last messages.
        for _ in range(2):
            try:
                return socket.recv_fds(self.connection, HEAD.size, 1)[:2]
            except ConnectionResetError:
                continue
            except OSError:
                # Closed by another thread just now.
                if not self.is_closed:
                    raise
        return b"", []

    def grant(self) -> None:
        """Grant a credit for one more item."""
        # If the process has ended, the next receive() raises.
        with contextlib.suppress(OSError):
            self.connection.send(b"\0")

    def end(self) -> None:
        if os.getpid() != self.owner:
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
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


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


_LIVE: list[weakref.ref[HelperClient]] = []


def _forget(gone: weakref.ref[HelperClient]) -> None:
    with contextlib.suppress(ValueError):
        _LIVE.remove(gone)


def _in_child() -> None:
    # The helper must notice the end of its parent, even if forks of the parent live on.
    for each in _LIVE.copy():
        live = each()
        if live is not None:
            live._link.close_files()
    _LIVE.clear()


os.register_at_fork(after_in_child=_in_child)
