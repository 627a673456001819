"""Packed rows in a cache folder: written once, shared, reused, and never of another table."""

from __future__ import annotations

import time
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from packed_files import files
from process_state import settle, soon
from programs import LOADER, PRELUDE, finish, run, start
from vector_tables import (
    ROWS_OF_FIVE_BLOCKS,
    ROWS_WORTH_A_FILE,
    large,
    table_of,
    vectors,
)

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "rows")


@pytest.fixture
def path(tmp_path):
    return large(tmp_path / "t.lance").uri


def load(source, cache, columns=None, **options):
    """What a loader gives in a shuffled order, with what it did; nothing stays open."""
    perm = source if isinstance(source, ll.Permutation) else ll.open(source)
    if columns is not None:
        perm = perm.select_columns(columns)
    options = {"read": "resident", "cache_dir": cache} | options
    loader = perm.loader(1000, shuffle=True, seed=1, format="arrow", **options)
    found = table_of(loader)
    filled(loader)
    stats = loader.stats()
    wanted = perm.shuffle(1).with_read("direct").to_arrow()
    assert found.equals(wanted)
    assert found.schema.equals(wanted.schema, check_metadata=True)
    del loader, perm, source
    settle()
    return stats


def filled(loader):
    """Wait until all rows are packed."""
    assert soon(lambda: loader.stats().fill_seconds > 0 or loader.stats().failure)


def is_cold(stats):
    return stats.blocks_filled > 0 and stats.blocks_mapped == 0


def is_warm(stats):
    return stats.blocks_filled == 0 and stats.blocks_mapped > 0


@pytest.mark.parametrize("read", ["resident", "auto"])
def test_a_second_loader_reads_the_cache(path, cache, read):
    first = load(path, cache, read=read)
    assert is_cold(first)
    assert len(files(cache)) == first.blocks_filled
    written = [(file, file.stat().st_mtime_ns) for file in files(cache)]
    second = load(path, cache, read=read)
    assert is_warm(second)
    assert first.is_shared
    assert second.is_shared
    assert second.bytes_kept == first.bytes_kept > 10 << 20
    assert [(file, file.stat().st_mtime_ns) for file in files(cache)] == written
    assert not files(cache, "part")


def test_another_process_reads_the_cache(path, cache):
    assert is_cold(load(path, cache))
    program = """
perm = ll.open(sys.argv[2])
loader = perm.loader(1000, shuffle=True, seed=1, format="arrow", cache_dir=sys.argv[3])
rows = sum(batch.num_rows for batch in loader)
found = loader.stats()
done(rows=rows, filled=found.blocks_filled, mapped=found.blocks_mapped > 0)
"""
    found = run(PRELUDE + program, cache, path, cache)
    assert found == {"rows": ROWS_WORTH_A_FILE, "filled": 0, "mapped": True}


def test_the_environment_names_the_folder(path, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", cache)
    load(path, None)
    assert files(cache)
    load(path, str(tmp_path / "given"))
    assert files(tmp_path / "given")
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    stats = load(path, None)
    assert is_cold(stats)
    assert not stats.is_shared
    monkeypatch.delenv("LANCELOADER_CACHE_DIR")
    load(path, None)
    assert files(tmp_path / "home" / "lanceloader" / "rows")


def test_takes_fill_and_use_the_rows_too(path, cache):
    perm = ll.open(path).with_read("resident", cache_dir=cache).with_format("arrow")
    wanted = lance.dataset(path).to_table()
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = rng.integers(0, len(perm), 500)
        found = pa.Table.from_batches([perm.take_offsets(places)])
        assert found.equals(wanted.take(places))
    assert soon(lambda: files(cache))
    del perm
    settle()
    assert is_warm(load(path, cache))


def test_a_subset_of_the_columns_uses_the_wider_rows(path, cache):
    dataset = lance.dataset(path)
    structs = "struct('a', id, 'b', struct('c', square, 'd', 'text'))"
    dataset.add_columns({"s": structs.replace("struct(", "named_struct(")})
    assert is_cold(load(path, cache))
    for columns in (
        ["vector"],
        ["square", "vector"],
        ["id", "square", "vector", "s"][::-1],
        ["vector", "_rowid", "_rowaddr", "_rowoffset"],
        ["vector", "s.b.d"],
        ["s.a", "vector", "s.b"],
    ):
        assert is_warm(load(path, cache, columns)), columns
    view = ll.open(path).select_columns(["vector", "s.b"])
    assert is_warm(load(view.rename_column("vector", "id"), cache))
    assert len({file.parent for file in files(cache)}) == 1


def test_a_column_beside_those_that_are_there_is_packed_anew(path, cache):
    assert is_cold(load(path, cache, ["vector"]))
    assert is_cold(load(path, cache))
    assert is_warm(load(path, cache, ["vector", "id"]))
    assert is_warm(load(path, cache, ["vector"]))


def test_small_tables_leave_nothing(tmp_path, cache):
    lance.write_dataset(tables.narrow(20_000), tmp_path / "t.lance")
    stats = load(tmp_path / "t.lance", cache)
    assert is_cold(stats)
    assert not stats.is_shared
    assert not Path(cache).exists()


def test_memory_of_the_process(path):
    stats = load(path, "")
    assert is_cold(stats)
    assert not stats.is_shared


# Tables that change.

CHANGES = {
    "append": lambda path: large(path, 5000, seed=5, mode="append"),
    "delete": lambda path: lance.dataset(path).delete("id % 7 = 3"),
    "overwrite": lambda path: large(path, seed=1, mode="overwrite"),
    "update": lambda path: lance.dataset(path).update({"square": "-id"}),
    "compaction": lambda path: (
        lance.dataset(path).delete("id < 5"),
        lance.dataset(path).optimize.compact_files(),
    ),
    "nullable": lambda path: lance.dataset(path).alter_columns(
        {"path": "square", "nullable": True}
    ),
    "renamed": lambda path: lance.dataset(path).alter_columns(
        {"path": "id", "name": "n"}, {"path": "square", "name": "id"}
    ),
    "retyped": lambda path: lance.dataset(path).alter_columns(
        {"path": "id", "data_type": pa.int32()}
    ),
    "dropped and added": lambda path: (
        lance.dataset(path).drop_columns(["square"]),
        lance.dataset(path).add_columns({"square": "id * 7"}),
    ),
    "merge": lambda path: (
        lance.dataset(path)
        .merge_insert("id")
        .when_matched_update_all()
        .execute(vectors(100, seed=9))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_gets_its_own_rows(path, cache, change):
    load(path, cache)
    before = lance.dataset(path)
    CHANGES[change](path)
    # ``load`` compares with what is read directly.
    now = load(path, cache)
    assert now.rows == lance.dataset(path).count_rows()
    assert is_warm(load(path, cache))
    assert is_warm(load(before, cache))


@pytest.mark.parametrize("change", CHANGES)
def test_a_permutation_keeps_the_rows_of_its_version(path, cache, change):
    """Changed before a row was read, in the middle, and with all rows in memory."""
    fresh = ll.open(path).with_read("resident", cache_dir=cache)
    begun = ll.open(path).loader(
        500, shuffle=True, seed=1, format="arrow", read="resident", cache_dir=cache
    )
    wanted = ll.open(path).shuffle(1).with_read("direct").to_arrow()
    batches = iter(begun)
    first = next(batches)
    CHANGES[change](path)
    newest = ll.open(path).with_read("resident", cache_dir=cache).shuffle(1)
    newest_rows = table_of(newest.loader(500, format="arrow"))
    assert pa.Table.from_batches([first, *batches]).equals(wanted)
    assert table_of(begun).equals(wanted)
    assert table_of(fresh.shuffle(1).loader(500, format="arrow")).equals(wanted)
    assert newest_rows.equals(newest.with_read("direct").to_arrow())


def test_bits_of_flags_are_not_taken_for_nulls(tmp_path, cache):
    """A column that may be null from now on has a bit that it had not."""
    path = tmp_path / "t.lance"
    table = vectors(ROWS_WORTH_A_FILE)
    table = table.append_column("flag", pa.array(np.arange(len(table)) % 2 == 0))
    fields = [field.with_nullable(False) for field in table.schema]
    lance.write_dataset(table.cast(pa.schema(fields)), path)
    assert is_cold(load(path, cache))
    lance.dataset(path).alter_columns({"path": "id", "nullable": True})
    load(path, cache)


def test_an_index_changes_no_row(path, cache):
    load(path, cache)
    lance.dataset(path).create_scalar_index("id", "BTREE")
    lance.dataset(path).tags.create("t", 1)
    assert is_warm(load(path, cache))


def test_two_tables_of_one_schema(tmp_path, cache):
    one = large(tmp_path / "one.lance")
    other = large(tmp_path / "other.lance", seed=1)
    assert is_cold(load(one, cache))
    assert is_cold(load(other, cache))
    assert is_warm(load(one, cache))
    assert is_warm(load(other, cache))


# Several processes.

FILLER = """
perm = ll.open(sys.argv[2]).with_read("resident", cache_dir=sys.argv[3])
loader = perm.loader(1000, shuffle=True, seed=1, format="numpy_dict")
rows = 0
for batch in loader:
    assert (batch["square"] == batch["id"] ** 2).all()
    rows += len(batch["id"])
assert soon(lambda: loader.stats().fill_seconds > 0), loader.stats()
found = loader.stats()
done(rows=rows, filled=found.blocks_filled, mapped=found.blocks_mapped)
"""


@pytest.mark.slow
def test_processes_that_fill_at_once_share_the_work(tmp_path, cache):
    path = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS, max_rows_per_file=70_000)
    processes = [start(PRELUDE + FILLER, tmp_path, path.uri, cache) for _ in range(3)]
    found = [finish(process) for process in processes]
    assert [each["rows"] for each in found] == [ROWS_OF_FIVE_BLOCKS] * 3
    assert len(files(cache)) == 5
    assert sum(each["filled"] for each in found) == 5, found
    assert all(each["filled"] + each["mapped"] == 5 for each in found), found
    assert not files(cache, "part")


WORKERS = """
import vector_tables
perm = ll.open(sys.argv[2]).with_read(sys.argv[4], cache_dir=sys.argv[3])
dataset = vector_tables.Watched(perm.select_columns(["id", "square", "vector"]))
workers = int(sys.argv[5])
loader = loader_of(
    dataset, workers, sys.argv[6], batch_size=1000, shuffle=True,
    collate_fn=importable.as_it_is, persistent_workers=True,
)
last = {}
for epoch in range(2):
    rows = []
    for ids, pid, filled, mapped in loader:
        rows += ids
        last[pid] = filled, mapped
    assert sorted(rows) == list(range(len(perm)))
done(found=sorted(last.values()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("read", ["auto", "resident"])
def test_workers_share_one_copy(tmp_path, cache, workers, context, read):
    path = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS)
    arguments = path.uri, cache, read, str(workers), context
    for is_first in (True, False):
        found = run(LOADER + WORKERS, tmp_path, *arguments)["found"]
        assert len(found) == workers
        assert sum(filled for filled, _ in found) == (5 if is_first else 0), found
        assert all(filled + mapped == 5 for filled, mapped in found), found
        assert len(files(cache)) == 5
        assert not files(cache, "part")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_of_a_process_that_holds_the_rows_need_not_map_them(
    tmp_path, cache, workers
):
    """Where it forks, they are there already."""
    path = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS)
    program = WORKERS.replace(
        "workers = int",
        "for _ in range(9): dataset.__getitems__(list(range(9999))[::-1])\nworkers = int",
    )
    arguments = path.uri, cache, "resident", str(workers), "fork"
    found = run(LOADER + program, tmp_path, *arguments)["found"]
    assert len(files(cache)) == 5
    assert all(each in ([5, 0], [0, 5]) for each in found), found


# A folder under a limit.


@pytest.fixture
def three(tmp_path):
    return [large(tmp_path / f"{k}.lance", seed=k).uri for k in range(3)]


def test_the_least_recently_used_rows_are_evicted(three, cache, monkeypatch):
    size = load(three[0], cache).bytes_kept
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(2.5 * size)))
    assert is_cold(load(three[1], cache))
    time.sleep(0.02)
    assert is_warm(load(three[0], cache))
    assert is_cold(load(three[2], cache))
    assert is_warm(load(three[0], cache))
    assert is_warm(load(three[2], cache))
    assert sum(file.stat().st_size for file in files(cache)) <= 2.5 * size
    assert is_cold(load(three[1], cache))


@pytest.mark.filterwarnings("ignore::lanceloader.errors.DegradedWarning")
def test_rows_in_use_are_not_evicted(three, cache, monkeypatch):
    perm = ll.open(three[0]).with_read("resident", cache_dir=cache).shuffle(1)
    loader = perm.loader(1000, format="arrow")
    rows = table_of(loader)
    size = loader.stats().bytes_kept
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(1.5 * size)))
    kept = files(cache)
    stats = ll.open(three[1]).loader(1000, shuffle=True, seed=1, cache_dir=cache)
    assert sum(len(batch) for batch in stats) == ROWS_WORTH_A_FILE
    assert not stats.stats().is_shared
    assert files(cache) == kept
    assert table_of(loader).equals(rows)


def test_reusing_rows_evicts_nothing(three, cache, monkeypatch):
    """A warm start needs no more room, so nothing has to go."""
    size = load(three[0], cache).bytes_kept
    load(three[1], cache)
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(2.5 * size)))
    for table in (three[0], three[1], three[0], three[1]):
        assert is_warm(load(table, cache))


@pytest.mark.filterwarnings("ignore::lanceloader.errors.DegradedWarning")
def test_a_limit_below_one_table(three, cache, monkeypatch):
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "1MB")
    stats = load(three[0], cache)
    assert is_cold(stats)
    assert not stats.is_shared
    assert not files(cache)
