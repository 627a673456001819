"""What is fetched of tables in object storage: once, by as few requests as are worth it, whatever fails."""

from __future__ import annotations

import collections
import itertools
import json
import random
import re
import signal
import threading
import time
from pathlib import Path

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

IMAGES = 300
IMAGE_BYTES = 30_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    rng = np.random.default_rng(0)
    images = pa.table(
        {
            "id": range(IMAGES),
            "image": pa.array(
                [rng.bytes(IMAGE_BYTES + 97 * (i % 50)) for i in range(IMAGES)],
                pa.large_binary(),
            ),
        }
    )
    lance.write_dataset(images, folder / "images.lance", max_rows_per_file=120)
    narrow = {f"c{i}": rng.normal(size=1_000_000) for i in range(4)}
    lance.write_dataset(pa.table(narrow), folder / "narrow.lance")
    texts = pa.table({"id": range(2000), "text": [f"{i} " * 9 for i in range(2000)]})
    lance.write_dataset(texts, folder / "fragments.lance", max_rows_per_file=20)
    return folder


def open_table(server, name, cache_dir, **options):
    perm = ll.open(
        f"s3://bucket/{name}.lance", storage_options=server.options | options
    )
    return perm.with_read(cache_dir=cache_dir).with_format("arrow").shuffle(seed=3)


def local_rows(folder, name, epoch=0):
    perm = ll.open(str(folder / f"{name}.lance")).with_format("arrow")
    return rows_of(perm.shuffle(seed=3), epoch)


def rows_of(perm, epoch=0, batch_size=64):
    loader = perm.loader(batch_size)
    loader.set_epoch(epoch)
    return pa.Table.from_batches(list(loader))


@pytest.mark.parametrize("name", ["images", "narrow", "fragments"])
def test_every_byte_is_fetched_once(folder, server, tmp_path, name):
    perm = open_table(server, name, tmp_path)
    assert rows_of(perm).equals(local_rows(folder, name))
    assert server.bytes <= 1.1 * counting_s3.data_bytes(folder, name) + 200_000
    server.reset()
    assert rows_of(perm, 1).equals(local_rows(folder, name, 1))
    # Another run.
    assert rows_of(open_table(server, name, tmp_path), 1).equals(
        local_rows(folder, name, 1)
    )
    # Tables that are not worth a file are kept in memory, of files that were copied.
    assert server.requests == 0


def test_windows_that_are_read_together_share_their_pages(folder, server, tmp_path):
    """Rows at random lie in all pages of a narrow table, and windows are read by several threads."""
    server.latency = 0.05
    perm = ll.open("s3://bucket/narrow.lance", storage_options=server.options)
    perm = perm.with_read("direct", cache_dir=tmp_path).with_format("arrow")
    batches = iter(perm.shuffle(seed=3).loader(64_000, threads=8))
    found = pa.Table.from_batches([next(batches) for _ in range(8)])
    assert found.equals(local_rows(folder, "narrow").slice(0, found.num_rows))
    assert server.bytes <= 1.1 * counting_s3.data_bytes(folder, "narrow") + 200_000


def test_without_a_cache_rows_are_fetched_anew(folder, server):
    perm = open_table(server, "images", "")
    for epoch in range(2):
        server.reset()
        assert rows_of(perm, epoch).equals(local_rows(folder, "images", epoch))
        assert server.bytes > 0.9 * counting_s3.data_bytes(folder, "images")


def test_many_files_are_opened_together(folder, server, tmp_path):
    server.latency = 0.05
    start = time.perf_counter()
    perm = open_table(server, "fragments", tmp_path)
    batch = next(iter(perm.loader(256)))
    wanted = local_rows(folder, "fragments").slice(0, 256)
    assert pa.Table.from_batches([batch]).equals(wanted)
    assert server.most > 20
    # One after another they would take five seconds.
    assert server.requests <= 210, time.perf_counter() - start


def test_statistics_say_what_was_fetched(server, tmp_path):
    loader = open_table(server, "images", tmp_path).loader(64)
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats.requests == server.requests
    assert stats.bytes_fetched == server.bytes
    assert stats.bytes_served >= IMAGES * IMAGE_BYTES
    assert 1 <= stats.in_flight <= stats.most_in_flight
    assert "requests" in str(stats)
    for _ in loader:
        pass
    again = loader.stats()
    assert (again.requests, again.bytes_copied) == (0, again.bytes_served)
    assert "100% of" in str(again)


def test_warm_fetches_what_is_not_packed(folder, server, tmp_path):
    perm = open_table(server, "images", tmp_path)
    seen = []
    report = perm.warm(progress=lambda done, total: seen.append(done / total))
    assert (report.rows, report.is_shared) == (IMAGES, True)
    assert report.bytes >= IMAGES * IMAGE_BYTES
    assert report.cache_dir == str(tmp_path)
    assert seen == sorted(seen)
    assert seen[-1] > 0.9
    server.reset()
    assert rows_of(perm).equals(local_rows(folder, "images"))
    assert server.requests == 0


def test_warm_says_when_there_is_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "1MB")
    with pytest.raises(errors.StorageError, match="no room"):
        open_table(server, "images", tmp_path).warm()


def test_warm_says_when_nothing_can_be_kept(folder, server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    perm = open_table(server, "images", tmp_path / "file")
    with pytest.raises(errors.StorageError, match="could not write"):
        perm.warm()
    loader = perm.loader(64)
    assert pa.Table.from_batches(list(loader)).equals(local_rows(folder, "images"))
    assert "could not write" in loader.stats().copy_failure


def test_patience_begins_with_the_first_failure(folder, server, tmp_path, monkeypatch):
    """With one request at a time, most of them wait for longer than that."""
    monkeypatch.setenv("LANCELOADER_MAX_REQUESTS", "1")
    server.latency = 0.03
    server.fault = lambda number: 503 if number == 60 else None
    process = programs.start(
        PROGRAM,
        tmp_path,
        *map(json.dumps, (server.options | {"client_retry_timeout": "1"}, 0, 1)),
    )
    assert len(programs.finish(process)["ids"]) == IMAGES


def test_tables_of_one_origin_share_the_room(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "4MB")
    perms = [open_table(server, "images", tmp_path) for _ in range(4)]
    for perm in perms:
        rows_of(perm)
    (entry,) = cache.entries(tmp_path)
    assert entry.bytes <= 4 << 20


def test_nothing_is_removed_for_what_does_not_fit(
    folder, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "12MB")
    rows_of(open_table(server, "images", tmp_path))
    assert soon(lambda: not cache.entries(tmp_path)[0].is_in_use)
    before = cache.entries(tmp_path)[0].bytes
    local = ll.open(str(folder / "narrow.lance")).with_read(cache_dir=tmp_path)
    with pytest.warns(errors.DegradedWarning, match="no room"):
        rows_of(local.with_format("arrow").shuffle(seed=3))
    kept = {entry.origin: entry.bytes for entry in cache.entries(tmp_path)}
    assert kept["s3://bucket/images.lance/data"] == before


def test_explain_says_what_is_fetched(server, tmp_path):
    text = open_table(server, "images", tmp_path).explain()
    assert f"once for all processes and later runs, kept under {tmp_path}" in text
    assert "amplified 1.0 times" in text
    text = open_table(server, "images", "").explain()
    assert "again in every epoch, as there is no cache folder" in text


FAULTS = {
    "bursts of 503": lambda _: 503 if time.monotonic() % 0.6 < 0.2 else None,
    "429 now and then": lambda number: 429 if number % 5 == 0 else None,
    "resets": lambda number: "reset" if number % 7 == 0 else None,
    "short bodies": lambda number: "short" if number % 6 == 0 else None,
    "errors of the server": lambda number: 500 if number % 6 == 0 else None,
}


@pytest.mark.parametrize("name", ["images", "narrow", "fragments"])
@pytest.mark.parametrize("fault", FAULTS)
def test_requests_that_fail_are_made_again(folder, server, tmp_path, name, fault):
    server.fault = FAULTS[fault]
    loader = open_table(server, name, tmp_path).loader(64)
    assert pa.Table.from_batches(list(loader)).equals(local_rows(folder, name))
    stats = loader.stats()
    assert stats.retries == server.failed
    is_refused = fault in {"bursts of 503", "429 now and then"}
    assert stats.throttled == (server.failed if is_refused else 0)
    server.fault = None
    server.reset()
    assert rows_of(open_table(server, name, tmp_path)).equals(local_rows(folder, name))
    assert server.requests == 0


@pytest.mark.parametrize("seed", range(4))
def test_any_faults_at_random(folder, server, tmp_path, seed):
    chance = random.Random(seed)
    kinds = [None] * 15 + ["reset", "short", 500, 503, 429]
    server.fault = lambda _: chance.choice(kinds)
    rows = rows_of(open_table(server, "images", tmp_path), seed, 32)
    assert rows.equals(local_rows(folder, "images", seed))


@pytest.mark.parametrize("fault", [503, "reset", "short"])
def test_what_stays_broken_is_an_error_in_time(server, tmp_path, fault):
    perm = open_table(server, "images", tmp_path, client_retry_timeout="2")
    server.fault = lambda _: fault
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"s3://bucket/images\.lance"):
        rows_of(perm)
    assert time.perf_counter() - start < 30
    server.fault = None
    assert rows_of(perm).num_rows == IMAGES


def test_an_outage_of_some_seconds_is_bridged(folder, server, tmp_path):
    perm = open_table(server, "images", tmp_path)
    batches = iter(perm.loader(32))
    first = next(batches)
    over = time.monotonic() + 3
    server.fault = lambda _: "reset" if time.monotonic() < over else None
    rest = list(batches)
    assert pa.Table.from_batches([first, *rest]).equals(local_rows(folder, "images"))


def test_objects_that_vanish_are_a_changed_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = pa.table({"image": [rng.bytes(40_000) for _ in range(2000)]})
    dataset = lance.write_dataset(rows, tmp_path / "b" / "t.lance")
    with counting_s3.serving(tmp_path / "b") as server:
        perm = open_table(server, "t", tmp_path / "cache")
        batches = iter(perm.loader(4, threads=1))
        next(batches)
        for file in (tmp_path / "b" / "t.lance" / "data").iterdir():
            file.unlink()
        with pytest.raises(errors.TableChangedError):
            list(batches)
    assert dataset.version == 1


def test_copies_are_read_as_local_files_are(server, tmp_path):
    """Pages around those that are touched are not read, as what is wanted is asked for ahead."""
    perm = open_table(server, "images", tmp_path)
    rows_of(perm)
    flags, is_copy = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_copy = line.endswith(".copy") and str(tmp_path) in line
        elif is_copy and line.startswith("VmFlags:"):
            flags.append(line.split())
    assert len(flags) >= 3
    assert all("rr" in each for each in flags)


def resident_copies(folder):
    """Return the bytes of mapped copies that are in this process."""
    resident, is_copy = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_copy = line.endswith(".copy") and str(folder) in line
        elif is_copy and line.startswith("Rss:"):
            resident += int(line.split()[1]) << 10
    return resident


def test_images_of_a_copy_are_not_read_through_its_mapping(folder, server, tmp_path):
    """Its pages would come into the process one fault after another, and stay for a while."""
    perm = open_table(server, "images", tmp_path)
    rows_of(perm)
    before = resident_copies(tmp_path)
    assert rows_of(perm, 1).equals(local_rows(folder, "images", 1))
    more = resident_copies(tmp_path) - before
    assert more < 0.1 * counting_s3.data_bytes(folder, "images")


@pytest.mark.parametrize("damage", ["pages", "sums", "cut sums", "removed"])
def test_a_damaged_copy_is_fetched_again(folder, server, tmp_path, damage):
    rows_of(open_table(server, "images", tmp_path))
    for file in tmp_path.rglob("*.copy" if damage == "pages" else "*.sums"):
        content = bytearray(file.read_bytes())
        if damage == "removed":
            file.unlink()
        elif damage == "cut sums":
            file.write_bytes(content[: len(content) // 2])
        else:
            content[:: 9000 if damage == "pages" else 30] = bytes(
                byte ^ 1 for byte in content[:: 9000 if damage == "pages" else 30]
            )
            file.write_bytes(content)
    server.reset()
    assert rows_of(open_table(server, "images", tmp_path)).equals(
        local_rows(folder, "images")
    )
    assert server.requests > 0
    server.reset()
    rows_of(open_table(server, "images", tmp_path))
    assert server.requests == 0


def test_a_cache_without_room_keeps_what_it_can(folder, server, tmp_path, monkeypatch):
    limit = counting_s3.data_bytes(folder, "images") // 2
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(limit))
    perm = open_table(server, "images", tmp_path)
    assert f"{limit / 2**20:.1f} MiB that {tmp_path} has room for" in perm.explain()
    loader = perm.loader(64)
    for epoch in range(2):
        loader.set_epoch(epoch)
        server.reset()
        rows = pa.Table.from_batches(list(loader))
        assert rows.equals(local_rows(folder, "images", epoch))
        stats = loader.stats()
        assert stats.failure is None
        assert f"its limit of {limit} bytes" in stats.copy_failure
        assert "not kept  could not write" in str(stats)
    # What was kept need not be fetched.
    assert 0.3 * limit < server.bytes < 1.8 * limit
    (entry,) = cache.entries(tmp_path)
    assert 0.5 * limit < entry.bytes <= limit


def test_the_cache_lists_and_clears_copies(folder, server, tmp_path):
    perm = open_table(server, "images", tmp_path)
    rows_of(perm)
    (entry,) = cache.entries(tmp_path)
    assert entry.origin == "s3://bucket/images.lance/data"
    assert (entry.columns, entry.rows, entry.is_complete) == ((), 0, True)
    assert entry.is_in_use
    assert entry.bytes >= counting_s3.data_bytes(folder, "images")
    del perm
    assert soon(lambda: not cache.entries(tmp_path)[0].is_in_use)
    cleared = cache.clear(tmp_path)
    assert [each.path for each in cleared.removed] == [entry.path]
    assert not list(tmp_path.rglob("*.copy"))


PROGRAM = (
    programs.PRELUDE
    + """
options, rank, world_size = map(json.loads, sys.argv[2:])
perm = ll.open("s3://bucket/images.lance", storage_options=options)
perm = perm.with_read(cache_dir=folder).shuffle(seed=3)
loader = perm.loader(8, rank=rank, world_size=world_size)
done(ids=[row["id"] for batch in loader for row in batch])
"""
)


def start(folder, server, rank, world_size):
    arguments = (server.options, rank, world_size)
    return programs.start(PROGRAM, folder, *map(json.dumps, arguments))


def test_ranks_of_a_node_fetch_the_bytes_of_one(folder, server, tmp_path):
    ranks = [start(tmp_path, server, rank, 4) for rank in range(4)]
    ids = [programs.finish(rank)["ids"] for rank in ranks]
    assert sorted(itertools.chain(*ids)) == list(range(IMAGES))
    assert server.bytes <= 1.25 * counting_s3.data_bytes(folder, "images")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(6))
def test_killed_while_it_fetches(folder, server, tmp_path, seed):
    chance = random.Random(seed)
    server.latency = 0.01
    for _ in range(3):
        process = start(tmp_path, server, 0, 1)
        time.sleep(chance.uniform(0.5, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    rows = rows_of(open_table(server, "images", tmp_path))
    assert rows.equals(local_rows(folder, "images"))
    server.reset()
    assert rows_of(open_table(server, "images", tmp_path)).equals(rows)
    assert server.requests == 0


@pytest.mark.timeout(150)
def test_a_request_without_an_answer_is_made_again(folder, tmp_path, monkeypatch):
    """Until then it is not answered, as by a server that has lost it."""
    monkeypatch.setenv("LANCELOADER_HEDGED_REQUESTS", "1")
    asked = collections.defaultdict(threading.Event)
    held, lock = [], threading.Lock()

    class Request(s3_folder.Request):
        def do_GET(self):  # noqa: N802
            wanted = self.path, self.headers.get("Range")
            with lock:
                is_second = wanted in asked
                again = asked[wanted]
                is_held = not is_second and len(asked) > 40 and len(asked) % 20 == 0
            if is_second:
                again.set()
            elif is_held:
                held.append(again.wait(100))
            super().do_GET()

    with s3_folder.serving(folder, request=Request) as endpoint:
        options = {"aws_endpoint": endpoint, "timeout": "120 seconds"}
        options |= counting_s3.KEYS
        process = programs.start(PROGRAM, tmp_path, *map(json.dumps, (options, 0, 1)))
        assert sorted(programs.finish(process)["ids"]) == list(range(IMAGES))
    assert len(held) > 3
    assert all(held)
