"""The report of a loader as one HTML file, with pictures if matplotlib is installed."""

from __future__ import annotations

import base64
import io
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from lanceloader.monitor.environment import environment
from lanceloader.monitor.formatting import brief
from lanceloader.monitor.markup import facts, paragraph, stats_html, table
from lanceloader.monitor.measurements import STAGES
from lanceloader.monitor.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lanceloader.monitor.stats import Stats

__all__ = ["page"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 0.5rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: 0.2rem 0.8rem 0.2rem 0; text-align: right;
  vertical-align: top; }
th[scope=row], td:first-child, th:first-child { text-align: left; }
td { overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #8882; padding: 0.8rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid #0072b2; padding-left: 0.8rem; }
img { max-width: 100%; background: white; }
"""

PICTURE_SIZE = (7.0, 3.4)
"""The width and height of a picture, in inches."""


def page(
    title: str, loader: Iterable[tuple[str, object]], explained: str, stats: Stats
) -> str:
    """Return the text of a report, which refers to no other file.

    Args:
        title: The title.
        loader: What the loader is: names and texts.
        explained: How rows are read, as ``explain`` returns it.
        stats: The statistics, of one rank or merged.
    """
    now = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    sections = [
        ("Loader", facts(loader)),
        ("How rows are read", f"<pre>{escape(without_secrets(explained))}</pre>"),
        ("Statistics", stats_html(stats)),
        ("Stages", stages(stats)),
        *pictures(stats),
        ("Environment", facts(environment())),
    ]
    body = "\n".join(
        f"<section>\n<h2>{escape(name)}</h2>\n{text}\n</section>"
        for name, text in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{paragraph(f"Written {now}")}
<p class="verdict">{escape(stats.verdict)}</p>
{body}
</body>
</html>
"""


def stages(stats: Stats) -> str:
    """Return a table of the time of each stage."""
    total = sum(stats.stage_seconds.values())
    spent = [(stage, stats.stage_seconds.get(stage, 0.0)) for stage in STAGES]
    rows = [
        (stage, brief(seconds), f"{seconds / total:.0%}")
        for stage, seconds in spent
        if seconds
    ]
    if not rows:
        return paragraph("No stages were measured.")
    note = paragraph("Times are summed over all threads.")
    return table(("stage", "time", "share"), rows) + note


def pictures(stats: Stats) -> Iterator[tuple[str, str]]:
    """Yield the titles of pictures, and the pictures as elements."""
    from lanceloader import plots

    # The rank that waited longest stands for merged statistics.
    whose = f" of rank {stats.rank}" if stats.ranks else ""
    drawings: dict[str, Callable[..., Any]] = {
        f"Throughput over time{whose}": plots.throughput,
        "Waits for batches": plots.waits,
        "Time by stage": plots.stages,
    }
    try:
        from matplotlib.figure import Figure
    except ImportError:
        text = (
            "There are no pictures, as matplotlib is not installed: "
            'pip install "lanceloader[plots]"'
        )
        yield "Pictures", paragraph(text)
        return
    for title, draw in drawings.items():
        # Not by pyplot, which belongs to the thread and the backend of the user.
        figure = Figure(figsize=PICTURE_SIZE, layout="constrained")
        try:
            draw(stats, figure.subplots())
        except ValueError as error:
            yield title, paragraph(f"Nothing to draw: {error}.")
            continue
        yield title, image(figure, title)


def image(figure: Any, title: str) -> str:
    """Return a figure as an element that holds its data."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'
