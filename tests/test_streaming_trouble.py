"""``StreamingDataset`` under errors, Ctrl-C, and calls that outlive an iteration."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import lancedb
import pytest
import tables
from lanceloader.streaming import Permutation, StreamingDataLoader, StreamingDataset
from streaming_datasets import LIBRARIES, Worker, advance, ids_of, tokens_table

# torch warns on machines with few CPUs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(100))


# StopIteration must not look like the end of the rows.


def stopping(batch):
    if 30 in ids_of(batch):
        raise StopIteration
    return ids_of(batch)


def stopped(error, batch=None):
    raise StopIteration


STOPS = {
    "transform": {"transform": stopping},
    "tail": {"transform": stopping, "tail": "uneven"},
    "repair": {
        "transform": stopping,
        "on_transform_error": "fill",
        "repair": stopped,
    },
    "policy": {"transform": stopping, "on_transform_error": stopped},
}


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("num_splits", [1, 4])
def test_a_stop_iteration_is_an_error(shared, how, num_splits):
    options = {"num_splits": num_splits, "read_batch_size": 5, "shuffle": False}
    for name, library in LIBRARIES.items():
        if name == "theirs" and how in ("tail", "repair"):
            continue
        dataset = library.StreamingDataset(shared, **options, **STOPS[how])
        with pytest.raises(RuntimeError, match="generator raised StopIteration"):
            list(dataset)
        assert not dataset._consumer_iterator_active


def test_a_stop_iteration_of_a_split_that_catches_up_is_an_error(shared):
    dataset = StreamingDataset(
        shared, num_splits=4, shuffle=False, transform=stopping, read_batch_size=1
    )
    state = dataset.state_dict() | {"samples_consumed_per_split": [6, 5, 6, 6]}
    dataset.load_state_dict(state | {"positions_consumed_per_split": [6, 5, 6, 6]})
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(dataset)


def test_a_stop_iteration_is_an_error_where_documents_are_packed(db):
    dataset = StreamingDataset(
        tokens_table(db, [[1], None, [2]]),
        pack_sequences=2,
        eos_id=9,
        pad_id=0,
        blocks_per_epoch=3,
        columns=["tokens"],
        on_transform_error=stopped,
    )
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(dataset)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("tail", [None, "pad"])
def test_a_stop_iteration_is_an_error_of_a_loader(shared, num_workers, tail):
    dataset = StreamingDataset(
        shared, num_splits=4, read_batch_size=5, transform=stopping, tail=tail
    )
    loader = StreamingDataLoader(
        dataset, batch_size=4, num_workers=num_workers, collate_fn=list
    )
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(loader)
    with pytest.raises(RuntimeError, match="checkpointing is invalid"):
        dataset.state_dict()


# The names of the functions that are submitted.


@pytest.mark.parametrize("library", LIBRARIES)
def test_submitted_functions_have_lancedbs_names(shared, library, monkeypatch):
    submit = ThreadPoolExecutor.submit
    waiting = []

    def inline(pool, call, *arguments, **options):
        if call.__name__ == "_io_call":
            future = Future()
            future.set_result(call(*arguments, **options))
            return future
        assert call.__name__ == "_tx_call_guarded"
        waiting.append(dataset.prefetch_queue_depth)
        return submit(pool, call, *arguments, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", inline)
    dataset = LIBRARIES[library].StreamingDataset(
        shared, read_batch_size=4, transform_queue_depth=1, transform=ids_of
    )
    assert len(list(dataset)) == 100
    assert waiting == [0] * 25


# Interrupts and closing.


INTERRUPTED = """
import os, signal, sys, threading, time
import lancedb
from lanceloader.streaming import StreamingDataset

def is_waited_for():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != "result":
        frame = frame.f_back
    return frame is not None

def hang(batch):
    while not is_waited_for():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()

table = lancedb.connect(sys.argv[1]).open_table("t")
threads = int(sys.argv[2])
options = {"transform": hang, "transform_parallelism": threads, "io_queue_depth": threads}
if sys.argv[3] == "read":
    StreamingDataset._permutation = lambda self, split: Hanging()

class Hanging:
    num_rows = 100
    def __getitems__(self, positions):
        hang(None)

dataset = StreamingDataset(table, **options)
try:
    list(dataset)
except KeyboardInterrupt:
    assert not dataset._consumer_iterator_active
    print("interrupted", flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read", "transform"])
@pytest.mark.parametrize("threads", [1, 4])
def test_ctrl_c_ends_a_wait(shared, stage, threads):
    """Ctrl-C ends the wait for a call that hangs."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, shared._conn.uri, str(threads), stage],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "interrupted\n", done.stderr


class Row:
    """A row that counts the live instances."""

    alive = 0

    def __init__(self):
        Row.alive += 1

    def __del__(self):
        Row.alive -= 1


@pytest.mark.parametrize("tail", [None, "uneven"])
def test_closing_frees_rows(shared, tail):
    """Rows are freed at once, without the garbage collector."""

    def rows_of(batch):
        return [Row() for _ in range(batch.num_rows)]

    dataset = StreamingDataset(
        shared, num_splits=2, read_batch_size=5, transform=rows_of, tail=tail
    )
    gc.collect()
    gc.disable()
    try:
        iterator = iter(dataset)
        for _ in itertools.islice(iterator, 3):
            pass
        assert Row.alive
        iterator.close()
        del _
        assert Row.alive == 0
    finally:
        gc.enable()


# Counters.


# LanceDB does not survive a fork.
@pytest.mark.parametrize(
    ("library", "start"),
    [
        ("ours", "fork"),
        pytest.param("ours", "spawn", marks=pytest.mark.slow),
        pytest.param("theirs", "spawn", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("override", [None, Worker(1, 2)])
def test_another_process_publishes_its_counters(shared, library, start, override):
    """Any process publishes, not only workers of torch's loader, and during the iteration."""
    dataset = LIBRARIES[library].StreamingDataset(
        shared, num_splits=4, transform=ids_of, worker_info_override=override
    )
    context = multiprocessing.get_context(start)
    started, may_end = context.Event(), context.Event()
    process = context.Process(target=advance, args=(dataset, started, may_end))
    process.start()
    try:
        assert started.wait(20)
        assert dataset.consumed_rows == 20
        assert dataset.bytes_loaded > 0
        assert dataset.fetch_time > 0
    finally:
        may_end.set()
        process.join()
    assert process.exitcode == 0
    assert dataset.prefetch_queue_depth == 0
    # In this process, the dataset has not moved.
    assert next(iter(dataset)) is not None


def test_statistics_are_read_by_another_thread(shared):
    """Also while the consumer moves batches on."""
    dataset = StreamingDataset(
        shared,
        num_splits=4,
        read_batch_size=1,
        transform=ids_of,
        transform_parallelism=2,
    )
    is_over = threading.Event()
    found = []

    def watch():
        try:
            while not is_over.is_set():
                waiting = dataset.raw_queue_depth + dataset.prefetch_queue_depth
                assert 0 <= waiting <= 100
        except Exception as error:
            found.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(10):
            dataset.reset()
            assert len(list(dataset)) == 100
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert found == []


def test_reads_that_outlive_an_iteration_are_counted(shared, monkeypatch):
    """LanceDB waits for these reads, and counts without a lock."""
    monkeypatch.setattr("lanceloader.streaming.pools.GRACE", 0.0)
    first, may_read = threading.Event(), threading.Event()
    take = Permutation.__getitems__
    read = []

    def late(permutation, positions):
        if first.is_set():
            assert may_read.wait(60)
        first.set()
        batch = take(permutation, positions)
        read.append(batch.nbytes)
        return batch

    monkeypatch.setattr(Permutation, "__getitems__", late)
    before = set(threading.enumerate())
    dataset = StreamingDataset(
        shared, read_batch_size=10, io_queue_depth=3, transform=ids_of
    )
    iterator = iter(dataset)
    rows = [next(iterator)]
    iterator.close()
    may_read.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert len(read) >= 3
    rows += dataset
    assert len(rows) == 100
    assert dataset.bytes_loaded == sum(read)
