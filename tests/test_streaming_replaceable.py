"""Globals of ``lanceloader.streaming`` that a program may replace, as those of LanceDB."""

from __future__ import annotations

import ast
from pathlib import Path

import lanceloader.streaming as streaming
import pytest
from lanceloader.streaming import replaceable

FOLDER = Path(streaming.__file__).parent
NAMES = [
    *("RawArray", "ThreadPoolExecutor", "get_worker_info", "logger", "os", "random"),
    *("threading", "time", "warnings", "Permutation", "Transforms"),
    *("permutation_builder", "_drop_base_version", "_table_from_pickle_state"),
    "_table_to_pickle_state",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_replacement_is_used_until_it_is_undone(monkeypatch, name):
    before = getattr(streaming, name)
    assert getattr(replaceable.namespace, name) is before
    with monkeypatch.context() as patches:
        patches.setattr(streaming, name, "replaced")
        assert getattr(replaceable.namespace, name) == "replaced"
    assert getattr(replaceable.namespace, name) is before


def test_an_unknown_name_raises():
    with pytest.raises(AttributeError, match="nothing"):
        _ = replaceable.namespace.nothing


def names_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FOLDER.glob("*.py")
        if path.stem not in ("__init__", "replaceable")
    ],
    ids=lambda path: path.stem,
)
def test_modules_use_replaceable_names_through_the_namespace(path):
    assert not set(names_imported(path)) & set(NAMES)
