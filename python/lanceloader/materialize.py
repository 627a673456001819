"""Writing the rows of a permutation to a new table, atomically."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lanceloader.errors import UnsupportedError
from lanceloader.values import as_storable, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._typing import StorageOptions

__all__ = ["StoppableBatches", "as_stored", "staging", "write_table"]

_LOCK = "lock"
STOPPING_S = 5.0
"""The longest that a write that ends waits for a thread that reads a batch."""


def write_table(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    uri: str,
    storage_options: StorageOptions | None,
) -> None:
    """Write batches to a new table.

    A local table is written to a temporary folder and renamed when it is complete. If the process
    is killed, the next one that writes the same table removes the folder. In object storage, a
    table exists once its manifest is written, which is the last step.

    Args:
        schema: The schema of the batches.
        batches: The batches.
        uri: The path or URI of the table.
        storage_options: The options of the object store.

    Raises:
        FileExistsError: If ``uri`` exists, or if another process is writing to it.
        UnsupportedError: If neither pylance nor lancedb is installed.
    """
    import pyarrow as pa

    failures: list[BaseException] = []
    schema, batches = as_stored(schema, batches)
    source = StoppableBatches(batches, failures)
    reader = pa.RecordBatchReader.from_batches(schema, source)
    try:
        uri = without_file_scheme(uri)
        if "://" in uri:
            write(reader, uri, storage_options)
        else:
            write_locally(reader, Path(uri))
    except Exception as error:
        if failures:
            # Reading failed: Arrow's stream has turned the exception into another one.
            raise failures[0] from None
        if "already exists" in str(error) and not isinstance(error, FileExistsError):
            message = f"{uri} exists already; pass the address of a new table"
            raise FileExistsError(message) from error
        raise
    finally:
        source.stop()


def as_stored(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return a schema and batches cast to types that Lance stores."""
    import pyarrow as pa

    fields = [field.with_type(storable(field.type)) for field in schema]
    return pa.schema(fields, schema.metadata), map(as_storable, batches)


class StoppableBatches:
    """An iterator over batches that another thread reads, which ends once it is stopped.

    Args:
        batches: The batches.
        failures: A list to which an exception of theirs is appended.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], failures: list[BaseException]
    ) -> None:
        self._batches = batches
        self._failures = failures
        self._lock = threading.Lock()
        self._is_stopped = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        with self._lock:
            if self._is_stopped:
                raise StopIteration
            try:
                return next(self._batches)
            except Exception as error:
                if not isinstance(error, StopIteration):
                    self._failures.append(error)
                raise

    def stop(self) -> None:
        """End the batches, and wait a while for a thread that reads one.

        A thread that is still in one when the interpreter ends aborts the process.
        """
        self._is_stopped = True
        if self._lock.acquire(timeout=STOPPING_S):
            self._lock.release()


def without_file_scheme(uri: str) -> str:
    """Return the path of a ``file://`` URI; return other URIs and paths unchanged."""
    if uri.startswith("file://"):
        return url2pathname(urlsplit(uri).path)
    return uri


def write_locally(reader: pa.RecordBatchReader, target: Path) -> None:
    """Write to a temporary folder, then rename it.

    Raises:
        FileExistsError: If ``target`` exists, or if another process is writing to it.
    """
    if target.exists():
        message = f"{target} exists already; pass the path of a new table"
        raise FileExistsError(message)
    with staging(target) as folder:
        written = folder / f"{target.stem}.lance"
        write(reader, str(written), None)
        if target.exists():
            message = f"{target} was created by another process in the meantime"
            raise FileExistsError(message)
        written.rename(target)


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Create a temporary folder beside ``target`` for the exclusive use of this process.

    Raises:
        FileExistsError: If another process uses the folder.
    """
    folder = target.with_name(f".{target.name}.partial")
    with locked(folder, target):
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, target: Path) -> Iterator[None]:
    """Create a folder and hold its lock.

    Raises:
        FileExistsError: If another process holds the lock.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LOCK
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue  # The previous owner removed the folder in between.
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"{target} is being written by another process"
                raise FileExistsError(message) from None
            held = os.fstat(lock.fileno())
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            # If the previous owner removed the folder, the lock is on a deleted file.
            if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                yield
                return


def write(
    reader: pa.RecordBatchReader, uri: str, storage_options: StorageOptions | None
) -> None:
    """Write batches with pylance, or with lancedb if pylance is not installed.

    Raises:
        UnsupportedError: If neither is installed, or if only lancedb is and ``uri`` does not end
            in ``.lance``.
    """
    options: Any = storage_options or None
    if importlib.util.find_spec("lance") is not None:
        lance = importlib.import_module("lance")
        lance.write_dataset(reader, uri, mode="create", storage_options=options)
        return
    if importlib.util.find_spec("lancedb") is not None and uri.endswith(".lance"):
        lancedb = importlib.import_module("lancedb")
        parent, _, name = uri.rpartition("/")
        database = lancedb.connect(parent, storage_options=options)
        database.create_table(name.removesuffix(".lance"), reader)
        return
    message = (
        f"writing table {uri} needs pylance (or lancedb for addresses that end in `.lance`): "
        'pip install "lanceloader[lance]" or "lanceloader[lancedb]"'
    )
    raise UnsupportedError(message)
