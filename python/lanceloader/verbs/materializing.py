"""``materialize``: the rows of a permutation, written as a new table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from lanceloader.materialize import write_table
from lanceloader.monitor.progress import check_bar
from lanceloader.sources import open_source
from lanceloader.verbs.reading import ReadVerbs

if TYPE_CHECKING:
    from lanceloader._typing import Progress, StorageOptions

__all__ = ["MaterializeVerbs"]


class MaterializeVerbs(ReadVerbs):
    """Methods that write rows."""

    def materialize(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: StorageOptions | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Write the rows as a new Lance table, with the columns and in the order of this permutation.

        The table is written completely or not at all: an interrupted call leaves nothing behind,
        and a killed process leaves a hidden directory that the next call removes. Memory is
        bounded by the ``memory_limit`` of ``with_read``, at any number of rows.

        Args:
            uri: The path or URI of the new table. ``"db/name.lance"`` is the table ``name`` of
                the LanceDB database ``db``.
            storage_options: Options of the object store of a URI.
            progress: Whether to show a progress bar, by default as ``LANCELOADER_PROGRESS`` says;
                or a function, called with the number of rows written so far and in all.

        Returns:
            A permutation of the new table in storage order, with the format, the batch size and
            the read options of this one.

        Raises:
            FileExistsError: If ``uri`` exists.
            UnsupportedError: If neither pylance nor lancedb is installed.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> copy = perm.shuffle(seed=7).materialize(f"{folder}/shuffled.lance")
            >>> copy.head(2) == perm.shuffle(seed=7).head(2)
            True
        """
        uri = os.fspath(uri)
        if not uri:
            raise ValueError("`uri` is empty: pass the path or URI of the new table")
        check_bar(progress)
        batches = self._bulk("writing", progress=progress)
        write_table(self.schema, batches, uri, storage_options)
        source = open_source(uri, storage_options=storage_options)
        new = self._replace()
        new.assign(source, source.all_rows(), 0)
        new.assign_tables(uri)
        new.batch_size, new.transform_fn = self.batch_size, self.transform_fn
        new.read_options = self.read_options
        # All rows of the new table, of whatever part it was written from.
        new.is_shard = False
        return new
