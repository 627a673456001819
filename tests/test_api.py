"""The public surface: names, signatures, docstrings, stubs, and what importing costs."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import lancedb.permutation
import lanceloader as ll
import lanceloader.cache
import lanceloader.permutation
import lanceloader.torch
import lanceloader.transformers
import pyarrow as pa
import pytest
from lanceloader import _native, errors

ROOT = Path(__file__).parents[1]
MODULES = [
    *(ll, errors, lanceloader.cache, lanceloader.permutation, lanceloader.torch),
    lanceloader.transformers,
]
HEAVY = {
    *("lance", "lancedb", "matplotlib", "numpy", "pandas", "polars", "pyarrow"),
    *("torch", "tqdm", "typer"),
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_are_sorted_and_exist(module):
    assert module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name), name


# The texts of their fields are Python's.
NAMED_TUPLES = (ll.Fold, ll.Ragged)


def test_public_names_are_all_there():
    for module in (ll, errors):
        found = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith("lanceloader")
        }
        assert found <= set(module.__all__), module.__name__


def documented_names():
    """Public names, and the public members that a class of ours defines."""
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value):
                continue
            yield f"{module.__name__}.{name}", value
            for cls in getattr(value, "__mro__", ()):
                if cls.__module__.startswith("lanceloader") and cls not in NAMED_TUPLES:
                    for member, found in vars(cls).items():
                        if member[0] != "_" and (
                            callable(found) or hasattr(found, "__get__")
                        ):
                            yield f"{cls.__name__}.{member}", found


def test_every_public_name_is_documented():
    for name, value in documented_names():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        first, _, _ = (inspect.getdoc(value) or "").partition("\n")
        assert first.endswith((".", ":")), f"{name}: {first!r}"


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "libraries"),
    [
        ("import lanceloader", set()),
        ("import lanceloader.permutation", set()),
        ("from lanceloader import Permutation, open, permutation_builder", set()),
        ("import lanceloader.formats.numpy", {"numpy"}),
    ],
)
def test_importing_imports_no_library(statement, libraries):
    assert imported_by(statement) == libraries


def test_torch_comes_with_its_module_only():
    found = imported_by("import lanceloader.torch")
    assert "torch" in found
    assert not found & {"lance", "lancedb", "pandas", "polars"}


def test_reading_imports_neither_torch_nor_the_table_s_library(tmp_path):
    """A worker that reads arrow, numpy or Python objects stays small."""
    import lance

    uri = lance.write_dataset(pa.table({"x": range(5)}), tmp_path / "t.lance").uri
    code = f"import lanceloader as ll; p = ll.open({uri!r}); p.shuffle(seed=1).head()"
    assert imported_by(code) <= {"numpy", "pyarrow"}


THEIRS = [
    "Permutation",
    "PermutationBuilder",
    "Permutations",
    "Transforms",
    "permutation_builder",
]


def methods(cls) -> dict[str, object]:
    return {
        name: member
        for name, member in inspect.getmembers(cls, callable)
        if not name.startswith("_") or name in vars(cls)
    }


def pairs():
    """Each of LanceDB's functions and methods, and ours."""
    for name in THEIRS:
        theirs = getattr(lancedb.permutation, name)
        ours = getattr(lanceloader.permutation, name, None)
        if not inspect.isclass(theirs):
            yield pytest.param(theirs, ours, id=name)
            continue
        for method, member in methods(theirs).items():
            is_internal = method.startswith("_") and not method.startswith("__")
            if not is_internal:
                yield pytest.param(
                    member, getattr(ours, method, None), id=f"{name}.{method}"
                )


@pytest.mark.parametrize(("theirs", "ours"), list(pairs()))
def test_signatures_are_lancedb_s(theirs, ours):
    """Ours may take more, by keyword; names that begin with _ are for LanceDB's own use."""
    assert ours is not None
    wanted = list(inspect.signature(theirs).parameters.values())
    found = inspect.signature(ours).parameters
    extra = list(found.values())[len(wanted) :]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in extra)
    for place, parameter in enumerate(wanted):
        name = parameter.name
        mine = found.get(name) or found[name.removeprefix("_")]
        assert (mine.kind, mine.default) == (parameter.kind, parameter.default), name
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert list(found.values()).index(mine) == place


def test_names_of_lancedb_s_module():
    """Everything it defines, its constants, and the private names that others import."""
    missing = {
        name
        for name, value in vars(lancedb.permutation).items()
        if getattr(value, "__module__", "") == "lancedb.permutation"
        or name == "DEFAULT_BATCH_SIZE"
    } - set(lanceloader.permutation.__all__)
    assert not missing
    assert lanceloader.permutation.DEFAULT_BATCH_SIZE == 100


def declared() -> dict[str, set[str]]:
    """The names of the stub: functions with nothing, classes with their members."""
    tree = ast.parse((Path(ll.__file__).parent / "_native.pyi").read_text())
    return {
        node.name: {
            item.name for item in node.body if isinstance(item, ast.FunctionDef)
        }
        if isinstance(node, ast.ClassDef)
        else set()
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


def test_the_stub_names_what_the_extension_has():
    there = {
        name: value
        for name, value in vars(_native).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert there.keys() == declared().keys()
    for name, members in declared().items():
        if members:
            public = {
                member for member in vars(there[name]) if not member.startswith("_")
            }
            assert public == {member for member in members if member[0] != "_"}, name
            assert members <= set(dir(there[name])), name


def test_the_types_are_shipped():
    assert (Path(ll.__file__).parent / "py.typed").exists()


@pytest.mark.checkout
def test_the_version_is_that_of_the_workspace():
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    wanted = cargo["workspace"]["package"]["version"]
    assert importlib.metadata.version("lanceloader") == wanted


@pytest.mark.parametrize("name", ["skip", "take", "repeat"])
def test_names_that_lancedb_deprecates_warn_and_work(name):
    perm = lanceloader.permutation.Permutation.identity(pa.table({"x": range(4)}))
    with pytest.warns(DeprecationWarning, match=f"Use with_{name} instead") as caught:
        old = getattr(perm, name)(2)
    assert caught[0].filename == __file__
    assert old[:] == getattr(perm, f"with_{name}")(2)[:]
