"""Imports go one way, and heavy libraries are imported by those who need them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "lanceloader"
CORE = ROOT / "rust" / "core" / "src"

# Lower layers first: a module imports from the lines above its own, or from its own package.
PYTHON = [
    {"_extras"},
    {"_native", "_typing", "_progress", "_report", "choices", "errors"},
    {"numbers"},
    {"values"},
    {"options", "sql", "stats", "materialize", "world"},
    {"formats", "engine", "plan_table"},
    {"sources", "transforms"},
    {"splits", "builder"},
    {"loading"},
    {"view"},
    {"pickling"},
    {"_permutation"},
    {"permutation"},
    {"torch_loader"},
    {"torch", "streaming", "plots", "mixing"},
    {"__init__"},
]

# What a stage of the core may name. Every stage may name `error`.
RUST = {
    "error": set(),
    "interrupt": set(),
    "histogram": set(),
    "address_space": set(),
    "recycled": {"address_space"},
    "stages": set(),
    "processor": set(),
    "runtime": {"interrupt", "address_space"},
    "turns": {"interrupt", "runtime"},
    "order": {"interrupt", "processor"},
    "hash": set(),
    "plan": {"order"},
    "projection": set(),
    "table": {"order", "plan", "projection", "runtime", "interrupt", "disk"},
    "budget": {"address_space"},
    "disk": set(),
    "packed": {"projection", "processor", "address_space"},
    "matrix": {"projection"},
    "cache": {"packed", "disk", "runtime", "interrupt"},
    "sequences": {"order", "interrupt"},
    "gather": {"plan", "projection"},
    "merge": {"order", "plan", "projection", "gather"},
    "read": {
        *("order", "plan", "projection", "table", "gather", "packed", "cache"),
        *("matrix", "address_space"),
        *("budget", "runtime", "interrupt", "stages"),
    },
    "loader": {
        *("order", "read", "gather", "projection", "runtime", "interrupt"),
        *("stages", "histogram"),
    },
    "ahead": {"order", "read", "gather", "loader"},
    "lib": {"error"},
}

# Calls up, made in a function: what travels is a permutation, and is made one again.
UPWARDS = {("pickling", "_permutation")}

# Words that only some stages of the core may use.
WORDS = {
    r"lance_\w+::": {"error", "table"},
    "tokio": {"runtime"},
    "datafusion": {"hash"},
    "unsafe": {"table", "cache", "recycled", "processor", "address_space"},
    "pyo3": set(),
}

# Libraries imported when a module is, by whom: everybody else imports them in functions.
AT_ONCE = {
    "torch": {"torch", "torch_loader", "formats/torch"}
    | {f"streaming/{name}" for name in ("__init__", "dataset", "loader", "packing")},
    "pyarrow": {"torch", "formats/torch"}
    | {f"streaming/{name}" for name in ("arguments", "packing", "travelling")},
    "numpy": {"formats/numpy", "formats/torch", "streaming/packing"},
    "lancedb": set(),
    "lance": set(),
    "pandas": set(),
    "polars": set(),
    "tqdm": set(),
    "matplotlib": set(),
}


def modules() -> dict[str, ast.Module]:
    """Every module by its path without the suffix, as in ``formats/torch``."""
    return {
        str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(tree: ast.AST, *, at_once: bool) -> list[str]:
    """What is imported: all of it, or only what importing the module imports."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(
            node.test
        )
        if not is_for_types and not (at_once and is_later):
            found += imports(node, at_once=at_once)
    return found


def top(module: str) -> str:
    return module.partition("/")[0]


def test_python_imports_go_one_way():
    height = {name: k for k, layer in enumerate(PYTHON) for name in layer}
    wrong = []
    for module, tree in modules().items():
        for name in imports(tree, at_once=False):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            edge = top(module), target
            if package != "lanceloader" or target == edge[0] or edge in UPWARDS:
                continue
            if height.get(target, len(PYTHON)) >= height[top(module)]:
                wrong.append(f"python/lanceloader/{module}.py imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", AT_ONCE)
def test_libraries_are_imported_when_they_are_needed(library):
    found = {
        module
        for module, tree in modules().items()
        if library in {name.partition(".")[0] for name in imports(tree, at_once=True)}
    }
    wrong = found ^ AT_ONCE[library]
    assert not wrong, (
        f"{library} at the top of {', '.join(sorted(wrong))}: check AT_ONCE"
    )


def code_of(path: Path) -> str:
    """The code of a Rust file, without comments and without its tests."""
    text = re.sub(r"//.*", "", path.read_text())
    return re.split(r"#\[cfg\(test\)\]\s*mod tests \{", text)[0]


def stages() -> dict[Path, str]:
    """The stage of every file of the core."""
    return {
        path: path.relative_to(CORE).with_suffix("").parts[0]
        for path in sorted(CORE.rglob("*.rs"))
        if path.name != "tests.rs"
    }


def test_rust_imports_go_one_way():
    wrong = []
    for path, stage in stages().items():
        allowed = RUST.get(stage, set()) | {"error", stage}
        named = set(re.findall(r"\bcrate::(\w+)", code_of(path)))
        if path.parent == CORE:
            named |= set(re.findall(r"\bsuper::(\w+)", code_of(path)))
        where = path.relative_to(ROOT)
        wrong += [f"{where} names crate::{name}" for name in sorted(named - allowed)]
    assert not wrong, "\n".join(wrong)


def test_every_stage_is_known():
    assert set(stages().values()) == set(RUST)


@pytest.mark.parametrize("word", WORDS)
def test_what_only_some_stages_may_name(word):
    wrong = [
        f"{path.relative_to(ROOT)} names {word}"
        for path, stage in stages().items()
        if stage not in WORDS[word] and re.search(rf"\b{word}", code_of(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_does_not_depend_on_python():
    assert "pyo3" not in (ROOT / "rust" / "core" / "Cargo.toml").read_text()
