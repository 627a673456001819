"""``lanceloader.cache``: listing the folder and clearing it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import lanceloader as ll
import pytest
from lanceloader import cache, cache_removal
from process_state import soon
from vector_tables import large


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rows"


@pytest.fixture
def warmed(tmp_path, folder):
    """A folder with the packed rows of two tables."""
    for seed in range(2):
        uri = large(tmp_path / f"{seed}.lance", seed=seed).uri
        ll.open(uri).select_columns(["id", "vector"]).warm(cache_dir=folder)
    # The threads that read ahead let go of the files a moment after their loader is dropped.
    assert soon(lambda: not any(entry.is_in_use for entry in cache.entries(folder)))
    return folder


def test_the_folder_is_that_of_the_library(monkeypatch, tmp_path):
    assert cache.path(tmp_path) == tmp_path
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "there"))
    assert cache.path() == tmp_path / "there"
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", "")
    assert cache.path() is None
    assert cache.entries() == []
    assert cache.clear() == cache.Cleared((), ())
    monkeypatch.delenv("LANCELOADER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.path() == tmp_path / "lanceloader" / "rows"


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert cache.entries(tmp_path / "none") == []
    assert cache.clear(tmp_path / "none") == cache.Cleared((), ())
    assert not (tmp_path / "none").exists()


def test_entries_describe_their_tables(warmed):
    found = cache.entries(warmed)
    assert len(found) == 2
    for entry in found:
        assert sorted(entry.columns) == ["id", "vector"]
        assert entry.rows == 50_000
        files = [file for file in entry.path.iterdir() if file.is_file()]
        assert entry.bytes == sum(file.stat().st_size for file in files) > 8 << 20
        assert entry.is_complete
        assert not entry.is_in_use
        age = dt.datetime.now(dt.UTC) - entry.last_used
        assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)
    assert found[0].last_used >= found[1].last_used
    assert len({entry.table for entry in found}) == 2
    next(found[0].path.glob("*.rows")).unlink()
    assert sorted(entry.is_complete for entry in cache.entries(warmed)) == [False, True]


def test_clearing_removes_all_that_is_ours(warmed):
    found = cache.entries(warmed)
    would = cache.clear(warmed, dry_run=True)
    assert set(would.removed) == set(found)
    assert cache.entries(warmed) == found
    done = cache.clear(warmed)
    assert set(done.removed) == set(found)
    assert done.kept == ()
    assert done.bytes == sum(entry.bytes for entry in found)
    assert cache.entries(warmed) == []
    assert not any(entry.path.parent.exists() for entry in found)


def test_what_is_in_use_stays_and_works_on(tmp_path, warmed):
    uri = str(tmp_path / "0.lance")
    perm = ll.open(uri).select_columns(["id", "vector"])
    perm = perm.with_read("resident", cache_dir=warmed)
    loader = perm.loader(1000, shuffle=True, seed=1, format="arrow")
    batches = iter(loader)
    next(batches)
    assert [entry.is_in_use for entry in cache.entries(warmed)].count(True) == 1
    done = cache.clear(warmed)
    assert (len(done.removed), len(done.kept)) == (1, 1)
    assert sum(map(len, batches)) == 49_000
    del loader, batches, perm


READER = """
import sys
import lanceloader as ll
perm = ll.open(sys.argv[1]).select_columns(["id", "vector"])
loader = perm.loader(1000, shuffle=True, seed=1, read="resident", cache_dir=sys.argv[2])
batches = iter(loader)
next(batches)
print("reading", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays(tmp_path, warmed):
    command = [sys.executable, "-c", READER, str(tmp_path / "0.lance"), str(warmed)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "reading\n"
        done = cache.clear(warmed)
        reader.communicate()
    assert reader.returncode == 0
    assert (len(done.removed), len(done.kept)) == (1, 1)
    assert len(cache.clear(warmed).removed) == 1


def test_rows_are_packed_again_after_clearing(tmp_path, warmed):
    cache.clear(warmed)
    perm = ll.open(tmp_path / "0.lance").select_columns(["id", "vector"])
    assert perm.warm(cache_dir=warmed).blocks_packed > 0


def test_a_folder_without_our_marker_is_not_cleared(warmed):
    (warmed / "lanceloader-cache").unlink()
    done = cache.clear(warmed)
    assert (len(done.removed), len(done.kept)) == (0, 2)
    (warmed / "lanceloader-cache").write_text("a text of mine")
    assert cache.clear(warmed).removed == ()
    assert len(cache.entries(warmed)) == 2


def test_what_others_put_there_stays(tmp_path, warmed):
    ours = cache.entries(warmed)[0]
    description = (ours.path / "entry.json").read_text()
    longer = json.dumps(json.loads(description) | {"owner": "me"})
    strangers = {
        "blog/post": '{"title": "entry"}',
        "blog/0123456789abcdef": longer,
        "blog/fedcba9876543210": "[1]",
        "blog/copy": description,
    }
    for place, text in strangers.items():
        (warmed / place).mkdir(parents=True)
        (warmed / place / "entry.json").write_text(text)
        (warmed / place / "000000.rows").write_text("weeks of work")
    away = tmp_path / "away" / "0000000000000000"
    away.mkdir(parents=True)
    (away / "entry.json").write_text(description)
    (warmed / "link").symlink_to(away.parent)
    shared = warmed / "shared" / "0000000000000000"
    shared.mkdir(parents=True)
    (shared / "entry.json").write_text(description)
    shared.chmod(0o777)
    (ours.path / "notes.txt").write_text("mine")
    (ours.path / "000009.rows").symlink_to(away / "entry.json")

    done = cache.clear(warmed)
    assert len(done.removed) == 2
    for place in strangers:
        assert (warmed / place / "000000.rows").read_text() == "weeks of work"
    assert (away / "entry.json").read_text() == description
    assert (shared / "entry.json").exists()
    assert (ours.path / "notes.txt").read_text() == "mine"
    assert not (ours.path / "000000.rows").exists()


def test_files_written_by_the_core_are_recognised(warmed):
    """The layout of the folder is written down twice; this holds both together."""
    (marker,) = Path(warmed).glob("lanceloader-cache")
    assert marker.read_text() == cache_removal._MARK
    for entry in cache.entries(warmed):
        names = {file.name for file in entry.path.iterdir()}
        assert names >= {"entry.json", "lock", "000000.rows"}
        assert all(cache_removal._OWN_FILE.fullmatch(name) for name in names)
        found = json.loads((entry.path / "entry.json").read_text())
        assert set(found) == cache._FIELDS


def test_a_file_is_no_cache_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`cache_dir`.*is a file"):
        cache.clear(file)
    assert file.read_text() == "mine"
