"""Scripts without a main guard: the error names it where a process is spawned."""

from __future__ import annotations

import subprocess
import sys

import producers
import pytest
from lanceloader.helper.client import iterate_in_helper
from lanceloader.helper.main_guard import imports_main

SCRIPT = """
import multiprocessing
import warnings

import lanceloader as ll
import pyarrow as pa

warnings.filterwarnings("ignore", "This DataLoader will create")
perm = ll.open(pa.table({"x": range(20)}))
"""
BODIES = {
    "helper": "rows = list(perm.loader(4, in_process=False))",
    "spawn": """from lanceloader.torch import DataLoader
rows = list(DataLoader(perm, 4, num_workers=2, multiprocessing_context="spawn"))""",
    "forkserver": """from lanceloader.torch import DataLoader
multiprocessing.set_start_method("forkserver", force=True)
rows = list(DataLoader(perm, 4, num_workers=2))""",
}
SAID = 'under `if __name__ == "__main__":`'


def run(folder, body):
    script = folder / "script.py"
    script.write_text(SCRIPT + body)
    return subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", BODIES)
def test_a_script_without_a_main_guard_gets_an_error_that_says_so(tmp_path, how):
    done = run(tmp_path, BODIES[how])
    assert done.returncode == 1
    error = done.stderr.rpartition("Traceback")[2]
    assert "RuntimeError: " in error
    assert SAID in error, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", BODIES)
def test_a_script_with_a_main_guard_runs(tmp_path, how):
    body = "\n".join("    " + line for line in BODIES[how].splitlines())
    done = run(
        tmp_path, f'if __name__ == "__main__":\n{body}\n    assert len(rows) == 5\n'
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_other_ends_are_not_put_down_to_it():
    """What has begun has imported the main module."""
    items = iterate_in_helper(producers.exits_as_one_that_raises, method="spawn")
    with pytest.raises(RuntimeError, match="exit code 1 before batch 1") as caught:
        list(items)
    assert SAID not in str(caught.value)


def test_what_imports_the_main_module(monkeypatch):
    assert not imports_main("fork")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    assert imports_main("spawn")
    assert imports_main("forkserver")
    # At a prompt there is nothing to import.
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert not imports_main("spawn")
