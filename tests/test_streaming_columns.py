"""Columns in ``lanceloader.streaming``: batches whose rows are not made one by one."""

from __future__ import annotations

import gc
import heapq
import itertools
import threading
import weakref

import lancedb
import lanceloader.streaming as streaming
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.formats.python import LazyRows, rows
from lanceloader.streaming import (
    StreamingDataLoader,
    StreamingDataset,
    core_pipeline,
    ordered_rows,
    round_robin,
)
from lanceloader.streaming.progress import counts_after
from lanceloader.streaming.row_queue import interleaved
from streaming_datasets import ids_of, theirs
from torch.utils.data import DataLoader, default_collate

COLUMNS = ["id", "x", "label"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    database = lancedb.connect(tmp_path_factory.mktemp("db"))
    return database.create_table("t", tables.narrow(100))


def matrix(batch):
    return torch.from_numpy(np.stack([batch["id"], batch["x"]], 1))


def vector(batch):
    return np.array(batch["x"])


def columns(batch):
    return {"id": torch.tensor(batch["id"].to_pylist()), "x": np.array(batch["x"])}


TRANSFORMS = [None, matrix, vector, columns]


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            equal(one[name], other[name]) for name in one
        )
    return one.dtype == other.dtype and torch.equal(one, other)


def reference(transform):
    """Return a transform for LanceDB with the same rows."""
    if transform is not columns:
        return transform

    def in_rows(batch):
        made = columns(batch)
        return [
            dict(zip(made, row, strict=True))
            for row in zip(*made.values(), strict=True)
        ]

    return in_rows


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("num_splits", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 33])
def test_batches_are_those_of_collated_rows(
    shared, transform, num_splits, batch_size, monkeypatch
):
    options = {"num_splits": num_splits, "columns": COLUMNS, "read_batch_size": 8}
    dataset = StreamingDataset(shared, transform=transform, **options)
    plain = theirs.StreamingDataset(shared, transform=reference(transform), **options)
    wanted = iter(DataLoader(plain, batch_size=batch_size))
    for batch in StreamingDataLoader(dataset, batch_size=batch_size):
        assert equal(batch, next(wanted))
        assert dataset.state_dict() == plain.state_dict()
    assert next(wanted, None) is None
    assert dataset.consumed_rows == plain.consumed_rows
    assert dataset.unscanned_rows == 0


@pytest.mark.parametrize("transform", TRANSFORMS[1:])
def test_other_collate_functions_get_rows(shared, transform):
    options = {"num_splits": 2, "columns": COLUMNS}
    dataset = StreamingDataset(shared, transform=transform, **options)
    loader = StreamingDataLoader(dataset, batch_size=4, collate_fn=lambda rows: rows)
    batch = next(iter(loader))
    assert type(batch) is list
    single = StreamingDataset(shared, transform=transform, **options)
    assert equal(
        default_collate(batch), default_collate(list(itertools.islice(single, 4)))
    )


@pytest.mark.parametrize("num_splits", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 6, 7])
@pytest.mark.parametrize("max_bytes", [None, "1GiB"], ids=["core", "threads"])
def test_arrow_batches(shared, num_splits, batch_size, max_bytes):
    options = {"num_splits": num_splits, "read_batch_size": 8}
    options["max_buffered_bytes"] = max_bytes
    ids = list(StreamingDataset(shared, transform=ids_of, **options))
    dataset = StreamingDataset(shared, transform=lambda batch: batch, **options)
    found = list(StreamingDataLoader(dataset, batch_size=batch_size))
    assert {batch.num_rows for batch in found[:-1]} == {batch_size}
    assert all(isinstance(batch, pa.RecordBatch) for batch in found)
    assert [id_ for batch in found for id_ in ids_of(batch)] == ids
    dataset.reset()
    assert [ids_of(row) for row in dataset] == [[id_] for id_ in ids]


def kinds_of_columns(count):
    """Return columns of many types, as names and arrays."""
    numbers = np.arange(count)
    texts = [None if number % 3 == 0 else "x" * number for number in range(count)]
    pairs = pa.array(numbers.repeat(2))
    tensors = pa.FixedSizeListArray.from_arrays(pairs, 2)
    kind = pa.fixed_shape_tensor(pa.int64(), [2])
    return {
        "number": pa.array(numbers),
        "a.b": pa.array(numbers > 3),
        "_rowid": pa.array(texts),
        "view": pa.array(texts, pa.string_view()),
        "bytes": pa.array([b"y" * number for number in range(count)], pa.large_binary()),
        "words": pa.array(texts).dictionary_encode(),
        "lists": pa.array([[number] * (number % 4) for number in range(count)]),
        "structs": pa.array([{"a": number, "b": [number]} for number in range(count)]),
        "maps": pa.array([[("k", n)] for n in range(count)], pa.map_(pa.string(), pa.int8())),
        "nothing": pa.nulls(count),
        "tensor": pa.ExtensionArray.from_storage(kind, tensors),
    }  # fmt: skip


@pytest.mark.parametrize("name", [*kinds_of_columns(1), "twice", "table"])
@pytest.mark.parametrize("num_rows", [12, 11, 10])
def test_arrow_data_of_several_splits_is_interleaved(name, num_rows):
    columns = kinds_of_columns(12)
    names = [name] * 2 if name in columns else ["number", "number"]
    field = pa.field(names[0], columns[names[0]].type, metadata={"a": "b"})
    schema = pa.schema([field] * len(names), metadata={"c": "d"})
    if name not in ("twice", "table"):
        schema = pa.schema([field], metadata={"c": "d"})
    batch = pa.RecordBatch.from_arrays([columns[names[0]]] * len(schema), schema=schema)
    if name == "table":
        batch = pa.Table.from_batches([batch])
    # Splits of four rows each, of which the first is in two pieces.
    # The last ones may have one row less.
    parts = [[batch.slice(0, 1), batch.slice(1, 3)]]
    parts += [[batch.slice(4, 4 - (num_rows < 11))]]
    found = interleaved([*parts, [batch.slice(8, 4 - (num_rows < 12))]])
    assert found.schema.equals(schema, check_metadata=True)
    order = [split * 4 + row for row in range(4) for split in range(3)][:num_rows]
    for column, wanted in zip(found.columns, batch.columns, strict=True):
        values = wanted.to_pylist()
        assert column.to_pylist() == [values[at] for at in order]


def test_lists_beside_columns_are_interleaved_as_rows():
    parts = [[[0, 3]], [np.array([1, 4])], [[2], []]]
    assert interleaved(parts) == [0, 1, 2, 3, 4]


def test_arrow_data_of_other_schemas_is_refused():
    batch = pa.record_batch({"x": [1, 2]})
    with pytest.raises(ValueError, match="different schemas"):
        interleaved([[batch], [batch.rename_columns(["y"])]])


@pytest.mark.parametrize(
    ("brief_s", "options", "in_consumer"),
    [
        (float("inf"), {}, True),
        (0, {}, False),
        (float("inf"), {"transform_parallelism": 2}, False),
    ],
)
def test_who_calls_a_brief_transform(
    shared, monkeypatch, brief_s, options, in_consumer
):
    monkeypatch.setattr(core_pipeline, "BRIEF_S", brief_s)
    # Of more threads, the first batches would occupy all.
    monkeypatch.setattr(streaming.os, "cpu_count", lambda: 2)
    callers = []

    def noted(batch):
        callers.append(threading.get_ident())
        return ids_of(batch)

    options |= {"num_splits": 2, "read_batch_size": 2}
    found = list(StreamingDataset(shared, transform=noted, **options))
    assert found == list(StreamingDataset(shared, transform=ids_of, **options))
    assert len(callers) == 50
    # As many are called in threads as show how long it takes.
    is_consumer = [caller == threading.get_ident() for caller in callers]
    assert sum(is_consumer) > 25 if in_consumer else not any(is_consumer)


def test_threads_call_a_transform_that_is_no_longer_brief(shared, monkeypatch):
    monkeypatch.setattr(core_pipeline, "BRIEF_S", float("inf"))
    monkeypatch.setattr(streaming.os, "cpu_count", lambda: 2)
    callers = []

    def noted(batch):
        callers.append(threading.get_ident())
        return ids_of(batch)

    options = {"num_splits": 2, "read_batch_size": 2}
    found = []
    for row in StreamingDataset(shared, transform=noted, **options):
        found.append(row)
        if len(found) == 50:
            assert callers[-1] == threading.get_ident()
            monkeypatch.setattr(core_pipeline, "BRIEF_S", 0)
    assert found == list(StreamingDataset(shared, transform=ids_of, **options))
    assert len(callers) == 50
    # The consumer's next call shows how long they take now.
    assert threading.get_ident() not in callers[-20:]


def test_few_large_batches_wait(db, monkeypatch):
    table = db.create_table("t", pa.table({"id": range(2000)}))
    monkeypatch.setattr(core_pipeline, "MOST_WAITING", 1)
    dataset = StreamingDataset(
        table, num_splits=2, read_batch_size=10, transform=ids_of
    )
    for count, _ in enumerate(dataset, 1):
        waiting = dataset.raw_queue_depth + dataset.prefetch_queue_depth
        # Before the first batch shows how large they are, more are asked for.
        assert count <= 200 or waiting <= 2 * 2 * 10


class Spy:
    """Calls a function, and checks that nothing is left of the batch yielded last."""

    def __init__(self, call):
        self.call = call
        self.last = lambda: None
        self.num_calls = 0

    def __call__(self, *arguments):
        assert self.last() is None
        self.num_calls += 1
        return self.call(*arguments)


@pytest.mark.parametrize("transform", [None, lambda batch: batch])
@pytest.mark.parametrize(
    "options", [{"num_splits": 1}, {"num_splits": 2}, {"tail": "pad"}]
)
def test_no_batch_is_kept_while_the_next_one_is_made(
    shared, transform, options, monkeypatch
):
    dataset = StreamingDataset(
        shared, transform=transform, read_batch_size=10, **options
    )
    if transform is None:
        spy = Spy(next)
        real = ordered_rows.batches_of

        def spied(*arguments):
            raw = real(*arguments)
            batches = iter(raw)
            raw.batches = (spy(batches) for _ in range(10))
            return raw

        monkeypatch.setattr(ordered_rows, "batches_of", spied)
    else:
        spy = Spy(round_robin.interleaved)
        monkeypatch.setattr(round_robin, "interleaved", spy)
    gc.disable()
    try:
        for batch in dataset._iter(batch_size=10):
            spy.last = weakref.ref(getattr(batch, "batch", batch))
            del batch
        assert spy.num_calls == 10
        dataset.reset()
        for batch in StreamingDataLoader(dataset, batch_size=10):
            each = batch["id"] if type(batch) is dict else batch
            spy.last = weakref.ref(each)
            del batch, each
    finally:
        gc.enable()
    assert spy.num_calls == 20


@pytest.mark.parametrize("batch_size", [1, 6, 7])
@pytest.mark.parametrize("transform", [*TRANSFORMS[1:], lambda batch: batch])
def test_columns_with_a_tail_are_those_of_rows(shared, transform, batch_size):
    """Whatever the batch size: a batch may begin with the row of any split."""
    options = {"num_splits": 4, "tail": "uneven", "world_size": 3, "rank": 1}
    plain = StreamingDataset(shared, transform=ids_of, read_batch_size=5, **options)
    dataset = StreamingDataset(
        shared, transform=transform, read_batch_size=5, **options
    )
    loader = StreamingDataLoader(dataset, batch_size=batch_size)
    wanted = list(plain)
    for at, batch in enumerate(loader):
        plain_ids = wanted[at * batch_size : (at + 1) * batch_size]
        if transform is matrix:
            assert batch[:, 0].tolist() == plain_ids
        elif transform is vector:
            assert batch.tolist() == vector(rows_with(shared, plain_ids)).tolist()
        else:
            found = batch["id"]
            assert getattr(found, "to_pylist", found.tolist)() == plain_ids
        done = min((at + 1) * batch_size, len(wanted))
        assert dataset.consumed_rows == done
    assert done == len(wanted)


def rows_with(table, ids):
    """Return rows of the table by their ids, which are their offsets."""
    return table.to_arrow().take(ids)


def test_columns_of_different_lengths_are_refused(shared):
    def uneven(batch):
        return {"a": torch.zeros(batch.num_rows), "b": torch.zeros(1)}

    with pytest.raises(ValueError, match="one output row per input row"):
        list(StreamingDataset(shared, transform=uneven))


@pytest.mark.parametrize("transform", [matrix, columns])
@pytest.mark.parametrize("num_splits", [1, 2])
def test_workers_send_no_more_than_a_batch(shared, transform, num_splits):
    """A view would be sent with the whole tensor that it is a part of."""
    dataset = StreamingDataset(shared, num_splits=num_splits, transform=transform)
    for batch in StreamingDataLoader(dataset, batch_size=10):
        each = batch["id"] if isinstance(batch, dict) else batch
        assert each.untyped_storage().nbytes() == each.nbytes


@pytest.mark.parametrize("transform", [None, ids_of])
def test_a_slow_consumer_does_not_make_the_epoch_wait_in_memory(db, transform):
    table = db.create_table("t", pa.table({"id": range(20_000)}))
    dataset = StreamingDataset(
        table, num_splits=2, transform=transform, transform_parallelism=2
    )
    for k, _ in enumerate(dataset):
        assert 20_000 - dataset.unscanned_rows - k <= 2_000


def test_a_collated_batch_is_freed_at_once():
    batch = pa.record_batch({"x": [1, 2, 3]})
    lazy = LazyRows(batch, rows)
    alive = weakref.ref(lazy)
    gc.disable()
    try:
        first = lazy[0]
        assert first is lazy[0]
        del first
        assert default_collate(lazy)["x"].tolist() == [1, 2, 3]
        del lazy
        assert alive() is None
    finally:
        gc.enable()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 100))
def test_the_split_that_is_furthest_behind_is_next(samples, num_rows):
    heap = [(count, i) for i, count in enumerate(samples)]
    heapq.heapify(heap)
    for _ in range(num_rows):
        count, i = heap[0]
        heapq.heapreplace(heap, (count + 1, i))
    assert counts_after(samples, num_rows) == [
        count for _, count in sorted((i, count) for count, i in heap)
    ]


KINDS = [
    pa.array([1, None, 3], pa.int8()),
    pa.array([1.5, None, float("inf")], pa.float32()),
    pa.array([True, None, False]),
    pa.array(["a", None, "é"]),
    pa.array([b"a", None, b""], pa.large_binary()),
    pa.array([[1.5, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
    pa.array([[1.5, 2], None, [5, 6]], pa.list_(pa.float32(), 2)),
    pa.array([[1, 2], [3, None], [5, 6]], pa.list_(pa.uint8(), 2)),
    pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float16(), 2)),
    pa.array([[], [], []], pa.list_(pa.int64(), 0)),
    pa.array([[True, False], [True, True], [False, False]], pa.list_(pa.bool_(), 2)),
    pa.array([[1], None, [1, 2]]),
    pa.array([[*range(200)], [], [1, 2]], pa.list_(pa.int16())),
    pa.array([[*range(200)], [], [1.5]], pa.large_list(pa.float32())),
    pa.array([[*range(200)], None, [1.5]], pa.list_(pa.float64())),
    pa.array([[*range(200)], [None], [2**64 - 1]], pa.list_(pa.uint64())),
    pa.array([[2**64 - 1] * 200, [1], [2]], pa.list_(pa.uint64())),
    pa.array([[True] * 200, [False], []], pa.list_(pa.bool_())),
    pa.array([[[1]] * 200, [[2]], []], pa.list_(pa.list_(pa.int64()))),
    pa.ListArray.from_arrays(
        pa.array([0, 150, 170, 400], pa.int32()),
        pa.array([None if at < 150 else at for at in range(500)]),
    ).slice(1),
    pa.array([{"a": 1}, None, {"a": 2}]),
    pa.array([0, 1, None], pa.timestamp("us")),
]


@pytest.mark.parametrize("column", KINDS, ids=lambda column: str(column.type))
def test_rows_are_those_of_pyarrow(column):
    data = {"x": column, "it's \\ \n\"": column, "class": column}
    batch = pa.record_batch(data)
    assert rows(batch) == batch.to_pylist()
    assert rows(batch.slice(1)) == batch.slice(1).to_pylist()
    assert rows(batch.slice(len(batch))) == []
    types = [type(value) for row in rows(batch) for value in row.values()]
    assert types == [type(value) for row in batch.to_pylist() for value in row.values()]


def test_rows_without_columns_or_with_many():
    many = pa.record_batch({f"c{k}": [k] for k in range(1000)})
    assert rows(many) == many.to_pylist()
    none = pa.record_batch({"x": [1, 2]}).select([])
    assert rows(none) == none.to_pylist()
    twice = pa.RecordBatch.from_arrays([pa.array([1])] * 2, names=["x", "x"])
    assert rows(twice) == twice.to_pylist()


ODD_COLUMNS = {
    "no values": lambda batch: np.zeros((batch.num_rows, 0)),
    "big-endian": lambda batch: np.array(batch["id"]).astype(">i8"),
    "a tensor of no values": lambda batch: torch.zeros(batch.num_rows, 0),
}


@pytest.mark.parametrize("transform", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
@pytest.mark.parametrize("num_splits", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 6])
def test_odd_columns_are_those_of_collated_rows(
    shared, transform, num_splits, batch_size
):
    options = {"num_splits": num_splits, "read_batch_size": 4, "transform": transform}
    rows = list(StreamingDataset(shared, **options))
    loader = StreamingDataLoader(
        StreamingDataset(shared, **options), batch_size=batch_size
    )
    for start, batch in zip(range(0, 100, batch_size), loader, strict=False):
        wanted = default_collate(rows[start : start + batch_size])
        assert equal(batch, wanted)


def test_masks_of_rows_are_kept(shared):
    def masked(batch):
        ids = np.array(batch["id"])
        return np.ma.array(ids, mask=ids % 3 == 0)

    dataset = StreamingDataset(shared, transform=masked, num_splits=2)
    ids = StreamingDataset(shared, transform=ids_of, num_splits=2)
    loader = StreamingDataLoader(dataset, batch_size=6, collate_fn=list)
    rows = [row is np.ma.masked for batch in loader for row in batch]
    assert rows == [id_ % 3 == 0 for id_ in ids]


def test_rows_without_columns_are_counted(shared):
    for num_splits in (1, 2):
        dataset = StreamingDataset(
            shared,
            transform=lambda batch: batch.select([]),
            num_splits=num_splits,
            read_batch_size=4,
        )
        loader = StreamingDataLoader(dataset, batch_size=10)
        assert [batch.num_rows for batch in loader] == [10] * 10


@pytest.mark.parametrize("num_splits", [1, 2])
def test_rows_that_are_filled_stand_beside_columns(shared, num_splits):
    def failing(batch):
        if 3 in batch["id"].to_pylist():
            raise ValueError("three")
        return torch.tensor(batch["id"].to_pylist())

    options = {"num_splits": num_splits, "read_batch_size": 4, "transform": failing}
    options |= {"on_transform_error": "fill", "error_value": torch.tensor(-1)}
    ids = [int(row) for row in StreamingDataset(shared, **options)]
    assert -1 in ids
    loader = StreamingDataLoader(StreamingDataset(shared, **options), batch_size=6)
    assert [int(row) for batch in loader for row in batch] == ids


LOOSE = pa.array([1, None, 3, 4])
MAP = pa.map_(pa.string(), pa.int8(), keys_sorted=True)


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (pa.array([1, 2, 3, 4]), pa.field("x", pa.int64(), metadata={"m": b"\xff"})),
        (LOOSE, pa.field("x", pa.int64(), nullable=False)),
        (
            pa.array(list("abba")).dictionary_encode().cast(
                pa.dictionary(pa.int32(), pa.string(), ordered=True)
            ),
            None,
        ),
        (pa.array([[("k", n)] for n in range(4)], MAP), None),
    ],
    ids=["metadata that is no text", "nulls that are not told", "ordered", "sorted"],
)  # fmt: skip
def test_what_the_core_does_not_know_is_interleaved_unchanged(array, field):
    schema = pa.schema([field or pa.field("x", array.type)], metadata={"p": b"\x80"})
    for each in (schema, schema.remove_metadata()):
        batch = pa.RecordBatch.from_arrays([array], schema=each)
        found = interleaved([[batch.slice(0, 2)], [batch.slice(2)]])
        assert found.schema.equals(each, check_metadata=True)
        values = array.to_pylist()
        assert found["x"].to_pylist() == [values[at] for at in (0, 2, 1, 3)]


def test_splits_whose_columns_differ():
    one, other = {"a": np.arange(2)}, {"a": np.arange(2), "b": np.arange(2)}
    for parts in ([[one], [other]], [[other], [one]]):
        with pytest.raises(ValueError, match="dicts of different keys"):
            interleaved(parts)
    # What torch's collate makes of rows, or says of them.
    tensors = {"a": torch.arange(2)}
    assert [int(row["a"]) for row in interleaved([[one], [tensors]])] == [0, 0, 1, 1]
    shapes = interleaved([[torch.zeros(2, 1)], [torch.zeros(2, 3)]])
    assert [len(row) for row in shapes] == [1, 3, 1, 3]


@pytest.mark.parametrize("max_bytes", [None, "1MB"], ids=["core", "threads"])
def test_a_failed_iteration_lets_go_of_the_dataset(shared, max_bytes):
    """At once, and not when the garbage collector finds a cycle."""

    def failing(batch):
        raise ValueError("on purpose")

    dataset = StreamingDataset(
        shared, transform=failing, num_splits=2, max_buffered_bytes=max_bytes
    )
    loader = StreamingDataLoader(dataset, batch_size=6)
    gc.disable()
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match="on purpose"):
                for _ in loader:
                    pass
            dataset.reset()
    finally:
        gc.enable()
