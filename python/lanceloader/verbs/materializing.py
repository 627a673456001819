"""The method that writes rows as a new table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from lanceloader.materialize import write_table
from lanceloader.sources import open_source
from lanceloader.verbs.options import OptionVerbs

if TYPE_CHECKING:
    from lanceloader._typing import Progress, StorageOptions

__all__ = ["MaterializeVerbs"]


class MaterializeVerbs(OptionVerbs):
    """Write rows as a new table."""

    def materialize(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: StorageOptions | None = None,
        progress: Progress = False,
    ) -> Self:
        """Write the rows, with these columns and in this order, as a new Lance table.

        All of it or nothing: a table that is interrupted leaves nothing behind, and one whose
        process is killed leaves a hidden folder that the next attempt removes. Memory is
        bounded, however many rows there are: see ``with_read``.

        Args:
            uri: Path or URI of the new table; ``"db/name.lance"`` is the table ``name`` of the
                LanceDB database ``db``.
            storage_options: Options of the object store of a URI.
            progress: Whether to show a bar; or a function, called with the number of rows
                written so far and in all.

        Returns:
            The new table, in storage order, with the format of this permutation.

        Raises:
            FileExistsError: If there is something at ``uri`` already.
            UnsupportedError: If neither pylance nor lancedb is installed.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> copy = perm.shuffle(seed=7).materialize(f"{folder}/shuffled.lance")
            >>> copy.head(2) == perm.shuffle(seed=7).head(2)
            True
        """
        uri = os.fspath(uri)
        batches = self._bulk("writing", progress=progress)
        write_table(self.schema, batches, uri, storage_options)
        source = open_source(uri, storage_options=storage_options)
        new = self._replace()
        new._assign(source, source.all_rows(), 0)
        new._assign_tables(uri)
        new.batch_size, new.transform_fn = self.batch_size, self.transform_fn
        new._options = self._options
        return new
