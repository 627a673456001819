"""Columns: selection, renaming and order."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader import _native
from lanceloader.engine_reader import EngineReader
from lanceloader.errors import ColumnNotFoundError
from lanceloader.sources.native import NativeSource
from lanceloader.torch import collate_as


@pytest.fixture
def perm():
    meta = [
        {"w": k, "box": {"x": k / 2, "y": None if k == 3 else k}} for k in range(10)
    ]
    data = pa.table(
        {"id": range(10), "x": np.arange(10) / 4, "meta": meta, "A b": range(10)}
    )
    return ll.open(data).with_format("arrow")


def columns(perm) -> dict[str, list]:
    return perm.to_arrow().to_pydict()


def test_select_gives_the_asked_order_and_refines(perm):
    view = perm.select_columns(["x", "id"])
    assert view.column_names == ["x", "id"]
    assert view.num_columns == 2
    assert view.shape == (10, 2)
    assert list(columns(view)) == ["x", "id"]
    assert view.select_columns(["id"]).column_names == ["id"]
    with pytest.raises(ll.errors.ColumnNotFoundError, match="`meta`"):
        view.select_columns(["meta"])
    assert perm.column_names == ["id", "x", "meta", "A b"]


def test_names_that_repeat_collapse(perm):
    assert perm.select_columns(["id", "x", "id"]).column_names == ["id", "x"]


def test_fields_with_dots(perm):
    view = perm.select_columns(["meta.box.y", "A b", "meta.w"])
    assert columns(view) == {
        "meta.box.y": [0, 1, 2, None, 4, 5, 6, 7, 8, 9],
        "A b": list(range(10)),
        "meta.w": list(range(10)),
    }
    with pytest.raises(ll.errors.ColumnNotFoundError, match="z"):
        perm.select_columns(["meta.box.z"])
    with pytest.raises(ll.errors.ColumnNotFoundError):
        perm.select_columns(["id.x"])
    with pytest.raises(ll.errors.ColumnNotFoundError):
        perm.select_columns(["meta."])
    with pytest.raises(ll.errors.ColumnNotFoundError):
        perm.select_columns([".meta"])


def test_a_column_with_a_dot_in_its_name_is_itself():
    data = pa.table({"a.b": [1, 2], "a": [{"b": 3}, {"b": 4}]})
    perm = ll.open(data)
    assert perm.select_columns(["a.b"]).to_arrow().to_pydict() == {"a.b": [1, 2]}


def test_flatten(perm):
    flat = perm.flatten()
    names = ["id", "x", "meta.w", "meta.box.x", "meta.box.y", "A b"]
    assert flat.column_names == names
    assert columns(flat)["meta.box.x"] == [k / 2 for k in range(10)]
    assert flat.flatten().column_names == names


def test_a_null_struct_has_null_fields():
    kind = pa.struct({"x": pa.int32()})
    data = pa.table({"s": pa.array([{"x": 1}, None, {"x": None}], kind)})
    assert ll.open(data).flatten().to_arrow().to_pydict() == {"s.x": [1, None, None]}


def test_rename_moves_to_the_end_and_works_in_sequence(perm):
    view = perm.rename_column("id", "key")
    assert view.column_names == ["x", "meta", "A b", "key"]
    assert columns(view)["key"] == list(range(10))
    view = perm.rename_columns({"id": "key", "x": "id", "key": "x"})
    assert columns(view)["x"] == list(range(10))
    assert columns(view)["id"] == [k / 4 for k in range(10)]
    assert view.schema.names == view.column_names == ["meta", "A b", "id", "x"]


def test_remove(perm):
    assert perm.remove_columns(["x", "nothing"]).column_names == ["id", "meta", "A b"]
    assert perm.remove_columns([]).column_names == perm.column_names


def test_removed_and_renamed_columns_are_gone(perm):
    with pytest.raises(ll.errors.ColumnNotFoundError):
        perm.remove_columns(["x"]).select_columns(["x"])
    with pytest.raises(ll.errors.ColumnNotFoundError):
        perm.rename_column("x", "y").select_columns(["x"])


def test_system_columns_stand_where_they_are_asked(perm):
    view = perm.select_columns(["_rowoffset", "id", "_rowid"])
    batch = view.take_offsets([7, 2])
    assert batch.schema == view.schema
    assert batch.to_pydict() == {"_rowoffset": [7, 2], "id": [7, 2], "_rowid": [7, 2]}
    assert view.schema.field("_rowid").type == pa.uint64()
    assert columns(perm.select_columns(["_rowid"]))["_rowid"] == list(range(10))
    assert view.rename_column("_rowoffset", "at").column_names == ["id", "_rowid", "at"]
    assert view.remove_columns(["_rowid"]).column_names == ["_rowoffset", "id"]
    assert "_rowid" not in perm.column_names


def test_columns_called_as_those_of_a_permutation_table_do_not_clash(db):
    data = pa.table({"row_id": [5, 6, 7], "split_id": ["a", "b", "c"]})
    table = db.create_table("t", data)
    plan = ll.permutation_builder(table).shuffle(seed=0).execute()
    perm = ll.Permutation.from_tables(table, plan)
    assert sorted(perm.to_arrow()["row_id"].to_pylist()) == [5, 6, 7]


BAD = [
    (lambda p: p.select_columns([]), ValueError, "at least one column"),
    (lambda p: p.select_columns(None), AssertionError, "columns"),
    (lambda p: p.select_columns("id"), TypeError, "list of names"),
    (
        lambda p: p.select_columns(["idd"]),
        ValueError,
        "does not exist; did you mean `id`",
    ),
    (lambda p: p.select_columns(["idd"]), KeyError, "does not exist"),
    (lambda p: p.select_columns([5]), KeyError, "`5`"),
    (lambda p: p.select_columns([None]), KeyError, "`None`"),
    (
        lambda p: p.remove_columns(p.column_names),
        ValueError,
        "Cannot remove all columns",
    ),
    (lambda p: p.remove_columns(None), AssertionError, "columns"),
    (lambda p: p.remove_columns("id"), TypeError, "list of names"),
    (lambda p: p.rename_column("nope", "y"), ValueError, "does not exist"),
    (lambda p: p.rename_column("id", "x"), ValueError, "already exists"),
    (lambda p: p.rename_column("id", "id"), ValueError, "already exists"),
    (lambda p: p.rename_column(None, "x"), AssertionError, "old_name"),
    (lambda p: p.rename_column("id", None), AssertionError, "new_name"),
    (lambda p: p.rename_columns(None), AssertionError, "column_map"),
    (lambda p: p.rename_columns({"id": "x", "x": "id"}), ValueError, "already exists"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_arguments(perm, call, error, text):
    with pytest.raises(error, match=text):
        call(perm)


def test_a_table_without_columns_is_rows_without_columns():
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 5, pa.struct([])))
    perm = ll.open(pa.Table.from_batches([batch]))
    assert len(perm) == 5
    assert perm.column_names == []
    assert perm.take_offsets([4, 0]) == [{}, {}]
    assert perm.with_format("arrow").take_offsets([4, 0]).num_rows == 2


def test_metadata_of_fields_and_table_is_kept():
    schema = pa.schema(
        [pa.field("x", pa.int32(), nullable=False, metadata={"unit": "m"})],
        {"by": "hand"},
    )
    perm = ll.open(pa.table({"x": pa.array([1], pa.int32())}, schema=schema))
    assert perm.schema.equals(schema, check_metadata=True)
    renamed = perm.rename_column("x", "y").with_format("arrow")
    assert renamed.head().schema.field("y").metadata == {b"unit": b"m"}
    assert renamed.head().schema.metadata == {b"by": b"hand"}


SYSTEM = ["_rowid", "_rowaddr", "_rowoffset"]


@pytest.fixture(params=["memory", "table", "packed", "external", "engine"])
def stored(request, tmp_path):
    """Twenty rows with a column of unsigned numbers, however they are read."""
    data = pa.table({"n": pa.array(range(20), pa.uint64()), "id": range(20)})
    if request.param == "memory":
        return ll.open(data)
    lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=8)
    perm = ll.open(tmp_path / "t.lance")
    if request.param == "engine":
        source = perm.source
        source.reader = lambda columns, options=None: EngineReader(
            source.engine(), columns, "_rowid", source.native
        )
        return perm
    ways = {"table": "direct", "packed": "resident", "external": "external"}
    return perm.with_read(ways[request.param])


def test_torch_gets_signed_numbers_of_rows(stored):
    view = stored.select_columns([*SYSTEM, "n", "id"]).rename_column("_rowid", "key")
    wanted = view.with_format("arrow").take_offsets([7, 2, 19])
    assert wanted.schema.field("key").type == pa.uint64()
    names = ["key", "_rowaddr", "_rowoffset"]
    batch = view.with_format("torch_dict").take_offsets([7, 2, 19])
    rows = view.with_format("torch").take_offsets([7, 2, 19])
    for name in names:
        assert batch[name].dtype == torch.int64
        assert (batch[name] + 1).tolist() == [k + 1 for k in wanted[name].to_pylist()]
        assert rows[1][name].dtype == torch.int64
        assert rows[1][name].item() == wanted[name][1].as_py()
    assert batch["n"].dtype == rows[0]["n"].dtype == torch.uint64
    arrays = view.with_format("numpy_dict").take_offsets([7, 2, 19])
    assert arrays["key"].dtype == np.uint64
    loader = view.loader(6, shuffle=True, seed=1, format="torch_dict")
    for epoch in range(2):
        for batch in loader.set_epoch(epoch):
            assert batch["_rowoffset"].dtype == torch.int64
            assert batch["_rowoffset"].equal(batch["id"])
    mixture = ll.mix([view, view.shuffle(seed=2)]).loader(5, format="torch_dict")
    assert {batch["key"].dtype for batch in mixture} == {torch.int64}
    # The readers of both formats are one: neither schema nor data of the other change.
    assert view.with_format("arrow").take_offsets([7, 2, 19]) == wanted
    assert view.with_format("torch_dict").to_arrow().schema == wanted.schema


@pytest.mark.parametrize("format", ["torch_col", "torch_matrix", "torch_row"])
def test_numbers_of_rows_stand_beside_signed_ones(stored, format):
    view = stored.select_columns(["_rowoffset", "id"]).with_format(format)
    found = view.take_offsets([7, 2, 19])
    if format == "torch_row":
        found = torch.stack(found)
    if format == "torch_col":
        found = found.T
    assert found.dtype == torch.int64
    assert found.tolist() == [[7, 7], [2, 2], [19, 19]]
    narrow = stored.select_columns(["n"]).with_format(format)
    assert torch.as_tensor(narrow.take_offsets([3])[0]).dtype == torch.uint64


def test_results_of_queries_have_numbers_of_rows_too():
    data = pa.table({"_rowid": pa.array([5, 7], pa.uint64()), "x": [1, 2]})
    batch = ll.open(data).with_format("torch_dict")[:2]
    assert batch["_rowid"].dtype == torch.int64
    assert batch["_rowid"].tolist() == [5, 7]


def test_rows_that_a_transform_fails_on_have_signed_numbers(stored):
    def failing(batch):
        if 3 in batch["id"]:
            raise ValueError
        return batch

    view = stored.select_columns(["_rowoffset", "id"])
    loader = view.loader(4, format="torch_dict", transform=failing, on_error="skip")
    batches = list(loader)
    assert {batch["_rowoffset"].dtype for batch in batches} == {torch.int64}
    assert sum(len(batch["id"]) for batch in batches) == 19


@pytest.mark.parametrize("make", [pa.table, pa.record_batch])
def test_collating_results_of_lancedb_gives_signed_numbers_of_rows(make):
    data = {"_rowid": pa.array([5, 7], pa.uint64()), "n": pa.array([1, 2], pa.uint64())}
    batch = collate_as("torch_dict")(make(data))
    assert batch["_rowid"].dtype == torch.int64
    assert batch["_rowid"].tolist() == [5, 7]
    assert batch["n"].dtype == torch.uint64
    assert collate_as("numpy_dict")(make(data))["_rowid"].dtype == np.uint64


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"id": range(10), "x": range(10)}), path)
    return path


def test_copies_made_before_the_first_read_share_one_reader(table):
    """Packed rows are kept by the reader, so two of them would keep everything twice."""
    perm = ll.open(table)
    copies = [perm.shuffle(seed=1), perm.with_format("arrow"), perm.with_take(3)]
    narrow = perm.select_columns(["id"])
    readers = {id(copy.reader) for copy in [*copies, perm]}
    assert len(readers) == 1
    assert narrow.reader is not perm.reader
    assert perm.with_read("direct").reader is not perm.reader


def test_threads_that_read_first_together_share_one_reader(table):
    perm = ll.open(table)
    barrier = threading.Barrier(8)

    def read(_):
        barrier.wait()
        return perm.reader

    with ThreadPoolExecutor(8) as pool:
        readers = list(pool.map(read, range(8)))
    assert all(reader is readers[0] for reader in readers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_makes_its_own_reader(table):
    perm = ll.open(table)
    reader = perm.reader
    child = os.fork()
    if child == 0:
        is_own = perm.reader is not reader and len(perm._opened) == 1
        os._exit(0 if is_own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert perm.reader is reader


def test_opening_makes_neither_a_reader_nor_a_schema(tmp_path, monkeypatch):
    path = tmp_path / "wide.lance"
    lance.write_dataset(pa.table({f"f{i}": [i] for i in range(100)}), path)

    def fail(*_args, **_kwargs):
        raise AssertionError("a schema was made")

    with monkeypatch.context() as patch:
        patch.setattr(NativeSource, "schema", property(fail))
        patch.setattr(NativeSource, "reader", fail)
        perm = ll.open(path)
        assert perm.num_columns == 100
        one = perm.select_columns(["f7"]).with_format("arrow")
    assert one.take_offsets([0]).to_pydict() == {"f7": [7]}


def test_a_wrong_name_among_right_ones_lists_all_columns(tmp_path):
    path = tmp_path / "wide.lance"
    lance.write_dataset(pa.table({f"f{i}": [i] for i in range(4)}), path)
    native = _native.Table.open(str(path))
    assert native.column_names == ["f0", "f1", "f2", "f3"]
    with pytest.raises(ColumnNotFoundError, match="`f0`, `f1`, `f2`, `f3`"):
        native.reader([("f1", "f1"), ("x", "f9")])


def test_a_field_of_a_struct_is_found_among_many_columns(tmp_path):
    path = tmp_path / "wide.lance"
    meta = [{"w": i, "box": {"x": i / 2, "y": i}} for i in range(3)]
    data = pa.table({f"f{i}": range(3) for i in range(50)} | {"meta": meta})
    lance.write_dataset(data, path)
    perm = ll.open(path).select_columns(["meta.box.x", "f49", "meta.w"])
    found = perm.with_format("arrow").take_offsets([2, 0]).to_pydict()
    assert found == {"meta.box.x": [1.0, 0.0], "f49": [2, 0], "meta.w": [2, 0]}
