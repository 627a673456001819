"""Tables in HTML, for notebooks and reports. All texts are escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from lanceloader._html import table_of
from lanceloader.monitor import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lanceloader.monitor.measurements import Measurements

__all__ = ["facts", "paragraph", "stats_html", "table"]


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a row of headers."""
    cells = ([escape(str(cell)) for cell in row] for row in rows)
    return table_of([escape(header) for header in headers], cells)


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a table with a name and a text in each row."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(str(text))}</td></tr>'
        for name, text in pairs
    )
    return f"<table><tbody>{rows}</tbody></table>"


def stats_html(stats: Measurements) -> str:
    """Return the report of statistics as tables."""
    text = facts(report.topics(stats))
    if stats.ranks:
        headers, *rows = report.rank_rows(stats.ranks)
        text += table(headers, rows)
    return text
