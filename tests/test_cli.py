"""The command ``lanceloader``: what it prints, its errors, and its exit codes."""

from __future__ import annotations

import base64
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import typing
from pathlib import Path

import lance
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_folder
from lanceloader import _typing, cache
from lanceloader.cli import options, output, racing, secrets
from lanceloader.cli.app import app
from lanceloader.cli.arms import Arm
from lanceloader.cli.failures import line_of
from lanceloader.cli.racing import Result
from lanceloader.cli.verdict import verdict
from remote_server import API_KEY, serving
from typer.testing import CliRunner
from vector_tables import large

pytestmark = pytest.mark.timeout(200)

ROOT = Path(__file__).parents[1]
ROWS = 20_000
SECRET = "s3cr3t-of-mine"


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
    monkeypatch.setattr(secrets, "_values", set())


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


# info


def test_info_says_what_the_library_says(db):
    uri = str(db / "t.lance")
    wanted = json.loads(json.dumps(ll.table_info(uri).to_dict()))
    assert found("info", uri) == wanted
    assert found("info", db, "--table", "t") == wanted
    assert found("info", db / "t") == wanted
    assert wanted["num_rows"] == ROWS * 9 // 10
    shown = run("info", uri).stdout
    assert "18,000, and 2,000 deleted" in shown
    for name in ("id", "y", "text"):
        assert f"\n{name} " in shown


def test_info_of_an_old_version_and_a_tag(db):
    assert found("info", db, "-t", "t", "--version", "1")["num_deleted_rows"] == 0
    lance.dataset(db / "t.lance").tags.create("whole", 1)
    assert found("info", db, "-t", "t", "--tag", "whole")["version"] == 1
    assert "whole (version 1)" in run("info", db / "t.lance").stdout


def test_info_lists_the_tables_of_a_database(db):
    assert run("info", db).stdout == "empty\nt\n"
    assert found("info", db) == {"database": str(db), "tables": ["empty", "t"]}


def test_info_says_why_a_table_is_not_read_natively(tmp_path):
    uri = tmp_path / "old.lance"
    lance.write_dataset(pa.table({"x": range(5)}), uri, data_storage_version="0.1")
    shown = run("info", uri).stdout
    reason = ll.table_info(uri).reason
    assert f"by the table's own library: {reason}" in shown
    assert f"not read natively: {reason}" in shown


def test_a_table_on_a_server(db, monkeypatch):
    monkeypatch.delenv("LANCEDB_API_KEY", raising=False)
    assert "LANCEDB_API_KEY" in complaint("info", "db://dev/t", code=2)
    with serving(db) as server:
        options = ("-o", f"host_override={server.url}")
        monkeypatch.setenv("LANCEDB_API_KEY", API_KEY)
        assert found("info", "db://dev", *options)["tables"] == ["empty", "t"]
        info = found("info", "db://dev/t", *options)
        assert (info["num_rows"], info["is_native"]) == (ROWS * 9 // 10, False)
        rows = found("head", "db://dev", "-t", "t", "-n", 2, *options)["rows"]
        assert len(rows) == 2
        line = complaint("head", "db://dev/t", "--version", 1, *options, code=2)
        assert "need a path or URI" in line
        line = complaint("info", "db://dev/t", "-o", f"password={SECRET}", code=2)
        assert "password" in line
        assert SECRET not in line


# head


def test_head_shows_the_rows_of_the_library(db):
    uri = str(db / "t.lance")
    perm = ll.open(uri).filter("id > 5 and id < 9").select_columns(["text", "id"])
    arguments = ("--filter", "id > 5 and id < 9", "--columns", "text, id")
    said = found("head", uri, "-n", 50, *arguments)
    assert said == {"rows": perm.head(3), "num_rows": 3, "version": 2}
    shown = run("head", uri, *arguments).stdout.splitlines()
    assert shown[0].split() == ["text", "id"]
    assert [line.split() for line in shown[2:]] == [
        ["row", str(k), str(k)] for k in (6, 7, 8)
    ]
    shuffled = found("head", uri, "-n", 4, "--shuffle", "--seed", 7)["rows"]
    assert shuffled == ll.open(uri).shuffle(seed=7).head(4)
    assert found("head", uri, "-n", 0)["rows"] == []
    assert found("head", db, "-t", "empty")["rows"] == []
    assert run("head", db, "-t", "empty").stdout.splitlines()[0] == "x"
    assert len(found("head", uri, "--version", 1, "--filter", "id = 3")["rows"]) == 1


def test_head_of_every_kind_of_value(tmp_path):
    import tables

    data = tables.every_type(40, nulls=True)
    lance.write_dataset(data, tmp_path / "t.lance")
    rows = found("head", tmp_path / "t.lance", "-n", 40)["rows"]
    assert len(rows) == 40
    wanted = data["binary"].to_pylist()
    for row, value in zip(rows, wanted, strict=True):
        got = row["binary"]
        assert (None if got is None else base64.b64decode(got)) == value
    assert [row["int64"] for row in rows] == data["int64"].to_pylist()
    run("head", tmp_path / "t.lance", "-n", 40)


def test_text_of_others_is_shown_as_it_is(tmp_path):
    """Neither markup of rich nor escape sequences of a terminal get through."""
    text = ["[bold]x[/bold]", "a\nb\x1b[31m", "é" * 99, "[/]"]
    lance.write_dataset(pa.table({"s": text, "v": [[1, 2] * 9] * 4}), tmp_path / "t")
    shown = run("head", tmp_path / "t").stdout
    assert "[bold]x[/bold]" in shown
    assert r"a\nb\x1b[31m" in shown
    assert "é" * 40 + "…" in shown
    assert "\x1b" not in shown
    assert "[1, 2, 1, 2, … 18 values]" in shown


def test_numbers_that_json_does_not_have(tmp_path):
    values = [float("nan"), float("inf"), -float("inf"), 0.5]
    lance.write_dataset(pa.table({"x": values}), tmp_path / "t.lance")
    rows = found("head", tmp_path / "t.lance")["rows"]
    assert [row["x"] for row in rows] == ["nan", "inf", "-inf", 0.5]


# explain


def test_explain_says_what_the_library_says(db):
    uri = str(db / "t.lance")
    perm = ll.open(uri).filter("id > 5").shuffle(seed=7).with_read("external")
    arguments = ("--filter", "id > 5", "--shuffle", "--seed", 7, "--read", "external")
    assert run("explain", uri, *arguments).stdout == perm.explain() + "\n"
    said = found("explain", uri, *arguments)
    assert said["rows"].startswith("17,99")
    assert said["read"].startswith("external")
    assert list(said) == [line.split()[0] for line in perm.explain().splitlines()]


# warm and cache


def test_warm_and_cache(tmp_path):
    uri = large(tmp_path / "t.lance").uri
    folder = str(tmp_path / "rows")
    rows = ("--cache-dir", folder)
    assert found("cache", "list", *rows) == {"path": folder, "bytes": 0, "entries": []}
    said = found("warm", uri, "--columns", "id,vector", *rows)
    assert (said["columns"], said["is_shared"]) == (["id", "vector"], True)
    assert "were packed already" in run("warm", uri, "-c", "id,vector", *rows).stdout
    perm = ll.open(uri).select_columns(["vector", "id"])
    assert perm.warm(cache_dir=folder).blocks_packed == 0
    del perm

    (entry,) = found("cache", "list", *rows)["entries"]
    (known,) = cache.entries(folder)
    assert entry["path"] == str(known.path)
    assert entry["bytes"] == known.bytes
    assert entry["is_complete"]
    assert not entry["is_in_use"]
    assert "1 entry, " in run("cache", "list", *rows).stdout

    assert found("cache", "clear", "--dry-run", *rows)["bytes"] == known.bytes
    assert cache.entries(folder) == [known]
    assert found("cache", "clear", *rows)["removed"] == [entry]
    assert cache.entries(folder) == []
    assert "0 entries, 0 bytes, removed" in run("cache", "clear", *rows).stdout


def test_warm_of_few_rows_says_that_nothing_is_kept(db, tmp_path):
    said = run("warm", db / "t.lance", "--cache-dir", tmp_path).stdout
    assert "nothing is kept in files" in said


def test_warm_shows_a_bar_where_it_is_asked_for(tmp_path, monkeypatch):
    uri = large(tmp_path / "t.lance").uri
    rows = ("--cache-dir", str(tmp_path / "rows"))
    assert run("warm", uri, *rows).stderr == ""
    shown = run("warm", uri, *rows, "--progress").stderr
    assert "packing" in shown
    monkeypatch.setenv("LANCELOADER_PROGRESS", "1")
    result = run("warm", uri, *rows, "--json")
    assert "packing" in result.stderr
    json.loads(result.stdout)
    assert run("warm", uri, *rows, "--no-progress").stderr == ""


def test_cache_path(monkeypatch, tmp_path):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path))
    assert run("cache", "path").stdout == f"{tmp_path}\n"
    assert found("cache", "path", "--cache-dir", "/x") == {"path": "/x"}
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", "")
    assert "--cache-dir" in complaint("cache", "path", code=2)


# materialize


def test_materialize_writes_what_was_asked_for(db, tmp_path):
    uri, target = str(db / "t.lance"), str(tmp_path / "copy.lance")
    arguments = ("--filter", "id < 50", "-c", "id,y", "--shuffle", "--seed", 3)
    said = found("materialize", uri, target, *arguments)
    assert said == {"target": target, "rows": 45, "columns": ["id", "y"]}
    wanted = ll.open(uri).filter("id < 50").select_columns(["id", "y"]).shuffle(seed=3)
    assert ll.open(target).to_arrow() == wanted.to_arrow()
    assert "exists already" in complaint("materialize", uri, target)
    result = run("materialize", uri, tmp_path / "more.lance", "--progress")
    assert "18,000 rows written to" in result.stdout
    assert "18000/18000" in result.stderr


# doctor


def test_doctor_finds_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("LANCELOADER_STORAGE_OPTIONS", f"secret={SECRET}")
    said = found("doctor")
    assert said["is_ok"]
    by_name = {finding["name"]: finding["text"] for finding in said["findings"]}
    assert by_name["lanceloader"] == ll.__version__
    assert by_name["pyarrow"] == pa.__version__
    assert {"cores", "memory", "/dev/shm", "cache", "workers"} <= by_name.keys()
    assert str(tmp_path / "rows") in by_name["cache"]
    shown = run("doctor").stdout
    assert f"LANCELOADER_CACHE_DIR={tmp_path}" in shown
    assert SECRET not in shown + json.dumps(said)


def test_doctor_names_the_command_that_brings_what_is_missing(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("polars", "tqdm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    shown = run("doctor").stdout
    assert 'pip install "lanceloader[polars]"' in shown
    assert 'pip install "lanceloader[progress]"' in shown
    assert "lanceloader[torch]" not in shown


def test_doctor_fails_where_the_cache_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "file" / "rows"))
    said = found("doctor", code=1)
    assert not said["is_ok"]
    assert [f["name"] for f in said["findings"] if f["level"] == "problem"] == ["cache"]
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(shared))
    assert f"chmod go-w {shared}" in run("doctor", code=1).stdout


def test_limits_of_control_groups(monkeypatch, tmp_path):
    from lanceloader.cli import machine

    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "memory.current").write_text("1610612736\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    free = tmp_path / "free"
    free.mkdir()
    (free / "memory.max").write_text("max\n")
    (free / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(machine, "control_groups", lambda: iter([tmp_path, free]))
    assert machine.memory_limit() == (2 << 30, 512 << 20)
    assert machine.cpu_quota() == 0.5
    assert "limited to 2.0 GiB by the control group" in machine.memory().text
    assert machine.cores().fix == "set LANCELOADER_THREADS=1, or raise the limit"
    monkeypatch.setattr(machine, "control_groups", lambda: iter([free]))
    assert machine.memory_limit() is None
    assert machine.cpu_quota() is None


# bench

QUICK = ("--seconds", "0.4", "--rounds", "2", "--limit", "60")


def test_bench_compares_all_that_is_installed(db, tmp_path):
    picture = tmp_path / "bench.png"
    said = found("bench", db / "t.lance", *QUICK, "-c", "id,y", "--plot", picture)
    names = [result["name"] for result in said["results"]]
    assert names[:2] == ["loader()", "DataLoader"]
    assert names[2] == "scan in order, by pylance"
    assert names[3].startswith("lancedb's Permutation")
    assert said["left_out"] == {}
    for result in said["results"]:
        assert len(result["turns"]) == 2
        assert result["rows_per_second"] > 0
        assert result["first_batch_seconds"] > 0
    assert said["needed_rows_per_second"] == 1024 / 0.005
    assert said["rows"] == 18_000
    assert said["columns"] == ["id", "y"]
    assert said["verdict"].startswith("reading gives ")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["numpy_dict", "torch_dict", "python"])
def test_bench_in_a_format(db, kind):
    said = found("bench", db / "t.lance", *QUICK, "--format", kind, "-c", "id,y")
    assert said["format"] == kind
    assert said["left_out"] == {}
    is_theirs = kind == "python"
    assert ("as Arrow data" in said["results"][3]["name"]) != is_theirs


def test_bench_with_workers(db):
    arguments = ("--workers", 1, "--batch-size", 256, "--format", "torch_dict")
    said = found("bench", db / "t.lance", *QUICK, *arguments, "-c", "id,y")
    assert said["results"][1]["name"] == "DataLoader, 1 worker"
    assert said["batch_size"] == 256


def test_bench_of_a_table_with_less_rows_than_a_batch(tmp_path):
    lance.write_dataset(pa.table({"x": range(7)}), tmp_path / "t.lance")
    said = found("bench", tmp_path / "t.lance", *QUICK)
    assert said["batch_size"] == 7
    assert len(said["results"]) == 4


def test_bench_of_nothing(db):
    assert "no rows" in complaint("bench", db, "-t", "empty", code=2)


def test_bench_says_beforehand_that_there_is_no_picture(db, tmp_path, monkeypatch):
    uri = db / "t.lance"
    assert ".png" in complaint("bench", uri, "--plot", tmp_path / "x.doc", code=2)
    missing = tmp_path / "none" / "x.png"
    assert "does not exist" in complaint("bench", uri, "--plot", missing, code=2)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "matplotlib" else real(name, *a),
    )
    line = complaint("bench", uri, "--plot", tmp_path / "x.png", code=2)
    assert 'pip install "lanceloader[plots]"' in line


def test_a_way_of_reading_that_fails_is_left_out():
    def endless(_):
        while True:
            yield 10

    def fails(_):
        raise ValueError("no such\nthing")

    arms = [Arm("a", endless), Arm("b", fails), Arm("c", endless)]
    results, left_out = racing.by_turns(arms, seconds=0.03, rounds=3, limit=60)
    assert [result.name for result in results] == ["a", "c"]
    assert all(len(result.turns) == 3 for result in results)
    assert left_out == {"b": "no such thing"}
    with pytest.raises(ValueError, match="no such"):
        racing.by_turns(arms[1:], seconds=0.03, rounds=3, limit=60)


def test_rounds_end_at_the_limit():
    def slow(_):
        while True:
            time.sleep(0.05)
            yield 1

    arms = [Arm("a", slow), Arm("b", slow)]
    results, left_out = racing.by_turns(arms, seconds=0.4, rounds=9, limit=0.3)
    assert left_out == {}
    assert 1 <= len(results[0].turns) < 9
    assert len(results[0].turns) == len(results[1].turns)
    results, left_out = racing.by_turns(arms, seconds=0.4, rounds=9, limit=0.01)
    assert [(result.name, len(result.turns)) for result in results] == [("a", 1)]
    assert "raise --limit to have it" in left_out["b"]


def test_verdicts():
    def of(rate, **others):
        results = [Result("loader()", 0.1, [rate, rate * 3, rate / 3])]
        results += [Result(name, 0.1, [each]) for name, each in others.items()]
        return verdict(results, batch_size=1024, step_ms=5)

    ample = of(3.1e6, DataLoader=1e6, other=9.3e6)
    assert ample == (
        "reading gives 3.1 M rows/s; a step of 5 ms at batch 1,024 needs 205 k rows/s: "
        "loader() is enough without worker processes, 15 times over. It is 3.1 times as fast "
        "as DataLoader. other is 3.0 times as fast."
    )
    assert "just enough: steps shorter than 4.88 ms" in of(210_000)
    slow = of(1_000, other=1_050)
    assert "only steps of 1.02e+03 ms or more" in slow
    assert "lanceloader warm" in slow
    assert slow.endswith("other is as fast.")


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
    assert "nearest are `text`" in complaint("head", uri, "--columns", "txt")
    assert "filter 'id >'" in complaint("head", uri, "--filter", "id >")
    assert "--shuffle" in complaint("head", uri, "--seed", 1, code=2)
    assert "4GiB" in complaint("explain", uri, "--memory-limit", "lots")
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


def test_secrets_in_what_libraries_say(monkeypatch):
    secrets.remember({"azure_storage_account_key": SECRET, "region": "eu-west-1"})
    monkeypatch.setenv("MY_SECRET_TOKEN", "of-the-environment")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/account.json")
    text = (
        f"GET https://me:pw@host/x?sig=abc%2B&sp=r with {SECRET} in eu-west-1, "
        "of-the-environment, /etc/account.json"
    )
    assert secrets.without_secrets(text) == (
        "GET https://***@host/x?sig=***&sp=r with *** in eu-west-1, ***, /etc/account.json"
    )


# Programs of their own.


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
    out, _ = command("--show-completion", "bash").communicate()
    assert "_lanceloader_completion" in out


# What the command knows of the library.


def test_names_are_those_of_the_library():
    assert typing.get_args(options.FormatName) == typing.get_args(_typing.Format)
    literal, _ = typing.get_args(typing.get_args(options.ReadName)[0])
    assert typing.get_args(literal) == typing.get_args(_typing.Read)


def test_the_extra_and_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"lanceloader": "lanceloader.cli:main"}
    extras = project["optional-dependencies"]
    assert {each.partition(">")[0] for each in extras["cli"]} == {"typer", "rich"}
    assert "cli" in extras["all"][0].partition("[")[2].rstrip("]").split(",")


def test_quantities():
    wanted = {0.5: "0.5", 999: "999", 1234: "1.23 k", 3.14e6: "3.14 M", 2e12: "2,000 G"}
    assert {number: output.quantity(number) for number in wanted} == wanted
    assert output.size(1023) == "1,023 bytes"
    assert output.size(10 << 20) == "10.0 MiB"
    assert output.size(None) == "unknown"
