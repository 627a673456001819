"""The exceptions of lanceloader.

Built-in exceptions are raised where they fit: ``IndexError`` for a position outside of the rows,
``ValueError`` for an argument outside of its domain, ``FileNotFoundError`` for a table that does
not exist. The classes here cover the other cases. Several also inherit from a built-in exception,
so that code written for LanceDB catches them.
"""

from __future__ import annotations

__all__ = [
    "BoundsError",
    "ColumnNotFoundError",
    "CorruptFileError",
    "DegradedWarning",
    "FormatError",
    "ImageError",
    "InternalError",
    "LanceloaderError",
    "StorageDeniedError",
    "StorageError",
    "StorageTimeoutError",
    "StorageUnreachableError",
    "TableChangedError",
    "UnsupportedError",
]


class DegradedWarning(RuntimeWarning):
    """Rows could not be stored in files, so they are read in another way, which may be slower.

    Usually a disk is full or a folder is not writable; the message names the folder. Set
    ``cache_dir`` to another folder, or to an empty string for no folder. The warning is issued
    once for each reason. After an error that may be temporary, files are tried again later.
    """


class LanceloaderError(RuntimeError):
    """The base class of all exceptions of lanceloader."""


class StorageError(LanceloaderError, OSError):
    """A file could not be read or written.

    The message names the file, the reason and what to check. For object storage, it also names
    the endpoint and the region, and the options and environment variables that set them. It
    never contains credentials.
    """


class StorageDeniedError(StorageError, PermissionError):
    """Storage denied access: credentials are missing or wrong, or lack the permission to read."""


class StorageUnreachableError(StorageError, ConnectionError):
    """The endpoint of the storage could not be reached, or the connection was lost."""


class StorageTimeoutError(StorageError, TimeoutError):
    """Storage did not respond in time."""


class ColumnNotFoundError(LanceloaderError, KeyError, ValueError):
    """A column does not exist. The message lists the closest names.

    ``Permutation.column_names`` lists all names. A field of a struct is named by its dotted path.
    """

    def __str__(self) -> str:
        # KeyError.__str__ returns the repr of the message.
        return RuntimeError.__str__(self)


class BoundsError(LanceloaderError, OverflowError, ValueError):
    """A number is outside of the domain of an argument. The message names both.

    LanceDB raises ``OverflowError`` for numbers that are negative or do not fit in 64 bits, and
    ``ValueError`` for other numbers out of range. This class is both.
    """


class TableChangedError(LanceloaderError):
    """The version of the table that a permutation is pinned to no longer exists.

    A cleanup has removed the version since the permutation was created. Tag versions to keep
    them, or create the permutation again from the current version.
    """


class CorruptFileError(LanceloaderError):
    """A file is damaged. The message names the file.

    Restore the file, or read a version of the table that does not use it.
    """


class FormatError(LanceloaderError, TypeError):
    """A format cannot hold a column. The message names the column, its type and alternatives."""


class ImageError(LanceloaderError, ValueError):
    """An image could not be decoded: its file is broken, too large or of another kind.

    The message names the column and the reason, and a note the row. In a loader, ``on_error``
    decides what becomes of such rows.

    Attributes:
        row_in_batch: The position of the row in its batch.
    """

    def __init__(self, message: str, row_in_batch: int = 0) -> None:
        super().__init__(message)
        self.row_in_batch = row_in_batch

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, int]]:
        return type(self), (str(self), self.row_in_batch)


class UnsupportedError(LanceloaderError, NotImplementedError):
    """A feature of Lance is not supported by the native reader or by the installed libraries.

    Often it helps to install the table's own library: ``pip install "lanceloader[lance]"`` or
    ``"lanceloader[lancedb]"``.
    """


class InternalError(LanceloaderError):
    """An invariant of lanceloader is violated. Please report it together with the message."""
