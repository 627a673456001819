"""Libraries that are not installed: the call raises and names the extra to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pytest

PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text()

PROGRAM = """
import json
import sys
from importlib.machinery import PathFinder


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] != sys.argv[1]:
            return super().find_spec(name, path, target)


sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import lanceloader as ll
import pyarrow as pa

path = sys.argv[2]
perm = ll.open(path)
said = []
for call in sys.argv[3:]:
    try:
        exec(call)
    except ImportError as error:
        said.append(str(error))
    else:
        said.append("it works")
print(json.dumps(said))
"""

LOAD = "perm.loader(4, format='torch_dict')"
CALLS = [
    *(
        (library, f"perm.with_format({name!r})", f'format "{name}"')
        for library, names in {
            "torch": ["torch", "torch_row", "torch_col", "torch_matrix", "torch_dict"],
            "pandas": ["pandas"],
            "polars": ["polars"],
        }.items()
        for name in names
    ),
    ("torch", LOAD, 'format "torch_dict"'),
    ("torch", LOAD.replace("perm", "ll.mix([perm, perm])"), 'format "torch_dict"'),
    ("torch", "ll.open(path, format='torch')", 'format "torch"'),
    ("torch", "perm.loader(4, device='cuda')", "device='cuda'"),
    ("torch", "perm.loader(4, pin_memory=True)", "pin_memory=True"),
    ("torch", "import lanceloader.torch", "lanceloader.torch"),
    ("torch", "ll.install()", "lanceloader.torch"),
    ("torch", "import lanceloader.streaming", "lanceloader.streaming"),
    (
        "torch",
        "import lanceloader.compat.lance_torch",
        "lanceloader.compat.lance_torch",
    ),
    (
        "ray",
        "import lanceloader.ray; lanceloader.ray.read(perm)",
        "lanceloader.ray",
    ),
    ("pandas", "perm.to_pandas()", "to_pandas()"),
    ("polars", "perm.to_polars()", "to_polars()"),
    ("polars", "ll.Transforms.arrow2polars()", "Transforms.arrow2polars()"),
    (
        "pandas",
        "ll.Transforms.arrow2pandas(pa.record_batch({'x': [1]}))",
        'format "pandas"',
    ),
    (
        "pandas",
        "perm.with_format('numpy')[:2]",
        'format "numpy" of columns of several types, or with nulls,',
    ),
    ("tqdm", "perm.loader(4, progress=True)", "progress=True"),
    ("tqdm", "perm.iter(4, progress=True)", "progress=True"),
    ("tqdm", "perm.to_arrow(progress=True)", "progress=True"),
    ("matplotlib", "ll.plots.order(perm)", "lanceloader.plots"),
    ("lancedb", "ll.permutation_builder(path).execute()", "permutation_builder"),
]
EXTRAS = {"tqdm": "progress", "matplotlib": "plots"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("extras") / "t.lance"
    lance.write_dataset(pa.table({"x": range(9), "y": [0.5] * 9}), path)
    return str(path)


def outcomes(library, calls, path):
    """What each call gives in a process that finds no such library."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library, path, *calls],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "library", ["lancedb", "matplotlib", "pandas", "polars", "torch", "tqdm"]
)
def test_the_call_names_the_extra(library, path):
    cases = [case for case in CALLS if case[0] == library]
    extra = EXTRAS.get(library, library)
    # Every extra that is named is there.
    assert f"\n{extra} = [" in PYPROJECT
    said = outcomes(library, [call for _, call, _ in cases], path)
    for (_, call, what), text in zip(cases, said, strict=True):
        wanted = (
            f"{what} needs {library}, which is not installed: "
            f'pip install "lanceloader[{extra}]"'
        )
        assert wanted in text, call


@pytest.mark.parametrize("library", ["torch", "pandas", "polars", "tqdm", "lancedb"])
def test_everything_else_works_without(library, path):
    calls = (
        "assert sum(map(len, perm.loader(4, shuffle=True, seed=1))) == 9",
        "assert len(perm.with_format('numpy_dict')[:4]['x']) == 4",
        "assert perm.select_columns(['x']).with_format('numpy')[:4].shape == (4, 1)",
        "assert perm.filter('x > 3').to_arrow().num_rows == 5",
    )
    assert outcomes(library, calls, path) == ["it works"] * len(calls)
