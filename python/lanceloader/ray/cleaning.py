"""``clean``: removes the files of tables that failed jobs have left behind."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.materialize import staging, without_file_scheme
from lanceloader.ray.tables import DATA, Place, data_files

if TYPE_CHECKING:
    from lanceloader._typing import StorageOptions

__all__ = ["clean", "remove_unused", "unused_files"]

TRANSACTIONS = "_transactions/"


def clean(
    uri: str | os.PathLike[str], *, storage_options: StorageOptions | None = None
) -> int:
    """Remove the files of a table that failed jobs have left behind, and return their number.

    ``materialize`` removes the files that its own tasks leave. If its driver is killed, or a node that Ray
    has given up continues to write, files without a table remain. All versions of a table stay as they are.

    Call this while nothing writes the table: files of a commit in progress would be removed.

    Args:
        uri: The path or URI that the jobs were to write.
        storage_options: Options of the object store of a URI.

    Raises:
        FileExistsError: If a process on this machine is writing the table.
        ImportError: If pylance is not installed.
        ValueError: If there are files that are not part of a table.

    Example:
        >>> lanceloader.ray.clean("s3://bucket/shuffled.lance")  # doctest: +SKIP
        12
    """
    need("lance", "lanceloader.ray.clean", "ray")
    place = Place(without_file_scheme(os.fspath(uri)), storage_options)
    removed = 0 if "://" in place.uri else remove_staged(Path(place.uri))
    files = place.files()
    if place.is_table(files):
        return removed + remove_from_table(place)
    foreign = [file for file in files if not file.startswith((DATA, TRANSACTIONS))]
    if foreign:
        message = f"{place.uri} holds {foreign[0]}, which is no part of a table; nothing was removed"
        raise ValueError(message)
    place.remove(files)
    if files and "://" not in place.uri:
        shutil.rmtree(place.uri)
    return removed + len(files)


def remove_staged(target: Path) -> int:
    """Remove the staging folder of a table, and return the number of its files."""
    folder = target.with_name(f".{target.name}.partial")
    if not folder.exists():
        return 0
    left = [path for path in folder.glob("*/**/*") if path.is_file()]
    with staging(target):
        return len(left)


def remove_from_table(place: Place) -> int:
    """Remove the files that no version of a table uses, and return their number."""
    before = len(place.files())
    lance = importlib.import_module("lance")
    dataset = lance.dataset(place.uri, storage_options=place.storage_options or None)
    # No version is this old, so only files that belong to no version are removed.
    dataset.cleanup_old_versions(
        older_than=dt.timedelta(days=36_500), delete_unverified=True
    )
    return before - len(place.files())


def unused_files(place: Place, fragments: list[Any]) -> list[str]:
    """Return the data files that belong to none of the fragments, such as those of failed tasks."""
    used = tuple(file.removesuffix(".lance") for file in data_files(fragments))
    return [
        file
        for file in place.files()
        if file.startswith(DATA) and not file.startswith(used)
    ]


def remove_unused(place: Place, fragments: list[Any]) -> None:
    """Remove the data files that belong to none of the fragments."""
    place.remove(unused_files(place, fragments))
