"""The exceptions of lanceloader, and what to do about each.

Where Python has a class for what went wrong, that class is raised: ``IndexError`` for a
position outside the rows, ``ValueError`` for an argument outside its domain,
``FileNotFoundError`` for a table that is not there.
The classes here are for the rest. Several inherit from a built-in class as well, so that
code written for LanceDB catches them.
"""

from __future__ import annotations

__all__ = [
    "BoundsError",
    "ColumnNotFoundError",
    "CorruptFileError",
    "DegradedWarning",
    "FormatError",
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
    """Rows could not be kept in files, so they are read in another way, which may be slower.

    Mostly a disk is full, or a folder cannot be written to; the message names it. Give
    ``cache_dir`` another folder, or an empty text for none. Said once for each reason; what
    may pass is tried again later.
    """


class LanceloaderError(RuntimeError):
    """The base of the exceptions that have no built-in class."""


class StorageError(LanceloaderError, OSError):
    """A file could not be read or written; the message says which, why, and what to check.

    For object storage it names the endpoint and the region too, and the options and
    environment variables that say otherwise. Credentials are never shown.
    """


class StorageDeniedError(StorageError, PermissionError):
    """Storage refuses access: credentials are wrong, missing, or of somebody who may not read."""


class StorageUnreachableError(StorageError, ConnectionError):
    """Nobody answers at the endpoint, or the connection broke."""


class StorageTimeoutError(StorageError, TimeoutError):
    """Storage did not answer in time."""


class ColumnNotFoundError(LanceloaderError, KeyError, ValueError):
    """A column that does not exist; the message lists the nearest names.

    Look at ``perm.column_names``; fields of structs are named with dots.
    """

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which is for keys and not for sentences.
        return RuntimeError.__str__(self)


class BoundsError(LanceloaderError, OverflowError, ValueError):
    """A number that an argument cannot take; the message names both.

    LanceDB raises ``OverflowError`` where a number is negative or needs more than 64 bits, and
    ``ValueError`` for others that are out of range: this is both.
    """


class TableChangedError(LanceloaderError):
    """The version an open table was pinned to is gone.

    It was cleaned away after the permutation was made or pickled. Tag a version to keep
    it, or make the permutation again from the table as it is now.
    """


class CorruptFileError(LanceloaderError):
    """A file does not hold what its metadata says; the message names it.

    Restore it, or read a version of the table that does not use it.
    """


class FormatError(LanceloaderError, TypeError):
    """A format cannot hold a column; the message names the column, its type and a way out."""


class UnsupportedError(LanceloaderError, NotImplementedError):
    """A feature of Lance that neither the native reader nor the table's library can serve.

    Mostly the fix is to install the library that can: ``pip install lanceloader[lance]``
    or ``lanceloader[lancedb]``.
    """


class InternalError(LanceloaderError):
    """An invariant of lanceloader broke. Please report it with the message."""
