"""HTML for notebooks: tables, values in a few words, and text to unfold."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["details", "table_of", "text_of"]

MOST_CHARACTERS = 60
MOST_ITEMS = 4


def table_of(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def details(title: str, text: str) -> str:
    """Return HTML that shows a text when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def text_of(value: Any) -> str:
    """Return a value in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        items = ", ".join(map(text_of, value[:MOST_ITEMS]))
        more = f", … ({len(value):,})" if len(value) > MOST_ITEMS else ""
        return clipped(f"[{items}{more}]")
    if isinstance(value, dict):
        items = ", ".join(f"{name}: {text_of(inner)}" for name, inner in value.items())
        return clipped(f"{{{items}}}")
    return clipped(str(value))


def clipped(text: str) -> str:
    """Return a text, cut after some characters."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
