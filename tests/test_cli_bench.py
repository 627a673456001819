"""``lanceloader bench``: what it compares, its rounds and its verdict."""

from __future__ import annotations

import importlib
import time

import command_line
import lance
import pyarrow as pa
import pytest
from command_line import QUICK, complaint, found, run
from lanceloader.cli import racing
from lanceloader.cli.arms import Arm
from lanceloader.cli.racing import Result
from lanceloader.cli.verdict import verdict

pytestmark = pytest.mark.timeout(200)
alone = command_line.alone
db = command_line.db


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


def test_bench_shows_no_bars_while_it_measures(db, monkeypatch, bars_at_once):
    monkeypatch.setenv("LANCELOADER_PROGRESS", "1")
    result = run("bench", db / "t.lance", *QUICK, "-c", "id")
    assert "loading" not in result.stderr
    assert "opening t" in result.stderr


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
    assert "raise --limit to include it" in left_out["b"]


def test_verdicts():
    def of(rate, **others):
        results = [Result("loader()", 0.1, [rate, rate * 3, rate / 3])]
        results += [Result(name, 0.1, [each]) for name, each in others.items()]
        return verdict(results, batch_size=1024, step_ms=5)

    ample = of(3.1e6, DataLoader=1e6, other=9.3e6)
    assert ample == (
        "reading gives 3.1 M rows/s; a step of 5 ms at batch 1,024 needs 205 k rows/s: "
        "loader() is fast enough without worker processes: 15 times the needed rate. loader() is 3.1 times as fast "
        "as DataLoader. other is 3.0 times as fast."
    )
    assert "just enough: steps shorter than 4.88 ms" in of(210_000)
    slow = of(1_000, other=1_050)
    assert "keeps up with steps of 1.02e+03 ms or more" in slow
    assert "lanceloader warm" in slow
    assert slow.endswith("other is as fast.")
