"""``materialize``: the rows of a permutation, written as a new table."""

from __future__ import annotations

import importlib
import itertools
import os
from typing import TYPE_CHECKING, Self

from lanceloader._typing import WriteEngine
from lanceloader.choices import check_choice
from lanceloader.errors import FormatError
from lanceloader.formats import format_of
from lanceloader.formats.functions import steps_of
from lanceloader.materialize import write_table
from lanceloader.monitor.progress import check_bar
from lanceloader.sources import open_source
from lanceloader.verbs.reading import ReadVerbs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._typing import Progress, StorageOptions

__all__ = ["MaterializeVerbs"]


class MaterializeVerbs(ReadVerbs):
    """Methods that write rows."""

    def materialize(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: StorageOptions | None = None,
        engine: WriteEngine = "local",
        progress: Progress | None = None,
    ) -> Self:
        """Write the rows as a new Lance table, with the columns and in the order of this permutation.

        The functions of ``map`` are called, and their results are stored.

        The table is written completely or not at all: an interrupted call leaves nothing behind,
        and a killed process leaves a hidden folder that the next call removes. Memory is
        bounded by the ``memory_limit`` of ``with_read``, at any number of rows.

        Args:
            uri: The path or URI of the new table. ``"db/name.lance"`` is the table ``name`` of
                the LanceDB database ``db``.
            storage_options: Options of the object store of a URI.
            engine: What writes: ``"local"``, this process; or ``"ray"``, tasks on all nodes of a Ray
                cluster, as ``lanceloader.ray.materialize``, which has more options.
            progress: Whether to show a progress bar, by default as ``LANCELOADER_PROGRESS`` says;
                or a function, called with the number of rows written so far and in all.

        Returns:
            A permutation of the new table in storage order, with the format, the batch size and
            the read options of this one.

        Raises:
            FileExistsError: If ``uri`` exists.
            ImportError: If ``engine`` is ``"ray"`` and Ray is not installed.
            FormatError: If functions of ``map`` return other types for later rows than for the
                first ones, to which they cannot be cast.
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
        check_choice("engine", engine, WriteEngine)
        check_bar(progress)
        if engine == "ray":
            # Imported by its name, as it is above this module.
            module = importlib.import_module("lanceloader.ray")
            options = {"storage_options": storage_options, "progress": progress}
            module.materialize(self, uri, **options)
        else:
            batches = self._bulk("writing", progress=progress)
            schema = self.schema
            if steps_of(self.transform_fn):
                schema, batches = typed_by_first(batches, schema)
            write_table(schema, batches, uri, storage_options)
        source = open_source(uri, storage_options=storage_options)
        new = self._replace()
        new.assign(source, source.all_rows(), 0)
        new.assign_tables(uri)
        new.batch_size, new.transform_fn = self.batch_size, format_of(self.transform_fn)
        new.read_options = self.read_options
        # All rows of the new table, of whatever part it was written from.
        new.is_shard = False
        return new


def typed_by_first(
    batches: Iterator[pa.RecordBatch], empty: pa.Schema
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema of the first batch, and all batches cast to it.

    Args:
        batches: The batches.
        empty: The schema if there are no batches.
    """
    first = next(batches, None)
    if first is None:
        return empty, batches
    return first.schema, cast_to(first.schema, itertools.chain([first], batches))


def cast_to(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield batches with the columns and types of a schema.

    Raises:
        FormatError: If a batch has other columns, or values that cannot be cast.
    """
    import pyarrow as pa

    for batch in batches:
        if batch.schema.equals(schema):
            yield batch
            continue
        try:
            yield batch.select(schema.names).cast(schema)
        except (pa.ArrowException, KeyError, ValueError) as error:
            message = (
                f"functions of map() returned {kinds(batch.schema)}, but {kinds(schema)} for the "
                f"first rows: return the same columns and types for all rows ({error})"
            )
            raise FormatError(message) from error


def kinds(schema: pa.Schema) -> str:
    """Return the names and types of a schema in one line."""
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
