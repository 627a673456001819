"""Removing entries of the cache folder, and asking whether they are in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    *("COMPUTED_DESCRIPTION", "DESCRIPTION", "is_in_use", "is_marked", "remove"),
    "remove_computed",
]

# The layout of the folder is that of rust/core/src/cache.
DESCRIPTION = "entry.json"
_LOCK = "lock"
_MARKER = "lanceloader-cache"
_MARK = (
    "lanceloader keeps packed rows in this folder. They may be removed at any time.\n"
)
# The layout of computed columns is that of lanceloader/sources/clones.py.
COMPUTED_DESCRIPTION = "columns.json"
_COMPUTED_MAKING = "making"
_OWN_FILE = re.compile(r".*\.(rows|copy|sums|files|part)|entry\.json|lock")


def is_marked(root: Path) -> bool:
    """Return whether a cache folder has the marker, without which no entry is removed from it."""
    marker = root / _MARKER
    try:
        return stat.S_ISREG(marker.lstat().st_mode) and marker.read_text() == _MARK
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def _locked(folder: Path, name: str = _LOCK) -> Iterator[bool]:
    """Lock an entry, so that no process begins to use it; yield whether it is not in use."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(folder / name, flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)


def is_in_use(folder: Path) -> bool:
    """Return whether a process uses an entry."""
    # Users hold a shared lock, which excludes this one.
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def remove(entry: Path) -> bool:
    """Remove an entry, unless a process uses it."""
    try:
        with _locked(entry) as is_free:
            if not is_free:
                return False
            # The lock goes last: a process that finds none creates a new one.
            files = sorted(entry.iterdir(), key=lambda file: file.name == _LOCK)
            for file in files:
                is_file = stat.S_ISREG(file.lstat().st_mode)
                if is_file and _OWN_FILE.fullmatch(file.name):
                    file.unlink(missing_ok=True)
    except OSError:
        return not (entry / DESCRIPTION).exists()
    # The folders may hold other files.
    with contextlib.suppress(OSError):
        entry.rmdir()
        entry.parent.rmdir()
    return True


def remove_computed(entry: Path) -> bool:
    """Remove computed columns, unless a process uses or computes them."""
    try:
        with (
            _locked(entry, _COMPUTED_MAKING) as is_made,
            _locked(entry, _LOCK) as is_free,
        ):
            if not is_made or not is_free:
                return False
            # The description goes first: without it, no process takes the rest for complete.
            (entry / COMPUTED_DESCRIPTION).unlink(missing_ok=True)
            shutil.rmtree(entry)
    except OSError:
        return not (entry / COMPUTED_DESCRIPTION).exists()
    return True
