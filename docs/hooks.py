"""Pages of the site that lie elsewhere in the repository or are notebooks, and links to them.

Pages link to files as they lie in the repository, so that links work there as well. Here links
that leave ``docs/`` lead to the copies of those files on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import notebook_pages
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "DESIGN.md": "project/design.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benches/README.md": "project/benches.md",
}
"""Files of the repository, and the page of the site for each."""
EXAMPLES = "project/examples.md"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def examples() -> str:
    """Return a page with the code of all examples."""
    parts = [
        f"## {path.name}\n\n```python\n{path.read_text()}```\n"
        for path in sorted((ROOT / "examples").glob("*.py"))
    ]
    return "\n".join(["# Examples\n", *parts])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of ``docs/`` and those of notebooks, and the pictures that they show."""
    for source, page in PAGES.items():
        if page != "index.md":
            text = (ROOT / source).read_text()
            files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, EXAMPLES, content=examples()))
    for picture in sorted((ROOT / "benches" / "results").glob("*.png")):
        content = picture.read_bytes()
        place = f"project/results/{picture.name}"
        files.append(File.generated(config, place, content=content))
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        text, pictures = notebook_pages.page_of(path)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, content in pictures.items():
            place = f"tutorials/{name}"
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Lead links that leave ``docs/`` to the pages of this site."""
    here = page.file.src_uri
    sources = {page: source for source, page in PAGES.items() if page != "index.md"}
    source = sources.get(here, f"docs/{here}")

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(place_of(target), posixpath.dirname(here) or ".")

    return LINK.sub(led, markdown)


def place_of(target: str) -> str:
    """Return where on the site a file of the repository is."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("examples"):
        return EXAMPLES
    if target.startswith("benches/results/"):
        return target.replace("benches/", "project/", 1)
    if target.startswith("benches/"):
        return PAGES["benches/README.md"]
    if target.startswith("docs/tutorials/"):
        target = target.replace(".ipynb", ".md")
    return target.removeprefix("docs/")
