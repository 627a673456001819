"""``BlobFile``: a large value of a blob column as a file, which is opened when it is first read."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.engine import PylanceEngine, engine_of_uri
from lanceloader.locations import add_note

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from lanceloader.sources.native import LanceSource

__all__ = ["BlobFile", "BlobRows", "dataset_of"]

MOST_DATASETS = 8
"""The most tables that a process keeps open for its files."""

_DATASETS: dict[Any, Any] = {}
_LOCK = threading.Lock()
_forked_with_pylance = False
"""Whether this process was forked from one that had imported pylance, which may crash in such a process."""


def _in_child() -> None:
    global _LOCK, _forked_with_pylance
    _LOCK = threading.Lock()
    _forked_with_pylance = "lance" in sys.modules


os.register_at_fork(after_in_child=_in_child)


def check_not_forked() -> None:
    """Check that pylance may be used in this process.

    Raises:
        RuntimeError: If this process was forked from one that had imported pylance.
    """
    if _forked_with_pylance:
        raise RuntimeError(
            "files of blobs cannot be read in a process that was forked from one with pylance: pass "
            'multiprocessing_context="forkserver" or "spawn" to the DataLoader, or read them in '
            "threads, as loader(transform=) does"
        )


def dataset_of(source: LanceSource) -> Any:
    """Return the table of a source, opened by pylance once in each process.

    Raises:
        ImportError: If pylance is not installed.
        RuntimeError: If this process was forked from one that had imported pylance.
        TableChangedError: If the table is gone, or there is another one at its address.
    """
    check_not_forked()
    need("lance", 'with_blobs("files")')
    options = tuple(sorted(source.storage_options.items()))
    key = os.getpid(), source.uri, source.version, source.branch, options
    found = _DATASETS.get(key)
    if found is not None:
        return found
    source.check_same()
    engine = engine_of_uri(
        source.uri, source.version, source.branch, dict(options) or None
    )
    assert isinstance(engine, PylanceEngine)
    with _LOCK:
        # Tables of a process that this one was forked from stay: closing them here may crash.
        ours = [known for known in _DATASETS if known[0] == os.getpid()]
        for known in ours[: max(0, len(ours) + 1 - MOST_DATASETS)]:
            del _DATASETS[known]
        _DATASETS[key] = engine.dataset
    return engine.dataset


class BlobRows:
    """The values of a blob column in some rows, which are located together when one is first read.

    Args:
        source: The table.
        column: The name of the column in the table.
        row_ids: The row ids.
    """

    def __init__(
        self, source: LanceSource, column: str, row_ids: Sequence[int]
    ) -> None:
        self.source = source
        self.column = column
        self.row_ids = row_ids
        self._lock = threading.Lock()
        self._found: list[Any] | None = None

    def files(self) -> list[BlobFile]:
        """Return a file for each row; nothing is read."""
        return [BlobFile(self, at) for at in range(len(self.row_ids))]

    def located(self, at: int) -> Any:
        """Return pylance's file of a row, or ``None`` for null."""
        check_not_forked()
        with self._lock:
            if self._found is None:
                dataset = dataset_of(self.source)
                # Ranges are read as requested: readers on top have buffers of their own.
                self._found = dataset.take_blobs(
                    self.column, ids=list(self.row_ids), buffer_size=0
                )
        return self._found[at]

    def __reduce__(self) -> Any:
        return BlobRows, (self.source, self.column, self.row_ids)


class BlobFile(io.RawIOBase):
    """A value of a blob column as a binary file; see ``Permutation.with_blobs``.

    Nothing is read, and no file is opened, before the first call that needs it. Each read fetches only
    the requested bytes: wrap the file in ``io.BufferedReader`` to read small pieces one after another.
    The file is seekable, and can be passed to anything that reads binary files, such as ``av.open``,
    ``soundfile.read``, ``PIL.Image.open`` and torchcodec's decoders.

    Its pickle is a description, without the bytes and without the position. Worker processes that read files
    must not be forked from one that has imported pylance: start them by ``"forkserver"`` or ``"spawn"``.

    Attributes:
        column: The name of the column in the table.
        row_id: The ``_rowid`` of the row.

    Example:
        >>> import lance
        >>> import pyarrow as pa
        >>> schema = pa.schema([lance.blob_field("video")])
        >>> data = pa.table({"video": lance.blob_array([b"moving pictures"])}, schema=schema)
        >>> table = lance.write_dataset(data, "v.lance", data_storage_version="2.2")
        >>> file = ll.open("v.lance").with_blobs("files")[0][0]["video"]
        >>> file.read(6), file.read_range(7, 10), file.size
        (b'moving', b'pic', 15)
    """

    def __init__(self, rows: BlobRows, at: int) -> None:
        """Internal: permutations make these."""
        super().__init__()
        self._rows = rows
        self._at = at
        self._position = 0
        self.column = rows.column
        self.row_id = int(rows.row_ids[at])

    @property
    def is_null(self) -> bool:
        """Whether the row has no value. Reading one raises ``ValueError``."""
        with self._noting():
            return self._rows.located(self._at) is None

    @property
    def size(self) -> int:
        """The number of bytes."""
        with self._noting():
            return int(self._file().size())

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``, and leave the position where it is.

        Fewer bytes are returned if the value ends before ``stop``.

        Raises:
            ValueError: If ``start`` is negative, ``stop`` is less than ``start``, the value is null, or
                the file is closed.
        """
        if not 0 <= start <= stop:
            message = (
                f"read_range({start}, {stop}) is not a range: pass 0 <= start <= stop"
            )
            raise ValueError(message)
        with self._noting():
            file = self._file()
            stop = min(stop, int(file.size()))
            if stop <= start:
                return b""
            found: bytes = file.read_range(start, stop - start)
            return found

    def readinto(self, buffer: Buffer, /) -> int:
        """Read bytes into a buffer, and return how many there were; 0 at the end."""
        view = memoryview(buffer).cast("B")
        found = self.read_range(self._position, self._position + len(view))
        view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def readall(self) -> bytes:
        """Return all bytes from the position on."""
        found = self.read_range(self._position, max(self._position, self.size))
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position, which may lie beyond the end, and return it."""
        self._check_open()
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += self.size
        elif whence != io.SEEK_SET:
            message = f"`whence` must be 0, 1 or 2, got {whence}"
            raise ValueError(message)
        if offset < 0:
            message = f"the position must not be negative, got {offset}"
            raise ValueError(message)
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._position

    def readable(self) -> bool:
        """Return ``True``: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return ``True``: the position can be set."""
        return True

    def __reduce__(self) -> Any:
        return BlobFile, (self._rows, self._at)

    def __repr__(self) -> str:
        return f"<BlobFile of column `{self.column}`, `_rowid` {self.row_id}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _file(self) -> Any:
        self._check_open()
        file = self._rows.located(self._at)
        if file is None:
            raise ValueError(
                "the value is null: look at `is_null` before reading, or filter such rows out"
            )
        return file

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            where = self._rows.source.describe()
            add_note(
                error,
                f"reading column `{self.column}` of the row with `_rowid` {self.row_id} of {where}",
            )
            raise
