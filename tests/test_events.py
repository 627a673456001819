"""The event that ends workers: no worker holds its lock while it could be killed."""

from __future__ import annotations

import gc
import multiprocessing
import queue as queues
import threading
import time

import importable
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from killing import kill_and_drain
from lanceloader.transport.events import check_without_lock
from torch.utils.data import DataLoader

pytestmark = pytest.mark.timeout(120)


def parts():
    context = multiprocessing.get_context("fork")
    return context.Event(), context.Queue()


def request_of(queue, request):
    queue.put(request)
    assert queue.get(timeout=60) == request


def test_the_lock_is_not_needed_while_batches_are_requested():
    event, queue = parts()
    check_without_lock(event, queue)
    with event._cond:
        assert not event.is_set()
        request_of(queue, (3, [1, 2]))
        assert not event.is_set()
    event.set()
    with event._cond:
        assert event.is_set()
    queue.close()


def test_the_request_to_end_is_exact():
    """Others that check the event at the same time clear its flag for a moment."""
    event, queue = parts()
    event.set()
    check_without_lock(event, queue)
    request_of(queue, None)
    # Another process is in the middle of such a check.
    assert event._cond.acquire()
    assert event._flag.acquire(False)

    def finish():
        event._flag.release()
        event._cond.release()

    other = threading.Timer(0.2, finish)
    other.start()
    assert event.is_set()
    other.join()
    queue.close()


@pytest.mark.parametrize("event", [None, threading.Event()])
def test_other_events_stay_as_they_are(event):
    queue = queues.Queue()
    check_without_lock(event, queue)
    assert "get" not in vars(queue)
    assert event is None or "is_set" not in vars(event)


@pytest.fixture
def perm(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"id": np.arange(4000)}), path)
    return ll.open(path)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_worker_checks_without_the_lock(perm, context):
    options = {"num_workers": 1, "multiprocessing_context": context, "timeout": 60}
    rows = perm.with_transform(importable.holding_the_lock)
    batches = DataLoader(rows, batch_size=10, collate_fn=importable.as_it_is, **options)
    # The first check of a spawned worker is before it has read a row.
    assert np.concatenate(list(batches)).tolist() == list(range(4000))


@pytest.fixture
def frozen_heap():
    """Collections look at what a test makes, not at what all tests before it left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize(
    ("context", "times"), [("fork", 150), ("forkserver", 2), ("spawn", 5)]
)
def test_workers_that_are_killed_at_any_time(perm, context, times):
    rng = np.random.default_rng(5)
    rows = perm.with_repeat(200).with_transform(importable.ids)
    options = {"batch_size": 4, "num_workers": 2, "collate_fn": importable.as_it_is}
    for _ in range(times):
        batches = iter(DataLoader(rows, multiprocessing_context=context, **options))
        next(batches)
        time.sleep(rng.uniform(0, 3e-4))
        with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
            kill_and_drain(batches)
        del batches
