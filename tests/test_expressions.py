"""Columns as SQL expressions: computed once, and read like those of the table."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
import tables
from lanceloader.errors import ColumnNotFoundError, UnsupportedError
from source_kinds import DELETED, SOURCES, dataset, ids, travelled

COLUMNS = {"id": "id", "double": "id * 2 + 1", "text": "concat(name, '!')"}


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def perm(tmp_path):
    return ll.open(dataset(tmp_path))


def check(found, wanted):
    """Check computed columns against plain Python, over the same rows."""
    rows = found.with_format("arrow").to_arrow().to_pylist()
    source = wanted.select_columns(["id", "name"]).to_arrow().to_pylist()
    assert len(rows) == len(source)
    for row, plain in zip(rows, source, strict=True):
        assert row["id"] == plain["id"]
        assert row["double"] == plain["id"] * 2 + 1
        assert row["text"] == (plain["name"] or "") + "!"


@pytest.mark.parametrize("name", SOURCES)
def test_values_stand_beside_their_rows(tmp_path, name):
    perm = ll.open(SOURCES[name](tmp_path))
    found = perm.select_columns(COLUMNS)
    assert found.column_names == list(COLUMNS)
    orders = {
        "storage": lambda p: p,
        "shuffle": lambda p: p.shuffle(seed=3),
        "filter": lambda p: p.filter("id % 3 = 1").shuffle(seed=4),
        "picks": lambda p: p[[5, 5, 0, 30]] and p.with_skip(4).with_take(50),
        "sample": lambda p: p.sample(200, seed=1, replacement=True),
        "split": lambda p: p.split([0.5, 0.5], seed=2)[1],
    }
    for order in orders.values():
        check(order(found), order(perm))
        check(travelled(order(found)), order(perm))
    check(copy.deepcopy(found), perm)
    assert found.schema.field("double").type == pa.int64()


@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_every_strategy_reads_them(perm, read):
    found = perm.select_columns(COLUMNS).with_read(read)
    loader = found.loader(7, shuffle=True, seed=2, format="numpy_dict")
    rows = [row for batch in loader for row in batch["double"].tolist()]
    assert rows == [2 * row + 1 for row in ids(perm.shuffle(seed=2))]


def test_system_columns_are_those_of_the_table(perm):
    names = ["id", "_rowid", "_rowaddr", "_rowoffset"]
    found = perm.select_columns({**COLUMNS, **{name: name for name in names}})
    for order in (lambda p: p, lambda p: p.shuffle(seed=1)):
        assert (
            order(found.select_columns(names)).to_arrow()
            == order(perm.select_columns(names)).to_arrow()
        )
        rows = order(found).to_arrow().select(names)
        assert rows == order(perm.select_columns(names)).to_arrow()


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_many_batches_deletions_and_file_versions(tmp_path, version):
    """Values are appended in batches that do not end where fragments do."""
    data = pa.table({"id": range(60_000), "name": ["n"] * 60_000})
    table = lance.write_dataset(
        data,
        tmp_path / "t.lance",
        max_rows_per_file=17_001,
        data_storage_version=version,
    )
    table.delete("id % 7 = 3 or (id > 20000 and id < 40000)")
    perm = ll.open(table)
    done = []
    found = perm.select_columns(
        {"id": "id", "double": "id * 2 + 1"},
        progress=lambda rows, total: done.append((rows, total)),
    )
    rows = found.to_arrow()
    assert rows["id"].to_pylist() == ids(perm)
    assert rows["double"].to_pylist() == [2 * row + 1 for row in ids(perm)]
    assert done[0] == (0, len(perm))
    assert done[-1] == (len(perm), len(perm))
    assert len(done) > 2


def test_types_of_values(tmp_path):
    data = pa.table(
        {
            "x": pa.array([1.5, None, 3.0]),
            "s": ["a", "bb", None],
            "p": [{"a": 1}, {"a": 2}, None],
        }
    )
    for source in (data, lance.write_dataset(data, tmp_path / "t.lance")):
        found = ll.open(source).select_columns(
            {
                "half": "x / 2",
                "is_big": "x > 2",
                "upper": "upper(s)",
                "inner": "p.a + 1",
                "first": "coalesce(x, 0)",
                "constant": "7",
            }
        )
        assert found.to_arrow().to_pylist() == [
            {
                "half": 0.75,
                "is_big": False,
                "upper": "A",
                "inner": 2,
                "first": 1.5,
                "constant": 7,
            },
            {
                "half": None,
                "is_big": None,
                "upper": "BB",
                "inner": 3,
                "first": 0.0,
                "constant": 7,
            },
            {
                "half": 1.5,
                "is_big": True,
                "upper": None,
                "inner": None,
                "first": 3.0,
                "constant": 7,
            },
        ]


def test_names_alone_are_not_computed(perm, cache_dir):
    found = perm.select_columns({"a": "id", "b": "name", "row": "_rowid"})
    assert found.source is perm.source
    assert found.to_arrow().column_names == ["a", "b", "row"]
    assert found.to_arrow()["a"].to_pylist() == ids(perm)
    assert not (cache_dir / "computed").exists()
    # New names of this permutation, and names of the table.
    assert found.select_columns({"c": "a", "d": "name"}).head(1) == [
        {"c": 0, "d": perm.row(0)["name"]}
    ]
    nested = ll.open(pa.table({"m": [{"w": 1}]})).select_columns({"w": "m.w"})
    assert nested.head() == [{"w": 1}]


def test_a_name_that_is_a_column_keeps_its_meaning(perm):
    """The dict of names to themselves selects, as a list does."""
    assert (
        perm.select_columns({"id": "id"}).to_arrow()
        == perm.select_columns(["id"]).to_arrow()
    )


def test_expressions_of_expressions_and_filters(perm):
    found = perm.select_columns({"double": "id * 2", "id": "id"})
    again = found.select_columns({"more": "double + id", "double": "double"})
    rows = again.to_arrow().to_pylist()
    assert rows == [{"more": 3 * row, "double": 2 * row} for row in ids(perm)]
    kept = found.filter("double >= 100 and double < 130")
    assert ids(kept) == [row for row in ids(perm) if 50 <= row < 65]
    check(
        perm.select_columns(COLUMNS).filter("double > 20 and id < 90"),
        perm.filter("id * 2 + 1 > 20 and id < 90"),
    )
    assert again.remove_columns(["more"]).column_names == ["double"]
    assert again.rename_column("more", "most").head(1) == [{"double": 0, "most": 0}]
    with pytest.raises(ColumnNotFoundError, match="`trouble` does not exist"):
        again.select_columns({"x": "trouble + 1"})
    # Not in the selection any longer.
    with pytest.raises(ColumnNotFoundError):
        again.select_columns(["id"])


def computations(cache_dir):
    return sorted(cache_dir.glob("computed/*/values.lance/_versions/*.manifest"))


def test_values_are_computed_once(perm, cache_dir, tmp_path):
    first = perm.select_columns(COLUMNS)
    made = computations(cache_dir)
    assert made
    check(ll.open(tmp_path / "d.lance").select_columns(COLUMNS), perm)
    check(perm.shuffle(seed=1).select_columns(COLUMNS), perm.shuffle(seed=1))
    check(travelled(first), perm)
    assert computations(cache_dir) == made
    perm.select_columns({**COLUMNS, "triple": "id * 3"})
    assert len(computations(cache_dir)) == 2 * len(made)


def test_each_version_has_values_of_its_own(tmp_path):
    table = dataset(tmp_path)
    old = ll.open(table).select_columns(COLUMNS)
    table.update({"id": "id + 1000"}, where="id < 50")
    table.delete("id = 60")
    new = ll.open(table).select_columns(COLUMNS)
    check(new, ll.open(table))
    check(old, ll.open(table.uri, version=old.version))
    assert max(ids(new)) >= 1000 > max(ids(old))


def test_what_is_removed_is_computed_again(perm, cache_dir):
    pickled = pickle.dumps(perm.select_columns(COLUMNS))
    (entry,) = ll.cache.entries()
    assert entry.columns == ("id * 2 + 1", "concat(name, '!')")
    assert entry.rows == len(perm)
    assert entry.bytes > 0
    found = pickle.loads(pickled)
    check(found, perm)
    (entry,) = ll.cache.entries()
    assert entry.is_in_use
    assert ll.cache.clear().kept == (entry,)
    del found
    assert ll.cache.clear(dry_run=True).removed
    assert len(ll.cache.clear().removed) == 1
    assert ll.cache.entries() == []
    assert not list((cache_dir / "computed").iterdir())
    check(pickle.loads(pickled), perm)


def test_without_a_cache_folder_values_last_as_long_as_the_permutation(
    perm, monkeypatch, tmp_path
):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = perm.select_columns(COLUMNS)
    check(found, perm)
    check(travelled(found), perm)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    pickled = pickle.dumps(found)
    del found
    assert not list((tmp_path / "tmp").iterdir())
    check(pickle.loads(pickled), perm)


def test_a_state_fits_any_computation(perm):
    loader = perm.select_columns(COLUMNS).loader(8, shuffle=True, seed=1)
    next(iter(loader))
    state = loader.state_dict()
    ll.cache.clear()
    other = perm.select_columns({"double": "id * 2"}).loader(8, shuffle=True, seed=1)
    other.load_state_dict(state)
    perm.loader(8, shuffle=True, seed=1).load_state_dict(state)


def test_mixtures_and_tables_of_them(perm, tmp_path):
    found = perm.select_columns(COLUMNS)
    mixed = ll.mix({"a": found, "b": found.shuffle(seed=1)}).loader(6)
    rows = [row for batch in mixed for row in batch]
    assert len(rows) == 200
    assert all(row["double"] == 2 * row["id"] + 1 for row in rows)
    found.shuffle(seed=2).materialize(tmp_path / "new.lance")
    check(ll.open(tmp_path / "new.lance"), perm.shuffle(seed=2))


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        (
            {"x": "nope * 2"},
            ColumnNotFoundError,
            "'nope [*] 2': column `nope` does not",
        ),
        ({"x": "ids + 1"}, ColumnNotFoundError, "did you mean `id`"),
        ({"x": "id +"}, ValueError, r"expression 'id \+'"),
        ({"x": "sum(id)"}, ValueError, r"expression 'sum\(id\)'"),
        ({"x": "id / 0"}, ValueError, "Divide by zero"),
        ({"x": ""}, ValueError, "the expression of 'x' is one"),
        ({"": "id"}, ValueError, "a name is one"),
        ({}, ValueError, "at least one column"),
        ({"x": 3}, TypeError, "the expression of 'x' is 3 of type int"),
        ({3: "id"}, TypeError, "a name is 3 of type int"),
    ],
)
@pytest.mark.parametrize("kind", ["dataset", "arrow", "memory"])
def test_what_is_no_expression(tmp_path, kind, columns, error, words, cache_dir):
    perm = ll.open(SOURCES[kind](tmp_path))
    with pytest.raises(error, match=words):
        perm.select_columns(columns)
    assert not list(cache_dir.glob("computed/*"))


def test_a_table_that_only_its_own_library_reads_is_refused(tmp_path):
    path = tmp_path / "old.lance"
    lance.write_dataset(tables.narrow(9), path, data_storage_version="legacy")
    perm = ll.open(path)
    with pytest.raises(UnsupportedError, match=r"add the column .* or compute it in"):
        perm.select_columns({"x": "id * 2"})
    assert perm.select_columns({"x": "id"}).head(1) == [{"x": 0}]


def test_a_connection_factory_opens_the_table_again(db):
    import functools

    import importable

    table = db.create_table("t", tables.narrow(111))
    table.delete(DELETED)
    factory = functools.partial(importable.open_in, db.uri)
    found = ll.open(table).with_connection_factory(factory).select_columns(COLUMNS)
    check(travelled(found.shuffle(seed=1)), ll.open(table).shuffle(seed=1))


def test_base_tables_are_those_of_the_user(tmp_path):
    table = SOURCES["lancedb"](tmp_path)
    found = ll.open(table).select_columns(COLUMNS)
    assert found.base_table is table
    assert travelled(found).base_table.count_rows() == 100
    data = tables.narrow(9)
    memory = travelled(ll.open(data).select_columns(COLUMNS))
    assert memory.base_table.column_names == data.column_names


def test_threads_compute_together(perm, cache_dir):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(perm.select_columns(COLUMNS)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for each in found:
        check(each, perm)
    assert len(list(cache_dir.glob("computed/*"))) == 1


SLOW = """
import sys, time
import lanceloader as ll
perm = ll.open(sys.argv[1])
def slow(rows, total):
    print(rows, flush=True)
    time.sleep(0.2)
perm.select_columns({"y": "x * 2"}, progress=slow)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_computation_leaves_nothing_half_written(
    tmp_path, sign, cache_dir
):
    path = str(tmp_path / "t.lance")
    lance.write_dataset(pa.table({"x": range(300_000)}), path, max_rows_per_file=50_000)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"LANCELOADER_CACHE_DIR": str(cache_dir)},
    )
    while int(process.stdout.readline()) == 0:
        pass
    start = time.monotonic()
    process.send_signal(sign)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert process.returncode != 0
    assert ll.cache.entries() == []
    if sign == signal.SIGINT:
        assert "KeyboardInterrupt" in said
        assert not list(cache_dir.glob("computed/*"))
    found = ll.open(path).select_columns({"y": "x * 2"})
    assert found.to_arrow()["y"].to_pylist() == list(range(0, 600_000, 2))
    assert len(ll.cache.entries()) == 1


def in_worker(perm):
    return perm.to_arrow()["double"].to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("name", ["dataset", "arrow"])
def test_workers_read_them(tmp_path, context, name):
    from torch.utils.data import DataLoader

    perm = ll.open(SOURCES[name](tmp_path))
    found = perm.shuffle(seed=1).select_columns(COLUMNS).with_format("torch_dict")
    loader = DataLoader(
        found, batch_size=9, num_workers=2, multiprocessing_context=context
    )
    rows = [row for batch in loader for row in batch["double"].tolist()]
    assert rows == [2 * row + 1 for row in ids(perm.shuffle(seed=1))]
