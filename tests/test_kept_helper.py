"""The helper process of a loader, which stays from one iteration to the next."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import select
import signal
import subprocess

import importable
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.helper import kept
from lanceloader.helper.producer import FunctionProducer, PickledProducer, loaded
from process_state import is_gone, mappings, num_files, soon
from programs import PRELUDE, finish, start

pytestmark = pytest.mark.timeout(180)

ROWS = 300


@pytest.fixture(scope="module")
def perm():
    data = pa.table({"id": np.arange(ROWS)})
    return ll.open(data).shuffle(3).with_format("arrow")


def numbers(batches):
    """The rows of batches, and the processes that made them."""
    rows, pids = [], set()
    for found, pid in batches:
        rows += found
        pids.add(pid)
    return rows, pids


def rows_of(perm, epoch=None):
    view = perm if epoch is None else perm.with_epoch(epoch)
    return view.to_arrow()["id"].to_pylist()


def kill(pid):
    """Kill a process, and wait until all of it has ended."""
    file = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([file], [], [], 60)[0]
    os.close(file)


def num_mapped():
    gc.collect()
    return mappings()


@pytest.fixture
def num_written(monkeypatch):
    """How often a loader was sent."""
    counts = []
    write = PickledProducer.write

    def counted(self):
        counts.append(1)
        return write(self)

    monkeypatch.setattr(PickledProducer, "write", counted)
    return lambda: len(counts)


def test_one_process_serves_all_iterations(perm, num_written):
    loader = perm.loader(50, transform=importable.ids_and_pid, in_process=False)
    processes = set()

    def read(batches):
        rows, pids = numbers(batches)
        processes.update(pids)
        return rows

    for epoch in (0, 1):
        assert read(loader.set_epoch(epoch)) == rows_of(perm, epoch)
    # Left in the middle, where the helper is ahead.
    for number, batch in enumerate(loader):
        assert batch[0] == rows_of(perm, 1)[50 * number :][:50]
        if number == 2:
            state = loader.state_dict()
            break
    assert read(loader.set_epoch(7)) == rows_of(perm, 7)
    loader.load_state_dict(state)
    assert read(loader) == rows_of(perm, 1)[150:]
    assert loader.stats().batches == 3
    # Left before its first batch, and dropped.
    iter(loader.set_epoch(8))
    unread = iter(loader.set_epoch(8))
    next(unread)
    del unread
    loader.set_epoch(9).skip_batches(4)
    assert read(loader) == rows_of(perm, 9)[200:]
    assert len(processes) == 1
    assert num_written() == 1
    del loader
    (process,) = processes
    assert soon(lambda: is_gone(process))


def test_iterations_at_the_same_time(perm):
    loader = perm.loader(50, transform=importable.ids_and_pid, in_process=False)
    first = iter(loader.set_epoch(1))
    begun = next(first)
    rows, (second,) = numbers(loader.set_epoch(2))
    assert rows == rows_of(perm, 2)
    rest, (process,) = numbers(first)
    assert [*begun[0], *rest] == rows_of(perm, 1)
    assert begun[1] == process != second
    # One of the two is kept.
    rows, (third,) = numbers(loader.set_epoch(3))
    assert rows == rows_of(perm, 3)
    assert third == process
    assert soon(lambda: is_gone(second))


def test_a_transform_that_changes_is_sent_again(perm, num_written):
    transform = importable.Shifted()
    loader = perm.loader(100, transform=transform, in_process=False)
    ids = np.array(rows_of(perm))
    for by in (0, 5, 5):
        transform.by[:] = by
        found = np.concatenate([rows for rows, _ in loader])
        assert (found == ids + by).all()
    assert num_written() == 2


def test_errors_end_the_process(perm, tmp_path):
    mark = tmp_path / "mark"
    transform = functools.partial(importable.refuses_unless, path=mark)
    loader = perm.loader(50, transform=transform, in_process=False)
    with pytest.raises(ValueError, match="not there"):
        list(loader)
    mark.touch()
    rows, (process,) = numbers(loader)
    assert rows == rows_of(perm)
    # And so does whatever else happens to it meanwhile.
    kill(process)
    rows, (other,) = numbers(loader)
    assert rows == rows_of(perm)
    assert other != process


def test_a_process_that_does_not_come_to_an_end_is_replaced(
    perm, tmp_path, monkeypatch
):
    monkeypatch.setattr(kept, "GRACE_S", 0.1)
    mark = tmp_path / "mark"
    transform = functools.partial(importable.hangs_later_unless, path=mark)
    loader = perm.loader(50, transform=transform, transform_threads=0, in_process=False)
    batches = iter(loader)
    _, process = next(batches)
    # It makes the second batch ahead, unless it is stopped before.
    assert soon(lambda: mark.with_suffix(".hangs").exists())
    batches.close()
    mark.touch()
    rows, (other,) = numbers(loader)
    assert rows == rows_of(perm)
    assert other != process
    assert soon(lambda: is_gone(process))


@pytest.mark.parametrize("is_complete", [True, False])
def test_nothing_is_left_of_a_loader(perm, is_complete):
    mapped, files = num_mapped(), num_files()
    # Batches of more bytes than those that are copied at once.
    transform = importable.wide_with_pid
    loader = perm.loader(150, transform=transform, in_process=False)
    for _ in range(2):
        for batch in loader:
            process = int(batch["pid"][0])
            if not is_complete:
                break
    assert num_mapped() > mapped
    # As trainers pickle loaders.
    again = pickle.loads(pickle.dumps(loader))
    assert again._helper is None
    del loader, batch
    assert soon(lambda: is_gone(process))
    assert soon(lambda: num_mapped() == mapped)
    assert soon(lambda: num_files() <= files)


PROGRAM = """
loader = ll.open(pa.table({"id": range(300)})).with_format("arrow").loader(
    50, transform=importable.ids_and_pid, in_process=False
)


def read():
    return sorted({pid for _, pid in loader})
"""


@pytest.mark.parametrize("how", ["exits", "exits within", "is killed"])
def test_the_helper_ends_with_the_interpreter(tmp_path, how):
    program = """
pids = read()
if sys.argv[2] == "exits within":
    batches = iter(loader)
    pids.append(next(batches)[1])
print(*pids, flush=True)
if sys.argv[2] == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(PRELUDE + PROGRAM + program, tmp_path, how)
    helper, *others = {int(pid) for pid in process.stdout.readline().split()}
    _, err = process.communicate(timeout=120)
    assert (others, err) == ([], "")
    assert soon(lambda: is_gone(helper))


@pytest.mark.slow
def test_a_fork_has_a_helper_of_its_own(tmp_path):
    program = """
import warnings

warnings.simplefilter("ignore", DeprecationWarning)
(first,) = read()
child = os.fork()
if child == 0:
    status = 1
    try:
        (other,) = read()
        if other != first and (other,) == tuple(read()):
            status = 0
        del loader
    finally:
        os._exit(status)
_, status = os.waitpid(child, 0)
done(status=status, same=read() == [first])
"""
    process = start(PRELUDE + PROGRAM + program, tmp_path)
    assert finish(process) == {"status": 0, "same": True}


@pytest.mark.slow
def test_ctrl_c_within_an_iteration(tmp_path):
    """The terminal sends it to the whole group."""
    program = """
try:
    for batch in loader:
        first = batch[1]
        print("ready", flush=True)
        time.sleep(100)
except KeyboardInterrupt:
    pass
done(same=read() == read() == [first])
"""
    process = start(PRELUDE + PROGRAM + program, tmp_path)
    assert process.stdout.readline() == "ready\n"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process)["same"]


def pickled(value):
    return PickledProducer(FunctionProducer(value, None))


def fixed(*rows):
    """Arrow data that nobody can change, in memory of its own."""
    data = pa.py_buffer(np.arange(*rows).tobytes())
    return pa.Array.from_buffers(pa.int64(), data.size // 8, [None, data])


def test_pickles_are_compared():
    data = fixed(1000)
    changing = np.arange(1000)
    one = pickled((data, changing))
    assert len(one._buffers) == 1
    assert one.equals(pickled((data, changing)))
    assert one.equals(pickled((fixed(1000), changing.copy())))
    assert not one.equals(pickled((fixed(1, 1001), changing)))
    assert not one.equals(pickled((fixed(999), changing)))
    assert not one.equals(pickled(changing))
    changing[0] = 7
    assert not one.equals(pickled((data, changing)))
    assert pickled(fixed(0)).equals(pickled(fixed(0)))


def test_a_table_in_memory_is_not_copied_into_its_pickle():
    files = num_files()
    perm = ll.open(pa.table({"id": np.arange(100_000)}))
    producer = pickled(perm)
    assert len(producer._data) < 10_000
    layout, file = producer.write()
    assert layout.num_bytes > 800_000
    assert loaded(layout, file).make.to_arrow() == perm.to_arrow()
    assert num_files() == files


def test_credentials_go_to_the_helper(monkeypatch):
    from lanceloader.sources.secrets import without_secrets

    class Options:
        def __reduce__(self):
            return dict, (without_secrets({"aws_secret_access_key": "hush"}),)

    assert loaded(*pickled(Options()).write()).make == {"aws_secret_access_key": "hush"}
    assert pickle.loads(pickle.dumps(Options())) == {}
