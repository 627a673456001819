"""Packed rows of tables in object storage: few requests, all under way at once, and the rows of the table."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import remote_ranks
import s3_folder
import tables
from lance_features import FEATURES
from lanceloader import errors
from process_state import soon

ROWS, COLUMNS = 1_000_000, 4
FRAGMENTS = 2
BATCH = 1024


@pytest.fixture(autouse=True)
def nothing_from_around(monkeypatch):
    s3_folder.forget_credentials(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    rng = np.random.default_rng(0)
    narrow = {f"c{i}": rng.normal(size=ROWS) for i in range(COLUMNS)}
    narrow |= {"id": np.arange(ROWS)}
    lance.write_dataset(
        pa.table(narrow), folder / "t.lance", max_rows_per_file=ROWS // FRAGMENTS
    )
    return folder


@pytest.fixture
def server(folder):
    with counting_s3.serving(folder) as server:
        yield server


def open_table(server, cache_dir, **read):
    perm = ll.open("s3://bucket/t.lance", storage_options=server.options)
    return perm.with_read(cache_dir=cache_dir, **read).with_format("arrow")


def local_rows(folder):
    return ll.open(str(folder / "t.lance")).with_format("arrow").shuffle(seed=3)


def test_blocks_are_asked_for_as_a_whole(folder, server, tmp_path):
    server.latency = 0.2
    open_table(server, tmp_path).warm()
    # Ends of files, what pages are like, and pages: these lie side by side, and are long.
    assert server.requests <= 16 * FRAGMENTS * COLUMNS
    assert server.round_trips <= 12
    assert server.bytes <= 1.05 * counting_s3.data_bytes(folder)


def test_what_files_say_of_their_pages_is_asked_for_together(folder, tmp_path):
    """Before any rows: each file would be waited for otherwise, one after another."""
    asked = []

    class Timed(s3_folder.Request):
        def do_GET(self) -> None:  # noqa: N802
            came = time.monotonic()
            time.sleep(0.3)
            super().do_GET()
            if (span := self.headers.get("Range")) and "/data/" in self.path:
                first, last = span.removeprefix("bytes=").split("-")
                asked.append((came, time.monotonic(), int(last) - int(first)))

    with counting_s3.serving(folder, request=Timed) as server:
        perm = open_table(server, tmp_path).shuffle(seed=3)
        next(iter(perm.loader(BATCH, threads=1)))
    long = min(answered for _, answered, length in asked if length > 1 << 20)
    short = [came for came, _, length in asked if length < 16 << 10]
    assert len(short) >= COLUMNS * FRAGMENTS
    assert max(short) < long


def test_a_first_batch_of_a_small_table_fetches_it_in_order(folder, server, tmp_path):
    loader = open_table(server, tmp_path).shuffle(seed=3).loader(BATCH)
    batches = iter(loader)
    first = next(batches)
    assert first.equals(next(iter(local_rows(folder).loader(BATCH))))
    assert server.requests <= 16 * FRAGMENTS * COLUMNS
    rest = pa.Table.from_batches(list(batches))
    assert rest.num_rows == ROWS - BATCH
    assert server.bytes <= 1.05 * counting_s3.data_bytes(folder)
    assert loader.stats().copy_failure is None
    # Packed as it came, and not copied before.
    assert loader.stats().rows_direct == 0
    kept = sum(file.stat().st_blocks * 512 for file in tmp_path.rglob("*.copy"))
    assert kept < 0.05 * counting_s3.data_bytes(folder)


def test_a_first_batch_of_few_rows_fetches_these(folder, server, tmp_path):
    perm = open_table(server, tmp_path).shuffle(seed=3)
    assert perm[:8].num_rows == 8
    assert server.bytes < 0.2 * counting_s3.data_bytes(folder)


def test_without_a_cache_rows_are_fetched_as_they_are_read(folder, server):
    rows = pa.Table.from_batches(
        list(open_table(server, "").shuffle(seed=3).loader(BATCH))
    )
    assert rows.equals(pa.Table.from_batches(list(local_rows(folder).loader(BATCH))))
    # In order, and once.
    assert server.bytes <= 1.05 * counting_s3.data_bytes(folder)
    assert server.requests <= 16 * FRAGMENTS * COLUMNS


def test_without_room_nothing_is_fetched_in_vain(folder, server, tmp_path, monkeypatch):
    wanted = pa.Table.from_batches(list(local_rows(folder).loader(BATCH)))
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "20MB")
    perm = open_table(server, tmp_path).shuffle(seed=3)
    with pytest.warns(errors.DegradedWarning, match="no room"):
        rows = pa.Table.from_batches(list(perm.loader(BATCH)))
    assert rows.equals(wanted)
    assert server.bytes <= 1.05 * counting_s3.data_bytes(folder)


@pytest.mark.timeout(180)
def test_rows_are_packed_while_the_slowest_of_the_first_batch_are_waited_for(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=30_000 * 256).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 256)
    lance.write_dataset(pa.table({"v": vectors}), tmp_path / "bucket/t.lance")
    lock, asked, packed = threading.Lock(), [], threading.Event()

    class Slow(s3_folder.Request):
        """Answers one of the requests for single rows last, however often it is made."""

        def do_GET(self) -> None:  # noqa: N802
            where = self.headers.get("Range", "")
            first, _, last = where.removeprefix("bytes=").partition("-")
            if "/data/" in self.path and first and int(last) - int(first) < 10_000:
                with lock:
                    asked.append(where)
                    is_held = len(asked) > 6 and where == asked[6]
                deadline = time.monotonic() + 120
                while is_held and not packed.is_set() and time.monotonic() < deadline:
                    if server.bytes > 8 << 20:
                        packed.set()
                    time.sleep(0.01)
            super().do_GET()

    with counting_s3.serving(tmp_path / "bucket", request=Slow) as server:
        perm = open_table(server, tmp_path / "cache").shuffle(seed=3)
        batches = iter(perm.loader(16, threads=2))
        first = next(batches)
        assert packed.is_set()
        rows = pa.Table.from_batches([first, *batches])
    local = ll.open(str(tmp_path / "bucket/t.lance")).with_format("arrow")
    local = local.with_read("direct").shuffle(seed=3)
    assert rows.equals(pa.Table.from_batches(list(local.loader(16))))
    assert server.bytes <= 1.1 * (30_000 << 10)


def reading_threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("lanceloader-rea") for name in names)


def test_rows_that_are_packed_are_read_by_as_many_threads_as_local_ones(
    server, tmp_path
):
    loader = open_table(server, tmp_path).shuffle(seed=3).loader(BATCH)
    list(loader)
    loader.set_epoch(1)
    batches = iter(loader)
    assert len(list(itertools.islice(batches, 20))) == 20
    # Those that there are wait for the consumer as long as there are rows to read.
    assert soon(lambda: 0 < reading_threads() <= min(4, os.cpu_count()))
    assert sum(1 for _ in batches) == -(-ROWS // BATCH) - 20


def test_ranks_of_a_node_fetch_a_small_table_once(folder, server, tmp_path):
    ids = remote_ranks.ids_of(server, tmp_path, 3)
    assert set(ids) == set(range(ROWS))
    # Ends of files are read by each.
    assert server.bytes <= 1.1 * counting_s3.data_bytes(folder) + 3 * FRAGMENTS * (
        64 << 10
    )


def in_parts(path):
    """Rows of every type in two files and with deletions, which are decoded in some parts."""
    rows = tables.every_type(3000, nulls=True).drop_columns("dictionary")
    dataset = lance.write_dataset(rows, path, max_rows_per_file=1600)
    rng = np.random.default_rng(0)

    @lance.batch_udf(output_schema=pa.schema([("long", pa.large_binary())]))
    def more(batch):
        long = [rng.bytes(8000 + i % 7) for i in range(batch.num_rows)]
        return pa.record_batch([pa.array(long, pa.large_binary())], ["long"])

    dataset.add_columns(more)
    dataset.delete("int64 % 11 = 3")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def all_rows(perm):
    batches = list(perm.shuffle(seed=1).loader(16))
    return pa.Table.from_batches(batches) if batches else None


@pytest.mark.parametrize(
    "make", [*FEATURES.values(), in_parts], ids=lambda f: f.__name__
)
def test_what_is_packed_is_what_a_local_table_has(features, tmp_path, make):
    path = features / "t.lance"
    shutil.rmtree(path, ignore_errors=True)
    make(str(path))
    with counting_s3.serving(features) as server:
        perm = open_table(server, tmp_path, read="resident")
        try:
            rows = all_rows(perm)
        except errors.UnsupportedError as error:
            pytest.skip(f"they cannot be packed: {error}")
    local = ll.open(str(path)).with_format("arrow").with_read("direct")
    assert rows == all_rows(local)
