"""The method that chooses how large values are read: as bytes, or as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from lanceloader.blob_files import BlobRows, dataset_of
from lanceloader.blobs import is_blob
from lanceloader.choices import check_choice
from lanceloader.errors import FormatError, UnsupportedError
from lanceloader.formats import name_of
from lanceloader.formats.functions import steps_of
from lanceloader.numbers import numpy_of
from lanceloader.sources import LanceSource
from lanceloader.verbs.columns import ColumnVerbs, check_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = ["BlobVerbs", "with_files"]

Blobs: TypeAlias = Literal["bytes", "files"]

FORMATS = ("python", "python_col", "numpy_dict", "torch_dict")
"""The formats that can hold files."""


class BlobVerbs(ColumnVerbs):
    """The method that chooses how large values are read."""

    def with_blobs(self, blobs: Blobs, columns: Sequence[str] | None = None) -> Self:
        """Return a permutation whose blob columns are read as files, or as bytes.

        A column of files costs nothing until a file is first read. All values of the batch are then
        located together, and only the requested bytes of each are fetched. The files are ``BlobFile``
        objects; those of a batch may be read in any thread, and sent to other processes.

        Args:
            blobs: ``"files"``, or ``"bytes"``, the default.
            columns: The columns, such as ``["video"]``, or ``["clip.frames"]`` for a selected field
                of a struct; by default all selected blob columns.

        Raises:
            ValueError: If ``blobs`` is neither, or a column is not a blob column.
            ColumnNotFoundError: If a column is not selected.
            UnsupportedError: If the table is not a Lance table in files.
            ImportError: If pylance is not installed.
            FormatError: When rows are read in another format than ``"python"``, ``"python_col"``,
                ``"numpy_dict"`` and ``"torch_dict"``, which cannot hold files.

        Example:
            >>> import lance
            >>> import pyarrow as pa
            >>> schema = pa.schema([lance.blob_field("video")])
            >>> data = pa.table({"video": lance.blob_array([b"moving pictures"])}, schema=schema)
            >>> table = lance.write_dataset(data, "w.lance", data_storage_version="2.2")
            >>> videos = ll.open("w.lance").with_blobs("files")
            >>> [row["video"].read(6) for batch in videos.loader(4) for row in batch]
            [b'moving']
        """
        check_choice("blobs", blobs, Blobs)
        if columns is not None:
            check_names(columns)
            names = {name: self.resolve_column(name) for name in columns}
        else:
            names = dict(self.selection)
        if blobs == "bytes":
            kept = tuple(
                name for name in self.file_columns if name not in names.values()
            )
            return self._replace(file_columns=kept)
        schema = dataset_of(file_source(self)).schema
        for name, column in names.items():
            found = field_of(schema, column)
            if columns is not None and (found is None or not is_blob(found)):
                message = (
                    f"column `{name}` is not a blob column, so its values are read with their rows: "
                    "leave it out of `columns`"
                )
                raise ValueError(message)
        files = [
            column
            for column in names.values()
            if (found := field_of(schema, column)) is not None and is_blob(found)
        ]
        return self._replace(
            file_columns=tuple(dict.fromkeys([*self.file_columns, *files]))
        )

    @property
    def has_files(self) -> bool:
        """Whether a selected column is read as files."""
        return not set(self.file_columns).isdisjoint(self.selection.values())

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the batches, in which columns of files are bytes."""
        import pyarrow as pa

        schema = super().schema
        for at, column in enumerate(self.selection.values()):
            if column in self.file_columns:
                field = pa.field(schema.field(at).name, pa.large_binary())
                schema = schema.set(at, field)
        return schema


def file_source(view: BlobVerbs) -> LanceSource:
    """Return the table whose blobs are read as files.

    Raises:
        UnsupportedError: If it is not a Lance table in files.
    """
    source = view.source.table
    if isinstance(source, LanceSource):
        return source
    message = (
        f'with_blobs("files") needs a Lance table in files, which {source.describe()} is not: pass '
        "the path or the URI of the table to open()"
    )
    raise UnsupportedError(message)


def files_of(view: BlobVerbs, batch: pa.RecordBatch) -> dict[str, Any]:
    """Return the columns of files of a batch that has row ids in their places."""
    source = file_source(view)
    found = {}
    for name, column in view.selection.items():
        if column in view.file_columns:
            row_ids = numpy_of(batch.column(name)).tolist()
            found[name] = BlobRows(source, column, row_ids).files()
    return found


def with_files(view: BlobVerbs, batch: pa.RecordBatch) -> Any:
    """Return a batch in its format, with its columns of files.

    Raises:
        FormatError: If the format cannot hold files.
    """
    format = name_of(view.transform_fn)  # noqa: A001
    if format not in FORMATS or steps_of(view.transform_fn):
        what = "functions of map()" if steps_of(view.transform_fn) else "this format"
        message = (
            f'{what} cannot hold the files of with_blobs("files"): pass format '
            f'{", ".join(FORMATS)}, or call with_blobs("bytes")'
        )
        raise FormatError(message)
    files = files_of(view, batch)
    rest = batch.select([name for name in view.selection if name not in files])
    if format == "python":
        rows = rest.to_pylist() if rest.num_columns else [{}] * batch.num_rows
        return [
            {
                name: files[name][at] if name in files else row[name]
                for name in view.selection
            }
            for at, row in enumerate(rows)
        ]
    value: Any = view.transform_fn(rest) if rest.num_columns else {}
    for name in view.selection:
        value[name] = files[name] if name in files else value.pop(name)
    return value


def field_of(schema: pa.Schema, column: str) -> pa.Field | None:
    """Return a field of a schema by its name, or by the path of a field of a struct."""
    import pyarrow as pa

    if column in schema.names:
        return schema.field(column)
    name, _, rest = column.partition(".")
    if name not in schema.names:
        return None
    field = schema.field(name)
    while rest:
        kind = field.type
        name, _, rest = rest.partition(".")
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        field = kind.field(name)
    return field
