"""docs/cli.md: every command runs and prints what the page shows."""

from __future__ import annotations

import contextlib
import doctest
import re
import shlex
from pathlib import Path

import pytest
from lanceloader.cli.app import app
from typer.testing import CliRunner

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def sessions(block: str) -> list[tuple[str, str]]:
    """The commands of a block, and what each should print."""
    return [
        (command, output)
        for command, _, output in (
            part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.M)[1:]
        )
    ]


def without_figures(text: str) -> str:
    """A text in which every number is the same, and so is every line of a table."""
    text = re.sub(r"-?\d[\d.,:-]*( [kMG]\b)?", "#", text)
    return re.sub("─+", "─", text)


@pytest.mark.timeout(300)
def test_the_commands_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "rows"))
    checker = doctest.OutputChecker()
    seen = set()
    for language, block in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            with contextlib.redirect_stdout(None):
                exec(compile(block, PAGE, "exec"), {"__name__": "__main__"})
            continue
        for command, wanted in sessions(block):
            program, *arguments = shlex.split(command)
            assert program == "lanceloader"
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{command}\n{result.output}"
            seen.add(arguments[0])
            found = without_figures(result.stdout)
            assert checker.check_output(without_figures(wanted), found, FLAGS), (
                f"{command}\n{result.stdout}"
            )
    # Those of the app.
    assert seen == {
        *("info", "head", "explain", "bench", "warm"),
        *("cache", "materialize", "doctor"),
    }
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_every_command_and_exit_code_is_on_the_page():
    text = PAGE.read_text()
    for command in app.registered_commands:
        assert f"## {command.name}\n" in text
    for code in ("0", "1", "2", "130"):
        assert f"| {code} |" in text


def test_examples_in_help_are_commands(tmp_path, monkeypatch):
    """What ``--help`` shows parses: it fails, if at all, on the missing table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANCELOADER_STORAGE_OPTIONS", raising=False)
    runner = CliRunner()
    names = [[command.name] for command in app.registered_commands]
    names += [["cache", name] for name in ("list", "clear", "prune", "path")]
    for name in names:
        text = runner.invoke(app, [*name, "--help"]).stdout
        examples = re.findall(r"^ +lanceloader (\w.*)$", text, re.M)
        assert examples, name
        for example in examples:
            if "s3://" in example:
                continue
            arguments = shlex.split(example)
            if "/scratch/rows" in arguments:
                continue
            result = runner.invoke(app, arguments)
            assert result.exit_code in (0, 1), f"{example}\n{result.output}"
            if result.exit_code:
                assert "no Lance table at" in result.stderr, example
