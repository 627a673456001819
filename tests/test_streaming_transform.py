"""Transforms of ``StreamingDataset``: error policies, threads, and limits."""

from __future__ import annotations

import threading
from functools import partial

import lancedb
import lanceloader.streaming as streaming
import pyarrow as pa
import pytest
import tables
from lanceloader.streaming import StreamingDataset
from lanceloader.streaming.buffered_bytes import BufferedBytes
from streaming_datasets import (
    ids_of,
    next_rows,
    ours,
    outcome,
    readers,
    sets,
    steps,
    theirs,
)

BAD = frozenset({3, 4, 17, 40, 41, 42, 43, 44, 45, 46, 47, 90})


class BadRowError(ValueError):
    """Raised by the transforms of this file."""


def picky(batch):
    """Return the ids of a batch; raise if one of them is bad."""
    ids = ids_of(batch)
    if BAD & set(ids):
        raise BadRowError(min(BAD & set(ids)))
    return iter(ids)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(100))


def both(shared, **options):
    return [
        library.StreamingDataset(
            shared, **{"num_splits": 4, "transform": picky, **options}
        )
        for library in (ours, theirs)
    ]


def is_bad_row(error):
    return isinstance(error, BadRowError)


@pytest.mark.parametrize("policy", ["skip", "warn", is_bad_row], ids=str)
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_skipping_is_that_of_lancedb(shared, policy, batch_size, caplog):
    made = both(shared, on_transform_error=policy, read_batch_size=batch_size)
    rows = [list(dataset) for dataset in made]
    assert rows[0] == rows[1]
    assert not BAD & set(rows[0])
    assert made[0].rows_skipped == made[1].rows_skipped > 0
    assert made[0].state_dict() == made[1].state_dict()
    lines = {"ours": [], "theirs": []}
    for record in caplog.records:
        name = "ours" if record.name.startswith("lanceloader") else "theirs"
        said, _, where = record.getMessage().partition(": row offset")
        lines[name].append(said)
        # LanceDB does not name the rows.
        assert bool(where) == (name == "ours")
    assert sorted(lines["ours"]) == sorted(lines["theirs"])
    assert bool(lines["ours"]) == (policy == "warn")
    assert all("Skipped" in line and "BadRowError" in line for line in lines["ours"])


def test_states_with_skipped_rows_resume_in_lancedb(shared):
    options = {"num_splits": 4, "transform": picky, "on_transform_error": "skip"}
    whole = [list(d) for d in readers(theirs, shared, world_size=2, **options)]
    for first, second in ((ours, theirs), (theirs, ours)):
        started = readers(first, shared, world_size=2, **options)
        done = [next_rows(dataset, 20) for dataset in started]
        state = second.StreamingDataset.merge_state_dicts(
            [dataset.state_dict() for dataset in started]
        )
        assert (
            state["positions_consumed_per_split"] != state["samples_consumed_per_split"]
        )
        resumed = readers(second, shared, world_size=2, state=state, **options)
        assert [d + list(g) for d, g in zip(done, resumed, strict=True)] == whole


def test_raising_is_the_default(shared):
    for dataset in both(shared):
        with pytest.raises(BadRowError):
            list(dataset)


def test_a_policy_function_that_returns_false_raises(shared):
    asked = []

    def refuse(error):
        asked.append(error)
        return False

    with pytest.raises(BadRowError):
        list(both(shared, on_transform_error=refuse)[0])
    assert all(isinstance(error, BadRowError) for error in asked)


class Steps(list):
    """A transform whose truth value is false, because it has no steps."""

    def __call__(self, batch):
        rows = ids_of(batch)
        for step in self:
            rows = [step(row) for row in rows]
        return rows


def test_a_transform_may_have_a_false_truth_value(shared):
    for library in (ours, theirs):
        dataset = library.StreamingDataset(shared, shuffle=False, transform=Steps())
        assert list(dataset) == list(range(100))


@pytest.mark.parametrize("policy", ["skip", "warn", lambda error: True])
def test_a_wrong_number_of_rows_is_never_skipped(shared, policy):
    for transform in (lambda batch: [], lambda batch: [1] * (batch.num_rows + 1)):
        with pytest.raises(ValueError, match="one output row per input row"):
            list(both(shared, transform=transform, on_transform_error=policy)[0])


def test_a_system_exit_is_never_skipped(shared):
    def leave(batch):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(both(shared, transform=leave, on_transform_error="skip")[0])


def test_a_split_of_bad_rows_only_ends_the_epoch(shared):
    def halves(batch):
        if min(ids_of(batch)) < 50:
            raise BadRowError
        return ids_of(batch)

    made = both(
        shared,
        num_splits=2,
        shuffle=False,
        transform=halves,
        on_transform_error="skip",
        read_batch_size=10,
    )
    for dataset in made:
        assert list(dataset) == []
        assert dataset.rows_skipped == 50


# Filling, which LanceDB 0.40 does not have.


def test_filled_rows_keep_their_positions(shared):
    """Ranks stay in step, and states are the same as without failures."""
    options = {"num_splits": 4, "read_batch_size": 7}
    dataset = StreamingDataset(
        shared,
        transform=picky,
        on_transform_error="fill",
        fill_value=None,
        **options,
    )
    whole = list(StreamingDataset(shared, transform=ids_of, **options))
    rows = next_rows(dataset, 43)
    state = dataset.state_dict()
    assert state["positions_consumed_per_split"] == state["samples_consumed_per_split"]
    rows += list(dataset)
    assert rows == [None if row in BAD else row for row in whole]
    # Rows read ahead when the first loop ended were read again.
    assert dataset.rows_filled >= len(BAD)
    assert dataset.rows_skipped == 0


@pytest.mark.filterwarnings("error")
def test_both_names_of_the_value_of_failed_rows(shared):
    """LanceDB's name is part of its API, so it comes without a warning."""
    options = {"transform": picky, "on_transform_error": "fill", "shuffle": False}
    ours = list(StreamingDataset(shared, error_value={"id": None}, **options))
    assert ours == list(StreamingDataset(shared, fill_value={"id": None}, **options))
    assert ours.count({"id": None}) == len(BAD)
    with pytest.raises(ValueError, match=r"error_value=1 and fill_value=None .* one"):
        StreamingDataset(shared, error_value=1, fill_value=None, **options)


def test_each_filled_row_is_a_copy(shared):
    value = {"id": [-1]}
    dataset = StreamingDataset(
        shared, transform=picky, on_transform_error="fill", fill_value=value
    )
    filled = [row for row in dataset if row == value]
    assert len(filled) == len(BAD) == len({id(row) for row in filled})
    filled[0]["id"].append(0)
    assert value == {"id": [-1]}


def test_repaired_rows(shared):
    def repair(error, row):
        assert isinstance(error, BadRowError)
        assert isinstance(row, pa.RecordBatch)
        assert row.num_rows == 1
        return -row["id"][0].as_py()

    dataset = StreamingDataset(
        shared,
        num_splits=4,
        transform=picky,
        on_transform_error="fill",
        repair=repair,
    )
    assert sorted(map(abs, dataset)) == list(range(100))
    assert dataset.rows_filled == len(BAD)


def test_a_repair_that_fails_raises(shared):
    def repair(error, row):
        raise LookupError from error

    options = {"transform": picky, "on_transform_error": "fill", "repair": repair}
    with pytest.raises(LookupError):
        list(StreamingDataset(shared, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"on_transform_error": "fill"},
        {"on_transform_error": "fill", "fill_value": 1, "repair": print},
        {"on_transform_error": "fill", "error_value": 1, "repair": print},
        {"fill_value": None},
        {"error_value": None},
        {"repair": print, "on_transform_error": "skip"},
        {"on_transform_error": "fill", "repair": 3},
    ],
    ids=str,
)
def test_options_that_do_not_fit_filling(shared, options):
    with pytest.raises(ValueError, match="repair"):
        StreamingDataset(shared, **options)


def test_filling_keeps_steps_the_same_for_all_topologies(shared):
    options = {
        "num_splits": 4,
        "transform": picky,
        "on_transform_error": "fill",
        "fill_value": -1,
    }
    found = [
        sets(steps(readers(ours, shared, world_size=n, **options), 4 // n))
        for n in (1, 2, 4)
    ]
    assert found[0] == found[1] == found[2]


# Threads.


class Gate:
    """A transform that waits until the gate is open."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, batch):
        self.entered.release()
        self.open.wait()
        return ids_of(batch)


def test_the_number_of_concurrent_transforms_is_limited(shared):
    running, seen = [], []
    lock = threading.Lock()

    def transform(batch):
        with lock:
            running.append(threading.get_ident())
            seen.append(len(running))
        ids = ids_of(batch)
        with lock:
            running.remove(threading.get_ident())
            assert threading.current_thread() is not threading.main_thread()
        return ids

    options = {"num_splits": 4, "read_batch_size": 2}
    made = StreamingDataset(
        shared, transform=transform, transform_parallelism=2, **options
    )
    assert list(made) == list(
        theirs.StreamingDataset(shared, transform=ids_of, **options)
    )
    assert len(seen) == 52
    assert max(seen) <= 2


def test_closing_does_not_wait_for_a_transform_that_hangs(shared, monkeypatch, caplog):
    """The dataset can be read again."""
    monkeypatch.setattr("lanceloader.streaming.pools.GRACE", 0.01)
    gate = Gate()
    first = next(iter(StreamingDataset(shared, transform=ids_of)))
    hangs = threading.Event()

    def transform(batch):
        if first in ids_of(batch):
            return ids_of(batch)
        hangs.set()
        return gate(batch)

    dataset = StreamingDataset(
        shared, read_batch_size=5, transform=transform, transform_parallelism=2
    )
    rows = iter(dataset)
    started = [next(rows)]
    # Taking a row may submit the next transform; the rows of the first batch do not need it.
    while len(started) < 5 and not hangs.wait(0.5):
        started.append(next(rows))
    assert hangs.is_set()
    rows.close()
    assert "in the background" in caplog.text
    assert not dataset._consumer_iterator_active
    gate.open.set()
    assert started + list(dataset) == list(StreamingDataset(shared, transform=ids_of))


def test_closing_waits_for_quick_calls(shared, caplog):
    before = set(threading.enumerate())
    options = {"num_splits": 4, "read_batch_size": 1, "transform": ids_of}
    next_rows(StreamingDataset(shared, **options), 1)
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if "ThreadPool" in thread.name]
    assert caplog.text == ""


# `max_buffered_bytes`.


@pytest.mark.parametrize("limit", [1, 2_000, "1GiB"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_byte_limit_does_not_change_the_rows(shared, limit, policy):
    options = {
        "num_splits": 4,
        "read_batch_size": 5,
        "on_transform_error": policy,
        "transform": ids_of if policy == "raise" else picky,
    }
    dataset = StreamingDataset(shared, max_buffered_bytes=limit, **options)
    assert list(dataset) == list(StreamingDataset(shared, **options))


def test_a_byte_limit_bounds_the_rows_that_wait(shared):
    """A batch has five rows. With a limit of one byte, each split has one batch."""
    free = StreamingDataset(shared, num_splits=4, read_batch_size=5, transform=ids_of)
    tight = StreamingDataset(
        shared,
        num_splits=4,
        read_batch_size=5,
        transform=ids_of,
        max_buffered_bytes=1,
    )
    for dataset, most in ((tight, 20), (free, 100)):
        for k, _ in enumerate(dataset):
            asked = 100 - dataset.unscanned_rows
            assert asked - k - 1 <= most
    rows = iter(free)
    assert next(rows, None) is None


def test_a_byte_limit_counts_reads_under_way():
    buffered = BufferedBytes(100, 2)
    batch = pa.record_batch({"x": pa.array(range(5), pa.int64())})
    assert buffered.reserve(0, 5)
    assert buffered.reserve(1, 5)
    # The size of batches is not known yet.
    assert not buffered.reserve(0, 5)
    buffered.add(0, 5, batch)
    # 40 bytes were read, 40 are being read.
    assert not buffered.reserve(0, 5)
    buffered.release(0, 5)
    assert buffered.reserve(0, 5)
    assert buffered.pending == [5, 5]


def test_a_byte_limit_of_zero_is_refused(shared):
    for limit in (0, "0 B"):
        with pytest.raises(ValueError, match="max_buffered_bytes"):
            StreamingDataset(shared, max_buffered_bytes=limit)
    error, _ = outcome(partial(StreamingDataset, shared, max_buffered_bytes=-1))
    assert issubclass(error, OverflowError)


def test_the_logger_has_the_name_of_the_package(shared):
    assert streaming.logger.name == "lanceloader.streaming"
