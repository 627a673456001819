"""How rows are read: what a user asks for, and what the environment says where nobody asks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader._typing import Read
from lanceloader.choices import check_choice
from lanceloader.numbers import count

if TYPE_CHECKING:
    from lanceloader._typing import Size

__all__ = ["ReadOptions", "bytes_of"]

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def bytes_of(size: Size, what: str) -> int:
    """Give a size in bytes.

    Args:
        size: A number of bytes, or a text like ``"4GiB"`` or ``"500 MB"``.
        what: What to call it in messages.

    Raises:
        ValueError: If a text is no size.
    """
    if not isinstance(size, str):
        return count(size, what)
    match = _SIZE.fullmatch(size)
    if match is None:
        message = f'{what} {size!r}: wanted a number of bytes, or a text like "4GiB"'
        raise ValueError(message)
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** _UNITS[unit.lower()])


@dataclass(frozen=True)
class ReadOptions:
    """What ``with_read`` was given; ``None`` leaves it to the environment, then to a default."""

    read: Read | None = None
    memory_limit: int | None = None
    cache_dir: str | None = None
    threads: int | None = None

    @classmethod
    def of(
        cls,
        read: Read | None,
        memory_limit: Size | None,
        cache_dir: str | os.PathLike[str] | None,
        threads: int | None,
    ) -> ReadOptions:
        """Check what a user gave.

        Raises:
            ValueError: If a strategy or a size is none.
        """
        if read is not None:
            check_choice(f"read={read!r}", read, Read)
        if threads is not None:
            threads = count(threads, "threads", least=1)
        limit = None
        if memory_limit is not None:
            limit = bytes_of(memory_limit, "memory_limit")
        return cls(read, limit, folder_of(cache_dir), threads)

    def merged(self, other: ReadOptions) -> ReadOptions:
        """Give these, with what ``other`` says instead."""
        given = {
            field.name: value
            for field in fields(other)
            if (value := getattr(other, field.name)) is not None
        }
        return replace(self, **given)

    def for_native(self) -> dict[str, Any]:
        """Give the keywords of ``Table.reader``."""
        read = self.read or os.environ.get("LANCELOADER_READ") or None
        if read is not None:
            check_choice(f"LANCELOADER_READ={read!r}", read, Read)
        limit: Any = self.memory_limit
        if limit is None:
            limit = _size_from("LANCELOADER_MEMORY_LIMIT")
        text = os.environ.get("LANCELOADER_THREADS")
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            message = f"LANCELOADER_THREADS={text!r}: wanted a whole number from 1 on"
            raise ValueError(message)
        threads = self.threads or (int(text) if text else None)
        folder = cache_folder(self.cache_dir)
        return {
            "read": read,
            "memory_limit": limit,
            "cache_folder": folder,
            "cache_limit": _size_from("LANCELOADER_CACHE_LIMIT"),
            "scratch_folder": os.environ.get("LANCELOADER_SCRATCH_DIR") or folder,
            "threads": threads,
        }


def cache_folder(given: str | None) -> str | None:
    """Find the folder for packed rows: an argument, ``LANCELOADER_CACHE_DIR``, or the user's cache.

    Returns:
        The folder, or ``None`` if it was given as an empty text: rows are then kept in memory
        of each process.
    """
    folder = given
    if folder is None:
        folder = folder_of(os.environ.get("LANCELOADER_CACHE_DIR"))
    if folder is not None:
        return folder or None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return str(Path(base) / "lanceloader" / "rows")


def folder_of(given: str | os.PathLike[str] | None) -> str | None:
    """Make a folder mean the same in every process; an empty text stays one.

    Raises:
        TypeError: If it is no path.
    """
    if given is None:
        return None
    folder = os.fspath(given)
    if not isinstance(folder, str):
        message = f"cache_dir {folder!r}: wanted a text or a path"
        raise TypeError(message)
    return str(Path(folder).expanduser().absolute()) if folder else ""


def _size_from(variable: str) -> int | None:
    text = os.environ.get(variable)
    return bytes_of(text, variable) if text else None
