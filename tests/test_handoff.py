"""The Arrow C interface: capsules, their lifetime, and whether buffers are shared."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lanceloader import _native
from lanceloader._native import Order

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def addresses(data) -> set[int]:
    columns = data.columns if isinstance(data, pa.RecordBatch) else [data]
    buffers = [buffer for column in columns for buffer in column.buffers() if buffer]
    return {buffer.address for buffer in buffers}


@pytest.fixture
def batch(table):
    perm = ll.Permutation.identity(table)
    return perm.open_reader().take(perm.order, [5, 3, 99])


def test_a_batch_is_taken_by_any_library(batch):
    first = pa.record_batch(batch)
    assert first["id"].to_pylist() == [5, 3, 110]
    assert pa.record_batch(batch).equals(first)
    assert pa.schema(batch) == first.schema
    pl = pytest.importorskip("polars")
    assert pl.DataFrame(batch)["id"].to_list() == [5, 3, 110]
    assert batch.num_rows == 3


def test_importing_twice_shares_the_same_buffers(batch):
    assert addresses(pa.record_batch(batch)) == addresses(pa.record_batch(batch))


def test_an_imported_batch_outlives_everything(db):
    table = db.create_table("t", tables.narrow(1000))
    perm = ll.Permutation.identity(table).with_format("arrow")
    arrow = perm.take_offsets([7, 8])
    scanned = next(perm.iter(500))
    wanted = arrow.to_pydict(), scanned.to_pydict()
    del perm, table
    gc.collect()
    db.drop_table("t")
    assert (arrow.to_pydict(), scanned.to_pydict()) == wanted


def test_a_requested_schema_is_allowed_and_ignored(batch):
    schema, array = batch.__arrow_c_array__(pa.schema(batch).__arrow_c_schema__())
    assert pa.RecordBatch._import_from_c_capsule(schema, array).num_rows == 3


def test_an_unused_capsule_is_released():
    """Each refers to a megabyte of rows, which would otherwise stay."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE

    num_rows = 1 << 17
    data = pa.table({"x": np.arange(num_rows)})
    reader = _native.Table.from_arrow(data).reader([("x", "x")])
    order, rows = Order.all(num_rows), list(range(num_rows - 1, -1, -1))
    capsules = [reader.take(order, rows).__arrow_c_array__() for _ in range(20)]
    del capsules
    before = resident()
    for _ in range(200):
        batch = reader.take(order, rows)
        batch.__arrow_c_array__()
        batch.__arrow_c_schema__()
    assert resident() - before < 50 << 20


def test_rows_without_columns_keep_their_number():
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 4, pa.struct([])))
    table = _native.Table.from_arrow(pa.Table.from_batches([batch]))
    got = pa.record_batch(table.reader([]).take(Order.all(4), [0, 0, 1]))
    assert (got.num_rows, got.num_columns) == (3, 0)


@pytest.mark.parametrize("kind", tables.every_type(1, nulls=False).column_names)
def test_no_rows_have_a_schema(kind):
    data = tables.every_type(10, nulls=True).select([kind])
    table = _native.Table.from_arrow(data)
    got = pa.record_batch(table.reader([(kind, kind)]).take(Order.all(10), []))
    assert got.num_rows == 0
    assert got.schema == data.schema


def test_data_in_memory_is_not_copied():
    data = pa.table(
        {"x": np.arange(100_000), "y": np.random.default_rng(0).random(100_000)}
    )
    mine = addresses(data.to_batches()[0])
    perm = ll.open(data)
    assert addresses(perm.source.to_arrow().to_batches()[0]) == mine
    # A run of rows is a slice.
    scanned = next(perm.with_format("arrow").iter(50_000))
    assert addresses(scanned) <= mine


def test_what_can_be_written_to_shares_no_buffer_with_the_data():
    torch = pytest.importorskip("torch")
    data = pa.table({"x": np.arange(1000)})
    perm = ll.open(data).with_format("torch_dict")
    for batch in (perm[:10], next(perm.iter(10)), perm.take_offsets(range(10))):
        batch["x"].fill_(-1)
    seen = perm.with_transform(lambda batch: batch)[:10]
    assert not addresses(seen) & addresses(data.to_batches()[0])
    assert torch.equal(perm[:10]["x"], torch.arange(10))


def test_batches_of_a_scan_may_be_written_to_without_disturbing_each_other(db):
    pytest.importorskip("torch")
    table = db.create_table("t", pa.table({"x": np.arange(1000)}))
    perm = ll.Permutation.identity(table).with_format("torch_dict")
    a = list(perm.iter(100))
    for batch in a:
        batch["x"].zero_()
    b = list(perm.iter(100))
    assert [int(batch["x"][0]) for batch in b] == list(range(0, 1000, 100))


def writable(value, path=""):
    """The arrays and tensors in a batch, which may be written to, by name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from writable(inner, f"{path}/{name}")
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from writable(inner, f"{path}/{at}")
    elif hasattr(value, "fill_") or getattr(getattr(value, "flags", 0), "writeable", 0):
        yield path, value


def repeated_columns(kind, folder):
    """Rows of numbers in structs, from one kind of source."""
    inner = pa.array([{"w": i, "v": [i, 2 * i]} for i in range(40)]).cast(
        pa.struct({"w": pa.int64(), "v": pa.list_(pa.float32(), 2)})
    )
    data = pa.table(
        {
            "x": np.arange(40),
            "m": inner,
            "l": pa.array([[i] * (i % 3) for i in range(40)]),
        }
    )
    if kind == "table":
        return ll.open(lance.write_dataset(data, folder / "t.lance"))
    if kind == "engine":
        return ll.open(
            lance.write_dataset(data, folder / "t", data_storage_version="legacy")
        )
    return ll.open(data)


@pytest.mark.parametrize("source", ["table", "engine", "arrow"])
@pytest.mark.parametrize("kind", ["torch_dict", "numpy_dict", "torch", "torch_row"])
@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_a_column_selected_twice_shares_no_buffer(tmp_path, source, kind, read):
    pytest.importorskip("torch")
    if source != "table" and read != "direct":
        pytest.skip("read in one way only")
    perm = repeated_columns(source, tmp_path)
    columns = {"y": "x", "x": "x", "z": "x"}
    if kind.endswith("_dict"):
        columns |= {
            "m": "m",
            "m.w": "m.w",
            "l": "l",
            "k": "l",
            "m.v": "m.v",
            "v": "m.v",
        }
    if source == "engine":
        columns = {name: path for name, path in columns.items() if "." not in path}
    view = perm.with_selection(columns).with_format(kind)
    if source == "table":
        view = view.with_read(read)
    for batch in (view[:10], view.take_offsets([5, 3, 3, 9]), *view.iter(20)):
        parts = list(writable(batch))
        # What the engine gives is copied, or cannot be written to.
        assert len(parts) > 2 or source == "engine"
        before = [value.tolist() for _, value in parts]
        for at, (name, value) in enumerate(parts):
            value[...] = -1
            before[at] = value.tolist()
            for (other, kept), wanted in zip(parts, before, strict=True):
                assert kept.tolist() == wanted, f"{other} changed with {name}"


def test_batches_know_whether_they_own_their_buffers(table):
    perm = ll.Permutation.identity(table).select_columns(["id"])
    reader = perm.open_reader()
    taken = reader.take(perm.order, [5, 3])
    assert taken.is_owned
    assert addresses(pa.record_batch(taken)) == addresses(pa.record_batch(taken))
    memory = ll.open(pa.table({"x": range(10)}))
    shared = memory.open_reader().read(memory.order, 0, 5)
    assert not shared.is_owned
    mine = shared.to_owned()
    assert mine.is_owned
    assert pa.record_batch(mine).equals(pa.record_batch(shared))
    assert not addresses(pa.record_batch(mine)) & addresses(pa.record_batch(shared))


def test_streams_of_others_are_taken():
    class Stream:
        def __init__(self, table):
            self.table = table

        def __arrow_c_stream__(self, requested_schema=None):
            return self.table.__arrow_c_stream__(requested_schema)

    data = tables.every_type(50, nulls=True)
    assert ll.open(Stream(data)).to_arrow().equals(data)
    reader = pa.RecordBatchReader.from_batches(
        data.schema, data.to_batches(max_chunksize=7)
    )
    assert ll.open(reader).to_arrow().combine_chunks().equals(data)


def test_a_stream_that_fails_says_why():
    def batches():
        yield pa.record_batch({"x": [1]})
        raise ValueError("the disk is on fire")

    schema = pa.schema([("x", pa.int64())])
    with pytest.raises(Exception, match="the disk is on fire"):
        ll.open(pa.RecordBatchReader.from_batches(schema, batches()))

    class Broken:
        def __arrow_c_stream__(self, requested_schema=None):
            raise RuntimeError("no stream today")

    with pytest.raises(RuntimeError, match="no stream today"):
        ll.open(Broken())

    class Liar:
        def __arrow_c_stream__(self, requested_schema=None):
            return 5

    with pytest.raises((TypeError, ValueError)):
        ll.open(Liar())

    class OtherCapsule:
        def __arrow_c_stream__(self, requested_schema=None):
            return pa.schema([]).__arrow_c_schema__()

    with pytest.raises((TypeError, ValueError)):
        ll.open(OtherCapsule())


def test_a_batch_that_was_changed_is_handed_over_as_it_is():
    batch = ll.open(pa.table({"x": range(3)})).__getitems__([0, 1, 2])
    assert pa.array(batch).to_pylist() == [{"x": 0}, {"x": 1}, {"x": 2}]
    batch[1]["x"] = 9
    batch.append({"x": 4})
    assert pa.array(batch).to_pylist() == [{"x": 0}, {"x": 9}, {"x": 2}, {"x": 4}]
