"""Jobs in processes of their own, and how much memory these take, weighed from outside.

A process that weighs itself disturbs the balance, and one that holds much memory for one arm
would slow the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.venvs import python_of

BENCHES = Path(__file__).parents[1]
LIMIT_S = 300.0
"""A job that takes longer is ended, and has failed."""
NO_WORKERS = (b"resource_tracker", b"torch_shm_manager")
SHARED = Path("/dev/shm")
LEFT_BEHIND = re.compile(r"\d{6}_[a-z_]+")
"""Named shared memory that MosaicML's processes do not remove."""
MIB = 1 << 20

RESIDENT = ("status", "RssAnon", "RssShmem", "RssFile")
"""Memory that a process has; what several share counts in each of them."""
PROPORTIONAL = ("smaps_rollup", "Pss_Anon", "Pss_Shmem", "Pss_File")
"""Memory that n processes share counts with one n-th in each of them."""


LONG_RUNNING = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""What glibc's malloc comes to where large blocks were freed: it keeps them, and spares the page faults."""


class Child:
    """A running job of ``child.py``."""

    def __init__(
        self,
        job: str,
        cache: Path | None,
        venv: str,
        limit_s: float,
        is_long_running: bool,  # noqa: FBT001
        **arguments: Any,
    ) -> None:
        # `close` closes it.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        paths = [str(BENCHES), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # Nobody may ask a hub about anything.
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **(LONG_RUNNING if is_long_running else {}),
        }
        if cache is not None:
            environment["LANCELOADER_CACHE_DIR"] = str(cache)
        described = pickle.dumps((job, arguments)).hex()
        self.process = subprocess.Popen(
            [python_of(venv), "-m", "harness.child", described],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.at = 0.0
        """When the job said what it said last."""
        self.timer = threading.Timer(limit_s, self.end)
        self.timer.start()

    def next(self) -> dict[str, Any]:
        """Resume the job, and return the next value that it yields.

        Raises:
            RuntimeError: If the process ends first.
        """
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        return self.wait()

    def wait(self) -> dict[str, Any]:
        for line in self.process.stdout:
            # A library may print too.
            if line.startswith(b'{"event"'):
                found = json.loads(line)
                self.at = found["at"]
                return found["event"]
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        message = f"the job ended early: {last[0] if last else 'no message'}"
        raise RuntimeError(message)

    def finish(self) -> None:
        """Have the process end as programs do, with all that it does then."""
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.timer.cancel()
        # Some libraries hang when they are to end. Python's tracker of shared memory is left to
        # take away what they had.
        if self.process.poll() is None:
            for pid in reversed([self.pid, *workers(self.pid)]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


@contextlib.contextmanager
def child(
    job: str,
    *,
    cache: Path | None = None,
    venv: str = "",
    limit_s: float = LIMIT_S,
    is_long_running: bool = False,
    **arguments: Any,
) -> Iterator[Child]:
    """Start a job, ``module:generator``, and wait until it yields: by then all is imported.

    With ``is_long_running`` its allocator is as in a process that has run for long.
    """
    before = named_memory()
    running = Child(job, cache, venv, limit_s, is_long_running, **arguments)
    try:
        running.wait()
        yield running
    finally:
        running.close()
        for left in named_memory() - before:
            left.unlink(missing_ok=True)


def named_memory() -> set[Path]:
    return {each for each in SHARED.glob("*") if LEFT_BEHIND.fullmatch(each.name)}


def result_of(job: str, **arguments: Any) -> dict[str, Any]:
    """Run a job that has one result."""
    with child(job, **arguments) as running:
        return running.next()


@dataclass(frozen=True)
class Weight:
    """Bytes of a process and all below it, at one time."""

    at: float
    anonymous: int
    file: int
    """Pages of files: the system may take them back."""

    @property
    def all(self) -> int:
        return self.anonymous + self.file


def weigh(pid: int, source: tuple[str, ...] = RESIDENT) -> Weight:
    name, *kinds = source
    sums = dict.fromkeys(kinds, 0)
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/{name}").read_text().splitlines():
                kind, _, value = line.partition(":")
                if kind in sums:
                    sums[kind] += int(value.split()[0]) * 1024
    private, shared, file = sums.values()
    return Weight(time.monotonic(), private + shared, file)


class Scale:
    """Weighs a job again and again while a block runs; it may be entered anew."""

    def __init__(
        self, running: Child, source: tuple[str, ...], interval_s: float
    ) -> None:
        self.pid, self.source, self.interval_s = running.pid, source, interval_s
        self.weights = [weigh(self.pid, source)]

    @property
    def base(self) -> Weight:
        """The first weight: that of the imports, in a job that has done nothing else."""
        return self.weights[0]

    def __enter__(self) -> Self:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(self.interval_s):
            self.weights.append(weigh(self.pid, self.source))

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.weights.append(weigh(self.pid, self.source))

    def figures(self) -> dict[str, float]:
        """Return the peaks, less what the imports take."""

        def peak(name: str) -> int:
            of = [getattr(weight, name) for weight in self.weights]
            return max(of) - of[0]

        return {
            "imported_bytes": self.base.all,
            "peak_bytes": peak("all"),
            "peak_anonymous_bytes": peak("anonymous"),
            "peak_file_bytes": peak("file"),
        }


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for below in (task / "children").read_text().split():
                found.extend(tree(int(below)))
    return found


def workers(pid: int) -> list[int]:
    """Return the worker processes below a process."""
    found = []
    for each in tree(pid)[1:]:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/cmdline").read_bytes()
            if not any(other in words for other in NO_WORKERS):
                found.append(each)
    return found


def split_by_folder(pid: int, folder: Path) -> tuple[int, int]:
    """Return the proportional bytes of a process: of files in ``folder``, and of the rest."""
    sums = {True: 0, False: 0}
    is_inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if first == "Pss:":
            sums[is_inside] += int(rest[0]) * 1024
        elif not first.endswith(":"):
            is_inside = len(rest) == 5 and rest[4].startswith(str(folder))
    return sums[True], sums[False]
