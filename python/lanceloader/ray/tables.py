"""A table that is being written: its files, before and after it has a manifest."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lanceloader.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from lanceloader._typing import StorageOptions

__all__ = ["Place"]

MANIFESTS, DATA = "_versions/", "data/"


@dataclass
class Place:
    """The location where a table is written.

    Attributes:
        uri: The path or URI of the table.
        storage_options: Options of its object store.
    """

    uri: str
    storage_options: StorageOptions | None = field(repr=False)

    def session(self) -> Any:
        """Return an object of pylance that lists and removes files."""
        file = importlib.import_module("lance.file")
        return file.LanceFileSession(
            self.uri, storage_options=self.storage_options or None
        )

    def files(self) -> list[str]:
        """Return the paths of all files, relative to the table."""
        found: list[str] = self.session().list()
        return found

    def is_table(self, files: Iterable[str]) -> bool:
        """Return whether the files of a table include a manifest."""
        return any(file.startswith(MANIFESTS) for file in files)

    def remove(self, files: Iterable[str]) -> None:
        """Remove files."""
        session = self.session()
        for file in files:
            session.delete_file(file)

    def missing(self, fragments: list[Any]) -> list[str]:
        """Return the data files of fragments that do not exist."""
        return sorted(data_files(fragments) - set(self.files()))

    def commit(self, schema: pa.Schema, fragments: list[Any]) -> None:
        """Commit fragments as a table, in one step.

        Raises:
            FileExistsError: If another process has created the table in the meantime.
            StorageError: If the manifest cannot be written.
        """
        lance = importlib.import_module("lance")
        options = self.storage_options or None
        try:
            made = lance.LanceDataset.commit(
                self.uri,
                lance.LanceOperation.Overwrite(schema, fragments),
                storage_options=options,
            )
        except OSError as error:
            message = f"the table {self.uri} cannot be committed: {error}"
            raise StorageError(message) from error
        if made.version != 1:
            earlier = lance.dataset(
                self.uri, version=made.version - 1, storage_options=options
            )
            earlier.restore()
            message = f"{self.uri} was created by another process in the meantime"
            raise FileExistsError(message)


def data_files(fragments: list[Any]) -> set[str]:
    """Return the paths of the data files of fragments, relative to the table."""
    return {DATA + file.path for fragment in fragments for file in fragment.files}
