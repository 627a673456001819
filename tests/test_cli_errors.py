"""The command ``lanceloader``: errors, exit codes, and secrets that are never printed."""

from __future__ import annotations

import command_line
import lanceloader as ll
import pytest
import s3_folder
from command_line import ROWS, SECRET, complaint, found, run
from lanceloader.cli.app import app
from lanceloader.cli.failures import line_of
from lanceloader.monitor import redaction
from typer.testing import CliRunner

pytestmark = pytest.mark.timeout(200)
alone = command_line.alone
db = command_line.db


# Errors and wrong usage.


def test_missing_tables(db, tmp_path):
    for command in ("info", "head", "explain", "bench", "warm"):
        line = complaint(command, tmp_path / "none.lance")
        assert "no Lance table at" in line
    line = complaint("materialize", tmp_path / "none.lance", tmp_path / "x.lance")
    assert "no Lance table at" in line
    assert not (tmp_path / "x.lance").exists()
    for command in ("head", "explain", "bench", "warm"):
        line = complaint(command, db, code=2)
        assert "--table" in line
        assert "empty, t" in line
    assert "no Lance table" in complaint("head", db, "--table", "none")
    assert "version 99" in complaint("head", db, "-t", "t", "--version", 99)


def test_mistakes_get_a_line_that_names_the_fix(db):
    uri = db / "t.lance"
    assert "did you mean `text`" in complaint("head", uri, "--columns", "txt")
    assert "filter 'id >'" in complaint("head", uri, "--filter", "id >")
    assert "--shuffle" in complaint("head", uri, "--seed", 1, code=2)
    assert "NAME=VALUE" in complaint("head", uri, "-o", "region", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["head"],
        ["head", "t.lance", "-n", "-1"],
        ["head", "t.lance", "-n", "many"],
        ["head", "t.lance", "--columns", "a,,b"],
        ["bench", "t.lance", "--format", "excel"],
        ["bench", "t.lance", "--batch-size", "0"],
        ["explain", "t.lance", "--read", "quickly"],
        ["explain", "t.lance", "--memory-limit", "lots"],
        ["warm", "t.lance", "--memory-limit", "-1"],
        ["materialize", "t.lance"],
        ["cache", "empty"],
    ],
    ids=" ".join,
)
def test_wrong_usage(db, arguments, monkeypatch):
    monkeypatch.chdir(db)
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_no_command_shows_the_help():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_version():
    assert run("--version").stdout == f"lanceloader {ll.__version__}\n"


def test_a_bug_says_that_it_is_one():
    class StrangeError(Exception):
        pass

    assert "please report it" in line_of(StrangeError("odd"))
    assert line_of(ValueError("a\n  b")) == "a b"
    assert "--memory-limit" in line_of(MemoryError())


def test_a_traceback_on_request(db, monkeypatch):
    monkeypatch.setenv("LANCELOADER_DEBUG", "1")
    result = CliRunner().invoke(app, ["head", str(db / "none.lance")])
    assert isinstance(result.exception, FileNotFoundError)


# Credentials.


def test_options_of_storage_are_never_printed(db, tmp_path, monkeypatch):
    s3_folder.forget_credentials(monkeypatch)
    with s3_folder.serving(db) as endpoint:
        uri = f"s3://{s3_folder.BUCKET}/t.lance"
        pairs = {
            "aws_access_key_id": "AKIA-of-mine",
            "aws_secret_access_key": SECRET,
            "aws_endpoint": endpoint,
            "aws_region": "eu-west-1",
            "allow_http": "true",
        }
        options = [f"--storage-option={name}={value}" for name, value in pairs.items()]
        commands = (
            ["info", uri],
            ["info", uri, "--json"],
            ["head", uri, "-n", "1"],
            ["explain", uri, "--json"],
        )
        printed = [run(*arguments, *options).output for arguments in commands]
        missing = uri.replace("t.lance", "none.lance")
        printed.append(run("head", missing, *options, code=1).output)
        text = " ".join(f"{name}={value}" for name, value in pairs.items())
        monkeypatch.setenv("LANCELOADER_STORAGE_OPTIONS", text)
        printed.append(run("head", uri, "-n", "1").output)
        assert found("head", uri, "-n", 1)["num_rows"] == ROWS * 9 // 10
    printed.append(run("head", uri, code=1).output)
    for said in printed:
        assert SECRET not in said
        assert "AKIA-of-mine" not in said


def test_secrets_in_messages_of_libraries_are_hidden(monkeypatch):
    redaction.remember({"azure_storage_account_key": SECRET, "region": "eu-west-1"})
    monkeypatch.setenv("MY_SECRET_TOKEN", "of-the-environment")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/account.json")
    text = (
        f"GET https://me:pw@host/x?sig=abc%2B&sp=r with {SECRET} in eu-west-1, "
        "of-the-environment, /etc/account.json"
    )
    assert redaction.without_secrets(text) == (
        "GET https://***@host/x?sig=***&sp=r with *** in eu-west-1, ***, /etc/account.json"
    )
