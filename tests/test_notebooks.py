"""The tutorials: notebooks that run, with the outputs that they are stored with."""

from __future__ import annotations

import base64
import copy
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PATHS = sorted((DOCS / "tutorials").glob("*.ipynb"))
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#([^)\s]*))?\)")
KINDS_OF_OUTPUT = {"stream", "display_data", "execute_result"}


def module(name):
    """A module of ``docs/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


notebooks = module("notebooks")
notebook_pages = module("notebook_pages")
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in notebooks.read(path).cells if cell.cell_type == kind]


def pictures(cell):
    return [
        output.data["image/png"]
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def test_there_are_six():
    assert {path.stem for path in PATHS} == {
        "images",
        "mixing",
        "packing",
        "pairs",
        "ranks",
        "tabular",
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@every_notebook
def test_a_notebook_runs_and_puts_out_what_it_is_stored_with(path):
    """In an environment without settings of the user, and an empty folder."""
    for needed in ("nbclient", "ipykernel", "torch", "matplotlib", "mlxtend"):
        pytest.importorskip(needed)
    result = subprocess.run(
        [sys.executable, DOCS / "notebooks.py", path.stem],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


@every_notebook
def test_a_notebook_is_stored_as_it_ran(path):
    """From the first cell to the last, without errors, and without a name of this machine."""
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= KINDS_OF_OUTPUT
    assert not list(notebooks.errors(notebook))
    text = path.read_text()
    assert str(ROOT) not in text
    assert "/tmp/" not in text
    assert path.stat().st_size < 500_000


@every_notebook
def test_a_notebook_shows_pictures_and_ends_with_next_steps(path):
    notebook = notebooks.read(path)
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[-1].source.startswith("## Next steps\n")
    code = cells(path, "code")
    assert sum(len(pictures(cell)) for cell in code) >= 2
    for cell in code:
        assert set(cell.metadata.get("tags", ())) <= notebooks.TAGS
        assert bool(pictures(cell)) == bool(cell.metadata.get("alt"))
    checked = [cell for cell in code if cell.outputs and "tags" not in cell.metadata]
    assert any(pictures(cell) for cell in checked)
    assert len(checked) >= 4


@every_notebook
def test_links_of_a_notebook_lead_somewhere(path):
    links = [
        link for cell in cells(path, "markdown") for link in LINK.findall(cell.source)
    ]
    assert links
    for target, anchor in links:
        page = path.parent / target
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}


@every_notebook
def test_the_page_of_a_notebook_has_its_code_text_and_pictures(path):
    page = notebook_pages.page_of(path)
    assert f'href="{path.name}" download' in page.text
    for cell in cells(path, "markdown"):
        assert cell.source.splitlines()[-1] in page.text
    for cell in cells(path, "code"):
        assert cell.source.rstrip(";") in page.text
        for output in cell.outputs:
            if output.output_type == "stream":
                assert output.text.rstrip() in page.text
    stored = [base64.b64decode(p) for c in cells(path, "code") for p in pictures(c)]
    assert list(page.pictures.values()) == stored
    for name in page.pictures:
        assert f"({name})" in page.text
    assert "<style" not in page.text


@pytest.mark.checkout
def test_every_tutorial_is_in_the_list_and_in_the_navigation():
    listed = (DOCS / "tutorials" / "index.md").read_text()
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in PATHS:
        assert f"({path.name})" in listed
        assert f"tutorials/{path.stem}.md" in navigation


def a_notebook(*cells):
    made = nbformat.v4.new_notebook()
    for outputs, tags in cells:
        cell = nbformat.v4.new_code_cell("1", outputs=outputs)
        cell.metadata["tags"] = tags
        made.cells.append(cell)
    return made


def printed(text):
    return [nbformat.v4.new_output("stream", name="stdout", text=text)]


def drawn(value, size=16):
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (size, size), value).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    return [nbformat.v4.new_output("display_data", data)]


@pytest.mark.parametrize(
    ("before", "after", "tags", "same"),
    [
        (printed("3 rows"), printed("3 rows"), [], True),
        (printed("3 rows"), printed("4 rows"), [], False),
        (printed("loss 0.31"), printed("loss 0.3"), ["varies"], True),
        (printed("loss 0.31"), printed("loss nan"), ["varies"], False),
        (printed("fast"), printed("slow"), ["varies"], False),
        (printed("fast"), printed("slow"), ["timing"], True),
        (printed("fast"), [], ["timing"], False),
        (drawn(100), drawn(100), [], True),
        (drawn(100), drawn(101), [], False),
        (drawn(100), drawn(100, size=17), [], False),
        (drawn(100), drawn(200), ["varies"], True),
        (drawn(100), [], ["varies"], False),
        (drawn(100), printed("3 rows"), ["timing"], False),
    ],
)
def test_an_output_that_differs_is_found(before, after, tags, same):
    pytest.importorskip("PIL")
    stored = a_notebook((printed("first"), []), (before, tags))
    new = a_notebook((printed("first"), []), (after, []))
    found = list(notebooks.differences(stored, new))
    assert bool(found) != same
    assert all(line.startswith("cell 2: ") for line in found)


def test_a_warning_is_an_error():
    warned = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: no")
    assert list(notebooks.errors(a_notebook(([warned], [])))) == [
        "cell 1: UserWarning: no"
    ]
    assert not list(notebooks.errors(a_notebook((printed("yes"), []))))


def test_streams_are_joined_and_folders_are_hidden():
    outputs = copy.deepcopy([*printed("one\n"), *printed("/a/folder/b\n")])
    (output,) = notebooks.tidy(outputs, "/a/folder")
    assert output.text == f"one\n{notebooks.PLACE}/b\n"
