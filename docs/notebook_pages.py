"""Executed notebooks as pages of the site: Markdown, and a file for each picture."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, NamedTuple

import nbformat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nbformat import NotebookNode

STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)
TABLE = re.compile(r"<(table|tr)\b[^>]*>")


class NotebookPage(NamedTuple):
    """What the site shows of a notebook.

    Attributes:
        text: The page as Markdown.
        pictures: The files that it shows, by name.
    """

    text: str
    pictures: dict[str, bytes]


def page_of(path: Path) -> NotebookPage:
    """Return the page of a notebook. Its title is followed by a button to download it."""
    notebook = nbformat.read(path, as_version=4)
    title, _, rest = notebook.cells[0].source.partition("\n")
    button = f'<a class="md-button notebook" href="{path.name}" download>Download notebook</a>'
    parts = [title, button, rest]
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells[1:]:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        # A semicolon at the end is there for notebooks only.
        parts.append(fence("python", re.sub(r";$", "", cell.source)))
        for output in cell.outputs:
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts.append(shown(output))
                continue
            name = f"{path.stem}-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(picture)
            parts.append(f"![{cell.metadata.alt}]({name}){{ .output }}")
    return NotebookPage("\n\n".join(parts) + "\n", pictures)


def shown(output: NotebookNode) -> str:
    """Return an output that is no picture as Markdown."""
    if output.output_type == "stream":
        return fence("{ .text .output }", output.text)
    html = output.data.get("text/html")
    if html is None:
        return fence("{ .text .output }", output.data["text/plain"])
    # The theme styles tables that have no class.
    html = TABLE.sub(r"<\1>", STYLE.sub("", html))
    return f'<div class="output">\n{"".join(lines_of(html))}</div>'


def lines_of(html: str) -> Iterator[str]:
    """Yield the lines that are not empty: Markdown would end the HTML there."""
    for line in html.splitlines():
        if line.strip():
            yield f"{line.strip()}\n"


def fence(language: str, text: str) -> str:
    """Return a block of code."""
    space = " " if language.startswith("{") else ""
    return f"```{space}{language}\n{text.rstrip()}\n```"
