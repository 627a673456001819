"""The command ``lanceloader``, run in this process, and a database for it."""

from __future__ import annotations

import json
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.cli.app import app
from lanceloader.monitor import redaction
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
ROWS = 20_000
SECRET = "s3cr3t-of-mine"
# Options of a short `bench`.
QUICK = ("--seconds", "0.4", "--rounds", "2", "--limit", "60")


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """A database with the tables `empty` and `t`, of two versions."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("cli") / "db"
    database = lancedb.connect(folder)
    ids = np.arange(ROWS)
    table = database.create_table(
        "t",
        pa.table(
            {
                "id": ids,
                "y": rng.random(ROWS, np.float32),
                "text": [f"row {k}" for k in ids],
            }
        ),
    )
    table.delete("id % 10 = 3")
    database.create_table("empty", pa.table({"x": pa.array([], pa.int64())}))
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No settings of the user, and none of another test."""
    monkeypatch.delenv("LANCELOADER_STORAGE_OPTIONS", raising=False)
    monkeypatch.delenv("LANCELOADER_PROGRESS", raising=False)
    monkeypatch.delenv("LANCELOADER_DEBUG", raising=False)
    monkeypatch.setattr(redaction, "_values", set())


def run(*arguments, code=0):
    """What a command printed, after checking its exit code."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output
    return result


def found(*arguments, code=0):
    """What a command printed as JSON, and nothing beside it."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def complaint(*arguments, code=1):
    """The one line that a command failed with."""
    result = run(*arguments, code=code)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line
