"""Lance's blob columns, whose values are stored outside of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["holds_blobs", "is_blob", "with_bytes"]


def is_blob(field: pa.Field) -> bool:
    """Return whether a column is a blob column."""
    metadata = field.metadata or {}
    extension = getattr(field.type, "extension_name", None)
    return (
        extension == "lance.blob.v2"
        or metadata.get(b"ARROW:extension:name") == b"lance.blob.v2"
        or b"lance-encoding:blob" in metadata
    )


def with_bytes(field: pa.Field) -> pa.Field:
    """Return the field with blobs replaced by large binary, at any depth."""
    import pyarrow as pa

    kind = field.type
    if is_blob(field):
        return pa.field(field.name, pa.large_binary(), metadata=field.metadata)
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([with_bytes(child) for child in kind]))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(with_bytes(kind.value_field)))
    if pa.types.is_large_list(kind):
        return field.with_type(pa.large_list(with_bytes(kind.value_field)))
    return field


def holds_blobs(field: pa.Field) -> bool:
    """Return whether blobs are nested in a column that is not a blob column itself."""
    return not is_blob(field) and with_bytes(field).type != field.type
