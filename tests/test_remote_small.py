"""Small tables of texts in object storage: all of one comes at once, before anything waits for parts of it."""

from __future__ import annotations

import shutil

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import remote_ranks

pytestmark = pytest.mark.usefixtures("no_credentials")
server = counting_s3.server

ROWS = 150_000
BATCH = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, ROWS)
    texts = [f"{i} " + "x" * int(length) for i, length in enumerate(lengths)]
    rows = pa.table({"id": np.arange(ROWS), "noise": rng.random(ROWS), "text": texts})
    lance.write_dataset(rows, folder / "t.lance")
    return folder


@pytest.fixture(scope="module")
def wanted(folder):
    return rows_of(ll.open(str(folder / "t.lance")).with_format("arrow"))


def open_table(server, cache_dir, **read):
    perm = ll.open("s3://bucket/t.lance", storage_options=server.options)
    return perm.with_read(cache_dir=cache_dir, **read).with_format("arrow")


def rows_of(perm, batch_size=BATCH):
    return pa.Table.from_batches(list(perm.shuffle(seed=3).loader(batch_size)))


def test_the_first_batch_waits_for_the_end_of_the_file_and_for_its_rows(
    folder, server, tmp_path, wanted
):
    server.latency = 0.2
    perm = open_table(server, tmp_path)
    server.reset()
    batches = iter(perm.shuffle(seed=3).loader(BATCH))
    rows = [next(batches)]
    assert server.round_trips <= 2
    assert pa.Table.from_batches([*rows, *batches]).equals(wanted)
    assert server.bytes <= 1.05 * counting_s3.data_bytes(folder) + (64 << 10)


def test_a_second_run_makes_no_request(server, tmp_path, wanted):
    assert rows_of(open_table(server, tmp_path)).equals(wanted)
    server.reset()
    assert rows_of(open_table(server, tmp_path)).equals(wanted)
    assert server.requests == 0


def test_what_was_packed_before_is_not_fetched_for_a_longer_batch(
    server, tmp_path, wanted
):
    """The first batch of the first run touched a small part of the table, which was packed."""
    assert rows_of(open_table(server, tmp_path), 2).num_rows == ROWS
    server.reset()
    assert rows_of(open_table(server, tmp_path)).equals(wanted)
    assert server.requests == 0


def test_rows_that_stay_packed_are_not_fetched_when_their_copies_are_gone(
    folder, server, tmp_path, wanted
):
    assert rows_of(open_table(server, tmp_path)).equals(wanted)
    for file in (*tmp_path.rglob("*.copy"), *tmp_path.rglob("*.sums")):
        file.unlink()
    server.reset()
    assert rows_of(open_table(server, tmp_path)).equals(wanted)
    assert server.bytes < 0.2 * counting_s3.data_bytes(folder)


@pytest.mark.parametrize("read", ["direct", "external"])
def test_other_ways_to_read_serve_the_same_rows(server, tmp_path, wanted, read):
    perm = open_table(server, tmp_path, read=read)
    assert rows_of(perm).equals(wanted)


def test_without_room_or_a_folder_the_rows_are_the_same(
    folder, server, tmp_path, wanted, monkeypatch
):
    assert rows_of(open_table(server, "")).equals(wanted)
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "1MB")
    perm = open_table(server, tmp_path)
    server.reset()
    with pytest.warns(ll.errors.DegradedWarning, match="no room"):
        assert rows_of(perm).equals(wanted)
    assert server.bytes <= 1.2 * counting_s3.data_bytes(folder)


def test_ranks_of_a_node_fetch_it_once(folder, server, tmp_path):
    ids = remote_ranks.ids_of(server, tmp_path, 3)
    assert set(ids) == set(range(ROWS))
    assert server.bytes <= 1.1 * counting_s3.data_bytes(folder) + 3 * (64 << 10)


def test_a_file_that_is_gone_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bucket")
    with counting_s3.serving(tmp_path / "bucket") as server:
        perm = open_table(server, tmp_path / "cache")
        (data,) = (tmp_path / "bucket/t.lance/data").iterdir()
        data.unlink()
        with pytest.raises(ll.errors.TableChangedError, match=r"t\.lance"):
            rows_of(perm)
