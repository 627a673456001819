"""The folder of packed rows: what is evicted, its limit, and what killed processes leave."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader import errors
from packed_files import files
from process_state import settle, soon
from programs import PRELUDE, finish, start
from vector_tables import ROWS_OF_FIVE_BLOCKS, large, table_of

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "rows")


def load(path, cache, **options):
    """What a loader did that packed all rows; nothing stays open."""
    loader = ll.open(path).loader(
        1000,
        shuffle=True,
        seed=1,
        format="arrow",
        read="resident",
        cache_dir=cache,
        **options,
    )
    rows = table_of(loader)
    assert rows.sort_by("id")["id"].to_pylist() == list(range(len(rows)))
    stats = stats_of(loader)
    del loader
    settle()
    return stats


def stats_of(loader):
    """What it did, once all rows are packed."""
    assert soon(lambda: loader.stats().fill_seconds > 0), loader.stats()
    return loader.stats()


def bytes_of(folder) -> int:
    """Return what the files of a folder have together, some of which may be going away.

    A file that went while others were looked at is not counted: what made room for another
    file must not be added to it.
    """
    found = {}
    for at, _, names in os.walk(folder):
        for path in (Path(at) / name for name in names):
            with contextlib.suppress(OSError):
                file = path.lstat()
                found[path, file.st_ino] = file.st_size
    for path, inode in list(found):
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == inode:
                continue
        del found[path, inode]
    return sum(found.values())


# What is removed.


def test_projects_of_others_in_the_folder_stay(tmp_path, cache, monkeypatch):
    """Also those that look like entries to whoever looks no closer than at one name."""
    first, second = (large(tmp_path / f"{k}.lance", seed=k).uri for k in range(2))
    size = load(first, cache).bytes_kept
    (entry,) = {file.parent for file in files(cache)}
    description = (entry / "entry.json").read_text()
    away = tmp_path / "away"
    strangers = {
        "blog/post": '{"title": "entry"}',
        "blog/draft": "",
        "blog/copy": description,
        f"blog/{entry.name}": json.dumps(json.loads(description) | {"owner": "me"}),
    }
    for place, text in strangers.items():
        project = Path(cache) / place
        project.mkdir(parents=True)
        for name in ("000000.rows", "results.rows", "draft.part", "lock", "notes.txt"):
            (project / name).write_text("weeks of work")
        (project / "entry.json").write_text(text)
    (away / "site").mkdir(parents=True)
    (away / "site" / "entry.json").write_text(description)
    (away / "site" / "page.rows").write_text("weeks of work")
    # They would go first.
    for file in (*Path(cache).glob("blog/*/entry.json"), away / "site" / "entry.json"):
        os.utime(file, (1, 1))
    (Path(cache) / "link").symlink_to(away)
    (Path(cache) / "blog" / "linked").symlink_to(away / "site")

    def everything():
        found = {}
        for folder in (Path(cache), away):
            for file in folder.rglob("*"):
                if entry.parent.name in file.parts or file.name.startswith(
                    "lanceloader"
                ):
                    continue
                if file.is_file() and not file.is_symlink():
                    found[file] = file.read_bytes()
        return found

    before = everything()
    assert len(before) == 6 * len(strangers) + 2
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(1.5 * size)))
    assert load(second, cache).is_shared, "what is ours made room"
    assert not entry.exists()
    now = everything()
    assert {file: now[file] for file in before} == before


def test_a_folder_of_an_earlier_version_is_used_and_trimmed(
    tmp_path, cache, monkeypatch
):
    first, second = (large(tmp_path / f"{k}.lance", seed=k).uri for k in range(2))
    size = load(first, cache).bytes_kept
    for file in Path(cache).glob("lanceloader*"):
        file.unlink()
    assert load(first, cache).blocks_filled == 0, "it is warm"
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(1.5 * size)))
    for file in Path(cache).glob("lanceloader*"):
        file.unlink()
    assert load(second, cache).is_shared
    assert load(first, cache).blocks_filled > 0, "it made room"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, cache, monkeypatch):
    first, second = (large(tmp_path / f"{k}.lance", seed=k).uri for k in range(2))
    project = Path(cache) / "blog" / "post"
    project.mkdir(parents=True)
    (project / "entry.json").write_text("{}")
    stats = load(first, cache)
    assert stats.is_shared, "it is used"
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(int(1.5 * stats.bytes_kept)))
    before = files(cache)
    with pytest.warns(errors.DegradedWarning, match="a folder of its own"):
        assert not load(second, cache).is_shared
    assert files(cache) == before


# The limit.


def ragged(path, num_rows, seed):
    """Texts that are short in the rows that are looked at to learn how long they are."""
    long = np.random.default_rng(seed).random(num_rows) < 0.5
    count = 128
    looked_at = [(2 * k + 1) * num_rows // (2 * count) for k in range(count)]
    long[looked_at] = False
    text = [("x" * 900 if each else "y" * 300) for each in long]
    data = pa.table({"id": range(num_rows), "text": text})
    return lance.write_dataset(data, path).uri


PACKS = """
import warnings
warnings.simplefilter("ignore", ll.errors.DegradedWarning)
for path in sys.argv[3:]:
    perm = ll.open(path).with_read("resident", cache_dir=sys.argv[2])
    loader = perm.loader(1000, shuffle=True, seed=1, format="numpy_dict")
    assert sum(len(batch["id"]) for batch in loader) == len(perm)
    assert soon(lambda: loader.stats().fill_seconds > 0), loader.stats()
    del loader, perm
done()
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_the_limit_holds_all_the_time(tmp_path, cache, processes, monkeypatch):
    """Of one process that packs more than it thought, and of several that write at once."""
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "30MB")
    paths = [ragged(tmp_path / f"{k}.lance", 60_000, k) for k in range(3)]
    orders = [paths[k:] + paths[:k] for k in range(processes)]
    running = [start(PRELUDE + PACKS, tmp_path, cache, *order) for order in orders]
    most = 0
    while any(process.poll() is None for process in running):
        most = max(most, bytes_of(cache))
    for process in running:
        finish(process)
    most = max(most, bytes_of(cache))
    assert 10_000_000 < most <= 30_000_000


def test_a_later_run_trims_the_cache_to_its_limit(tmp_path, cache, monkeypatch):
    paths = [large(tmp_path / f"{k}.lance", seed=k).uri for k in range(3)]
    sizes = [load(path, cache).bytes_kept for path in paths]
    assert bytes_of(cache) > sum(sizes)
    limit = int(1.5 * sizes[0])
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", str(limit))
    assert load(paths[2], cache).blocks_filled == 0, (
        "it is there, so nothing is written"
    )
    assert sizes[2] < bytes_of(cache) <= limit
    monkeypatch.setenv("LANCELOADER_CACHE_LIMIT", "1MB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DegradedWarning)
        assert not load(paths[2], cache).is_shared
    assert bytes_of(cache) <= 1_000_000


# What outlives a process.


DIES = """
perm = ll.open(sys.argv[2]).with_read("resident", cache_dir=sys.argv[3])
loader = perm.loader(1000, shuffle=True, seed=1, format="arrow")
batches = iter(loader)
next(batches)


def is_writing():
    for at, _, names in os.walk(sys.argv[3]):
        if any(name.endswith(".part") for name in names):
            return True
    return False


# It may have written all while this process did not run.
while not is_writing() and not loader.stats().fill_seconds:
    pass
child = os.fork()
if child == 0:
    # Lives on, with all that was open.
    with open(folder + "/child", "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/child", folder + "/pid")
    for number in (0, 1, 2):
        os.close(number)
    signal.alarm(100)
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""


TAKES_OVER = """
perm = ll.open(sys.argv[2]).with_read("resident", cache_dir=sys.argv[3])
loader = perm.loader(1000, shuffle=True, seed=1, format="numpy_dict")
assert sum(len(batch["id"]) for batch in loader) == len(perm)
assert soon(lambda: loader.stats().fill_seconds > 0), loader.stats()
found = loader.stats()
done(is_shared=found.is_shared, blocks=found.blocks_filled + found.blocks_mapped)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_what_a_killed_process_held_is_free_though_its_child_lives(tmp_path):
    path = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS).uri
    for attempt in range(20):
        cache = str(tmp_path / f"rows{attempt}")
        pid = tmp_path / "pid"
        process = start(PRELUDE + DIES, tmp_path, path, cache)
        _, err = process.communicate(timeout=100)
        assert process.returncode == -signal.SIGKILL, err
        assert soon(pid.exists)
        child = int(pid.read_text())
        try:
            if not files(cache, "part"):
                continue  # It was killed between two blocks.
            found = finish(start(PRELUDE + TAKES_OVER, tmp_path, path, cache))
            os.kill(child, 0)
            assert found == {"is_shared": True, "blocks": 5}
            assert len(files(cache)) == 5, (
                "none of them was packed for one process alone"
            )
            assert not files(cache, "part")
            break
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            pid.unlink()
    else:
        pytest.fail("it was never killed while it wrote")


# Trouble that passes.


def epochs(loader, count):
    """Read all rows that often; returns whether they are shared after that."""
    for _ in range(count):
        loader.set_epoch(0)
        table_of(loader)
    return loader.stats().is_shared


def test_a_folder_that_cannot_be_written_to_for_a_while(tmp_path, cache):
    path = large(tmp_path / "t.lance").uri
    # A file where the folder should be: not even root can write there.
    Path(cache).write_text("in the way")
    loader = ll.open(path).loader(
        1000, shuffle=True, seed=1, format="arrow", read="resident", cache_dir=cache
    )
    with pytest.warns(errors.DegradedWarning, match="could not write") as said:
        epochs(loader, 2)
    assert len(said) == 1
    assert not loader.stats().is_shared
    Path(cache).unlink()
    assert soon(functools.partial(epochs, loader, 1)), loader.stats()
    assert loader.stats().failure is None
    del loader
    settle()
    assert load(path, cache).blocks_filled == 0, "all of them were written"
