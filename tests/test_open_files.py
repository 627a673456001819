"""Tables of many fragments and many columns: what a process holds open of them has limits.

Memory and mappings are looked at in processes of their own.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from programs import PRELUDE, run

MIB = 1 << 20
SHARE = 4
"""Of the mappings that a process may have, those of tables may be one in this many."""

WATCHED = (
    PRELUDE
    + """
import resource


def mappings():
    with open("/proc/self/maps") as file:
        return sum(path in line for line in file)


def check(batches):
    rows = 0
    for batch in batches:
        places = batch["_rowaddr"].to_numpy() & 0xFFFFFFFF
        assert (batch["x"].to_numpy() == places).all()
        rows += batch.num_rows
    return rows


def files():
    return len(os.listdir("/proc/self/fd"))


def resident():
    gc.collect()
    pa.default_memory_pool().release_unused()
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith(("VmRSS", "RssAnon"))]
    return np.array([int(line[1]) << 10 for line in lines])
"""
)

MANY = (
    WATCHED
    + """
perm = ll.open(path).select_columns(["x", "_rowaddr"])
kept, rows = [], []
for threads in (1, 4):
    for shuffle in (False, True):
        loader = perm.loader(1000, shuffle=shuffle, read="direct", format="arrow", threads=threads)
        rows.append(check(loader))
        kept.append(mappings())
done(rows=rows, kept=kept)
"""
)

TIGHT = (
    WATCHED
    + """
perm = ll.open(path).select_columns(["x", "_rowaddr", "blob"])
check(ll.open(sys.argv[2]).select_columns(["x", "_rowaddr"]).loader(7, format="arrow"))
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
limit = used + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_NOFILE, (files() + 30, files() + 30))
rows, most = 0, 0
for shuffle in (False, True):
    for batch in perm.loader(1, shuffle=shuffle, read="direct", format="arrow", threads=1):
        rows += check([batch])
        most = max(most, mappings())
done(rows=rows, most=most)
"""
)

MEMORY = (
    WATCHED
    + """
options = json.loads(sys.argv[2])
columns = options.pop("columns")
perm = ll.open(path)
if columns:
    perm = perm.select_columns(columns)
small = ll.open(sys.argv[3]).loader(1, shuffle=True, seed=1, **options)
sum(batch.num_rows for batch in small)
before = most = resident()
for epoch in range(2):
    for batch in perm.loader(1, shuffle=True, seed=1, **options).set_epoch(epoch):
        # A byte of each page.
        sum(np.frombuffer(part, np.uint8)[::4096].sum() for column in batch.columns
            for part in column.buffers() if part)
        most = np.maximum(most, resident())
grown, anonymous = (most - before).tolist()
done(grown=grown, anonymous=anonymous)
"""
)


def fragments(path, table, count):
    """A table with ``count`` fragments, each with the rows of ``table`` in a file of its own."""
    dataset = lance.write_dataset(table, path)
    one = dataset.get_fragments()[0].metadata.to_json()
    file = path / "data" / one["files"][0]["path"]
    parts = []
    for number in range(count):
        name = f"{number}.lance"
        (file.parent / name).hardlink_to(file)
        part = {**one, "id": number, "files": [{**one["files"][0], "path": name}]}
        parts.append(lance.FragmentMetadata.from_json(json.dumps(part)))
    written = lance.LanceOperation.Overwrite(dataset.schema, parts)
    lance.LanceDataset.commit(path, written, read_version=dataset.version)


def blobs(count, size):
    rng = np.random.default_rng(1)
    values = pa.array([rng.bytes(size) for _ in range(count)], pa.large_binary())
    return pa.table({"x": range(count), "blob": values})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.lance"
    lance.write_dataset(blobs(10, 1000), path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.lance"


@pytest.mark.slow
def test_more_files_than_may_be_mapped(path):
    share = int(Path("/proc/sys/vm/max_map_count").read_text()) // SHARE
    count = share + 1000
    if count > 40_000:
        pytest.skip(f"the system allows {share * SHARE} mappings")
    fragments(path, pa.table({"x": range(2)}), count)
    found = run(MANY, path.parent)
    assert found["rows"] == [2 * count] * 4
    assert share // 2 < min(found["kept"])
    # Of a table, and a few for who reads.
    assert max(found["kept"]) <= share + 16


@pytest.mark.slow
@pytest.mark.parametrize("is_one_file", [True, False])
def test_address_space_may_be_scarce(path, small, is_one_file):
    count, size = 48, 8 * MIB
    if is_one_file:
        lance.write_dataset(blobs(count, size), path)
    else:
        fragments(path, blobs(2, size // 2), count)
    found = run(TIGHT, path.parent, str(small), str(count * size // 2))
    assert found["rows"] == 2 * (count if is_one_file else 2 * count)
    assert (found["most"] == 0) == is_one_file


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_rows_that_were_served_do_not_stay_in_memory(path, small, threads):
    size = 8 * MIB
    lance.write_dataset(blobs(80, size), path)
    options = {"read": "direct", "format": "arrow", "memory_limit": "64MiB"}
    options |= {"threads": threads, "columns": None}
    grown = run(MEMORY, path.parent, json.dumps(options), str(small))["grown"]
    assert grown < 64 * MIB + 256 * MIB + 3 * size


@pytest.mark.slow
@pytest.mark.parametrize("columns", [["c7"], [f"c{at}" for at in range(200)]])
def test_columns_that_are_not_read_cost_no_memory(path, small, columns):
    table = pa.table({f"c{at}": np.arange(2, dtype=np.int16) for at in range(2000)})
    fragments(path, table, 150)
    options = {"read": "direct", "format": "arrow", "columns": columns}
    found = run(MEMORY, path.parent, json.dumps(options), str(small))
    # About 3 MB for each fragment, if all columns were kept.
    assert found["anonymous"] < (10 if len(columns) == 1 else 100) * MIB
    # And 128 MiB of the files.
    assert found["grown"] < found["anonymous"] + 160 * MIB


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
@pytest.mark.parametrize("seed", range(3))
def test_any_columns_of_several_files(path, version, seed):
    rng = random.Random(seed)
    rows = 40

    def column(at):
        kind = at % 5
        if kind == 0:
            return pa.array([f"{at} {row}" * (row % 3) for row in range(rows)])
        if kind == 1:
            return pa.array([[at] * (row % 4) for row in range(rows)])
        if kind == 2:
            return pa.array(
                [{"a": row, "b": [f"{at}"] * (row % 2)} for row in range(rows)]
            )
        if kind == 3:
            return pa.array([row % 2 == 0 for row in range(rows)])
        return pa.array(np.arange(rows, dtype=np.float32) + at)

    names = [f"c{at}" for at in range(60)]
    table = pa.table({name: column(at) for at, name in enumerate(names)})
    for start in (0, 20):
        part = table.slice(start, 20).select(names[:40])
        lance.write_dataset(part, path, mode="append", data_storage_version=version)
    dataset = lance.dataset(path)
    for some in (names[40:50], names[50:]):
        added = table.select(some).to_reader()
        dataset.add_columns(added, batch_size=rows)
    dropped = rng.sample(names, 3)
    dataset.drop_columns(dropped)
    left = [name for name in names if name not in dropped]
    perm = ll.open(path).with_format("arrow").with_read("direct")
    for _ in range(6):
        chosen = rng.sample(left, rng.choice([1, 2, 7, 30, len(left)]))
        fields = [f"{name}.b" for name in chosen if names.index(name) % 5 == 2][:2]
        chosen = [name for name in chosen if f"{name}.b" not in fields] + fields
        offsets = [rng.randrange(rows) for _ in range(rng.choice([1, 5, 50]))]
        found = perm.select_columns(chosen).take_offsets(offsets)
        for name in chosen:
            top, _, field = name.partition(".")
            values = [table[top][row].as_py() for row in offsets]
            wanted = [value[field] for value in values] if field else values
            assert found[name].to_pylist() == wanted, name
