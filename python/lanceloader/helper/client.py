"""Items made in one helper process and handed over through shared memory, without a copy.

For trainers whose process must do nothing else: no thread, no lock and no memory of the
helper is in it. Linux only.
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
from array import array
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from lanceloader.errors import UnsupportedError
from lanceloader.helper.child import END, ERROR, GRACE_S, HEAD, serve
from lanceloader.helper.main_guard import UNGUARDED, imports_main
from lanceloader.helper.serialization import Layout, unpacked
from lanceloader.helper.shared_memory import ReadableSegments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["HelperClient", "RemoteTracebackError", "iterate_in_helper"]

Method: TypeAlias = Literal["spawn", "forkserver", "fork"]


class RemoteTracebackError(Exception):
    """The cause of an exception that came from the helper process: where it was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def iterate_in_helper(
    make: Callable[[], Iterable[Any]],
    *,
    depth: int = 2,
    method: Method = "spawn",
    statistics: Callable[[], Any] | None = None,
) -> HelperClient:
    """Iterate in a helper process, which begins at once and ends with the iterator.

    Arrays, tensors and Arrow data are views of shared memory, which may be written to and is
    used again when nothing refers to them any more; Python objects are copies. Exceptions come
    with their type; ``__cause__`` shows where they were raised.

    Args:
        make: Called in the helper; gives the items. It is pickled, but for ``"fork"``.
        depth: Items that may be made and not taken.
        method: How the process is begun. ``"fork"`` is quick and pickles nothing, but is not
            for processes with threads.
        statistics: Called in the helper after each item and at the end; what it gives is
            ``HelperClient.statistics`` once the item was handed over. Objects that it shares with
            ``make``, like a loader whose methods both are, are shared in the helper.

    Raises:
        ValueError: If ``depth`` is 0, or there is no such method.
        UnsupportedError: If the system is not Linux.
        RuntimeError: If this process must not begin others, as workers of a ``DataLoader``.
    """
    if depth < 1:
        message = f"depth {depth}: wanted at least 1"
        raise ValueError(message)
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError("a helper process needs Linux: wanted in_process=True")
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "a worker process must not begin a helper process: wanted in_process=True"
        )
    return HelperClient(make, depth, method, statistics)


class HelperClient:
    """The items of a helper process; ``iterate_in_helper`` makes one. Several threads may ask.

    Attributes:
        statistics: What the helper said of itself with the item that was handed over last.
        pid: The process.
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
        made: Any = make, statistics
        if method != "fork":
            # Not by multiprocessing, for which torch puts tensors into files with names.
            made = pickle.dumps(made, protocol=5)
        context: Any = multiprocessing.get_context(method)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = context.Process(
            target=serve,
            args=(theirs, os.getpid(), depth, made),
            name="lanceloader-aside",
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
                "this iteration was begun in another process: begin one here"
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
            self._link.grant(self._segments)
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
        """End the process. It is not waited for; what was handed over stays as it is."""
        self._finalizer()


class ChildLink:
    """The process and the connection to it. It does not know ``HelperClient``, whose end is theirs."""

    def __init__(
        self, connection: socket.socket, process: Any, *, imports_main: bool
    ) -> None:
        self.owner = os.getpid()
        self.imports_main = imports_main
        self.has_begun = False
        """Whether the process has sent anything."""
        self.connection = connection
        self.process = process
        self.poll = select.poll()
        self.poll.register(connection, select.POLLIN)
        self.pidfd: int | None = None
        # Where a process has no file, one has to look now and then.
        self.every: int | None = 1000

    def watch(self) -> None:
        """Notice when the process is gone, also if others keep its end of the connection."""
        with contextlib.suppress(OSError, AttributeError):
            self.pidfd = os.pidfd_open(self.process.pid)
            self.poll.register(self.pidfd, select.POLLIN)
            self.every = None

    def receive(self, number: int) -> tuple[bytes, list[int]]:
        """Wait for a message.

        Raises:
            RuntimeError: If the process is gone.
            StopIteration: If nobody wants it any more.
        """
        ready: list[int] = []
        while not ready:
            ready = [file for file, _ in self.poll.poll(self.every)]
            if not ready and not self.process.is_alive():
                break
        if self.connection.fileno() < 0:
            # It was closed, by another thread.
            raise StopIteration
        if self.connection.fileno() in ready:
            message, files = self.read()
            if message:
                self.has_begun = True
                return message, files
        self.process.join(GRACE_S)
        how = described(self.process.exitcode)
        end = f"the helper process {how} before batch {number} was there"
        # Once it has begun, whatever is raised there is sent.
        if self.imports_main and not self.has_begun and self.process.exitcode == 1:
            end = f"{end}. {UNGUARDED}"
        raise RuntimeError(end)

    def read(self) -> tuple[bytes, list[int]]:
        # That the process left with credits unread is said once, before what it has sent.
        for _ in range(2):
            with contextlib.suppress(ConnectionResetError):
                return socket.recv_fds(self.connection, HEAD.size, 1)[:2]
        return b"", []

    def grant(self, segments: ReadableSegments) -> None:
        """Let one more item be made, and give back what is used no more."""
        numbers = array(
            "q",
            (at if is_kept else ~at for at, is_kept in segments.take_released()),
        )
        # If it is gone, that is noticed when the next item is wanted.
        with contextlib.suppress(OSError):
            self.connection.send(numbers.tobytes() + b"\0")

    def end(self) -> None:
        if os.getpid() != self.owner:
            return
        with contextlib.suppress(OSError):
            # Not only closed: forks of this process may have it open.
            self.connection.shutdown(socket.SHUT_RDWR)
        self.let_go()
        if self.process.pid is None:
            return
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=reap, args=(self.process,), daemon=True).start()

    def let_go(self) -> None:
        """Close the files."""
        self.connection.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def start(process: Any, method: Method) -> None:
    """Start a process that does not hear Ctrl-C before it knows what to do about it."""
    if method == "forkserver":
        # The server would never hear it, nor whatever it starts for others.
        forkserver.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reap(process: Any) -> None:
    """Wait for a process that is about to end; end it if it does not."""
    process.join(2 * GRACE_S)
    if process.exitcode is None:
        process.kill()
        process.join()


def described(code: int | None) -> str:
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


def _in_parent() -> None:
    for each in _LIVE.copy():
        live = each()
        if live is not None:
            live._segments.retire()


def _in_child() -> None:
    # The process must see the end of its reader, not of whatever that has forked.
    for each in _LIVE.copy():
        live = each()
        if live is not None:
            live._link.let_go()
    _LIVE.clear()


os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
