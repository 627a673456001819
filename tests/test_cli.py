"""The command ``lanceloader``: what it prints about tables, and what it writes."""

from __future__ import annotations

import base64
import json
import tomllib
import typing

import command_line
import lance
import lanceloader as ll
import pyarrow as pa
import pytest
from command_line import ROOT, ROWS, SECRET, complaint, found, run
from lanceloader import _typing, cache
from lanceloader.cli import options, output
from process_state import soon
from remote_server import API_KEY, serving
from vector_tables import large

pytestmark = pytest.mark.timeout(200)
alone = command_line.alone
db = command_line.db


# info


def test_info_prints_the_table_info_of_the_library(db):
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


def test_explain_prints_the_text_of_the_library(db):
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
    # The threads that read ahead let go of the files a moment after their loader is dropped.
    assert soon(lambda: not any(entry.is_in_use for entry in cache.entries(folder)))

    (entry,) = found("cache", "list", *rows)["entries"]
    (known,) = cache.entries(folder)
    assert entry["path"] == str(known.path)
    assert entry["bytes"] == known.bytes
    assert entry["is_complete"]
    assert not entry["is_in_use"]
    assert "1 entry, " in run("cache", "list", *rows).stdout

    pruned = {"files": 0, "bytes": 0, "dry_run": True}
    assert found("cache", "prune", "--dry-run", *rows) == pruned
    assert "0 copies, 0 bytes, removed" in run("cache", "prune", *rows).stdout
    assert found("cache", "clear", "--dry-run", *rows)["bytes"] == known.bytes
    assert cache.entries(folder) == [known]
    assert found("cache", "clear", *rows)["removed"] == [entry]
    assert cache.entries(folder) == []
    assert "0 entries, 0 bytes, removed" in run("cache", "clear", *rows).stdout


def test_warm_of_few_rows_says_that_nothing_is_kept(db, tmp_path):
    said = run("warm", db / "t.lance", "--cache-dir", tmp_path).stdout
    assert "in memory only" in said


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


def test_materialize_writes_the_chosen_rows(db, tmp_path):
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
