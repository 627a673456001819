"""Full disks, deleted folders, damaged files and killed processes."""

from __future__ import annotations

import datetime as dt
import os
import random
import shutil
import signal
import stat
import subprocess
import time
import warnings

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader import errors
from packed_files import DAMAGE, files, filled, is_cold, is_warm
from process_state import settle, soon
from programs import PRELUDE, run, start
from reader_programs import CUT, FILLER
from vector_tables import ROWS_OF_FIVE_BLOCKS, STRATEGIES, large, table_of, vectors

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore::lanceloader.errors.DegradedWarning"),
]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "rows"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """13 MB, in one block."""
    path = tmp_path_factory.mktemp("faults") / "t.lance"
    return large(path, max_rows_per_file=20_000).uri


def texts(num_rows, seed=0):
    """Rows with tails: texts of many lengths."""
    words = [f"{seed} {row} " * (row % 40) for row in range(num_rows)]
    return vectors(num_rows, seed=seed).append_column("text", pa.array(words))


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """28 MB with tails, in two blocks."""
    path = tmp_path_factory.mktemp("faults") / "t.lance"
    return lance.write_dataset(texts(60_000), path, max_rows_per_file=25_000).uri


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """As tall as ``tall``, of other rows."""
    path = tmp_path_factory.mktemp("faults") / "o.lance"
    return lance.write_dataset(texts(60_000, seed=1), path).uri


def loader_of(source, cache, seed=1, read="resident", **options):
    perm = source if isinstance(source, ll.Permutation) else ll.open(source)
    return perm.loader(
        500,
        shuffle=True,
        seed=seed,
        format="arrow",
        read=read,
        cache_dir=cache,
        **options,
    )


def wanted_of(loader):
    return loader.permutation.with_read("direct").to_arrow()


def load(source, cache, **options):
    """What loading did; the rows are right, and nothing stays open."""
    loader = loader_of(source, cache, **options)
    assert table_of(loader).equals(wanted_of(loader))
    if options.get("read", "resident") == "resident":
        filled(loader)
    stats = loader.stats()
    assert table_of(loader).equals(wanted_of(loader))
    del loader, source
    settle()
    return stats


# Too little.


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_a_memory_limit_below_one_row(uri, cache, limit):
    for read in ("resident", "external"):
        with pytest.raises(
            ValueError, match=rf"memory_limit of {limit} bytes.*at least \d+"
        ):
            load(uri, cache, read=read, memory_limit=limit)
    for read in ("direct", "auto"):
        load(ll.open(uri).with_take(2000), cache, read=read, memory_limit=limit)
    assert not files(cache)


def test_a_missing_cache_folder_is_created(uri, cache):
    stats = load(uri, cache / "deep" / "er")
    assert is_cold(stats)
    assert stats.is_shared
    assert files(cache)
    folder = files(cache)[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert is_warm(load(uri, cache / "deep" / "er"))


@pytest.mark.parametrize("below", [".", "deep"])
def test_a_file_in_place_of_the_cache_folder(uri, cache, below):
    cache.write_text("mine")
    stats = load(uri, cache / below)
    assert is_cold(stats)
    assert not stats.is_shared
    assert str(cache) in stats.failure
    assert cache.read_text() == "mine"


@pytest.mark.slow
def test_a_degraded_cache_warns_only_once(uri, cache):
    cache.write_text("mine")
    with pytest.warns(errors.DegradedWarning, match=str(cache)):
        load(uri, cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(uri, cache)


# Disks.


@pytest.fixture
def disk(tmp_path):
    """Makes a small disk."""
    mounted = []

    def make(options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            made = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(str(error))
        if made.returncode:
            pytest.skip(made.stderr)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=20m", "size=99m,ro"])
def test_a_full_disk(tall, disk, options):
    folder = disk(options)
    stats = load(tall, folder)
    assert is_cold(stats)
    assert not stats.is_shared
    assert str(folder) in stats.failure
    assert not files(folder)
    assert not files(folder, "part")


@pytest.mark.slow
def test_a_disk_that_fills_up_while_rows_are_packed(tmp_path, disk, monkeypatch):
    """Rows are longer than they seemed: those that are looked at first are short."""
    table = vectors(20_000, dim=150)
    long = np.ones(20_000, bool)
    long[[(2 * part + 1) * 20_000 // 256 for part in range(128)]] = False
    words = [f"{row:04} " * 400 if long[row] else "" for row in range(20_000)]
    uri = lance.write_dataset(
        table.append_column("text", pa.array(words)), tmp_path / "t.lance"
    ).uri
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "1GB")
    folder = disk("size=24m")
    stats = load(uri, folder)
    assert is_cold(stats)
    assert not stats.is_shared
    assert "No space" in stats.failure
    assert not files(folder, "part")
    # What could be written is right.
    (tmp_path / "more").mkdir()
    shutil.copytree(folder, tmp_path / "more", dirs_exist_ok=True)
    load(uri, tmp_path / "more")
    assert is_warm(load(uri, tmp_path / "more"))


@pytest.mark.slow
def test_two_tables_on_a_disk_with_room_for_one(tall, other, disk):
    folder = disk("size=40m")
    loaders = [loader_of(each, folder) for each in (tall, other)]
    found = [iter(loader) for loader in loaders]
    firsts = [next(batches) for batches in found]
    for loader, first, batches in zip(loaders, firsts, found, strict=True):
        rows = pa.Table.from_batches([first, *batches])
        assert rows.equals(wanted_of(loader))
        assert table_of(loader).equals(wanted_of(loader))
    assert soon(lambda: all(each.stats().fill_seconds for each in loaders))
    assert not all(each.stats().is_shared for each in loaders)
    assert not files(folder, "part")


@pytest.mark.slow
def test_the_least_recently_used_rows_are_evicted(tmp_path, disk, monkeypatch):
    folder = disk("size=40m")
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "38MB")
    a, b = (large(tmp_path / f"{seed}.lance", seed=seed).uri for seed in range(2))
    assert is_cold(load(a, folder))
    assert is_cold(load(b, folder))
    assert is_warm(load(a, folder))
    assert is_warm(load(b, folder))


@pytest.mark.slow
@pytest.mark.parametrize("read", ["external", "auto"])
@pytest.mark.parametrize("size", [1, 5, 20])
def test_scratch_files_on_a_full_disk(uri, disk, monkeypatch, read, size):
    """20 MB hold one epoch, but not the next one as well."""
    folder = disk(f"size={size}m")
    monkeypatch.setenv("LANCELOADER_SCRATCH_DIR", str(folder))
    loader = loader_of(uri, "", read=read, memory_limit="2MiB")
    failures = []
    for epoch in (0, 1, 2, 1):
        loader.set_epoch(epoch)
        assert table_of(loader).equals(wanted_of(loader)), epoch
        failures.append(loader.stats().failure)
    if size < 20:
        assert all("No space" in failure for failure in failures), failures
    assert list(folder.iterdir()) == []
    del loader
    settle()
    assert os.statvfs(folder).f_bfree == os.statvfs(folder).f_blocks


@pytest.mark.slow
def test_a_disk_that_has_room_again_is_used(uri, disk, monkeypatch):
    folder = disk("size=40m")
    monkeypatch.setenv("LANCELOADER_SCRATCH_DIR", str(folder))
    (folder / "much").write_bytes(bytes(35 << 20))
    loader = loader_of(uri, "", read="external", memory_limit="2MiB")
    assert table_of(loader).equals(wanted_of(loader))
    assert "No space" in loader.stats().failure
    (folder / "much").unlink()
    assert table_of(loader).equals(wanted_of(loader))
    assert loader.stats().rows_spilled == len(loader.permutation)
    assert loader.stats().failure is None


# Folders and files that change.


@pytest.mark.slow
@pytest.mark.parametrize("what", ["everything", "the table", "the entry"])
@pytest.mark.parametrize("taken", [0, 1, 20, 100, 120])
def test_a_cache_folder_deleted_while_in_use(tall, cache, what, taken):
    loader = loader_of(tall, cache)
    batches = iter(loader)
    found = [next(batches) for _ in range(taken)]
    folders = {
        "everything": [cache],
        "the table": cache.glob("*"),
        "the entry": cache.glob("*/*"),
    }
    for folder in folders[what]:
        shutil.rmtree(folder, ignore_errors=True)
    wanted = wanted_of(loader)
    assert pa.Table.from_batches([*found, *batches]).equals(wanted)
    filled(loader)
    shutil.rmtree(cache, ignore_errors=True)
    assert table_of(loader).equals(wanted)
    assert table_of(loader_of(tall, cache)).equals(wanted)
    del loader, batches
    settle()
    load(tall, cache)
    assert is_warm(load(tall, cache))
    assert not files(cache, "part")


def mark_as_verified(uri, cache):
    """Load rows whose files are old enough to be marked."""
    hour_ago = time.time() - 3600
    for file in files(cache):
        os.utime(file, (hour_ago, hour_ago))
        try:
            os.setxattr(file, "user.lanceloader.test", b"")
            os.removexattr(file, "user.lanceloader.test")
        except OSError:
            pytest.skip("files have no extended attributes here")
    assert is_warm(load(uri, cache))
    marks = [os.listxattr(file) for file in files(cache)]
    assert marks == [["user.lanceloader.verified"]] * len(marks)


@pytest.mark.slow
@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_replaced(tall, cache, damage, is_marked):
    assert is_cold(load(tall, cache))
    if is_marked:
        mark_as_verified(tall, cache)
    before = {file: file.read_bytes() for file in files(cache)}
    DAMAGE[damage](files(cache)[-1])
    changed = sum(not f.exists() or f.read_bytes() != b for f, b in before.items())
    stats = load(tall, cache)
    assert stats.blocks_filled == changed
    assert stats.blocks_mapped == len(before) - changed
    assert {file: file.read_bytes() for file in files(cache)} == before
    assert is_warm(load(tall, cache))
    assert not files(cache, "part")


@pytest.mark.slow
def test_cache_files_copied_from_another_table_are_replaced(tall, other, cache):
    """Of the same schema and number of rows."""
    load(tall, cache)
    load(other, cache)
    first, second = (
        {f.parent for f in files(folder)}.pop()
        for folder in cache.iterdir()
        if folder.is_dir()
    )
    for file in files(first):
        shutil.copy(file, second / file.name)
    stats = [load(each, cache) for each in (tall, other)]
    assert sorted([is_cold(each) for each in stats]) == [False, True]
    assert all(is_warm(load(each, cache)) for each in (tall, other))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["000001.rows", "000001.new.part", "lock", "entry.json"]
)
def test_a_folder_in_place_of_a_cache_file(tall, cache, name):
    load(tall, cache)
    (folder,) = {file.parent for file in files(cache)}
    (folder / "000001.rows").unlink()
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    stats = load(tall, cache)
    assert not stats.is_shared
    assert stats.failure


# Processes that are killed, tables that change.


@pytest.mark.slow
def test_a_killed_process_leaves_a_usable_cache(tmp_path, cache):
    uri = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS).uri
    rng = random.Random(0)
    for _ in range(10):
        shutil.rmtree(cache, ignore_errors=True)
        process = start(PRELUDE + FILLER, tmp_path, uri, str(cache))
        assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = run(PRELUDE + FILLER, tmp_path, uri, str(cache))
        assert found == {"is_shared": True, "blocks": 5}
        assert len(files(cache)) == 5
        assert not files(cache, "part")


@pytest.mark.slow
@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("taken", [0, 1, 50])
def test_a_version_cleaned_up_while_it_is_read(tmp_path, cache, read, taken):
    dataset = large(tmp_path / "t.lance", max_rows_per_file=3000)
    view = ll.open(dataset.uri).with_read("direct")
    wanted = {epoch: view.shuffle(seed=1, epoch=epoch).to_arrow() for epoch in range(2)}
    del view
    loader = loader_of(dataset.uri, cache, read=read, memory_limit="20MB")
    batches = iter(loader)
    begun = [next(batches) for _ in range(taken)]
    dataset.delete("id % 5 = 0")
    dataset.optimize.compact_files()
    lance.dataset(dataset.uri).cleanup_old_versions(
        older_than=dt.timedelta(0), delete_unverified=True
    )
    for epoch, rest in (
        (0, lambda: [*begun, *batches]),
        (0, lambda: [*loader.set_epoch(0)]),
        (1, lambda: [*loader.set_epoch(1)]),
        (0, lambda: [*loader.set_epoch(0)]),
    ):
        if taken:
            # The first batch has opened every file, and they stay open.
            assert pa.Table.from_batches(rest()).equals(wanted[epoch])
        else:
            with pytest.raises(errors.TableChangedError, match="version 1 of"):
                rest()
    batches = begun = rest = loader = None
    settle()
    load(dataset.uri, cache)


@pytest.mark.slow
@pytest.mark.parametrize("read", STRATEGIES)
def test_data_files_that_are_cut_short_before_they_are_read(tmp_path, cache, read):
    """A file that is cut short while it is being read kills the process instead."""
    uri = large(tmp_path / "t.lance", max_rows_per_file=5000).uri
    found = run(PRELUDE + CUT, tmp_path, uri, read, str(cache))
    assert found["rows"] == 0
    assert ".lance is damaged" in found["error"]
