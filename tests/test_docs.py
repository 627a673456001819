"""Everything the documentation shows runs, and what it names exists."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import NamedTuple

import hub_folder
import lance
import lancedb
import lanceloader as ll
import pyarrow as pa
import pytest
import ray_driver
import s3_folder

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benches/*.md"),
    )
    if path.name != "CHANGELOG.md"
]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(ll.__path__, "lanceloader.")
    if not name.endswith("._native")
]
BLOCK = re.compile(
    r"""^(?:<!-- requires: (?P<requires>\w+) -->\n)?"""
    r"""```(?P<language>\w+)(?: title="(?P<title>[^"\n]+)")?\n(?P<code>.*?)^```$""",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)\s]*)?\)")


class Block(NamedTuple):
    """A code block of a page.

    Attributes:
        line: The number of lines before it.
        code: The code.
        title: What the page calls it: the library it is for, on pages that compare two.
        requires: The module without which it cannot run.
    """

    line: int
    code: str
    title: str | None
    requires: str | None

    def is_of_others(self) -> bool:
        """Whether its warnings are of another library."""
        return self.title not in (None, "lanceloader")


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            text.count("\n", 0, match.start("code")),
            match["code"],
            match["title"],
            match["requires"],
        )
        for match in BLOCK.finditer(text)
        if match["language"] == language
    ]


def libraries_of(page: Path) -> list[str]:
    """Return the libraries that some blocks of a page need and that the tests may lack."""
    return sorted({block.requires for block in blocks(page, "python")} - {None})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, so that pages may make tables where they like."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bucket(tmp_path_factory, monkeypatch):
    """The bucket with a table that pages about object storage read."""
    folder = tmp_path_factory.mktemp("bucket")
    lance.write_dataset(pa.table({"id": range(1000)}), folder / "songs.lance")
    s3_folder.forget_credentials(monkeypatch)
    hub_folder.forget_credentials(monkeypatch, folder)
    repository = {"repository": "datasets/me/library"}
    with (
        s3_folder.serving(folder) as endpoint,
        hub_folder.serving(folder, **repository) as hub,
    ):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT", endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unknown")
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_one_after_another(
    page, elsewhere, request, monkeypatch
):
    """But for those that need a library which the tests may lack."""
    python = blocks(page, "python")
    if any("s3://bucket" in block.code for block in python):
        request.getfixturevalue("bucket")
    run([block for block in python if block.requires is None], page, monkeypatch)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [
        # Ray starts processes of its own, which takes long.
        pytest.param(
            page, marks=[pytest.mark.slow] if "ray" in libraries_of(page) else []
        )
        for page in PAGES
        if libraries_of(page)
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_run_with_the_library_that_it_compares(
    page, elsewhere, monkeypatch
):
    for library in libraries_of(page):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{page.name} shows {library}, which is not installed")
    if "ray" in libraries_of(page):
        script = elsewhere / "page.py"
        script.write_text("\n".join(block.code for block in blocks(page, "python")))
        run_with_ray(script)
        return
    run(blocks(page, "python"), page, monkeypatch)


def run_with_ray(script: Path) -> str:
    """Run a script in a process of its own, as Ray's processes end with it, and return what it prints."""
    with ray_driver.settings() as temporary:
        result = subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"RAY_TMPDIR": temporary},
        )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run(python: list[Block], page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Functions of a page pickle as those of a script do.
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for block in python:
        source = "\n" * block.line + block.code
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            if block.is_of_others():
                warnings.simplefilter("ignore")
            exec(compile(source, page, "exec"), vars(main))


def test_blocks_require_libraries_that_there_are():
    """A name that is misspelt would never be found, and its block would never run."""
    required = {library for page in PAGES for library in libraries_of(page)}
    assert required == {
        *("av", "datasets", "litdata", "ray", "soundfile", "streaming"),
        *("transformers", "webdataset"),
    }


def test_every_python_block_is_found():
    """A fence that the pattern does not know would be left out without a word."""
    for page in PAGES:
        fences = re.findall(r"^\s*```.*python", page.read_text(), re.MULTILINE)
        assert len(blocks(page, "python")) == len(fences), page


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
    for block in blocks(page, "sh"):
        for target in re.findall(r"^make ([a-z-]+)", block.code, re.MULTILINE):
            assert target in targets


def test_the_tree_of_contributing_is_the_tree():
    """Each line of the tree starts with a path, two spaces deeper than its folder."""
    (block,) = blocks(ROOT / "CONTRIBUTING.md", "text")
    folders: list[str] = []
    for line in block.code.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path, *_ = line.split()
        del folders[depth:]
        assert ROOT.joinpath(*folders, path).exists(), "/".join([*folders, path])
        folders.append(path)


def test_the_questions_of_contributing_name_files_that_exist():
    """Paths are those of the package, of the core, or of the repository."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| [^|]+\? \| ([^|]+) \|$", page, re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([\w./]+)`", row)]
    assert len(rows) >= 9
    assert len(paths) >= len(rows)
    roots = [ROOT, ROOT / "python" / "lanceloader", ROOT / "rust" / "core" / "src"]
    for path in paths:
        assert any((root / path).exists() for root in roots), path


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["quickstart", "embeddings", "images", "episodes", "resume", "distributed"]
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_ray_runs(elsewhere):
    """Ray warns of its own settings and of workers that die, as one is meant to."""
    ray_driver.need_ray()
    script = ROOT / "examples" / "ray_train.py"
    assert "5,000 rows so far, 0 of them twice" in run_with_ray(script)


def stdout_of(example):
    """What an example prints."""
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / example],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_torchrun_runs(elsewhere):
    """Two agents: a worker is killed, then one of the agents with its worker."""
    assert (
        stdout_of("elastic.py") == "ranks: [2, 2, 1]; 5,000 rows, each of them once\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_torchft_runs(elsewhere):
    """Two replicas, of which one is killed and comes back."""
    pytest.importorskip("torchft", reason="torchft is not installed")
    said = "replicas: [2, 1, 2]; 5,000 rows, each of them once"
    assert said in stdout_of("torchft_train.py")


def test_the_tree_of_contributing_names_every_module():
    """Those at the top, and every folder: a newcomer looks there first."""
    (tree,) = [block.code for block in blocks(ROOT / "CONTRIBUTING.md", "text")]
    package = ROOT / "python" / "lanceloader"
    names = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    names |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert names
    assert [name for name in sorted(names) if name not in tree] == []
