"""The helper process: transferred values, shared memory, and every way to end."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import subprocess
import threading
import traceback
from pathlib import Path

import lanceloader as ll
import numpy as np
import producers
import pyarrow as pa
import pytest
import torch
from lanceloader.helper.child import ITEM
from lanceloader.helper.client import HelperClient, iterate_in_helper
from lanceloader.helper.link import ChildLink
from lanceloader.helper.producer import FunctionProducer
from lanceloader.transport import groups
from lanceloader.transport import shared_memory as segments
from lanceloader.transport.serialization import packed, unpacked
from process_state import is_gone, mappings, soon
from programs import CONTEXTS, PRELUDE, finish, start

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def forked(make, **options):
    """Quick to begin; what spawn does otherwise is tested by itself."""
    return iterate_in_helper(make, method="fork", **options)


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.layout, a.requires_grad, a.stride()) == (
            *(b.dtype, b.layout, b.requires_grad, b.stride()),
        ) and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, np.ndarray):
        return (a.dtype, a.flags.f_contiguous) == (b.dtype, b.flags.f_contiguous) and (
            np.array_equal(a, b)
        )
    return a == b


# What is handed over.


def test_values_of_every_kind_are_transferred():
    (found,) = forked(producers.values)
    (wanted,) = producers.values()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name == "sparse":
            assert torch.equal(found[name].to_dense(), value.to_dense())
            continue
        if name in ("few of many", "strided"):
            # Only what is used of them is sent.
            assert found[name].tolist() == value.tolist()
            continue
        assert same(found[name], value), name
    for name in ("numpy", "fortran", "strided"):
        found[name][0] += 1
        assert np.array_equal(found[name][0], wanted[name][0] + 1), name
    found["turned"][0] += 1
    assert torch.equal(found["turned"][0], wanted["turned"][0] + 1)


@pytest.mark.filterwarnings("ignore:Sparse .* support is in beta state:UserWarning")
@pytest.mark.parametrize("layout", producers.SPARSE)
def test_sparse_tensors_are_transferred_and_released(layout):
    before = mappings()
    # Made here, as the threads that torch makes them with do not live on in a forked process.
    tensors = list(producers.sparse(layout))
    for found, wanted in zip(forked(lambda: tensors), tensors, strict=True):
        assert (found.layout, found.shape) == (wanted.layout, wanted.shape)
        assert torch.equal(found.to_dense(), wanted.to_dense())
        if layout == "coo":
            assert found.is_coalesced() == wanted.is_coalesced()
    assert mappings() > before
    del found, wanted
    gc.collect()
    assert soon(lambda: mappings() == before)


def test_a_shared_storage_is_sent_once():
    (found,) = forked(producers.values)
    a, b, c = (found["columns"][name] for name in "abc")
    # In one buffer, and tensors of their own.
    assert [part.data_ptr() - a.data_ptr() for part in (b, c)] == [32, 64]
    layout, _ = packed({"a": a, "b": b, "c": c})
    assert (layout.num_buffers, layout.sizes_at) == (1, 128)
    assert packed(found["few of many"])[0].sizes_at == 64
    # Arrow data too are views, and bytes are not copied on the way.
    item = {"x": np.arange(1000), "b": pa.array(range(1000)), "t": b"a" * 1_000_000}
    layout, runs = packed(item)
    assert layout.num_buffers == 2
    assert any(run.obj is item["t"] for _, run in runs)
    memory = np.zeros(layout.num_bytes, np.uint8)
    for place, run in runs:
        memory[place : place + len(run)] = run
    again = unpacked(memoryview(memory), layout)
    assert np.shares_memory(again["x"], memory)
    assert np.shares_memory(again["b"].to_numpy(), memory)
    assert again["t"] == item["t"]


@pytest.mark.parametrize("method", CONTEXTS)
def test_every_start_method(method):
    counted = producers.Counted(5)
    found = iterate_in_helper(counted, method=method, statistics=counted.statistics)
    for number, item in enumerate(found):
        assert item["number"] == number
        assert (item["x"] == number).all()
        assert found.statistics["made"] == number + 1
        assert found.statistics["pid"] == found.pid != os.getpid()
    assert number == 4
    assert found.statistics["made"] == 5
    assert list(found) == []
    assert counted.num_made == 0
    assert soon(lambda: is_gone(found.pid))


def test_a_loader(table):
    perm = ll.open(table).select_columns(["id"])
    for format in ("arrow", "torch_dict", "numpy_dict", "python", "polars"):
        loader = perm.loader(16, shuffle=True, seed=1, format=format)
        wanted = list(loader)
        found = list(iterate_in_helper(functools.partial(iter, loader), method="spawn"))
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            if hasattr(a, "equals"):
                assert a.equals(b)
            else:
                assert same(a, b)


class Grouped(FunctionProducer):
    """A producer whose items share messages."""

    most_items = 8


def grouped(make, monkeypatch):
    """Return the items of a producer that is never slow, and the messages that they come in."""
    monkeypatch.setattr(groups, "LONGEST_NS", 1 << 62)
    link = ChildLink("fork", 2, Grouped(make, None))
    arrived = []
    receive = link.receive

    def noting(number):
        message = receive(number)
        arrived.append(message)
        return message

    link.receive = noting
    return HelperClient(link, ChildLink.end), arrived


def test_items_share_messages(monkeypatch):
    found, messages = grouped(functools.partial(range, 40), monkeypatch)
    assert [*found] == [*range(40)]
    sizes = [len(message.value) for message in messages if message.kind == ITEM]
    assert sizes == [1, 2, 4, 8, 8, 8, 8, 1]


def test_items_before_one_that_cannot_be_pickled_arrive(monkeypatch):
    def make():
        yield from range(5)
        yield lambda: 5
        yield 6

    found, _ = grouped(make, monkeypatch)
    assert [next(found) for _ in range(5)] == [*range(5)]
    with pytest.raises(TypeError, match="cannot send a batch of type function"):
        next(found)


def test_items_that_were_not_asked_for_are_dropped_when_it_is_closed(monkeypatch):
    found, _ = grouped(functools.partial(range, 40), monkeypatch)
    assert [next(found) for _ in range(5)] == [*range(5)]
    found.close()
    assert next(found, None) is None


def test_the_helper_runs_at_most_depth_items_ahead(tmp_path):
    for depth in (1, 3):
        log = tmp_path / f"log{depth}"

        def make(log=log):
            for number in range(20):
                with log.open("a") as file:
                    file.write(f"{number}\n")
                yield number

        found = forked(make, depth=depth)
        for number in range(20):
            ready = min(20, number + depth)
            assert soon(
                lambda log=log, ready=ready: (
                    log.exists() and len(log.read_text().split()) >= ready
                )
            )
            assert len(log.read_text().split()) == ready
            assert next(found) == number
        found.close()


def test_several_consumers():
    found = forked(producers.Counted(200))
    parts = [[] for _ in range(4)]
    threads = [
        threading.Thread(
            target=lambda part=part: part.extend(item["x"].sum() for item in found)
        )
        for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    numbers = [number for part in parts for number in part]
    assert sorted(numbers) == [number * 1000 for number in range(200)]


def test_two_helpers_at_once():
    first, second = forked(producers.forever), forked(producers.forever)
    for number in range(20):
        assert next(first)[0] == next(second)[0] == number
    first.close()
    assert next(second)[0] == 20
    second.close()


# Memory.


def test_shared_memory_is_reused_once_unreferenced():
    found = forked(functools.partial(producers.forever, 100_000), depth=2)
    readable = found._segments
    for number in range(50):
        item = next(found)
        assert (item == number).all()
    # The one held, those on the way, and one that was just let go of.
    assert len(readable.mappings) <= 5
    views = [item[number:] for number in range(3)]
    del item
    for _ in range(20):
        next(found)
    assert (views[0] == 49).all()
    assert len(readable.mappings) <= 6
    found.close()


@pytest.mark.parametrize("limit", [0, 3, 32])
def test_items_that_are_kept_stay_unchanged(monkeypatch, limit):
    monkeypatch.setattr(segments, "MOST_IN_USE", limit)
    found = forked(producers.varied)
    items = list(found)
    assert len(found._segments.mappings) <= limit + 4
    for got, wanted in zip(items, producers.varied(), strict=True):
        assert np.array_equal(got, wanted)
        got += 1
    for got, wanted in zip(items, producers.varied(), strict=True):
        assert np.array_equal(got, wanted + 1)


def test_items_outlive_the_helper():
    found = forked(producers.Counted(3))
    items = list(found)
    pid = found.pid
    del found
    gc.collect()
    assert soon(lambda: is_gone(pid))
    assert [item["x"].sum() for item in items] == [0, 1000, 2000]


def test_shared_memory_has_no_names_in_the_file_system():
    before = sorted(Path("/dev/shm").iterdir())
    num_files = len(list(Path("/proc/self/fd").iterdir()))
    found = forked(producers.varied)
    items = [next(found) for _ in range(10)]
    assert sorted(Path("/dev/shm").iterdir()) == before
    pid = found.pid
    os.kill(pid, signal.SIGKILL)
    assert soon(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert sorted(Path("/dev/shm").iterdir()) == before
    found.close()
    del found, items
    gc.collect()
    assert soon(lambda: is_gone(pid))
    assert soon(lambda: len(list(Path("/proc/self/fd").iterdir())) <= num_files)


def test_forking_the_consumer():
    found = forked(functools.partial(producers.forever, 50_000))
    item = next(found)
    asks, answers = os.pipe()
    child = os.fork()
    if child == 0:
        # What was there at the time of the fork stays as it was, whatever the parent does.
        status = 1
        try:
            os.read(asks, 1)
            is_same = (item == 0).all()
            try:
                next(found)
            except RuntimeError as error:
                status = 7 if is_same and "another process" in str(error) else 2
            found.close()
            del found
            gc.collect()
        finally:
            os._exit(status)
    del item
    for _ in range(20):
        assert next(found) is not None
    os.write(answers, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    # The child has not ended it.
    assert (next(found) == 21).all()
    found.close()
    os.close(asks)
    os.close(answers)


# Ends.


@pytest.mark.parametrize("at", [None, 0, 2])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ValueError, ("a", 3)),
        (OSError, (2, "no such thing")),
        (ll.errors.ColumnNotFoundError, ("x",)),
        (KeyboardInterrupt, ()),
        (SystemExit, (3,)),
    ],
)
def test_exceptions_reach_the_consumer(kind, arguments, at):
    found = forked(producers.Raises(kind, *arguments, at=at))
    assert [next(found) for _ in range(at or 0)] == list(range(at or 0))
    with pytest.raises(kind) as caught:
        next(found)
    assert type(caught.value) is type(kind(*arguments))
    assert caught.value.args == kind(*arguments).args
    shown = "".join(traceback.format_exception(caught.value))
    assert "in __call__" in shown
    assert "raise self.kind" in shown
    assert list(found) == []
    assert soon(lambda: is_gone(found.pid))


def test_exceptions_that_do_not_pickle():
    found = forked(producers.Raises(producers.OddError, 1, 2))
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        list(found)
    found = forked(producers.Raises(StopIteration, at=None))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(found)
    found = forked(producers.lambdas)
    assert next(found) == 1
    advice = "let `transform` and `collate` return arrays"
    said = f"cannot send a batch of type function .*lambda.*{advice}"
    with pytest.raises(TypeError, match=said):
        next(found)


@pytest.mark.parametrize(
    ("make", "how", "num_items"),
    [
        (producers.killed, r"was killed by signal 9 \(SIGKILL\)", 3),
        (producers.exits, "ended with exit code 7", 1),
    ],
)
def test_a_helper_that_died(make, how, num_items):
    found = forked(make, depth=5)
    for number in range(num_items):
        assert next(found) == number
    with pytest.raises(RuntimeError, match=f"{how} before batch {num_items}"):
        next(found)
    assert list(found) == []


def test_a_helper_that_died_while_its_children_live():
    found = forked(producers.killed_with_children)
    children = next(found)
    try:
        with pytest.raises(RuntimeError, match=r"SIGKILL.* before batch 1"):
            next(found)
        assert not any(map(is_gone, children))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["close", "drop", "cycle"])
def test_the_helper_ends_with_its_consumer(tmp_path, how):
    found = forked(producers.Marks(tmp_path / "mark"))
    pid = next(found)
    if how == "close":
        found.close()
    elif how == "cycle":
        found.itself = found
    del found
    gc.collect()
    assert soon(lambda: is_gone(pid))
    assert (tmp_path / "mark").read_text() == "closed"


@pytest.mark.slow
def test_a_helper_that_ignores_signals_is_killed():
    found = forked(producers.stuck)
    next(found)
    found.close()
    assert soon(lambda: is_gone(found.pid))


def test_closed_by_another_thread():
    found = forked(producers.hangs_at_once)
    left = []
    thread = threading.Thread(target=lambda: left.extend(found))
    thread.start()
    assert soon(found._lock.locked)
    found.close()
    thread.join(20)
    assert not thread.is_alive()
    assert left == []


def test_arguments():
    with pytest.raises(ValueError, match="`depth` must be at least 1, got 0"):
        iterate_in_helper(producers.killed, depth=0)
    with pytest.raises(ValueError, match="nothing"):
        iterate_in_helper(producers.killed, method="nothing")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        iterate_in_helper(lambda: [1])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        iterate_in_helper(producers.sleeps, method="forkserver", statistics=lambda: 1)
    message = "worker process cannot start"
    (found,) = forked(functools.partial(producers.told, producers.begins))
    assert message in found


READING = """
import producers
from lanceloader.helper.client import iterate_in_helper
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("method", CONTEXTS)
def test_ctrl_c(tmp_path, method):
    """The terminal sends it to the whole group."""
    program = f"""
found = iterate_in_helper(producers.sleeps, method={method!r})
pid = next(found)
try:
    print("ready", flush=True)
    next(found)
except KeyboardInterrupt:
    gone = soon(lambda: not os.path.exists(f"/proc/{{pid}}"))
    done(gone=gone, left=list(found))
"""
    process = start(PRELUDE + READING + program, tmp_path)
    assert process.stdout.readline() == "ready\n"
    # It says so just before it waits.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process, 60) == {"gone": True, "left": []}


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("how", ["killed", "exits"])
def test_the_helper_ends_if_the_consumer_dies(tmp_path, how):
    program = """
found = iterate_in_helper(producers.sleeps)
pid = next(found)
# A process that goes on, and has inherited whatever there was.
child = os.fork()
if child == 0:
    os.close(1), os.close(2)
    time.sleep(30)
    os._exit(0)
print(pid, child, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(PRELUDE + READING + program, tmp_path, how)
    helper, child = map(int, process.stdout.readline().split())
    assert soon(lambda: is_gone(helper))
    assert not is_gone(child)
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert err == ""
