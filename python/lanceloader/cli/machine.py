"""The checks of ``doctor``: libraries, cores, memory, disks and settings."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import lanceloader
import lanceloader.cache
from lanceloader.cli.output import size

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finding", "findings"]

Level = Literal["ok", "note", "problem"]

_LIBRARIES = {
    "torch": "torch",
    "lancedb": "lancedb",
    "pylance": "lance",
    "polars": "polars",
    "pandas": "pandas",
    "tqdm": "progress",
    "matplotlib": "plots",
}
"""Optional packages, and the extra of lanceloader that brings each."""

_LITTLE_SHARED_MEMORY = 256 << 20
_LITTLE_MEMORY = 1 << 30
_LITTLE_DISK = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``"ok"``; ``"note"`` for what may matter; ``"problem"`` for what does.
        name: What was looked at.
        text: What was found.
        fix: What to do about it.
    """

    level: Level
    name: str
    text: str
    fix: str | None = None


def findings() -> list[Finding]:
    """Run all checks."""
    return [
        Finding("ok", "lanceloader", lanceloader.__version__),
        Finding("ok", "python", f"{platform.python_version()}, {sys.executable}"),
        system(),
        *libraries(),
        cores(),
        memory(),
        shared_memory(),
        *cache(),
        forking(),
        *settings(),
    ]


def system() -> Finding:
    """Check the operating system."""
    text = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform == "linux":
        return Finding("ok", "system", text)
    return Finding("note", "system", text, "lanceloader is built and tested on Linux")


def libraries() -> Iterator[Finding]:
    """Check the libraries that lanceloader works with."""
    for name in ("pyarrow", "numpy"):
        yield Finding("ok", name, importlib.metadata.version(name))
    for name, extra in _LIBRARIES.items():
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            fix = f'pip install "lanceloader[{extra}]"'
            yield Finding("note", name, "not installed", fix)


def cores() -> Finding:
    """Check the processors that this process may use."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else there
    text = f"{usable:,} of {there:,}"
    quota = cpu_quota()
    if quota is not None and quota < usable:
        text += f", limited to {quota:g} by the control group"
        fix = f"set LANCELOADER_THREADS={max(1, round(quota))}, or raise the limit"
        return Finding("note", "cores", text, fix)
    return Finding("ok", "cores", text)


def memory() -> Finding:
    """Check the memory of the machine and of the control group."""
    there = meminfo()
    free = there.get("MemAvailable", 0)
    text = f"{size(free)} free of {size(there.get('MemTotal'))}"
    limit = memory_limit()
    if limit is not None and limit[0] < there.get("MemTotal", 1 << 62):
        free = min(free, limit[1])
        text += (
            f", limited to {size(limit[0])} by the control group ({size(free)} left)"
        )
    if free < _LITTLE_MEMORY:
        fix = "rows take half of it: use --memory-limit, or raise the limit"
        return Finding("note", "memory", text, fix)
    return Finding("ok", "memory", text)


def shared_memory() -> Finding:
    """Check ``/dev/shm``, through which torch's workers send tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        fix = "without it, DataLoader workers cannot send tensors; use loader()"
        return Finding("note", "/dev/shm", "not there", fix)
    space = shutil.disk_usage(folder)
    text = f"{size(space.free)} free of {size(space.total)}"
    if not os.access(folder, os.W_OK):
        fix = "it must be writable for DataLoader workers; loader() does not need it"
        return Finding("problem", "/dev/shm", f"{text}, not writable", fix)
    if space.free < _LITTLE_SHARED_MEMORY:
        fix = "docker run --shm-size=2g, or loader() without worker processes"
        return Finding("note", "/dev/shm", text, fix)
    return Finding("ok", "/dev/shm", text)


def cache() -> Iterator[Finding]:
    """Check the folder for packed rows."""
    folder = lanceloader.cache.path()
    if folder is None:
        fix = (
            "every process packs rows for itself; set LANCELOADER_CACHE_DIR to a folder"
        )
        yield Finding("note", "cache", "none: LANCELOADER_CACHE_DIR is empty", fix)
        return
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    other = "set LANCELOADER_CACHE_DIR to a folder of your own on a local disk"
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding("problem", "cache", f"{folder} cannot be written to", other)
        return
    if there == folder and there.stat().st_mode & 0o022:
        fix = f"chmod go-w {folder}"
        yield Finding("problem", "cache", f"{folder}: others can write to it", fix)
        return
    free = shutil.disk_usage(there).free
    entries = lanceloader.cache.entries()
    kept = sum(entry.bytes for entry in entries)
    text = f"{folder}: {size(kept)} of packed rows, {size(free)} free on its disk"
    level: Level = "note" if free < _LITTLE_DISK else "ok"
    advice = "lanceloader cache clear, or another folder" if level == "note" else None
    yield Finding(level, "cache", text, advice)


def forking() -> Finding:
    """Check how worker processes start."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None:
        method = multiprocessing.get_all_start_methods()[0]
    text = f"started by {method}"
    if method == "fork":
        text += ", which lanceloader's readers survive, and those of lancedb and pylance do not"
    return Finding("ok", "workers", text)


def settings() -> Iterator[Finding]:
    """Check the environment variables of lanceloader. Storage options are not shown."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("LANCELOADER_"):
            is_secret = name == "LANCELOADER_STORAGE_OPTIONS"
            yield Finding("ok", "setting", f"{name}={'***' if is_secret else value}")


def meminfo() -> dict[str, int]:
    """Return the lines of ``/proc/meminfo``, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def control_groups() -> Iterator[Path]:
    """Return the folders of the control groups of this process, innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        root = Path("/sys/fs/cgroup", *controllers.split(",")[:1])
        at = root / inner.strip("/")
        while at != root and root in at.parents:
            yield at
            at = at.parent
        yield root


def memory_limit() -> tuple[int, int] | None:
    """Return the tightest limit of the control groups, and the memory left within it."""
    found = []
    for group in control_groups():
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = number_in(group / limit)
            if most is not None:
                left = max(0, most - (number_in(group / used) or 0))
                found.append((most, left))
    return min(found, default=None)


def cpu_quota() -> float | None:
    """Return how many processors the control groups allow, if that is limited."""
    found = []
    for group in control_groups():
        try:
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                found.append(int(quota) / int(period))
        except (OSError, ValueError):
            old = number_in(group / "cpu.cfs_quota_us")
            period_of_old = number_in(group / "cpu.cfs_period_us")
            if old is not None and period_of_old and old > 0:
                found.append(old / period_of_old)
    return min(found, default=None)


def number_in(file: Path) -> int | None:
    """Return the number in a file, or ``None`` if it holds no number."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
