"""Options for reading rows: arguments, then environment variables, then defaults."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from lanceloader._typing import Read
from lanceloader.choices import check_choice
from lanceloader.numbers import count

if TYPE_CHECKING:
    from lanceloader._typing import Size

__all__ = ["ReadOptions", "bytes_of", "repr_of_options"]

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def repr_of_options(options: Any) -> str:
    """Return the representation of a dataclass of options, without those that have their defaults."""
    passed = (
        f"{field.name}={value!r}"
        for field in fields(options)
        if (value := getattr(options, field.name)) is not field.default
    )
    return f"{type(options).__name__}({', '.join(passed)})"


def bytes_of(size: Size, name: str) -> int:
    """Return a size as a number of bytes.

    Args:
        size: A number of bytes, or a string such as ``"4GiB"`` or ``"500 MB"``.
        name: The name of the argument or variable, for error messages.

    Raises:
        TypeError: If ``size`` is neither a whole number nor a string.
        ValueError: If a string cannot be parsed, or if the number is negative.
    """
    if not isinstance(size, str):
        return count(size, name)
    match = _SIZE.fullmatch(size)
    if match is None:
        message = f'`{name}` must be a number of bytes or a string such as "4GiB", got {size!r}'
        raise ValueError(message)
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    found = int(float(number) * base ** _UNITS[unit.lower()])
    if found >= 2**64:
        message = f"`{name}` must be less than 16 EiB, got {size!r}"
        raise ValueError(message)
    return found


@dataclass(frozen=True, init=False, repr=False)
class ReadOptions:
    """How rows are read: the options of ``with_read`` as one object, for ``loader(reading=...)``.

    ``None`` means the value of the environment variable, if it is set, or the default.

    Attributes:
        read: The strategy.
        memory_limit: The most bytes of rows to hold in memory.
        cache_dir: The folder of packed rows, as an absolute path.
        threads: The number of threads that read.

    Example:
        >>> options = ll.ReadOptions("direct", memory_limit="1GiB")
        >>> options
        ReadOptions(read='direct', memory_limit=1073741824)
        >>> len(perm.loader(4, reading=options))
        3
    """

    read: Read | None = None
    memory_limit: int | None = None
    cache_dir: str | None = None
    threads: int | None = None

    def __init__(
        self,
        read: Read | None = None,
        memory_limit: Size | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: SupportsIndex | None = None,
    ) -> None:
        """Check the options.

        Args:
            read: The strategy; see ``Permutation.with_read``, as for the others.
            memory_limit: The most bytes of rows to hold in memory, as a number or a string such
                as ``"4GiB"``.
            cache_dir: The folder of packed rows.
            threads: The number of threads that read.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If an argument is outside its domain.
        """
        if read is not None:
            check_choice("read", read, Read)
        limit = None
        if memory_limit is not None:
            limit = bytes_of(memory_limit, "memory_limit")
        number = None if threads is None else count(threads, "threads", least=1)
        checked: dict[str, Any] = {
            "read": read,
            "memory_limit": limit,
            "threads": number,
        }
        checked["cache_dir"] = folder_of(cache_dir)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return repr_of_options(self)

    def merged(self, other: ReadOptions) -> ReadOptions:
        """Return these options, overridden by those of ``other`` that are not ``None``."""
        given = {
            field.name: value
            for field in fields(other)
            if (value := getattr(other, field.name)) is not None
        }
        return replace(self, **given)

    def for_native(self) -> dict[str, Any]:
        """Return the keyword arguments of ``_native.Table.reader``.

        Raises:
            ValueError: If an environment variable is outside its domain.
        """
        read = self.read or os.environ.get("LANCELOADER_READ") or None
        if read is not None:
            check_choice("LANCELOADER_READ", read, Read)
        limit: Any = self.memory_limit
        if limit is None:
            limit = _size_from("LANCELOADER_MEMORY_LIMIT")
        text = os.environ.get("LANCELOADER_THREADS")
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            message = f"`LANCELOADER_THREADS` must be a whole number of at least 1, got {text!r}"
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
    """Return the folder for packed rows.

    Args:
        given: The argument ``cache_dir``. For ``None``, the folder is that of the environment
            variable ``LANCELOADER_CACHE_DIR`` or a folder in the user's cache.

    Returns:
        The folder, or ``None`` if it is set to an empty string: each process then keeps its
        packed rows in its own memory.
    """
    folder = given
    if folder is None:
        folder = folder_of(os.environ.get("LANCELOADER_CACHE_DIR"))
    if folder is not None:
        return folder or None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return str(Path(base) / "lanceloader" / "rows")


def folder_of(given: str | os.PathLike[str] | None) -> str | None:
    """Return an absolute path, which does not depend on a process's working directory.

    ``None`` and the empty string are returned unchanged.

    Raises:
        TypeError: If ``given`` is not a path.
    """
    if given is None:
        return None
    folder = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(folder, str):
        message = f"`cache_dir` must be a string or a path, not {folder!r}"
        raise TypeError(message)
    return str(Path(folder).expanduser().absolute()) if folder else ""


def _size_from(variable: str) -> int | None:
    text = os.environ.get(variable)
    return bytes_of(text, variable) if text else None
