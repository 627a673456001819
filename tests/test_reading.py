"""How rows are read: options, environment variables, and what stays the same."""

from __future__ import annotations

import subprocess
import sys

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.options import ReadOptions, bytes_of


def opened(tmp_path, num_rows=2000):
    data = pa.table({"id": range(num_rows), "y": np.arange(num_rows) % 4})
    lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=700)
    return ll.open(tmp_path / "t.lance").with_format("numpy_dict")


def rows(perm) -> list[int]:
    return [row for batch in perm.loader(100) for row in batch["id"].tolist()]


CHOICES = {
    "split": lambda perm: perm.split([0.8, 0.2], seed=1)[0],
    "stratified": lambda perm: perm.split([0.8, 0.2], seed=1, stratify_by="y")[0],
    "filter": lambda perm: perm.filter("y = 3"),
    "mask": lambda perm: perm.filter(np.arange(2000) < 50),
    "take": lambda perm: perm.with_take(100),
    "skip": lambda perm: perm.with_skip(1900),
    "sample": lambda perm: perm.sample(100, seed=2),
    "weighted": lambda perm: perm.sample(100, seed=2, weights="y"),
    "fold": lambda perm: perm.kfold(4, seed=1)[0].train,
    "validation": lambda perm: perm.kfold(4, seed=1)[0].val,
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_every_epoch_has_the_rows_that_were_chosen(tmp_path, choose):
    chosen = choose(opened(tmp_path).shuffle(7))
    wanted = sorted(rows(chosen))
    for perm in (chosen, chosen.shuffle(3)):
        for epoch in (0, 1, 5):
            loader = perm.loader(100).set_epoch(epoch)
            found = [row for batch in loader for row in batch["id"].tolist()]
            assert sorted(found) == wanted
            assert rows(loader.permutation) == found
    first, second = (rows(chosen.shuffle(3, epoch=epoch)) for epoch in (0, 1))
    assert first != second


def test_shards_of_an_epoch_are_those_of_its_shuffle(tmp_path):
    perm = opened(tmp_path)
    for tail in ("uneven", "drop", "pad"):
        shards = [perm.shuffle(7).shard(rank, 3, tail=tail) for rank in range(3)]
        found = [rows(shard.loader(10).set_epoch(4).permutation) for shard in shards]
        wanted = [
            perm.shuffle(7, epoch=4).shard(rank, 3, tail=tail) for rank in range(3)
        ]
        assert found == [rows(shard) for shard in wanted]


def test_a_loader_keeps_the_read_options_of_its_permutation(tmp_path):
    perm = opened(tmp_path).with_read("external", memory_limit="1MiB")
    view = perm.loader(10, threads=2).permutation
    assert view.read_options == ReadOptions("external", 2**20, None, 2)
    view = perm.loader(10, read="direct").permutation
    assert view.read_options == ReadOptions("direct", 2**20, None, None)


@pytest.mark.parametrize("read", ["auto", "resident", "external", "direct"])
def test_fields_of_a_null_struct_may_be_null(tmp_path, read):
    inner = pa.struct(
        [pa.field("x", pa.int64(), nullable=False), pa.field("s", pa.string())]
    )
    values = [
        None if row % 3 == 0 else {"x": row, "s": "s" * (row % 5)} for row in range(90)
    ]
    table = pa.table({"id": range(90), "v": pa.array(values, inner)})
    lance.write_dataset(table, tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance", format="arrow")
    perm.explain()
    batches = perm.loader(20, shuffle=True, seed=1, read=read)
    for _ in range(2):
        found = pa.Table.from_batches(list(batches)).sort_by("id")
        assert found.to_pylist() == table.to_pylist()


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import lanceloader as ll
loader = ll.open(sys.argv[1]).loader(
    1000, shuffle=True, seed=1, read=sys.argv[2], memory_limit=sys.argv[4], format="numpy_dict"
)
found = [row for _ in range(2) for batch in loader for row in batch["id"].tolist()]
assert sorted(found[: len(found) // 2]) == list(range(len(found) // 2))
assert "could not write" in loader.stats().failure
"""


@pytest.mark.parametrize("limit", [0, 1 << 20, 5 << 20])
@pytest.mark.parametrize("read", ["external", "resident"])
def test_a_full_disk_degrades_with_a_warning(tmp_path, read, limit):
    data = {f"c{at}": np.arange(200_000) for at in range(6)}
    lance.write_dataset(pa.table({"id": data["c0"], **data}), tmp_path / "t.lance")
    # Scratch files are for rows that do not fit, and packed rows are kept where they do.
    memory_limit = "6MB" if read == "external" else "60MB"
    command = [sys.executable, "-c", FULL, str(tmp_path / "t.lance"), read, str(limit)]
    command.append(memory_limit)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "DegradedWarning" in done.stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("4GiB", 4 << 30), ("500 MB", 500_000_000), ("1.5k", 1500), ("7", 7), (9, 9)],
)
def test_sizes(text, wanted):
    assert bytes_of(text, "size") == wanted


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LANCELOADER_READ", "quickly"),
        ("LANCELOADER_MEMORY_LIMIT", "much"),
        ("LANCELOADER_CACHE_LIMIT", "-1"),
        ("LANCELOADER_THREADS", "two"),
        ("LANCELOADER_THREADS", "0"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path, monkeypatch, variable, value):
    perm = opened(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        perm.with_read()[:3]


def test_environment_variables_are_the_defaults(tmp_path, monkeypatch):
    perm = opened(tmp_path).shuffle(1)
    monkeypatch.setenv("LANCELOADER_READ", "direct")
    monkeypatch.setenv("LANCELOADER_THREADS", "1")
    assert "read      direct, as it was asked for" in perm.with_read().explain()
    assert "read      resident, as" in perm.with_read("resident").explain()


def test_relative_and_home_cache_folders_become_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = ReadOptions(None, None, "~/rows", None).for_native()["cache_folder"]
    assert folder == str(tmp_path / "rows")
    folder = ReadOptions(None, None, "rows", None).for_native()["cache_folder"]
    assert folder == str(tmp_path / "rows")
    assert ReadOptions(None, None, "", None).for_native()["cache_folder"] is None
    with pytest.raises(TypeError, match="must be a string or a path"):
        ReadOptions(None, None, b"rows", None)


def test_few_rows_at_random_are_not_worth_packing(tmp_path):
    perm = opened(tmp_path).shuffle(1)
    assert "read      resident, as" in perm.explain()
    assert "direct, as 10 of 2,000 rows" in perm.with_take(10).explain()
    assert "direct in order" in opened(tmp_path / "other").explain()
