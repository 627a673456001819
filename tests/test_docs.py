"""Everything the documentation shows runs, and what it names exists."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import lancedb
import lanceloader as ll
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benches/*.md"),
    )
    if path.name != "CHANGELOG.md"
]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(ll.__path__, "lanceloader.")
    if not name.endswith("._native")
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)\s]*)?\)")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The code blocks of a page with the lines they start at."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in BLOCK.finditer(text)
        if match[1] == language
    ]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, so that pages may make tables where they like."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_one_after_another(page, elsewhere):
    names = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        source = "\n" * line + code
        with contextlib.redirect_stdout(None):
            exec(compile(source, page, "exec"), names)


@pytest.mark.parametrize("name", ["lanceloader", *MODULES])
def test_the_examples_of_docstrings_run(name, elsewhere):
    module = importlib.import_module(name)
    table = lancedb.connect("memory://").create_table(
        "t", [{"x": x} for x in range(10)]
    )
    names = {"ll": ll, "table": table, "perm": ll.Permutation.identity(table)}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(module, name, globs=names):
        runner.run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z-]+)`", page.read_text()):
        assert target in targets
    for _, code in blocks(page, "sh"):
        for target in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE):
            assert target in targets


def test_the_tree_of_contributing_is_the_tree():
    """Each line of the tree starts with a path, two spaces deeper than its folder."""
    ((_, tree),) = blocks(ROOT / "CONTRIBUTING.md", "text")
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path, *_ = line.split()
        del folders[depth:]
        assert ROOT.joinpath(*folders, path).exists(), "/".join([*folders, path])
        folders.append(path)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["quickstart", "embeddings", "images", "resume", "distributed"]
)
def test_examples_run(name, elsewhere):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
