"""How notebooks show permutations: columns, first rows, and how rows are read."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from lanceloader._html import details, table_of, text_of

if TYPE_CHECKING:
    from lanceloader.verbs.taking import TakeVerbs

__all__ = ["page_of"]

MOST_ROWS = 5
MOST_COLUMNS = 20
MOST_BYTES = 1 << 20
"""The most bytes of a row, by what files say, of which several are read to be shown."""


def page_of(view: TakeVerbs) -> str:
    """Return a permutation as HTML: its first rows, the types of columns, and ``explain``."""
    parts = [f"<p>{escape(repr(view).strip('<>'))}</p>"]
    try:
        parts.append(first_rows(view))
        parts.append(details("How it is read", view.explain()))  # type: ignore[attr-defined]
    except Exception as error:
        # A notebook shows the rest, and the reason for what is missing.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        parts.append(f"<p>Rows cannot be read: {escape(reason)}</p>")
    return "".join(parts)


def first_rows(view: TakeVerbs) -> str:
    """Return the first rows as a table."""
    arrow = view.with_format("arrow")
    choice = getattr(arrow.open_reader(), "choice", None)
    size = 0 if choice is None else choice().row_bytes or 0
    batch = arrow.head(MOST_ROWS if size <= MOST_BYTES else 1)
    fields = list(batch.schema)[:MOST_COLUMNS]
    heads = [
        f"{escape(field.name)}<br><small>{escape(str(field.type))}</small>"
        for field in fields
    ]
    columns = [batch.column(at).to_pylist() for at in range(len(fields))]
    rows = [map(escape, map(text_of, row)) for row in zip(*columns, strict=True)]
    more = len(batch.schema) - len(fields)
    note = [f"{more:,} more columns"] if more else []
    if view.num_rows > batch.num_rows:
        note.append(f"{view.num_rows - batch.num_rows:,} more rows")
    notes = f"<p>… {' and '.join(note)}</p>" if note else ""
    return table_of(heads, rows) + notes
