"""Writing the rows of a permutation as a table of their own, all of it or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._typing import StorageOptions

__all__ = ["write_table"]

_LOCK = "lock"


def write_table(
    reader: pa.RecordBatchReader, uri: str, storage_options: StorageOptions | None
) -> None:
    """Write batches as a new table.

    A local table is written under a name of its own and renamed once it is whole; what a
    killed process left is removed by the next one that writes the same table. In object
    storage a table appears with its manifest, which is written last.

    Raises:
        FileExistsError: If there is something at ``uri``, or another process is writing it.
        UnsupportedError: If neither pylance nor lancedb is installed.
    """
    if "://" in uri:
        write(reader, uri, storage_options)
        return
    target = Path(uri)
    if target.exists():
        message = f"{target} is there already: wanted a new path"
        raise FileExistsError(message)
    with staging(target) as folder:
        written = folder / f"{target.stem}.lance"
        write(reader, str(written), storage_options)
        if target.exists():
            message = f"{target} was made by somebody else meanwhile"
            raise FileExistsError(message)
        written.rename(target)


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give a folder beside ``target`` that is gone afterwards, and that nobody else uses."""
    folder = target.with_name(f".{target.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{target} is being written by another process"
            raise FileExistsError(message) from None
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
