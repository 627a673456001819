"""The command ``lanceloader`` in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import command_line
import pytest
from command_line import QUICK, ROWS

pytestmark = pytest.mark.timeout(200)
alone = command_line.alone
db = command_line.db


def command(*arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-m", "lanceloader", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **keywords,
    )


def test_as_a_module(db):
    program = command("head", db / "t.lance", "-n", 1, "--json")
    out, err = program.communicate()
    assert (program.returncode, err) == (0, "")
    assert json.loads(out)["rows"][0]["id"] == 0
    program = command("head", db / "none.lance")
    out, err = program.communicate()
    assert (program.returncode, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_a_pipe_that_is_closed_early(db):
    with command("head", db / "t.lance", "-n", ROWS, "--json") as program:
        assert program.stdout.readline() == "{\n"
        program.stdout.close()
        err = program.stderr.read()
    assert (program.returncode, err) == (0, "")


def test_an_encoding_without_lines(db):
    program = command(
        "info", db / "t.lance", env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    out, err = program.communicate()
    assert (program.returncode, err) == (0, "")
    assert "column" in out


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupting_bench(db, workers):
    program = command(
        *("bench", db / "t.lance", "--seconds", 100, "--limit", 100),
        *("--workers", workers),
    )
    time.sleep(6)
    assert program.poll() is None
    # As a terminal does it: to all processes.
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (130, "")
    assert "interrupted" in err.splitlines()
    assert "Traceback" not in err


WITHOUT = """
import sys
from importlib.machinery import PathFinder

gone = sys.argv[1].split(",")


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in gone:
            return super().find_spec(name, path, target)


sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from lanceloader.cli import main

sys.argv = ["lanceloader", *sys.argv[2:]]
main()
"""


def without(libraries, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, libraries, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_the_extra(library):
    done = without(library, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: the command lanceloader needs {library}, which is not installed: "
        'pip install "lanceloader[cli]"\n'
    )


def test_without_any_other_extra(db):
    gone = "torch,lancedb,lance,polars,pandas,tqdm,matplotlib"
    for arguments in (["info", db / "t.lance"], ["info", db], ["explain", db / "t"]):
        done = without(gone, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = without(gone, "bench", db / "t.lance", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    names = [result["name"] for result in said["results"]]
    assert names == ["loader()", "scan in order"]
    assert 'pip install "lanceloader[torch]"' in said["left_out"]["DataLoader"]
    assert "lancedb's Permutation" in said["left_out"]
    done = without(gone, "head", db / "t.lance", "--filter", "id < 3")
    assert done.returncode == 1
    assert 'pip install "lanceloader[lance]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_completion():
    variables = {
        "_LANCELOADER_COMPLETE": "complete_bash",
        "COMP_WORDS": "lanceloader mat",
        "COMP_CWORD": "1",
    }
    out, _ = command(env=os.environ | variables).communicate()
    assert out.split() == ["materialize"]
    words = {"COMP_WORDS": "lanceloader bench --format torch_", "COMP_CWORD": "3"}
    out, _ = command(env=os.environ | variables | words).communicate()
    assert out.split() == ["torch_col", "torch_dict", "torch_matrix", "torch_row"]
    # Which shell runs the tests, if one does, is not known.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = command("--show-completion", "bash", env=os.environ | named)
    out, _ = shown.communicate()
    assert "_lanceloader_completion" in out


def test_what_follows_an_interrupt_is_an_interrupt():
    """Ctrl-C ends workers as well, and torch's error about them hides the KeyboardInterrupt."""
    from lanceloader.cli.failures import is_interrupt

    def fail(first):
        try:
            raise first
        except BaseException:
            raise RuntimeError("DataLoader worker exited unexpectedly")  # noqa: B904

    for first, expected in ((KeyboardInterrupt(), True), (ValueError(), False)):
        with pytest.raises(RuntimeError) as caught:
            fail(first)
        assert is_interrupt(caught.value) is expected
