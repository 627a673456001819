"""``read="external"``: any order in little memory, through unnamed scratch files."""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader import errors
from process_state import anonymous, names_seen, open_in, settle, soon, threads
from programs import PRELUDE, finish, run, start
from reader_programs import FORKING, MEMORY
from vector_tables import large, table_of, vectors

pytestmark = pytest.mark.timeout(120)

NUM_ROWS = 30_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """8 MB in three fragments, some rows deleted."""
    path = tmp_path_factory.mktemp("external") / "t.lance"
    dataset = large(path, NUM_ROWS, max_rows_per_file=11_000)
    dataset.delete("id % 1000 = 3")
    return dataset.uri


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Rows of any length, from none to 5,000 bytes, with nulls."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(20_000) < 0.02, 5000, rng.integers(0, 300, 20_000))
    table = pa.table(
        {
            "id": range(20_000),
            "text": [
                None if size % 7 == 3 else f"{row} " * (size // 6)
                for row, size in enumerate(lengths.tolist())
            ],
            "list": [[row] * (row % 5) for row in range(20_000)],
        }
    )
    path = tmp_path_factory.mktemp("external") / "texts.lance"
    return lance.write_dataset(table, path, max_rows_per_file=7000).uri


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    monkeypatch.setenv("LANCELOADER_SCRATCH_DIR", str(folder))
    return folder


def external(view, size=1000, limit="2MiB", **options):
    return view.loader(
        size, format="arrow", read="external", memory_limit=limit, **options
    )


def check(view, loader):
    wanted = view.with_read("direct").with_format("arrow").to_arrow()
    found = table_of(loader)
    assert found.equals(wanted)
    assert found.schema.equals(wanted.schema, check_metadata=True)
    # A single batch needs no order, and is read as it is.
    assert loader.stats().rows_spilled == (len(view) if len(loader) > 1 else 0)
    assert loader.stats().failure is None


@pytest.mark.parametrize("limit", ["1MiB", "1.5MiB", "3MiB", "10MiB", "1GiB"])
@pytest.mark.parametrize("size", [37, 1000, NUM_ROWS])
def test_any_budget_and_batch(path, limit, size):
    perm = ll.open(path).shuffle(4)
    check(perm, external(perm, size, limit))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_threads(path, texts, count):
    for uri in (path, texts):
        perm = ll.open(uri).shuffle(4)
        check(perm, external(perm, 500, threads=count))


@pytest.mark.parametrize("limit", ["1MiB", "4MiB"])
def test_rows_of_any_length(texts, limit):
    perm = ll.open(texts)
    for view in (perm.shuffle(1), perm.select_columns(["list", "text", "_rowid"])):
        check(view, external(view, 300, limit))


def listed(perm):
    dataset = lance.dataset(perm.source.uri)
    plan = ll.permutation_builder(dataset).shuffle(seed=1).execute()
    return ll.Permutation.from_tables(dataset, plan)


ORDERS = {
    "storage": lambda perm: perm,
    "a table of rows": listed,
    "a part of a table of rows": lambda perm: listed(perm).with_skip(99).with_take(9),
    "a table of rows, shuffled": lambda perm: listed(perm).shuffle(5),
    "repeated": lambda perm: perm.shuffle(2).with_repeat(3),
    "repeated, then shuffled": lambda perm: perm.with_repeat(2).shuffle(3),
    "few repeated": lambda perm: perm.with_take(7).with_repeat(2000).shuffle(1),
    "weighted": lambda perm: perm.sample(
        20_000, seed=3, weights="square", replacement=True
    ),
    "weighted, more than there are": lambda perm: perm.sample(
        90_000, seed=3, weights="square", replacement=True
    ),
    "weighted, a few": lambda perm: perm.sample(5, seed=3, weights="square"),
    "all from one row": lambda perm: perm.filter("id = 77").with_repeat(5000),
    "filtered": lambda perm: perm.filter("id % 3 = 1").shuffle(1),
    "a shard": lambda perm: perm.shuffle(1).shard(1, 3),
    "a split": lambda perm: perm.split([0.3, 0.7], seed=1)[1].shuffle(2),
    "clumps": lambda perm: perm.shuffle(1, clump_size=16),
    "windows": lambda perm: perm.shuffle(1, block_size=64, window_blocks=9),
    "the end": lambda perm: perm.shuffle(1).with_skip(NUM_ROWS - 500),
}


@pytest.mark.parametrize("order", ORDERS)
def test_any_order(path, order):
    view = ORDERS[order](ll.open(path))
    check(view, external(view, 700, "5MiB"))


@pytest.mark.parametrize("order", ["storage", "weighted", "a table of rows"])
@pytest.mark.parametrize("limit", ["10kB", "150kB"])
def test_a_budget_that_is_too_small_says_which_is_not(path, order, limit):
    view = ORDERS[order](ll.open(path))
    with pytest.raises(ValueError, match=r"memory_limit.* at least") as caught:
        list(external(view, 1000, limit))
    least = int(re.search(r"at least (\d+)", str(caught.value))[1])
    assert least < MIB
    check(view, external(view, 1000, least))


def test_the_smallest_budget_in_the_message_is_close_to_the_least(path):
    """Found by halving; orders that are lists take 16 bytes a row besides."""
    perm = ll.open(path).shuffle(1)

    def does(limit):
        try:
            next(iter(external(perm, 1000, limit)))
        except ValueError as error:
            return re.search(r"at least (\d+)", str(error))[1]
        return None

    too_little, enough = 10_000, MIB
    said = int(does(too_little))
    while enough - too_little > 100:
        middle = (enough + too_little) // 2
        too_little, enough = (middle, enough) if does(middle) else (too_little, middle)
    assert abs(enough - said) < 0.1 * enough


def test_rows_that_are_longer_than_the_limit(tmp_path):
    """They wait in the file until they are served."""
    lance.write_dataset(vectors(4, dim=1 << 20), tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance").shuffle(1)
    with pytest.raises(ValueError, match=r"memory_limit of 1048576 bytes.*wanted"):
        list(perm.loader(1, read="resident", memory_limit="1MiB"))
    for read in ("external", "auto"):
        found = perm.loader(1, read=read, memory_limit="1MiB", format="arrow")
        assert table_of(found).equals(perm.to_arrow()), read


# Epochs.


def test_epochs_that_follow_each_other_are_written_ahead(path):
    perm = ll.open(path)
    loader = external(perm, shuffle=True, seed=9)
    for epoch in (0, 1, 2, 3, 1, 0, 1, 2, 7, 8, 8, 9, 3):
        loader.set_epoch(epoch)
        wanted = perm.shuffle(9, epoch=epoch).to_arrow()
        assert table_of(loader).equals(wanted), epoch
    del loader
    settle()


def test_an_epoch_again_while_the_next_is_on_its_way(path):
    """Two iterations want what was written ahead; both get all of it."""
    perm = ll.open(path)
    loader = external(perm, shuffle=True, seed=9)
    wanted = [perm.shuffle(9, epoch=epoch).to_arrow() for epoch in range(3)]
    for _ in range(3):
        table_of(loader.set_epoch(0))
        first = iter(loader.set_epoch(1))
        head = next(first)
        again, ahead = iter(loader.set_epoch(1)), iter(loader.set_epoch(2))
        other = iter(loader.set_epoch(2))
        schema = perm.schema
        assert pa.Table.from_batches(again, schema).equals(wanted[1])
        assert pa.Table.from_batches(ahead, schema).equals(wanted[2])
        assert pa.Table.from_batches([head, *first], schema).equals(wanted[1])
        assert pa.Table.from_batches(other, schema).equals(wanted[2])


@pytest.mark.parametrize("taken", [0, 1, 5, 29])
def test_breaking_off_ends_all_threads(path, taken):
    settle()
    loader = external(ll.open(path), shuffle=True, seed=1)
    for epoch in range(4):
        batches = iter(loader.set_epoch(epoch))
        for _ in range(taken):
            next(batches)
        del batches
        assert soon(lambda: len(threads()) <= 1), threads()
    table_of(loader.set_epoch(4))
    del loader
    settle()


def test_several_at_once(path, texts):
    views = [ll.open(path).shuffle(1), ll.open(texts).shuffle(2)]
    views += [views[0].select_columns(["square"]), ll.open(path).shuffle(3)]
    wanted = [view.with_read("direct").to_arrow() for view in views]
    loaders = [external(view, 500) for view in views]
    found = [[] for _ in loaders]
    for batches in itertools.zip_longest(*loaders, *loaders):
        for at, batch in enumerate(batches):
            if batch is not None and at < len(found):
                found[at].append(batch)
    for batches, table in zip(found, wanted, strict=True):
        assert pa.Table.from_batches(batches).equals(table)


def test_several_threads_of_one_loader(path):
    perm = ll.open(path).shuffle(1)
    loader, wanted = external(perm), perm.with_read("direct").to_arrow()
    found = []
    workers = [
        threading.Thread(target=lambda: found.append(table_of(loader)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(table.equals(wanted) for table in found)
    assert len(found) == 4


# Scratch files.


def test_scratch_files_have_no_names_and_are_closed(path, scratch):
    perm = ll.open(path)
    loader = external(perm, shuffle=True, seed=1)
    with names_seen(scratch) as seen:
        for epoch in range(3):
            batches = iter(loader.set_epoch(epoch))
            next(batches)
            assert open_in(scratch)
            assert sum(batch.num_rows for batch in batches) == len(perm) - 1000
    assert seen == set()
    assert scratch.is_dir()
    # The current epoch's and the one ahead's, used again and again.
    assert len(open_in(scratch)) <= 2
    del loader, batches
    settle()
    assert soon(lambda: open_in(scratch) == []), open_in(scratch)


def test_without_a_folder_of_their_own_they_are_in_the_cache(path, tmp_path):
    loader = external(ll.open(path).shuffle(1), cache_dir=tmp_path / "rows")
    batches = iter(loader)
    next(batches)
    assert open_in(tmp_path / "rows")
    assert list((tmp_path / "rows").iterdir()) == []
    assert sum(batch.num_rows for batch in batches) == loader.num_rows - 1000


def test_a_scratch_folder_that_cannot_be_created(path, tmp_path, monkeypatch):
    perm = ll.open(path).shuffle(1)
    for read in ("external", "auto"):
        # It is said once for each folder.
        (tmp_path / read).write_text("no folder")
        monkeypatch.setenv("LANCELOADER_SCRATCH_DIR", str(tmp_path / read))
        loader = perm.loader(1000, format="arrow", memory_limit="2MiB", read=read)
        with pytest.warns(errors.DegradedWarning, match=f"{tmp_path}/{read}"):
            assert table_of(loader).equals(perm.with_read("direct").to_arrow())
        assert f"{tmp_path}/{read}" in loader.stats().failure
        assert loader.stats().rows_spilled == 0


# Faults.


def test_a_file_that_goes_away_during_the_first_pass(tmp_path):
    dataset = large(tmp_path / "t.lance", NUM_ROWS, max_rows_per_file=5000)
    loader = external(ll.open(dataset).shuffle(1), 100)
    files = sorted((tmp_path / "t.lance" / "data").iterdir())
    batches = iter(loader)
    next(batches)
    files[-1].unlink()
    # It may have been read, or opened, before; then every row comes.
    try:
        num_rows = sum(batch.num_rows for batch in batches)
    except errors.TableChangedError as error:
        is_right = files[-1].name in str(error)
    else:
        is_right = num_rows == NUM_ROWS - 100
    assert is_right
    with pytest.raises(errors.TableChangedError, match=files[-1].name):
        list(external(ll.open(dataset.uri).shuffle(1), 100))
    settle()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fork_while_rows_are_under_way(path, tmp_path, scratch):
    assert run(PRELUDE + FORKING, tmp_path, path) == {"ok": True}


@pytest.mark.slow
def test_a_killed_process_leaves_nothing(path, tmp_path, scratch):
    program = """
loader = ll.open(sys.argv[2]).loader(10, shuffle=True, seed=1, read="external")
for epoch in range(10**6):
    for batch in loader.set_epoch(epoch):
        print("x", flush=True)
"""
    for delay in (0, 0.05, 0.3):
        process = start(PRELUDE + program, tmp_path, path)
        assert process.stdout.readline() == "x\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["8MiB", "64MiB"])
def test_memory_stays_within_the_budget(tmp_path, limit, scratch):
    """Of a table of 800 MB; everything else that a process needs has 256 MiB."""
    rows = 40_000
    pieces = (vectors(rows, seed=at, dim=500) for at in range(10))
    for at, piece in enumerate(pieces):
        lance.write_dataset(
            piece, tmp_path / "t.lance", mode="append" if at else "create"
        )
    budget = int(limit.removesuffix("MiB")) * MIB
    process = start(PRELUDE + MEMORY, tmp_path, str(tmp_path / "t.lance"), str(budget))
    assert process.stdout.readline() == "ready\n"
    baseline = peak = anonymous(process.pid)
    (tmp_path / "go").touch()
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.01)
    assert finish(process) == {"rows": 20 * rows}
    assert peak - baseline <= budget + 256 * MIB, (peak - baseline) / MIB
