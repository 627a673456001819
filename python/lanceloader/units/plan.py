"""Plans, which determine the order of rows: a checkpoint only loads into a loader of the same plan."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanceloader.sources import Source
    from lanceloader.verbs.base import View

__all__ = ["plan_of"]

MAX_TEXT = 200


def plan_of(view: View) -> dict[str, int | str]:
    """Return what determines the order of the rows of a permutation, in every epoch.

    A table is identified by the names of its files, so it may be moved or copied; data in memory
    are identified by their columns and their number of rows. Hashing a filter or a list of rows
    takes a few nanoseconds per row; everything else takes constant time.
    """
    source, order = view.source, view.order.with_epoch(0)
    as_it_is = view.order.fingerprint()
    native = getattr(source, "native", None)
    table = None if native is None else native.identity
    text = repr(order).removeprefix("<Order of ").removesuffix(">")
    return {
        "table": table or source_text(source),
        "version": source.version or 0,
        "rows": order.num_rows,
        "order": text,
        "fingerprint": f"{order.fingerprint():016x}",
        "as it is": f"{as_it_is:016x}",
    }


def source_text(source: Source) -> str:
    """Return a text that identifies a table without files of its own."""
    if source.version is not None:
        return f"{source.name} at version {source.version}"
    columns = ", ".join(f"{field.name}: {field.type}" for field in source.schema)
    if len(columns) > MAX_TEXT:
        hashed = hashlib.blake2b(columns.encode(), digest_size=8).hexdigest()
        columns = f"{len(source.schema):,} columns, {hashed}"
    return f"{source.name} of {source.num_rows:,} rows of {columns}"
