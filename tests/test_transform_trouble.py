"""Transforms that hang, stop, get no rows or need much memory: errors, bounds and equal steps."""

from __future__ import annotations

import logging
import threading
import time

import lanceloader as ll
import lanceloader.torch
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.stages.transform import transformed

LIMIT_S = 30


def stops(batch):
    """What a user's ``next`` without a default does."""
    return next(iter(()))


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


def test_a_timeout_ends_a_wait_that_began_before_there_was_a_batch():
    """The wait has no limit when it begins, so the first batch must wake it."""
    asks, hang = threading.Event(), threading.Event()

    def source():
        asks.wait(LIMIT_S)
        # Long enough for the wait to have begun; shorter, and the test would only see less.
        time.sleep(0.3)
        yield [1, 2]

    def ask():
        asks.set()
        return next(found)

    found = transformed(
        source(),
        lambda batch: hang.wait(LIMIT_S),
        threads=1,
        timeout=0.2,
        num_rows=len,
    )
    error = outcome_of(ask)
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


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("where", ["transform", "collate", "with_transform"])
def test_a_function_that_stops_is_an_error_and_no_end(where, on_error, threads):
    """An epoch that ends early without a word is training on half of the rows."""
    perm = table(12).with_format("arrow")
    options = {"transform_threads": threads}
    if on_error != "raise":
        options |= {"transform": lambda batch: [*batch["id"].to_pylist()]}
        options |= {"on_error": lambda error: False}
    if where == "with_transform":
        perm = perm.with_transform(stops)
    else:
        options[where] = stops
    loader = perm.loader(4, **options)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loader)
    assert loader.state_dict()["position"] == 0


def test_a_format_that_stops_is_an_error_wherever_rows_are_asked_for():
    perm = table(12).with_transform(stops)
    for read in (
        lambda: list(perm.iter(4)),
        lambda: perm.take_offsets([1]),
        lambda: perm.__getitems__([1]),
        lambda: perm[2:4],
        lambda: perm.loader(4, collate=len).headspace(after=5),
    ):
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(read())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_collate_function_of_torch_that_stops_is_an_error(num_workers):
    loader = ll.torch.DataLoader(
        table(12), 4, collate_fn=stops, num_workers=num_workers
    )
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loader)


def stacked(batch):
    """Fails on a batch of no rows."""
    return torch.stack([row * 2 for row in batch["id"]])


REPAIRS = {
    "value": {"error_value": torch.zeros(1, dtype=torch.int64)},
    "repair": {"repair": lambda error, row: torch.zeros(1, dtype=torch.int64)},
    "repair of the row": {
        "repair": lambda error, row: torch.tensor(row["id"].to_pylist()).long()
    },
}


@pytest.mark.parametrize("how", REPAIRS)
@pytest.mark.parametrize("transform_threads", [0, 2])
def test_ranks_take_the_same_steps_where_a_batch_has_no_rows(how, transform_threads):
    """A rank whose last batch is empty must hand it over: the others wait for its gradients."""
    steps = []
    for rank in range(3):
        loader = table(7).loader(
            global_batch_size=6,
            rank=rank,
            world_size=3,
            tail="uneven",
            format="torch_dict",
            transform=stacked,
            transform_threads=transform_threads,
            on_error="fill",
            **REPAIRS[how],
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(batch.dtype == torch.int64 for batch in batches)
        steps.append([batch.tolist() for batch in batches])
        stats = loader.stats()
        assert (stats.rows_filled, stats.batches_skipped) == (0, 0)
    assert steps == [[[0, 2], [12]], [[4, 6], []], [[8, 10], []]]


def test_a_batch_without_rows_that_is_left_out_is_called_that(caplog):
    loader = table(7).loader(
        global_batch_size=6,
        rank=2,
        world_size=3,
        tail="uneven",
        format="torch_dict",
        transform=stacked,
        on_error="skip",
    )
    with caplog.at_level(logging.WARNING, "lanceloader"):
        assert [batch.tolist() for batch in loader] == [[8, 10]]
    (record,) = caplog.records
    assert "without rows" in record.getMessage()
    assert "non-empty TensorList" in record.getMessage()


@pytest.mark.parametrize(
    "options",
    [
        {"transform_threads": 0, "transform_timeout": 5},
        {"transform_timeout": -1},
        {"transform_timeout": 0},
        {"transform_timeout": float("nan")},
    ],
)
def test_a_timeout_that_cannot_be_is_refused_at_once(options):
    with pytest.raises(ValueError, match=r"`transform_timeout`.*pass seconds above 0"):
        table(8).loader(4, transform=len, **options)
    if "transform_threads" not in options:
        with pytest.raises(ValueError, match="transform_timeout"):
            ll.torch.DataLoader(table(8), 4, num_workers=2, transform=len, **options)


HANG = threading.Event()


def hangs_at_22(batch):
    rows = batch["id"].to_pylist()
    if 22 in rows:
        HANG.wait(4 * LIMIT_S)
    return rows


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_timeout_in_workers_names_the_batch(num_workers):
    perm = table(100).with_format("arrow")
    loader = ll.torch.DataLoader(
        perm, 4, num_workers=num_workers, transform=hangs_at_22, transform_timeout=0.5
    )
    HANG.clear()
    batches = iter(loader)
    assert [next(batches)[0] for _ in range(5)] == [0, 4, 8, 12, 16]
    with pytest.raises(TimeoutError, match=r"batch 5 of 4 rows.*0\.5 s"):
        next(batches)
    # In this process its thread goes on.
    HANG.set()


def most_under_way(iterator, entered, changed, num_batches, most):
    """How many batches were ever taken and not handed over, given time to take too many."""
    found = []
    for handed, _ in enumerate(iterator, 1):
        with changed:
            wanted = min(num_batches, handed + most)
            assert changed.wait_for(lambda n=wanted: len(entered) >= n, LIMIT_S)
            found.append(len(entered) - handed)
    return max(found)


@pytest.mark.parametrize(
    ("limit_kib", "most"), [(8, 1), (64, 1), (128, 2), (1024, 16), (10_000, 16)]
)
def test_what_is_read_ahead_under_a_transform_is_bounded_in_bytes(limit_kib, most):
    """Batches of 32 KiB on 8 threads, of which half of the limit may be under way."""
    values = pa.array(np.zeros(40 * 4 * 1024))
    rows = pa.FixedSizeListArray.from_arrays(values, 1024)
    perm = ll.open(pa.table({"x": rows})).with_format("arrow")
    entered, changed = [], threading.Condition()

    def call(batch):
        with changed:
            entered.append(len(batch))
            changed.notify_all()
        return batch

    loader = perm.loader(
        4, transform=call, transform_threads=8, memory_limit=limit_kib * 1024
    )
    found = most_under_way(iter(loader), entered, changed, 40, most)
    assert found == most


def test_batches_of_different_sizes_are_bounded_by_the_largest_so_far():
    sizes = [1, 1, 10, 1, 1, 1, 30, 1, 1, 1, 1, 1]
    taken, changed = 0, threading.Condition()

    def source():
        nonlocal taken
        for size in sizes:
            with changed:
                taken += 1
                changed.notify_all()
            yield size

    def most(handed):
        """How many may be taken by the time that so many are handed over."""
        end = handed
        while end < len(sizes) and (
            end == handed
            or (
                end - handed < 8
                and sum(sizes[handed:end]) + max(sizes[:end], default=0) <= 20
            )
        ):
            end += 1
        return end

    batches = transformed(
        source(), lambda size: size, threads=4, num_bytes=int, most_bytes=20
    )
    for handed, size in enumerate(batches, 1):
        assert size == sizes[handed - 1]
        with changed:
            wanted = most(handed)
            assert changed.wait_for(lambda n=wanted: taken >= n, LIMIT_S)
            assert taken == wanted, handed


def test_threads_are_as_many_as_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 7})
    loader = table(40).loader(4, transform=len)
    assert len(list(loader)) == 10
    assert loader.stats().transform_threads == 3


@pytest.mark.parametrize("first", [0, 1])
def test_a_plain_dict_stands_for_a_row_of_a_dict_format(first):
    """The dicts of formats are of a class of their own."""

    def picky(batch):
        if (batch["x"] == first).any():
            raise LookupError("picky")
        return batch

    perm = ll.open(pa.table({"x": range(4)})).with_format("numpy_dict")
    loader = perm.loader(
        4, transform=picky, on_error="fill", error_value={"x": np.array([-1])}
    )
    (batch,) = loader
    wanted = [-1 if row == first else row for row in range(4)]
    assert batch["x"].tolist() == wanted
