"""Copies of remote files: which versions of a table need them, and where loaders keep them."""

from __future__ import annotations

import gc
import json

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import programs
import pyarrow as pa
import pytest
import s3_folder
from lanceloader import cache, errors
from process_state import soon

pytestmark = pytest.mark.usefixtures("no_credentials")
server = counting_s3.server

ROWS = 60
ROW_BYTES = 30_000


def images(first):
    rng = np.random.default_rng(first)
    ids = range(first, first + ROWS)
    values = [rng.bytes(ROW_BYTES) for _ in ids]
    return pa.table({"id": ids, "image": pa.array(values, pa.large_binary())})


@pytest.fixture
def folder(tmp_path):
    """A table of three fragments; the second version lacks the first one and has another."""
    folder = tmp_path / "bucket"
    uri = folder / "t.lance"
    lance.write_dataset(images(0), uri)
    for first in (ROWS, 2 * ROWS):
        lance.write_dataset(images(first), uri, mode="append")
    dataset = lance.dataset(uri)
    dataset.delete(f"id < {ROWS}")
    lance.write_dataset(images(3 * ROWS), uri, mode="append")
    return folder


OLD, NEW = 3, 5


def open_version(server, cache_dir, version=None):
    uri = "s3://bucket/t.lance"
    perm = ll.open(uri, version=version, storage_options=server.options)
    return perm.with_read(cache_dir=cache_dir).with_format("arrow")


def ids_of(perm):
    batches = perm.shuffle(seed=1).loader(16)
    return sorted(id for batch in batches for id in batch["id"].to_pylist())


def copies(cache_dir):
    return len(list(cache_dir.rglob("*.copy")))


def let_go(cache_dir):
    gc.collect()
    return soon(lambda: not any(entry.is_in_use for entry in cache.entries(cache_dir)))


def test_copies_of_older_versions_are_pruned(server, tmp_path):
    kept = tmp_path / "kept"
    assert ids_of(open_version(server, kept, OLD)) == list(range(3 * ROWS))
    assert let_go(kept)
    assert cache.prune(kept) == cache.Pruned(0, 0)
    assert ids_of(open_version(server, kept)) == list(range(ROWS, 4 * ROWS))
    assert copies(kept) == 4
    would = cache.prune(kept, dry_run=True)
    assert would.files == 1
    assert ROWS * ROW_BYTES < would.bytes < 1.2 * ROWS * ROW_BYTES
    assert copies(kept) == 4
    assert cache.prune(kept) == would
    assert copies(kept) == 3
    assert cache.prune(kept) == cache.Pruned(0, 0)
    server.reset()
    assert ids_of(open_version(server, kept)) == list(range(ROWS, 4 * ROWS))
    assert server.requests == 0
    # What is gone is fetched again.
    assert ids_of(open_version(server, kept, OLD)) == list(range(3 * ROWS))
    assert 0 < server.bytes < 1.2 * ROWS * ROW_BYTES


READER = (
    programs.PRELUDE
    + """
perm = ll.open("s3://bucket/t.lance", version=3, storage_options=json.loads(sys.argv[2]))
perm = perm.with_read(cache_dir=folder).with_format("arrow")
batches = iter(perm.shuffle(seed=1).loader(16))
next(batches)
open(sys.argv[3] + "/reading", "w").close()
end = time.monotonic() + 120
while not os.path.exists(sys.argv[3] + "/go on") and time.monotonic() < end:
    time.sleep(0.01)
done(rows=sum(batch.num_rows for batch in batches))
"""
)


def test_what_a_process_reads_is_not_pruned(server, tmp_path):
    kept = tmp_path / "kept"
    reader = open_version(server, kept, OLD)
    assert len(ids_of(reader)) == 3 * ROWS
    ids_of(open_version(server, kept))
    assert cache.prune(kept).files == 0
    assert copies(kept) == 4
    del reader
    assert let_go(kept)
    assert cache.prune(kept).files == 1


def test_what_another_process_reads_is_not_pruned(server, tmp_path):
    kept = tmp_path / "kept"
    arguments = json.dumps(server.options), str(tmp_path)
    process = programs.start(READER, kept, *arguments)
    is_reading = soon((tmp_path / "reading").exists, 120)
    ids_of(open_version(server, kept))
    pruned = cache.prune(kept).files
    (tmp_path / "go on").touch()
    assert (is_reading, pruned) == (True, 0)
    assert programs.finish(process)["rows"] == 3 * ROWS - 16
    assert cache.prune(kept).files == 1


def test_copies_of_older_versions_make_room_first(server, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    other = tmp_path / "other"
    ids_of(open_version(server, kept, OLD))
    assert let_go(kept)
    ids_of(open_version(server, other))
    fetched = sum(entry.bytes for entry in cache.entries(other))
    # Room for three of the four files.
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(1.1 * fetched)))
    perm = open_version(server, kept)
    assert ids_of(perm) == list(range(ROWS, 4 * ROWS))
    assert perm.open_reader().stats().copy_failure is None
    assert copies(kept) == 3
    server.reset()
    assert ids_of(open_version(server, kept)) == list(range(ROWS, 4 * ROWS))
    assert server.requests == 0


def test_each_loader_keeps_copies_where_it_was_told_to(server, tmp_path):
    """Also loaders of one table object that read one after another, or by turns."""
    table = ll.open("s3://bucket/t.lance", storage_options=server.options)
    perm = table.with_format("arrow").shuffle(seed=1)
    loaders = [
        perm.loader(16, cache_dir=folder)
        for folder in (tmp_path / "a", "", tmp_path / "b")
    ]
    for batches in zip(*loaders, strict=True):
        assert batches[0].equals(batches[1])
        assert batches[0].equals(batches[2])
    for loader, folder in zip(loaders[::2], ("a", "b"), strict=True):
        (entry,) = cache.entries(tmp_path / folder)
        assert entry.bytes > 3 * ROWS * ROW_BYTES
        server.reset()
        list(loader)
        assert server.requests == 0
    list(loaders[1])
    assert server.bytes > 3 * ROWS * ROW_BYTES


def test_each_loader_has_the_limit_of_its_time(server, tmp_path, monkeypatch):
    table = ll.open("s3://bucket/t.lance", storage_options=server.options)
    perm = table.with_format("arrow").shuffle(seed=1)
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "2MB")
    small = perm.loader(16, cache_dir=tmp_path / "kept")
    list(small)
    assert "its limit of 2000000 bytes" in small.stats().copy_failure
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "200MB")
    large = perm.loader(16, cache_dir=tmp_path / "kept")
    list(large)
    assert large.stats().copy_failure is None
    server.reset()
    list(large)
    assert server.requests == 0


def manifest(folder, version, name):
    """Return where new writers put a version, or where old ones did."""
    names = {"new": f"{2**64 - 1 - version:020}.manifest", "old": f"{version}.manifest"}
    return folder / "_versions" / names[name]


@pytest.mark.parametrize(("name", "requests"), [("new", ["GET"]), ("old", None)])
def test_a_version_by_number_is_one_request(tmp_path, name, requests):
    asked = []

    class Request(s3_folder.Request):
        def do_GET(self) -> None:  # noqa: N802
            if "/_versions/" in self.path:
                asked.append(self.command)
            super().do_GET()

    folder = tmp_path / "t.lance"
    for version in range(1, 4):
        rows = pa.table({"id": range(10 * version)})
        lance.write_dataset(rows, folder, mode="overwrite")
    for version in range(1, 4):
        manifest(folder, version, "new").rename(manifest(folder, version, name))
    with counting_s3.serving(tmp_path, request=Request) as server:
        perm = ll.open("s3://bucket/t.lance", storage_options=server.options, version=2)
        assert perm.num_rows == 20
        assert requests is None or asked == requests
        with pytest.raises(errors.TableChangedError):
            ll.open("s3://bucket/t.lance", storage_options=server.options, version=9)
