"""``StreamingDataset`` yields LanceDB's rows in its order, with its errors and statistics."""

from __future__ import annotations

import collections
import itertools
import logging
import operator
import threading
from concurrent.futures import Future
from functools import partial

import lanceloader.streaming as streaming
import pyarrow as pa
import pytest
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from lanceloader.streaming import StreamingDataset
from streaming_datasets import (
    LIBRARIES,
    Worker,
    ids_of,
    next_rows,
    ours,
    outcome,
    readers,
    sets,
    steps,
    theirs,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A table of 100 rows in two fragments."""
    import lancedb

    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    table = database.create_table("t", tables.narrow(60))
    table.add(tables.narrow(100).slice(60))
    return table


class Inline:
    """An executor without threads, which makes each call in ``submit``."""

    def __init__(self, max_workers):
        self.max_workers = max_workers

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def submit(self, call, *arguments):
        future = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


OPTIONS = [
    {},
    {"num_splits": 4, "shuffle_seed": 7, "epoch": 3},
    {"num_splits": 3, "shuffle": False},
    {"num_splits": 6, "shuffle_clump_size": 4},
    {"num_splits": 4, "filter": "id % 3 = 1", "columns": ["id", "_rowid"]},
    {"num_splits": 7, "columns": ["name", "id"], "read_batch_size": 3},
    {"num_splits": 2, "io_queue_depth": 1, "transform_queue_depth": 1},
    {"num_splits": 2, "transform": ids_of, "transform_parallelism": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_are_those_of_lancedb(table, options):
    made = [library.StreamingDataset(table, **options) for library in (ours, theirs)]
    assert list(made[0]) == list(made[1])
    for name in ("unscanned_rows", "consumed_rows", "rows_skipped"):
        assert getattr(made[0], name) == getattr(made[1], name)
    assert made[0].state_dict() == made[1].state_dict()


def test_tables_in_memory(any_table):
    """LanceDB cannot read this table, because it loses the row ids."""
    dataset = StreamingDataset(any_table, num_splits=4, transform=ids_of)
    assert sorted(dataset) == any_table.to_arrow()["id"].to_pylist()


@given(
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**40),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_any_topology_is_that_of_lancedb(
    shared, num_splits, world_size, num_workers, seed, shuffle
):
    options = {
        "num_splits": num_splits,
        "shuffle_seed": seed,
        "shuffle": shuffle,
        "transform": ids_of,
        "world_size": world_size,
        "num_workers": num_workers,
    }

    def rows(library):
        return [list(dataset) for dataset in readers(library, shared, **options)]

    found, wanted = (outcome(partial(rows, library)) for library in (ours, theirs))
    if isinstance(wanted, tuple):
        kind, text = wanted
        assert found[0] is kind
        assert found[1].startswith(text)
    else:
        assert found == wanted


def test_steps_are_the_same_sets_for_all_topologies(shared):
    options = {"num_splits": 12, "transform": ids_of, "shuffle_seed": 5}
    found = []
    for world_size, num_workers in [(1, None), (2, None), (3, 2), (12, None), (2, 6)]:
        made = readers(
            ours, shared, world_size=world_size, num_workers=num_workers, **options
        )
        found.append(sets(steps(made, 24 // len(made))))
    assert all(of_one == found[0] for of_one in found)
    rows = list(itertools.chain(*found[0]))
    assert len(set(rows)) == len(rows) == 96


def test_the_order_without_shuffle(db):
    table = db.create_table("t", tables.narrow(11))
    rows = StreamingDataset(table, num_splits=2, shuffle=False, transform=ids_of)
    assert list(rows) == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]


WRONG = [
    {"num_splits": 5, "world_size": 2},
    {"io_queue_depth": 0},
    {"transform_parallelism": 0},
    {"transform_queue_depth": 0},
    {"on_transform_error": "never"},
    {"on_transform_error": None},
    {"world_size": 0},
    {"num_splits": 101},
    {"filter": "id < 2", "num_splits": 3},
    {"shuffle_seed": -1},
    {"epoch": -1},
    {"rank": 9},
    {"rank": -1},
    {"shuffle_clump_size": -1},
    {"pack_sequences": 0},
    {"pack_sequences": 4},
    {"pack_sequences": 4, "eos_id": 1},
    {"pack_sequences": 4, "eos_id": 1, "pad_id": 0},
    {"blocks_per_epoch": 3},
]
WRONG_LATER = [
    {"columns": ["nothing"]},
    {"columns": []},
    {"worker_info_override": Worker(0, 2)},
    {"transform": lambda batch: [1]},
    {"transform": lambda batch: 1},
    {"transform": lambda batch: batch["nothing"]},
]


@pytest.mark.parametrize("options", WRONG + WRONG_LATER, ids=str)
def test_errors_are_those_of_lancedb(shared, options):
    """The types are equal, and the texts share the parts that programs match."""

    def rows(library):
        return list(library.StreamingDataset(shared, **options))

    (kind, text), (wanted, their_text) = (
        outcome(partial(rows, library)) for library in (ours, theirs)
    )
    assert issubclass(kind, wanted)
    looked_for = (
        *("must be divisible by", "must be greater than 0", "on_transform_error"),
        *("at least 1 row per split", "is required", "No rows found", "does not exist"),
        *("one output row per input row", "requires pack_sequences"),
    )
    for fragment in looked_for:
        if fragment in their_text:
            assert fragment in text.replace("exactly one output", "one output")


@pytest.mark.parametrize("size", [0, -1])
def test_reads_of_no_rows_are_refused(shared, size):
    """LanceDB hangs."""
    with pytest.raises(ValueError, match="read_batch_size must be greater than 0"):
        StreamingDataset(shared, read_batch_size=size)
    for library in (ours, theirs):
        with pytest.raises(TypeError):
            library.StreamingDataset(shared, io_queue_depth=None)


def test_zero_splits_are_refused(shared):
    with pytest.raises(ValueError, match=r"`num_splits` must be from 1 .* got 0"):
        StreamingDataset(shared, num_splits=0)


def test_the_old_name_of_the_queue_depth_warns(shared, caplog):
    dataset = StreamingDataset(shared, prefetch_batches=2)
    assert "deprecated" in caplog.text
    assert "io_queue_depth" in caplog.text
    assert dataset._io_queue_depth == 2


def test_a_seed_is_drawn_and_kept(shared):
    dataset = StreamingDataset(shared, shuffle_seed=None, transform=ids_of)
    again = StreamingDataset(
        shared, shuffle_seed=dataset._shuffle_seed, transform=ids_of
    )
    assert list(dataset) == list(again)
    assert 0 <= dataset._shuffle_seed < 2**32


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_iterator_at_a_time(shared, library):
    dataset = LIBRARIES[library].StreamingDataset(
        shared, num_splits=4, transform=ids_of
    )
    first, second = iter(dataset), iter(dataset)
    started = [next(first)]
    with pytest.raises(RuntimeError, match="concurrent iteration"):
        next(second)
    started += [next(first)]
    first.close()
    started += list(dataset)
    assert list(dataset) == []
    assert started == list(
        theirs.StreamingDataset(shared, num_splits=4, transform=ids_of)
    )


def test_deleting_an_iterator_releases_the_dataset(shared):
    dataset = StreamingDataset(shared, num_splits=4)
    iterator = iter(dataset)
    next(iterator)
    assert dataset._consumer_iterator_active
    del iterator
    assert not dataset._consumer_iterator_active
    next(iter(dataset))


def test_an_interrupted_acquire_releases_the_lock(shared, monkeypatch):
    dataset = StreamingDataset(shared)
    acquire = dataset._acquire_consumer_iterator

    def interrupted():
        acquire()
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_acquire_consumer_iterator", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(iter(dataset))
    assert not dataset._consumer_iterator_active


def test_the_lock_of_another_owner_is_not_released(shared):
    dataset = StreamingDataset(shared)
    held = []
    thread = threading.Thread(
        target=lambda: held.append(dataset._acquire_consumer_iterator())
    )
    thread.start()
    thread.join()
    dataset._release_consumer_iterator_after_failed_acquire(None)
    assert dataset._consumer_iterator_owner == held[0]
    dataset._release_consumer_iterator(held[0] + 1)
    assert dataset._consumer_iterator_active
    dataset._release_consumer_iterator(held[0])
    assert not dataset._consumer_iterator_active


@pytest.mark.parametrize("found", [None, Worker(1, 4)])
def test_an_override_of_the_worker_warns_in_a_worker(
    shared, monkeypatch, caplog, found
):
    monkeypatch.setattr(streaming, "get_worker_info", lambda: found)
    info = Worker(0, 2)
    dataset = StreamingDataset(shared, num_splits=4, worker_info_override=info)
    with caplog.at_level(logging.WARNING):
        assert len(list(dataset)) == 50
    assert ("override" in caplog.text) == (found is not None)


def test_statistics(shared):
    made = [
        library.StreamingDataset(shared, num_splits=12) for library in (ours, theirs)
    ]
    names = (
        *("bytes_loaded", "fetch_time", "transform_time", "rows_skipped"),
        *("unscanned_rows", "raw_queue_depth", "prefetch_queue_depth", "consumed_rows"),
    )
    for dataset in made:
        assert [getattr(dataset, name) for name in names] == [0] * 8
        iterator = iter(dataset)
        next(iterator)
        assert dataset.prefetch_queue_depth > 0
        assert dataset.consumed_rows == 1
        assert len(list(iterator)) == 95
        assert dataset.prefetch_queue_depth == dataset.raw_queue_depth == 0
        assert dataset.fetch_time > 0
        assert dataset.transform_time > 0
    for name in ("consumed_rows", "unscanned_rows", "rows_skipped"):
        assert getattr(made[0], name) == getattr(made[1], name)
    loaded = made[0].bytes_loaded
    assert loaded > 96 * 28
    assert list(made[0]) == []
    assert made[0].bytes_loaded == loaded


def test_replaced_globals_are_used(shared, monkeypatch):
    """Programs may replace globals of the package, as of ``lancedb.streaming``."""
    threads, calls = [], []
    pool, from_tables = streaming.ThreadPoolExecutor, streaming.Permutation.from_tables

    class Pool(pool):
        def __init__(self, max_workers):
            threads.append(max_workers)
            super().__init__(max_workers=max_workers)

    class Permutation:
        @staticmethod
        def from_tables(table, permutation_table, split):
            calls.append(split)
            return from_tables(table, permutation_table, split)

    monkeypatch.setattr(streaming, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(streaming, "Permutation", Permutation)
    monkeypatch.setattr(streaming.os, "cpu_count", lambda: None)
    assert len(list(StreamingDataset(shared, num_splits=4, io_queue_depth=3))) == 100
    assert threads == [12, 1]
    assert calls == [0, 1, 2, 3]
    list(StreamingDataset(shared, num_splits=2, transform_parallelism=5))
    assert threads[2:] == [8, 5]


def test_an_executor_needs_only_submit(shared, monkeypatch):
    monkeypatch.setattr(streaming, "ThreadPoolExecutor", Inline)
    dataset = StreamingDataset(shared, num_splits=4, transform=ids_of)
    assert list(dataset) == list(
        theirs.StreamingDataset(shared, num_splits=4, transform=ids_of)
    )


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("stage", ["read", "transform"])
def test_a_failure_of_a_later_batch_is_raised_as_early_as_in_lancedb(
    shared, monkeypatch, num_splits, batch_size, depth, stage
):
    """With calls that take no time, the same rows are yielded and counted before it."""
    for first_bad in (0, 5, 9, 20):
        found = []
        for library in (ours, theirs):
            take = library.Permutation.__getitems__
            bad = theirs.StreamingDataset(
                shared, num_splits=num_splits, transform=ids_of
            )
            bad = list(bad)[first_bad]

            def failing(self, positions, take=take, bad=bad):
                batch = take(self, positions)
                if stage == "read" and bad in ids_of(batch):
                    raise OSError("no such disk")
                return batch

            def transform(batch, bad=bad):
                if bad in ids_of(batch):
                    raise OSError("no such row")
                return ids_of(batch)

            with monkeypatch.context() as patches:
                patches.setattr(library, "ThreadPoolExecutor", Inline)
                patches.setattr(library.Permutation, "__getitems__", failing)
                dataset = library.StreamingDataset(
                    shared,
                    num_splits=num_splits,
                    read_batch_size=batch_size,
                    io_queue_depth=depth,
                    transform=transform,
                )
                rows = []
                with pytest.raises(OSError, match="no such"):
                    collections.deque(map(rows.append, dataset), maxlen=0)
            found.append((rows, dataset.consumed_rows, dataset.state_dict()))
        assert found[0] == found[1], first_bad


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_queue_of_transformed_rows_is_bounded(shared, depth):
    """Rows that wait or are being transformed never exceed the batches allowed."""
    dataset = StreamingDataset(
        shared,
        num_splits=2,
        read_batch_size=5,
        transform_queue_depth=depth,
        transform=ids_of,
    )
    seen = [dataset.prefetch_queue_depth for _ in dataset]
    assert max(seen) <= 2 * depth * 5
    assert len(seen) == 100


def test_a_dataset_is_pinned(db):
    table = db.create_table("t", tables.narrow(20))
    dataset = StreamingDataset(table, num_splits=2, transform=ids_of)
    table.delete("id < 15")
    assert sorted(dataset) == list(range(20))
    assert isinstance(next(iter(StreamingDataset(table))), dict)


def test_schema_metadata_on_the_table_does_not_matter(db):
    data = tables.narrow(10).replace_schema_metadata({"huggingface": "{}"})
    dataset = StreamingDataset(db.create_table("t", data), num_splits=2)
    assert len(list(dataset)) == 10


def test_a_new_iterator_continues_after_a_partial_read(shared):
    for library in (ours, theirs):
        dataset = library.StreamingDataset(shared, num_splits=4, transform=ids_of)
        rows = next_rows(dataset, 7) + list(dataset)
        assert sorted(rows) == list(range(100))
        assert rows[7:] == list(
            readers(
                theirs,
                shared,
                num_splits=4,
                transform=ids_of,
                state=state_after(shared, 7),
            )[0]
        )


def state_after(table, count):
    dataset = theirs.StreamingDataset(table, num_splits=4, transform=ids_of)
    next_rows(dataset, count)
    return dataset.state_dict()


def test_rows_are_dicts_in_the_order_of_columns(shared):
    row = next(iter(StreamingDataset(shared, columns=["name", "id"])))
    assert list(row) == ["name", "id"]
    assert operator.itemgetter("name")(row) == f"row {row['id']}"
    assert isinstance(pa.scalar(row["id"]), pa.Int64Scalar)
