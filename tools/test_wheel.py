"""Tests a wheel as its users get it: installed, without Rust, and away from this checkout.

``python tools/test_wheel.py dist/lanceloader-*.whl [TEST ...]`` makes a virtual environment with
the wheel and what it requires, tries the command there, and then runs the fast tests from a
copy of ``tests/``. The libraries that tests need, and which the wheel does not require, are those
of the Python that runs this program; ``--fresh`` installs them as well. ``--brief`` runs one file of
tests for each feature, and ``--smoke`` none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What tests read beside themselves.
COPIED = ("tests", "docs", "pyproject.toml")
# The options of pytest: what reads the sources needs the checkout.
CHOSEN = ("-q", "-p", "no:cacheprovider")
MARKS = "not slow and not checkout"
# Whether a wheel was put together well shows in one run of each feature: the code is the same
# that all tests of the checkout ran.
BRIEF = """
api arrow_filters blob_files cache cli cli_doctor cursor dictionaries earlier_versions errors
extensions external formats frames golden golden_images handoff headspace hf_datasets images
iterate joining kept_helper lance_torch lightning loader long_values map_dataset materialize mix
nested_slices option_groups order packed_dataset pickle projection ragged remote remote_filling
row_ids sample samplers shard split sql state stats storage_options streaming_columns
streaming_rows streaming_state streaming_transform take torchdata transport windows
worker_options world
"""

TABLE = """
import sys
import lance
import numpy as np
import pyarrow as pa
rows = pa.table({"id": np.arange(200_000), "y": np.random.default_rng(0).random(200_000)})
lance.write_dataset(rows, sys.argv[1], max_rows_per_file=50_000)
"""

# Reads a table with nothing installed but what the wheel requires.
READS = """
import sys
import lanceloader as ll
import pyarrow as pa
rows = sys.argv[1] if sys.argv[1:] else pa.table({"id": range(200_000)})
perm = ll.open(rows).select_columns(["id"]).with_format("arrow")
for batches in (perm.shuffle(seed=7).iter(1024), perm.loader(1024, shuffle=True, seed=7)):
    found = [id for batch in batches for id in batch["id"].to_pylist()]
    assert found != sorted(found) == list(range(200_000))
print(ll.__file__)
"""


class Environment:
    """A virtual environment in ``folder``, in which no compiler of Rust is found."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.bin = folder / "bin"
        self.packages = Path(
            self.run("python", "-c", "import site; print(*site.getsitepackages())")
        )

    def run(self, command: str, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Return what a command of the environment printed; the rest is inherited."""
        return subprocess.run(
            [self.bin / command, *arguments],
            check=True,
            env=self.variables(),
            cwd=cwd,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def variables(self) -> dict[str, str]:
        """Return the environment variables: neither the checkout's nor Rust's."""
        dropped = ("PYTHONPATH", "VIRTUAL_ENV", "CARGO_TARGET_DIR", "CARGO_HOME")
        kept = {
            name: value for name, value in os.environ.items() if name not in dropped
        }
        return kept | {"PATH": f"{self.bin}:/usr/bin:/bin"}

    def lend(self, packages: str) -> None:
        """Make libraries of another environment importable, after those of this one.

        Path files in that folder are not followed: an editable installation stays out.
        """
        (self.packages / "lent.pth").write_text(f"{packages}\n")


def constraints() -> str:
    """Return the pinned versions, for what the wheel requires."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    return "".join(f"{pin}\n" for pin in extras["dev"] if "[" not in pin)


def timed(what: str, start: float) -> None:
    """Print how long something took."""
    print(f"-- {what}: {time.perf_counter() - start:.1f} s", flush=True)


def smoke(environment: Environment, wheel: Path, work: Path) -> None:
    """Install the wheel, read a table, and let the command tell how fast that is."""
    pins = work / "pins.txt"
    pins.write_text(constraints())
    start = time.perf_counter()
    environment.run("pip", "install", "--quiet", "-c", pins, f"{wheel}[cli]")
    timed("installed", start)
    assert shutil.which("cargo", path=environment.variables()["PATH"]) is None
    table = work / "db" / "t.lance"
    arguments = [str(table)]
    try:
        subprocess.run([sys.executable, "-c", TABLE, table], check=True)
    except subprocess.CalledProcessError:
        print("-- no pylance here: rows in memory instead of a table")
        arguments = []
    where = environment.run("python", "-c", READS, *arguments, cwd=work)
    assert Path(where).is_relative_to(environment.packages), where
    start = time.perf_counter()
    environment.run("lanceloader", "doctor", "--json", cwd=work)
    if arguments:
        said = environment.run("lanceloader", "bench", "--json", *arguments, cwd=work)
        print(json.loads(said)["verdict"])
    timed("doctor and bench", start)


def tests(
    environment: Environment,
    wheel: Path,
    work: Path,
    chosen: list[str],
    *,
    fresh: bool,
) -> int:
    """Return the exit code of pytest on a copy of the tests."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, work / name, ignore=ignored)
        else:
            shutil.copy(source, work / name)
    if fresh:
        environment.run("pip", "install", "--quiet", f"{wheel}[dev]")
    else:
        environment.lend(sysconfig.get_path("purelib"))
    where = environment.run(
        "python", "-c", "import lanceloader; print(lanceloader.__file__)"
    )
    assert Path(where).is_relative_to(environment.packages), where
    start = time.perf_counter()
    command = [str(environment.bin / "python"), "-m", "pytest", *chosen]
    code = subprocess.run(command, check=False, cwd=work, env=environment.variables())
    timed("tests", start)
    return code.returncode


def main() -> None:
    """Test the wheel that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "tests", nargs="*", help="files of tests/; all if none is given"
    )
    parser.add_argument("--smoke", action="store_true", help="leave the tests out")
    parser.add_argument(
        "--brief", action="store_true", help="run one file for each feature"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="install the libraries of tests"
    )
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        environment = Environment(work / "venv")
        smoke(environment, wheel, work)
        if not arguments.smoke:
            chosen = [*CHOSEN, "-m", MARKS, *arguments.tests]
            if arguments.brief:
                chosen += [f"tests/test_{name}.py" for name in BRIEF.split()]
            sys.exit(tests(environment, wheel, work, chosen, fresh=arguments.fresh))


if __name__ == "__main__":
    main()
