"""Imports go one way, and heavy libraries are imported only where they are used."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "lanceloader"
CORE = ROOT / "rust" / "core" / "src"
NATIVE = ROOT / "rust" / "native" / "src"

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
    "files": {"cache", "disk", "mapping", "runtime"},
    "table": {
        *("order", "plan", "projection", "files", "cache"),
        *("runtime", "interrupt", "disk"),
    },
    "budget": {"address_space"},
    "disk": set(),
    "advice": set(),
    "mapping": {"advice", "runtime"},
    "packed": {"projection", "processor", "address_space"},
    "matrix": {"projection"},
    "cache": {"packed", "disk", "mapping", "advice", "runtime", "interrupt"},
    "sequences": {"order", "interrupt"},
    "gather": {"plan", "projection"},
    "merge": {"order", "plan", "projection", "gather"},
    "round_robin": {"plan", "gather"},
    "read": {
        *("order", "plan", "projection", "table", "gather", "packed", "cache"),
        *("files", "mapping", "matrix", "address_space"),
        *("budget", "runtime", "interrupt", "stages"),
    },
    "loader": {
        *("order", "read", "gather", "projection", "runtime", "interrupt"),
        *("stages", "histogram"),
    },
    "images": {"runtime", "interrupt"},
    "ahead": {"order", "read", "gather", "loader"},
    "lib": {"error"},
}

# Words that only some stages of the core may use.
WORDS = {
    r"lance_\w+::": {"error", "files", "table"},
    "tokio": {"files", "runtime"},
    "datafusion": {"hash"},
    "unsafe": {
        *(
            "advice",
            "mapping",
            "files",
            "cache",
            "recycled",
            "processor",
            "address_space",
        ),
        "images",
    },
    "pyo3": set(),
}

# Libraries imported when a module is, by whom: everybody else imports them in functions.
AT_ONCE = {
    "torch": {"compat_lancedb/table_dataset", "torch_loader", "formats/torch"}
    | {
        f"compat/lance_torch/{name}"
        for name in ("dataset", "ranks", "safe", "shared_epoch", "tensors")
    }
    | {f"workers/{name}" for name in ("batches", "group_iterator", "starting")}
    | {
        f"streaming/{name}"
        for name in ("collating", "dataset", "loader", "packing", "replaceable")
    },
    "pyarrow": {"formats/torch"}
    | {f"compat/lance_torch/{name}" for name in ("dataset", "tensors")}
    | {f"compat_lancedb/{name}" for name in ("collate", "open_tables", "table_dataset")}
    | {f"streaming/{name}" for name in ("order", "packing", "pickling", "validation")},
    "numpy": {"formats/numpy", "formats/torch", "streaming/packing"}
    | {"drawing/normal", "drawing/rng"}
    | {
        f"compat/lance_torch/{name}"
        for name in ("fragments", "samplers", "sampling", "tables")
    },
    "transformers": {"transformers"},
    "ray": {"ray/datasource"},
    "datasets": set(),
    "lancedb": set(),
    "lance": set(),
    "pandas": set(),
    "polars": set(),
    "tqdm": set(),
    "matplotlib": {"cli/plot"},
    "typer": {
        f"cli/{name}"
        for name in (
            *("app", "bench", "cache", "doctor", "failures", "head"),
            *("materialize", "options", "warm"),
        )
    },
    "rich": {"cli/output"},
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
        if not at_once or not (is_for_types or is_later):
            found += imports(node, at_once=at_once)
    return found


def arrows() -> dict[str, set[str]]:
    """The modules of the package that each module imports, for types and in functions too."""
    trees = modules()
    known = {module.removesuffix("/__init__"): module for module in trees}
    found: dict[str, set[str]] = {}
    for module, tree in trees.items():
        targets = set()
        for name in imports(tree, at_once=False):
            package, _, rest = name.partition(".")
            if package != "lanceloader":
                continue
            path = rest.replace(".", "/")
            # The last part is a module, or a name in one.
            target = known.get(path) or known.get(path.rpartition("/")[0])
            if target is not None and target != module:
                targets.add(target)
        found[module] = targets
    return found


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of a graph; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_python_files_import_one_way():
    circle = circle_of(arrows())
    assert not circle, " <- ".join(circle)


def test_python_folders_import_one_way():
    folders: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        folder = top(module)
        folders.setdefault(folder, set()).update(
            name for name in map(top, targets) if name != folder
        )
    circle = circle_of(folders)
    assert not circle, " <- ".join(circle)


def test_a_circle_is_found():
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not circle_of({"a": {"b", "c"}, "b": {"c"}})


def private_names() -> dict[str, set[str]]:
    """The private names that each folder, or module outside of one, defines."""
    found: dict[str, set[str]] = {}
    for module, tree in modules().items():
        names = found.setdefault(top(module), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return {
        folder: {name for name in names if name[0] == "_" and name[:2] != "__"}
        for folder, names in found.items()
    }


def test_private_names_stay_in_their_folder():
    """``_replace`` of a named tuple and ``_shutdown_workers`` of torch are no private names of ours."""
    names = private_names()
    wrong = []
    for module, tree in modules().items():
        others = set().union(*(names[each] for each in names if each != top(module)))
        foreign = others - names[top(module)] - {"_replace", "_shutdown_workers"}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in foreign:
                continue
            # Classes may define what their bases in other folders use.
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue
            wrong.append(f"{module}.py:{node.lineno} uses {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


# LanceDB's names, for classes that derive from ours, and a name of pylance's.
TWICE = {"Permutation", "Permutations", "Sampler"}


def test_no_class_name_stands_twice():
    where: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name not in TWICE:
                where.setdefault(node.name, []).append(module)
    twice = {name: found for name, found in where.items() if len(found) > 1}
    assert not twice


def test_the_glossary_has_one_word_for_one_thing():
    """Each word stands once, and names a class, a function or a module that is there."""
    page = (ROOT / "docs" / "concepts" / "glossary.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\| `([\w.]+)` \|$", page, re.MULTILINE)
    words = [word for word, _ in rows]
    assert len(words) == len(set(words)) > 20
    stub = ast.parse((PACKAGE / "_native.pyi").read_text())
    known = {
        node.name
        for tree in [*modules().values(), stub]
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    known |= {f"lanceloader.{name.replace('/', '.')}" for name in modules()}
    assert {name for _, name in rows} <= known


def top(module: str) -> str:
    return module.partition("/")[0]


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
    return re.split(r"#\[cfg\(test\)\]\s*(?:pub\(\w+\) )?mod tests \{", text)[0]


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


def rust_files(source: Path) -> dict[str, str]:
    """The code of every file of a crate by its module, as in ``crate::order::map``."""
    found = {}
    for path in sorted(source.rglob("*.rs")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "tests":
            continue
        if parts[-1] in ("lib", "mod"):
            parts = parts[:-1]
        found["::".join(("crate", *parts))] = code_of(path)
    return found


USE = re.compile(r"^\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.MULTILINE)


def used(tree: str) -> dict[str, str]:
    """What a ``use`` imports: paths by the names that they get.

    ``a::{b, c::{self, d as e}}`` is ``a::b``, ``a::c``, and ``a::c::d`` by the name ``e``.
    """
    while group := re.search(r"([\w:]*)\{([^{}]*)\}", tree):
        names = [name.strip() for name in group[2].split(",") if name.strip()]
        inner = ", ".join(group[1] + name for name in names)
        tree = tree[: group.start()] + inner + tree[group.end() :]
    found = {}
    for path in tree.split(","):
        path, _, name = path.strip().removesuffix("::self").partition(" as ")
        found[name or path.rpartition("::")[2]] = path
    return found


def absolute(path: str, module: str, files: dict[str, str]) -> str:
    """A path in a module as one from the root; empty if it is of another crate."""
    first, _, rest = path.partition("::")
    is_ours = f"{module}::{first}" in files
    while first in ("self", "super"):
        is_ours = True
        if first == "super":
            module = module.rpartition("::")[0]
        first, _, rest = rest.partition("::")
    if first == "crate":
        return path
    return "::".join(filter(None, (module, first, rest))) if is_ours else ""


def home(path: str, exports: dict[str, dict[str, str]]) -> str:
    """The module whose file defines what a path from the root names."""
    module = path
    while module not in exports:
        module = module.rpartition("::")[0]
    name, _, rest = path[len(module) + 2 :].partition("::")
    target = exports[module].get(name)
    return home(f"{target}::{rest}" if rest else target, exports) if target else module


def rust_arrows(files: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each one names, in a ``use`` or elsewhere.

    A name that a module only re-exports counts as one of the file that defines it.
    """
    exports: dict[str, dict[str, str]] = {}
    named: dict[str, set[str]] = {}
    for module, code in files.items():
        exports[module], named[module] = {}, set()
        # What is visible in a module does not name it.
        code = re.sub(r"\bpub\(in [\w:]+\)", "pub", code)
        for is_public, tree in USE.findall(code):
            paths = {
                name: path
                for name, relative in used(tree).items()
                if (path := absolute(relative, module, files))
            }
            named[module].update(paths.values())
            if is_public:
                exports[module].update(paths)
        for path in re.findall(r"(?<![\w:])\w+(?:::\w+)+", USE.sub("", code)):
            named[module].add(absolute(path, module, files))
    return {
        module: {home(path, exports) for path in paths if path} - {module}
        for module, paths in named.items()
    }


@pytest.mark.parametrize("source", [CORE, NATIVE], ids=["core", "native"])
def test_rust_files_import_one_way(source):
    circle = circle_of(rust_arrows(rust_files(source)))
    assert not circle, " <- ".join(circle)


@pytest.mark.parametrize(
    ("code", "is_circle"),
    [
        ("use crate::a::X;", False),
        ("use crate::a::Z;", True),
        ("use crate::Z;", True),
        ("use super::{c, a::{X, Z}};", True),
        ("pub use crate::a::X as Z;", False),
        ("pub(in crate::a) fn f() {}", False),
        ("fn f() { super::a::f() }", True),
        ("fn f() { a::f() }", False),
    ],
)
def test_a_circle_of_rust_files_is_found(code, is_circle):
    files = {
        "crate": "mod a;\nmod b;\npub use a::Z;",
        "crate::a": "mod inner;\npub use self::inner::X;\nuse super::b::Y;",
        "crate::a::inner": "pub struct X;",
        "crate::b": code,
    }
    assert bool(circle_of(rust_arrows(files))) == is_circle


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
