"""Runs a job of ``child.py`` in a process of its own, and looks at its memory from outside.

A process that weighs itself disturbs the balance, and one that holds much memory for one
contender would slow the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import BenchTable

INTERVAL_S = 0.02
LIMIT_S = 300.0
"""A job that takes longer is ended, and has failed."""
KINDS = ("RssAnon", "RssFile", "RssShmem")
NO_WORKERS = (b"resource_tracker", b"torch_shm_manager")
MIB = 1 << 20

Event = dict[str, Any]


@dataclass(frozen=True)
class Weight:
    """Resident bytes of a process and all below it, at one time."""

    at: float
    private: int
    file: int
    """Pages of files: the system may take them back."""
    shared: int
    """Memory that several processes share, and no file holds."""

    @property
    def anonymous(self) -> int:
        return self.private + self.shared

    @property
    def all(self) -> int:
        return self.anonymous + self.file


class Child:
    """A job of ``child.py``: it says what it does in events, one line of JSON each."""

    def __init__(
        self,
        job: str,
        cache: Path | None,
        *,
        python: Path | None = None,
        limit_s: float = LIMIT_S,
        **arguments: Any,
    ) -> None:
        script = Path(__file__).with_name("child.py")
        # `close` closes it.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        environment = dict(os.environ)
        if cache is not None:
            environment["LANCELOADER_CACHE_DIR"] = str(cache)
        self.process = subprocess.Popen(
            [
                python or sys.executable,
                script,
                job,
                json.dumps(arguments, default=plain),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,
        )
        self.timer = threading.Timer(limit_s, self.end)
        self.timer.start()

    def wait_for(self, name: str) -> Event:
        """Wait until the job says this.

        Raises:
            RuntimeError: If it ends first.
        """
        for line in self.process.stdout:
            # A library may print too.
            event: Event = json.loads(line) if line.startswith(b'{"event"') else {}
            if event.get("event") == name:
                return event
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        message = f"the job ended before `{name}`: {last[0] if last else 'no message'}"
        raise RuntimeError(message)

    def go_on(self) -> None:
        """Let a job go on that waits."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.timer.cancel()
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.end()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, BenchTable) else str(value)


@contextlib.contextmanager
def child(job: str, cache: Path | None = None, **arguments: Any) -> Iterator[Child]:
    """Start a job and wait until it has imported everything; it then waits for ``go_on``."""
    running = Child(job, cache, **arguments)
    try:
        running.wait_for("imported")
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def watched(running: Child) -> Iterator[list[Weight]]:
    """Weigh a job every 20 ms while the block runs."""
    weights = [weigh(running.process.pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL_S):
            weights.append(weigh(running.process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield weights
    finally:
        stop.set()
        thread.join()


def weigh(pid: int) -> Weight:
    sums = dict.fromkeys(KINDS, 0)
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) * 1024
    return Weight(time.monotonic(), *sums.values())


def tree(pid: int) -> list[int]:
    """Give a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for below in (task / "children").read_text().split():
                found.extend(tree(int(below)))
    return found


def shares(pid: int) -> tuple[int, int]:
    """Give the proportional bytes of a process and all below it: of everything, and of no file.

    Memory that several of them share counts once.
    """
    sums = {"Pss": 0, "Pss_Anon": 0, "Pss_Shmem": 0}
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) * 1024
    return sums["Pss"], sums["Pss_Anon"] + sums["Pss_Shmem"]


def workers(pid: int) -> list[int]:
    """Give the worker processes below a process."""
    found = []
    for each in tree(pid)[1:]:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/cmdline").read_bytes()
            if not any(other in words for other in NO_WORKERS):
                found.append(each)
    return found


def proportional(pid: int, folder: Path) -> tuple[int, int]:
    """Give the proportional resident bytes of a process: of files in ``folder``, of the rest.

    What n processes have mapped counts with one n-th in each of them.
    """
    inside = outside = 0
    is_inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if first == "Pss:":
            inside += int(rest[0]) * is_inside
            outside += int(rest[0]) * (not is_inside)
        elif not first.endswith(":"):
            is_inside = len(rest) == 5 and rest[4].startswith(str(folder))
    return inside * 1024, outside * 1024
