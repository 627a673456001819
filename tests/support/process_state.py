"""What a process is doing: its threads, its open files and its memory; and waiting for it."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import time
from pathlib import Path

STAY = ("lanceloader-io", "lanceloader-ima")
"""How the names of threads begin that stay: those of the runtime, and those that decode images."""


def threads() -> list[str]:
    """The threads that work for a reader or a loader."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found.append((task / "comm").read_text().strip())
        except OSError:
            continue
    return [
        name
        for name in found
        if name.startswith("lanceloader-") and not name.startswith(STAY)
    ]


def soon(condition, limit_s: float = 20) -> bool:
    """Whether something becomes true. The limit says "does not hang", never "is fast"."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        # Asked once a turn: a thread that starts has its name a moment later.
        if condition():
            return True
        time.sleep(0.005)
    return False


def is_gone(pid: int) -> bool:
    """Whether a process has ended, and its parent knows."""
    return not Path(f"/proc/{pid}").exists()


def num_files() -> int:
    """The number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings() -> int:
    """The number of pieces of our shared memory that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:lanceloader")


def settle() -> None:
    """Wait until nothing is open any more, as in a process that has just started."""
    gc.collect()
    assert soon(lambda: not threads()), threads()


@contextlib.contextmanager
def names_seen(folder):
    """The names that a folder has at any time meanwhile."""
    seen, is_over = set(), threading.Event()

    def watch():
        while not is_over.is_set():
            seen.update(path.name for path in folder.glob("*"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def open_in(folder):
    """Files in a folder that this process holds open, without a name."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except OSError:
            continue
    return [
        name
        for name in targets
        if name.startswith(f"{folder}/") and name.endswith("(deleted)")
    ]


def anonymous(pid):
    """Bytes of memory that are a process's own, and not those of a file."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0
