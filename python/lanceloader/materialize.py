"""Writing the rows of a permutation as a table of their own, all of it or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lanceloader.errors import UnsupportedError
from lanceloader.values import as_storable, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._typing import StorageOptions

__all__ = ["write_table"]

_LOCK = "lock"


def write_table(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    uri: str,
    storage_options: StorageOptions | None,
) -> None:
    """Write batches as a new table.

    A local table is written under a name of its own and renamed once it is whole; what a
    killed process left is removed by the next one that writes the same table. In object
    storage a table appears with its manifest, which is written last.

    Raises:
        FileExistsError: If there is something at ``uri``, or another process is writing it.
        UnsupportedError: If neither pylance nor lancedb is installed.
    """
    import pyarrow as pa

    failures: list[BaseException] = []
    schema, batches = as_stored(schema, batches)
    reader = pa.RecordBatchReader.from_batches(schema, noting(batches, failures))
    try:
        if uri.startswith("file://"):
            uri = url2pathname(urlsplit(uri).path)
        if "://" in uri:
            write(reader, uri, storage_options)
        else:
            write_locally(reader, Path(uri))
    except Exception as error:
        if failures:
            # What went wrong with reading, not what became of it on its way through Arrow.
            raise failures[0] from None
        if "already exists" in str(error) and not isinstance(error, FileExistsError):
            message = f"{uri} is there already: wanted a new address"
            raise FileExistsError(message) from error
        raise


def as_stored(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return a schema and batches of types that Lance writes."""
    import pyarrow as pa

    fields = [field.with_type(storable(field.type)) for field in schema]
    return pa.schema(fields, schema.metadata), map(as_storable, batches)


def noting(
    batches: Iterator[pa.RecordBatch], failures: list[BaseException]
) -> Iterator[pa.RecordBatch]:
    """Pass batches on, and keep the exception that ends them."""
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


def write_locally(reader: pa.RecordBatchReader, target: Path) -> None:
    """Write under another name, and rename."""
    if target.exists():
        message = f"{target} is there already: wanted a new path"
        raise FileExistsError(message)
    with staging(target) as folder:
        written = folder / f"{target.stem}.lance"
        write(reader, str(written), None)
        if target.exists():
            message = f"{target} was made by somebody else meanwhile"
            raise FileExistsError(message)
        written.rename(target)


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give a folder beside ``target`` that is gone afterwards, and that nobody else uses."""
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
    """Make a folder and hold it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LOCK
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue  # Somebody ended between the two.
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
            # The one who held it before may have removed it together with its folder.
            if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                yield
                return


def write(
    reader: pa.RecordBatchReader, uri: str, storage_options: StorageOptions | None
) -> None:
    """Write batches with pylance, or with lancedb if that is what is installed."""
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
        f"{uri}: writing tables needs pip install lanceloader[lance] or "
        "lanceloader[lancedb]"
    )
    raise UnsupportedError(message)
