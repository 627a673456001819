"""Many threads over one permutation: right rows, no held interpreter lock, no leftovers."""

from __future__ import annotations

import gc
import os
import queue
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lanceloader.formats.python import LazyRows
from lanceloader.stages import ordered_map
from process_state import soon
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

THREADS = 8


def together(work, threads=THREADS):
    """Run ``work(k)`` on threads that start at one barrier; raise what any of them raised."""
    barrier = threading.Barrier(threads)

    def run(k):
        barrier.wait(timeout=20)
        return work(k)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


@pytest.fixture
def path(tmp_path):
    """10,000 rows in four fragments, some deleted."""
    dataset = lance.write_dataset(
        tables.narrow(10_000), tmp_path / "t.lance", max_rows_per_file=3000
    )
    dataset.delete("id % 7 = 3")
    return dataset.uri


@pytest.fixture(params=["disk", "memory"])
def perm(request, path):
    """Opened, and read from by nobody yet."""
    source = path if request.param == "disk" else lance.dataset(path).to_table()
    return ll.open(source).shuffle(seed=1).with_format("arrow")


def ids_of(num_rows=10_000):
    return [k for k in range(num_rows) if k % 7 != 3]


def test_takes_of_many_threads(perm):
    wanted = perm.to_arrow()

    def work(k):
        rng = np.random.default_rng(k)
        view = perm if k % 2 else perm.with_batch_size(3)
        for _ in range(20):
            positions = rng.integers(0, len(perm), 50)
            batch = view.take_offsets(positions)
            assert pa.Table.from_batches([batch]).equals(wanted.take(positions))

    together(work)


def test_the_first_use_of_a_view_by_many_threads_at_once(path):
    wanted = ll.open(path).select_columns(["name", "id"]).shuffle(seed=3).to_arrow()
    for _ in range(20):
        view = ll.open(path).select_columns(["name", "id"]).shuffle(seed=3)
        found = together(lambda k, view=view: view.to_arrow())
        assert all(table.equals(wanted) for table in found)


def test_many_threads_iterate_over_one_view(perm):
    wanted = perm.to_arrow()
    found = together(lambda k: pa.Table.from_batches(perm.iter(17 + k)))
    assert all(table.equals(wanted) for table in found)


def test_one_iterator_is_shared_out_among_threads(perm):
    """As a queue: each batch goes to one thread. Generators allow one thread at a time."""
    batches, lock, found = perm.iter(64), threading.Lock(), queue.SimpleQueue()

    def work(k):
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            found.put(batch["id"].to_pylist())

    together(work)
    rows = [row for _ in range(found.qsize()) for row in found.get()]
    assert sorted(rows) == ids_of()


def test_a_native_loader_is_shared_out_without_a_lock(perm):
    reader = perm.open_reader()
    batches, found = reader.load(perm.order, 64, False), queue.SimpleQueue()

    def work(k):
        for batch in batches:
            found.put(pa.record_batch(batch)["id"].to_pylist())

    together(work)
    rows = [row for _ in range(found.qsize()) for row in found.get()]
    assert sorted(rows) == ids_of()


def test_iterators_of_one_thread_interleaved(perm):
    wanted = perm.to_arrow()["id"].to_pylist()
    sizes = [1, 7, 64, 500, 3000]
    iterators = [perm.iter(size) for size in sizes]
    found = [[] for _ in sizes]
    rng = random.Random(0)
    left = set(range(len(sizes)))
    while left:
        which = rng.choice(sorted(left))
        batch = next(iterators[which], None)
        if batch is None:
            left.remove(which)
        else:
            found[which] += batch["id"].to_pylist()
    assert all(rows == wanted for rows in found)


def test_iterators_are_handed_from_thread_to_thread(perm):
    wanted = perm.to_arrow()["id"].to_pylist()
    batches = perm.iter(100)
    rows = []
    for _ in range(20):
        with ThreadPoolExecutor(1) as pool:
            rows += pool.submit(next, batches).result()["id"].to_pylist()
    assert rows == wanted[:2000]
    rows += [row for batch in batches for row in batch["id"].to_pylist()]
    assert rows == wanted


def progress_while(call) -> int:
    """What another thread counts while ``call`` runs, again and again if it is short."""
    counted, stop, ready = [0], threading.Event(), threading.Event()

    def count():
        ready.set()
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    ready.wait(20)
    # Nobody is made to give the interpreter up: what the thread counts, it was let.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        before = counted[0]
        for _ in range(50):
            call()
            if counted[0] > before:
                break
        during = counted[0] - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join(20)
    return during


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    rng = np.random.default_rng(0)
    data = pa.table({f"c{k}": rng.random(300_000) for k in range(8)})
    path = tmp_path_factory.mktemp("wide") / "t.lance"
    return lance.write_dataset(data, path).uri


@pytest.mark.parametrize("source", ["disk", "memory"])
@pytest.mark.parametrize("how", ["take", "next", "slice", "filter", "order"])
def test_other_threads_run_while_one_reads(wide, source, how):
    perm = ll.open(wide if source == "disk" else lance.dataset(wide).to_table())
    perm = perm.shuffle(seed=1).with_format("arrow")
    positions = np.random.default_rng(1).permutation(len(perm))
    order = perm.order
    mask = np.arange(len(perm)) % 3 == 0
    batches = perm.iter(1000)
    call = {
        "take": lambda: perm.take_offsets(positions),
        "next": lambda: next(batches),
        "slice": lambda: perm[:200_000],
        "filter": lambda: perm.filter(mask).filter(mask[: mask.sum()]),
        "order": lambda: order.offsets(0, len(order)),
    }[how]
    perm.take_offsets([0])
    assert progress_while(call) > 0


def threads_named(name: str) -> int:
    found = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "comm").read_text().strip() == name
        except OSError:
            continue
    return found


def test_half_read_iterators_dropped_by_threads(perm):
    long = perm.with_repeat(200)
    before = threads_named("lanceloader-read")

    def work(k):
        for _ in range(20):
            batches = long.iter(10 + k)
            next(batches)
            if k % 3 == 0:
                batches.close()
            elif k % 3 == 1:
                list(zip(range(5), batches, strict=False))
            del batches

    together(work)
    gc.collect()
    assert soon(lambda: threads_named("lanceloader-read") <= before)
    assert perm.take_offsets([0]).num_rows == 1


def test_one_thread_closes_what_another_reads(perm):
    """A generator that runs says so; nothing hangs, and what is left ends its thread."""
    before = threads_named("lanceloader-read")
    for _ in range(10):
        batches = perm.with_repeat(50).iter(100)
        started = threading.Event()

        def read(batches=batches, started=started):
            for _ in batches:
                started.set()

        thread = threading.Thread(target=read)
        thread.start()
        started.wait(20)
        while thread.is_alive():
            try:
                batches.close()
            except ValueError:
                time.sleep(0)
            else:
                break
        thread.join(20)
        assert not thread.is_alive()
    del batches, read, thread
    gc.collect()
    assert soon(lambda: threads_named("lanceloader-read") <= before)


def test_iterators_that_are_exhausted_end_their_threads(perm):
    before = threads_named("lanceloader-read")
    kept = []
    for _ in range(10):
        batches = perm.iter(1000)
        list(batches)
        kept.append(batches)
    assert soon(lambda: threads_named("lanceloader-read") <= before)


def test_no_thread_starts_before_the_first_batch(perm):
    before = threads_named("lanceloader-read")
    kept = [perm.iter(10) for _ in range(5)] + [iter(perm)]
    loaders = [perm.open_reader().load(perm.order, 10, False) for _ in range(5)]
    assert threads_named("lanceloader-read") == before
    del kept, loaders


def test_views_are_derived_by_many_threads(perm):
    label = perm.to_arrow()["label"].to_numpy()
    wanted = {
        "mask": perm.filter(label == 2).to_arrow(),
        "columns": perm.select_columns(["name", "x"]).to_arrow(),
        "split": perm.split([0.5, 0.5], seed=2)[1].to_arrow(),
        "shard": perm.shuffle(seed=5).shard(1, 4).to_arrow(),
        "strata": perm.split([0.5, 0.5], seed=2, stratify_by="label")[0].to_arrow(),
    }

    def work(k):
        for _ in range(3):
            found = {
                "mask": perm.filter(label == 2),
                "columns": perm.select_columns(["name", "x"]),
                "split": perm.split([0.5, 0.5], seed=2)[1],
                "shard": perm.shuffle(seed=5).shard(1, 4),
                "strata": perm.split([0.5, 0.5], seed=2, stratify_by="label")[0],
            }
            for name, view in found.items():
                assert view.to_arrow().equals(wanted[name])

    together(work)


def test_filters_by_sql_of_many_threads(path):
    perm = ll.open(path)
    wanted = perm.filter("label = 2 and id > 500").to_arrow()
    for found in together(lambda k: perm.filter("label = 2 and id > 500").to_arrow()):
        assert found.equals(wanted)


def test_tables_of_lancedb_opened_by_many_threads(any_table):
    wanted = ll.Permutation.identity(any_table).to_arrow()
    found = together(lambda k: ll.Permutation.identity(any_table).to_arrow())
    assert all(table.equals(wanted) for table in found)


def test_plans_are_read_by_many_threads(any_table):
    plan = ll.permutation_builder(any_table).split_random(fixed=8, seed=1).execute()
    parts = together(
        lambda k: ll.Permutation.from_tables(any_table, plan, k).to_arrow()
    )
    rows = [row for part in parts for row in part["id"].to_pylist()]
    assert len(rows) == len(set(rows)) == 96


def test_an_exception_in_one_thread_leaves_the_others_alone(perm):
    wanted = perm.to_arrow()

    def fails(batch):
        raise ZeroDivisionError("on purpose")

    def work(k):
        for _ in range(10):
            if k % 4 == 0:
                with pytest.raises(IndexError):
                    perm.take_offsets([0, len(perm)])
            elif k % 4 == 1:
                with pytest.raises(ZeroDivisionError):
                    list(perm.with_transform(fails).iter(10))
            elif k % 4 == 2:
                with pytest.raises(ll.errors.ColumnNotFoundError):
                    perm.select_columns(["nothing"])
            else:
                assert pa.Table.from_batches(perm.iter(500)).equals(wanted)

    together(work)
    assert perm.to_arrow().equals(wanted)


def test_a_file_that_vanishes_under_some_threads(path):
    # By another table: a file that is open is read to its end, also without a name.
    wanted = ll.open(path).with_take(100).to_arrow()
    perm = ll.open(path).with_format("arrow")
    last = max(Path(path, "data").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    last.unlink()

    def work(k):
        if k % 2:
            with pytest.raises(ll.errors.TableChangedError, match=last.name):
                perm.to_arrow()
        else:
            assert perm.with_take(100).to_arrow().equals(wanted)

    together(work)


def test_transforms_run_in_the_thread_that_asks(perm):
    view = perm.with_transform(lambda batch: threading.get_ident())

    def work(k):
        assert set(view.iter(500)) == {threading.get_ident()}
        assert view.take_offsets([0]) == threading.get_ident()

    together(work)


def test_batches_outlive_their_iterator_and_their_thread(perm):
    wanted = perm.to_arrow()

    def work(k):
        batches = perm.iter(700)
        return [next(batches) for _ in range(3)]

    found = together(work)
    gc.collect()
    for batches in found:
        assert pa.Table.from_batches(batches).equals(wanted.slice(0, 2100))


def test_threads_collate_for_the_first_time_at_once(perm, monkeypatch):
    """torch is taught our batches on first use, whoever comes first."""
    rows = perm.with_format("python")
    wanted = perm.to_arrow()["id"].to_pylist()
    for _ in range(10):
        for known in [
            cls
            for cls in default_collate_fn_map
            if getattr(cls, "__module__", "").startswith("lanceloader")
        ]:
            del default_collate_fn_map[known]
        monkeypatch.setattr("lanceloader.verbs.taking._is_registered", False)

        def work(k):
            batch = default_collate(rows.__getitems__(range(k, 200, 3)))
            assert batch["id"].tolist() == wanted[k:200:3]
            batch = default_collate(rows.with_format("torch").__getitems__([k]))
            assert batch["id"].tolist() == [wanted[k]]

        together(work)


def test_one_lazy_batch_filled_by_many_threads(perm):
    """Whoever comes second waits for the rows, and neither finds none nor all of them twice."""
    (batch,) = perm.with_take(300).iter(300)
    wanted = batch.to_pylist()

    def slowly(batch):
        time.sleep(0.02)
        return batch.to_pylist()

    for _ in range(5):
        rows = LazyRows(batch, slowly)
        assert all(found == wanted for found in together(lambda k, rows=rows: [*rows]))
        assert len(rows) == 300


def test_rows_that_cannot_be_made_fail_every_time(perm):
    (batch,) = perm.with_take(3).iter(3)

    def fails(batch):
        raise ll.errors.FormatError("on purpose")

    rows = LazyRows(batch, fails)
    for _ in range(3):
        with pytest.raises(ll.errors.FormatError, match="on purpose"):
            list(rows)


def test_pickles_made_while_others_read(perm):
    import pickle

    wanted = perm.to_arrow()

    def work(k):
        for _ in range(5):
            if k % 2:
                assert pickle.loads(pickle.dumps(perm)).to_arrow().equals(wanted)
            else:
                assert pa.Table.from_batches(perm.iter(333)).equals(wanted)

    together(work)


@pytest.mark.slow
def test_a_minute_of_everything_at_once(path):
    """Threads open, derive, read, drop and fail for a while; every row they see is right."""
    data = lance.dataset(path).to_table()
    name_of = dict(zip(data["id"].to_pylist(), data["name"].to_pylist(), strict=True))
    end = time.monotonic() + 20
    shared = ll.open(path).with_format("arrow")
    before = threads_named("lanceloader-read")

    def work(k):
        rng = random.Random(k)
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            perm = shared if rng.random() < 0.7 else ll.open(path).with_format("arrow")
            perm = perm.shuffle(seed=rng.randrange(100)).select_columns(["id", "name"])
            batches = perm.iter(rng.choice([1, 10, 100, 1000, 9000]))
            for _, batch in zip(range(rng.randrange(20)), batches, strict=False):
                for row in batch.slice(0, 5).to_pylist():
                    assert name_of[row["id"]] == row["name"]
            positions = [rng.randrange(len(perm)) for _ in range(20)]
            for row in perm.take_offsets(positions).to_pylist():
                assert name_of[row["id"]] == row["name"]
            if rng.random() < 0.1:
                with pytest.raises(IndexError):
                    perm.take_offsets([2**40])
        return rounds

    assert min(together(work)) > 0
    gc.collect()
    assert soon(lambda: threads_named("lanceloader-read") <= before)
    assert os.getpid() == threading.main_thread().native_id


def test_threads_that_cannot_be_started(monkeypatch):
    """The error says how many could be, and exit waits for these only."""
    start, started = threading.Thread.start, []

    def limited(thread):
        if thread.name.startswith("lanceloader-transform"):
            if len(started) == 3:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    loader = ll.open(pa.table({"x": range(99)})).loader(
        2, transform=len, transform_threads=8
    )
    with pytest.raises(RuntimeError, match="thread 4 of 8 could not be started"):
        next(iter(loader))
    ordered_map._let_finish()
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()
