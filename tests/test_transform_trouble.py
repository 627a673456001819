"""Transforms that hang, stop, fail on nothing or need much memory: loud, in bounds, in step."""

from __future__ import annotations

import threading

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.loading import threads
from lanceloader.loading.transforming import transformed

LIMIT_S = 30


def table(num_rows):
    return ll.open(pa.table({"id": np.arange(num_rows)}))


def outcome_of(call):
    """What a call gives or raises, in a thread: one that hangs must not hang the tests."""
    found = []

    def run():
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return found[0] if found else "it hangs"


def test_a_timeout_counts_for_who_was_there_before_the_batch(monkeypatch):
    """Whoever asks before there is a batch at all must wake up when it becomes late."""
    waits, hang = threading.Event(), threading.Event()
    seconds_left = threads._Work.seconds_left

    def noted(work):
        left = seconds_left(work)
        # The lock is held until the wait has begun, so no batch comes in between.
        waits.set()
        return left

    def source():
        waits.wait(LIMIT_S)
        yield [1, 2]

    monkeypatch.setattr(threads._Work, "seconds_left", noted)
    found = transformed(
        source(),
        lambda batch: hang.wait(LIMIT_S),
        threads=1,
        timeout=0.2,
        num_rows=len,
    )
    error = outcome_of(lambda: next(found))
    hang.set()
    assert isinstance(error, TimeoutError), error
    assert "batch 0 of 2 rows" in str(error)


def test_a_loader_whose_transform_hangs_from_the_start():
    hang = threading.Event()
    loader = table(100).loader(
        4, transform=lambda batch: hang.wait(LIMIT_S), transform_timeout=0.3
    )
    error = outcome_of(lambda: list(loader))
    hang.set()
    assert isinstance(error, TimeoutError), error
