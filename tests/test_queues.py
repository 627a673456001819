"""Queues whose messages need no threads: the same messages in the same order."""

from __future__ import annotations

import gc
import multiprocessing
import queue as queues
import threading

import pytest
from lanceloader.transport.queues import DirectWriter, read_directly, write_directly

pytestmark = pytest.mark.timeout(120)


def write(queue, count, size):
    write_directly(queue)
    for number in range(count):
        queue.put((number, "x" * size))
    queue.close()
    queue.join_thread()


@pytest.mark.parametrize("size", [10, 5000, 100_000])
def test_messages_arrive_in_order(size):
    """Those that do not fit into the pipe, too."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    read_directly(queue)
    process = context.Process(target=write, args=(queue, 2000, size), daemon=True)
    process.start()
    for number in range(2000):
        assert queue.get(timeout=60) == (number, "x" * size)
    process.join(60)
    assert process.exitcode == 0


def test_nobody_waits_for_the_reader():
    queue = multiprocessing.get_context("fork").Queue()
    write_directly(queue)
    for number in range(30_000):
        queue.put(number)
    assert [queue.get(timeout=60) for _ in range(30_000)] == list(range(30_000))
    queue.close()
    queue.join_thread()


def test_small_messages_need_no_thread():
    queue = multiprocessing.get_context("fork").Queue()
    before = threading.active_count()
    write_directly(queue)
    queue.put("message")
    assert threading.active_count() == before
    assert queue.get(timeout=60) == "message"
    queue.close()


def test_an_empty_queue():
    queue = multiprocessing.get_context("fork").Queue()
    read_directly(queue)
    with pytest.raises(queues.Empty):
        queue.get(timeout=0.01)
    with pytest.raises(queues.Empty):
        queue.get(block=False)
    with pytest.raises(queues.Empty):
        # Longer than the test may take: `block=False` takes precedence.
        queue.get(block=False, timeout=600)
    queue.put(1)
    assert queue.get() == 1
    queue.close()


def test_the_queue_is_not_kept_alive():
    queue = multiprocessing.get_context("fork").Queue()
    write_directly(queue)
    read_directly(queue)
    reader = queue._reader
    gc.disable()
    try:
        del queue
        referrers = [one for one in gc.get_referrers(reader) if one is not globals()]
    finally:
        gc.enable()
    assert not any(type(one).__name__ == "Queue" for one in referrers)


def test_other_queues_stay_as_they_are():
    queue = queues.Queue()
    writer = DirectWriter(queue, queue.put)
    writer.put(1)
    read_directly(queue)
    assert queue.get() == 1
