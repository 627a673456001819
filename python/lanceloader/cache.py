"""The folder of packed rows, copies of remote files and computed columns, and how to empty it.

Rows are added by reading with ``read="resident"``, which ``"auto"`` chooses in most cases, and by
``Permutation.warm``; copies by reading rows of tables in object storage that are not packed. The
folder may be emptied at any time: entries in use stay, and those that are needed later are packed
or fetched again. Computed columns are those of ``select_columns``; they are kept until they are
removed here, and are computed again when needed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.cache_removal import (
    COMPUTED_DESCRIPTION,
    DESCRIPTION,
    is_in_use,
    is_marked,
    remove,
    remove_computed,
)
from lanceloader.options import cache_folder, folder_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cleared", "Entry", "Pruned", "clear", "entries", "path", "prune"]

_COMPUTED = "computed"
_COMPUTED_NAME = re.compile("[0-9a-f]{32}")
_FIELDS = {
    *("layout", "columns", "num_rows", "block_rows"),
    *("stride", "signature"),
}
_FIELDS_OF_COPIES = {"layout", "origin"}
_BLOCK_BYTES = 512
"""The unit of ``st_blocks``."""
_ENTRY_NAME = re.compile("[0-9a-f]{16}")
_OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True)
class Entry:
    """Packed rows of some columns of a table at one version, copies of its files, or computed columns.

    Attributes:
        table: Identifies the content of the table: a hash of its manifest. For copies, a hash of
            ``origin``.
        columns: The packed columns; fields of structs are named with dots. Or the SQL
            expressions of computed columns. Empty for copies.
        rows: Rows of the table. 0 for copies.
        bytes: Bytes of the files.
        is_complete: Whether all rows are packed, or all files that were opened copied whole.
        is_in_use: Whether a process is reading or writing them.
        last_used: When they were last opened.
        path: The folder with the files.
        origin: The address of the folder in object storage whose files are copied; ``None`` for
            packed rows.
    """

    table: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    is_complete: bool
    is_in_use: bool
    last_used: dt.datetime
    path: Path
    origin: str | None = None


@dataclass(frozen=True)
class Cleared:
    """What ``clear`` did.

    Attributes:
        removed: The entries that were removed.
        kept: The entries that were not, because a process uses them or the folder does not
            belong to lanceloader alone.
    """

    removed: tuple[Entry, ...]
    kept: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        """Bytes that were freed."""
        return sum(entry.bytes for entry in self.removed)


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` did.

    Attributes:
        files: Number of copies of data files that were removed.
        bytes: Bytes that were freed.
    """

    files: int
    bytes: int


def path(cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the cache folder, which need not exist yet.

    Args:
        cache_dir: As for ``Permutation.with_read``; by default ``LANCELOADER_CACHE_DIR``, or
            ``~/.cache/lanceloader/rows``.

    Returns:
        The folder, or ``None`` if ``cache_dir`` or the variable is empty: packed rows then stay
        in memory of each process.

    Example:
        >>> ll.cache.path("/tmp/rows")
        PosixPath('/tmp/rows')
    """
    folder = cache_folder(folder_of(cache_dir))
    return None if folder is None else Path(folder)


def entries(cache_dir: str | os.PathLike[str] | None = None) -> list[Entry]:
    """List the packed rows and computed columns in the cache folder, those used last first.

    Args:
        cache_dir: As for ``path``.
    """
    root = path(cache_dir)
    if root is None:
        return []
    found = [_entry_at(folder) for folder in _folders(root)]
    found += [_computed_at(folder) for folder in _private_folders(root / _COMPUTED)]
    return sorted(
        (entry for entry in found if entry is not None),
        key=lambda entry: entry.last_used,
        reverse=True,
    )


def clear(
    cache_dir: str | os.PathLike[str] | None = None, *, dry_run: bool = False
) -> Cleared:
    """Remove packed rows and computed columns from the cache folder, except those in use.

    Only files that lanceloader wrote are removed, and nothing is removed from a folder that
    lacks the marker which lanceloader puts into folders of its own.

    Args:
        cache_dir: As for ``path``.
        dry_run: Whether to only report what would be removed.

    Raises:
        NotADirectoryError: If there is a file in its place.
    """
    root = _root(cache_dir)
    found = entries(cache_dir)
    may_remove = root is not None and is_marked(root)
    removed: list[Entry] = []
    kept: list[Entry] = []
    for entry in found:
        is_computed = entry.path.parent.name == _COMPUTED
        if not is_computed and not may_remove:
            kept.append(entry)
            continue
        discard = remove_computed if is_computed else remove
        is_gone = not entry.is_in_use if dry_run else discard(entry.path)
        (removed if is_gone else kept).append(entry)
    return Cleared(tuple(removed), tuple(kept))


def prune(
    cache_dir: str | os.PathLike[str] | None = None, *, dry_run: bool = False
) -> Pruned:
    """Remove copies of remote data files that only older versions of their tables have.

    Of each table, the newest version that was read with this cache folder counts. Its files stay, as do
    those of versions that a process reads now, and files that versions share. Copies that this
    removes are also the first to go when the folder has no room for others.

    Args:
        cache_dir: As for ``path``.
        dry_run: Whether to only report what would be removed.

    Raises:
        NotADirectoryError: If there is a file in its place.
        StorageError: If the folder cannot be written to.

    Example:
        >>> ll.cache.prune("/tmp/rows")
        Pruned(files=0, bytes=0)
    """
    root = _root(cache_dir)
    return Pruned(0, 0) if root is None else Pruned(*_native.prune(str(root), dry_run))


def _root(cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the cache folder, and check that it is not a file.

    Raises:
        NotADirectoryError: If it is a file.
    """
    root = path(cache_dir)
    if root is not None and root.exists() and not root.is_dir():
        message = f"`cache_dir` must be a folder, but {root} is a file"
        raise NotADirectoryError(message)
    return root


def _folders(root: Path) -> Iterator[Path]:
    """Return the folders that may be entries: private, and reached without a link."""
    for table in _private_folders(root):
        for folder in _private_folders(table):
            if _ENTRY_NAME.fullmatch(folder.name):
                yield folder


def _private_folders(folder: Path) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for each in found:
        with contextlib.suppress(OSError):
            about = each.lstat()
            if (
                stat.S_ISDIR(about.st_mode)
                and about.st_uid == os.geteuid()
                and not about.st_mode & _OTHERS_MAY_WRITE
            ):
                yield each


def _entry_at(folder: Path) -> Entry | None:
    """Describe an entry, or return ``None`` if the folder is not one."""
    try:
        file = folder / DESCRIPTION
        used = file.lstat()
        if not stat.S_ISREG(used.st_mode):
            return None
        found: Any = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            return None
        if set(found) == _FIELDS_OF_COPIES:
            return _copies_at(folder, str(found["origin"]), used.st_mtime)
        if set(found) != _FIELDS:
            return None
        blocks = -(-found["num_rows"] // max(1, found["block_rows"]))
        files = {each.name: each.lstat() for each in folder.iterdir()}
        return Entry(
            table=folder.parent.name,
            columns=tuple(".".join(column) for column in found["columns"]),
            rows=int(found["num_rows"]),
            bytes=sum(
                about.st_size for about in files.values() if stat.S_ISREG(about.st_mode)
            ),
            is_complete=all(f"{block:06}.rows" in files for block in range(blocks)),
            is_in_use=is_in_use(folder),
            last_used=dt.datetime.fromtimestamp(used.st_mtime, dt.UTC),
            path=folder,
        )
    except (OSError, ValueError, TypeError, KeyError):
        # Not an entry, or one that is being removed.
        return None


def _computed_at(folder: Path) -> Entry | None:
    """Describe computed columns, or return ``None`` if the folder holds none."""
    try:
        file = folder / COMPUTED_DESCRIPTION
        used = file.lstat()
        if not _COMPUTED_NAME.fullmatch(folder.name) or not stat.S_ISREG(used.st_mode):
            return None
        found = json.loads(file.read_bytes())
        sizes = (each.lstat() for each in folder.rglob("*"))
        return Entry(
            table=str(found["table"]),
            columns=tuple(found["columns"]),
            rows=int(found["rows"]),
            bytes=sum(each.st_size for each in sizes if stat.S_ISREG(each.st_mode)),
            is_complete=True,
            is_in_use=is_in_use(folder),
            last_used=dt.datetime.fromtimestamp(used.st_mtime, dt.UTC),
            path=folder,
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _copies_at(folder: Path, origin: str, last_used: float) -> Entry:
    files = {each.name: each.lstat() for each in folder.iterdir()}
    # Copies have holes where nothing was fetched yet; a file that only reserves room is one hole.
    stored = {name: about.st_blocks * _BLOCK_BYTES for name, about in files.items()}
    copies = [name for name in files if name.endswith(".copy")]
    return Entry(
        table=folder.parent.name,
        columns=(),
        rows=0,
        bytes=sum(stored.values()),
        is_complete=all(stored[name] >= files[name].st_size for name in copies),
        is_in_use=is_in_use(folder),
        last_used=dt.datetime.fromtimestamp(last_used, dt.UTC),
        path=folder,
        origin=origin,
    )
