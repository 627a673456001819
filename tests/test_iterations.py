"""One iteration shared by several threads: each batch goes to one, and the end reaches all."""

from __future__ import annotations

import gc
import itertools
import json
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import lance
import lanceloader as ll
import lanceloader.torch
import numpy as np
import pyarrow as pa
import pytest
import s3_folder
from programs import PRELUDE, finish, start

THREADS = 4
LIMIT_S = 30


@pytest.fixture(scope="module")
def perm():
    return ll.open(pa.table({"id": np.arange(1000)})).with_format("torch_dict")


def shares_of(iteration):
    """What each of some threads gets."""
    barrier = threading.Barrier(THREADS)

    def pull(_):
        barrier.wait(LIMIT_S)
        return [batch["id"].tolist() for batch in iteration]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(pull, range(THREADS)))


MAKES = {
    "rows": lambda perm: perm.loader(7),
    "shuffled": lambda perm: perm.loader(7, shuffle=True, seed=1),
    "threads": lambda perm: perm.loader(7, transform=dict, transform_threads=3),
    "here": lambda perm: perm.loader(7, transform=dict, transform_threads=0),
    "collate": lambda perm: perm.loader(7, collate=dict),
    "epochs": lambda perm: perm.loader(7, epochs=3),
    "mixture": lambda perm: ll.mix([perm, perm.with_take(300)]).loader(7),
    "helper": lambda perm: perm.loader(7, in_process=False),
    "workers": lambda perm: ll.torch.DataLoader(perm, 7, num_workers=2),
}


@pytest.mark.parametrize("name", MAKES)
def test_each_batch_goes_to_one_thread(perm, name):
    wanted = [batch["id"].tolist() for batch in MAKES[name](perm)]
    loader = MAKES[name](perm)
    shares = shares_of(iter(loader))
    found = list(itertools.chain.from_iterable(shares))
    assert sorted(found) == sorted(wanted)
    if name == "rows":
        assert all(share == sorted(share) for share in shares)
    assert loader.stats().batches == len(wanted)


def test_the_state_is_that_of_all_threads_together(perm):
    loader = perm.loader(7, shuffle=True, seed=1)
    iteration, barrier = iter(loader), threading.Barrier(THREADS)

    def pull(_):
        barrier.wait(LIMIT_S)
        return [next(iteration)["id"].tolist() for _ in range(5)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(itertools.chain.from_iterable(pool.map(pull, range(THREADS))))
    other = perm.loader(7, shuffle=True, seed=1)
    other.load_state_dict(loader.state_dict())
    found += [batch["id"].tolist() for batch in other]
    assert sorted(itertools.chain.from_iterable(found)) == list(range(1000))


def test_one_thread_closes_what_another_waits_for(perm):
    waits, goes_on = threading.Event(), threading.Event()

    def slowly(batch):
        waits.set()
        assert goes_on.wait(LIMIT_S)
        return batch

    loader = perm.loader(7, transform=slowly, transform_threads=0)
    iteration = iter(loader)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: [len(batch["id"]) for batch in iteration])
        assert waits.wait(LIMIT_S)
        iteration.close()
        assert not found.done()
        goes_on.set()
        assert found.result(LIMIT_S) == [7]
    assert list(iteration) == []


def test_an_error_is_raised_once_and_ends_it_for_all(perm):
    def fails(batch):
        if batch["id"][0] >= 70:
            raise ZeroDivisionError
        return batch

    iteration, barrier = iter(perm.loader(7, transform=fails)), threading.Barrier(4)

    def pull(_):
        barrier.wait(LIMIT_S)
        try:
            return sum(1 for _ in iteration)
        except ZeroDivisionError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(pull, range(THREADS)))
    assert found.count(None) == 1
    assert list(iteration) == []


def test_a_transform_that_asks_for_its_own_batch_does_not_wait_for_itself(perm):
    loader = perm.loader(7, transform=lambda _: next(iteration), transform_threads=0)
    iteration = iter(loader)
    with pytest.raises(ValueError, match="already executing"):
        next(iteration)


HANGS = """
waits = threading.Event()


def hangs(batch):
    waits.set()
    time.sleep(1000)


perm = ll.open(pa.table({"id": np.arange(100)}))
it = iter(perm.loader(4, transform=hangs, transform_threads=1))
threading.Thread(target=next, args=(it, None), daemon=True).start()
waits.wait()
"""


def test_ctrl_c_while_another_thread_waits_for_a_batch(tmp_path):
    program = """
from lanceloader.stages import ordered_map as threads

threads.GRACE_S = 0.1
try:
    print("ready", flush=True)
    next(it)
except KeyboardInterrupt:
    done(interrupted=True)
"""
    process = start(PRELUDE + HANGS + program, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process, 60) == {"interrupted": True}


def test_after_a_fork_nobody_waits_for_threads_that_are_not_there(tmp_path):
    program = """
import warnings

warnings.simplefilter("ignore")
from lanceloader.stages import ordered_map as threads

threads.GRACE_S = 0.1
child = os.fork()
if child == 0:
    try:
        next(it)
    except ValueError:
        os._exit(7)
    os._exit(1)
done(code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = start(PRELUDE + HANGS + program, tmp_path)
    assert finish(process, 60) == {"code": 7}


# The core's iterator, while another thread is inside of it.


@pytest.fixture
def stalled(tmp_path):
    """Arguments of a program whose table's data files are asked for, and not answered."""

    class Stalled(s3_folder.Request):
        def do_GET(self):  # noqa: N802
            if "/data/" in self.path:
                (tmp_path / "asked").touch()
                is_over.wait(LIMIT_S)
            super().do_GET()

    is_over = threading.Event()
    lance.write_dataset(pa.table({"id": range(100)}), tmp_path / "t.lance")
    with s3_folder.serving(tmp_path, request=Stalled) as endpoint:
        options = {
            "aws_endpoint": endpoint,
            "allow_http": "true",
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
            "aws_region": "us-east-1",
        }
        try:
            yield f"s3://{s3_folder.BUCKET}/t.lance", json.dumps(options)
        finally:
            is_over.set()


STALLED = """
perm = ll.open(sys.argv[2], storage_options=json.loads(sys.argv[3]))
it = perm.reader.load(perm.order, 4, False)
threading.Thread(target=next, args=(it, None), daemon=True).start()
assert soon(lambda: os.path.exists(folder + "/asked"))
"""


@pytest.mark.slow
def test_ctrl_c_while_another_thread_is_inside_the_core(tmp_path, stalled):
    program = """
try:
    print("ready", flush=True)
    next(it)
except KeyboardInterrupt:
    done(interrupted=True)
    os._exit(0)
"""
    process = start(PRELUDE + STALLED + program, tmp_path, *stalled)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process, 60) == {"interrupted": True}


@pytest.mark.slow
def test_after_a_fork_the_core_s_iterator_waits_for_no_thread(tmp_path, stalled):
    program = """
import warnings

warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    answers = it.position == 0 and it.watch().stats().batches == 0
    try:
        next(it)
    except ValueError as error:
        os._exit(7 if answers and "forked" in str(error) else 2)
    os._exit(1)
done(code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""
    process = start(PRELUDE + STALLED + program, tmp_path, *stalled)
    assert finish(process, 60) == {"code": 7}


def test_variables_of_the_caller_are_not_kept(perm):
    """A function that deletes a loader, and goes on, has none."""
    loader = perm.loader(7)
    batches = iter(loader)
    next(batches)
    gone = weakref.ref(loader), weakref.ref(batches)
    del loader, batches
    gc.collect()
    assert [each() for each in gone] == [None, None]
