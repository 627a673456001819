"""Rows by position, from tables with every feature, against what pylance reads."""

from __future__ import annotations

import pickle

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from features import FEATURES
from lanceloader import _native


def oracle(dataset) -> pa.Table:
    """The whole table in storage order, by pylance, blobs as bytes."""
    blobs = [f.name for f in dataset.schema if f.name == "image"]
    plain = [f.name for f in dataset.schema if f.name not in blobs]
    whole = dataset.to_table(columns=plain, with_row_id=True, with_row_address=True)
    for name in blobs:
        files = dataset.take_blobs(name, indices=list(range(whole.num_rows)))
        values = [None if file is None else file.readall() for file in files]
        whole = whole.append_column(name, pa.array(values, pa.large_binary()))
    return whole.select([*dataset.schema.names, "_rowid", "_rowaddr"])


def rows_of(table) -> list[dict]:
    return table.to_pylist()


@pytest.fixture(params=FEATURES)
def dataset(request, tmp_path):
    return FEATURES[request.param](str(tmp_path / "table.lance"))


def test_every_feature_reads_as_in_pylance(dataset):
    wanted = oracle(dataset)
    perm = ll.open(dataset)
    assert len(perm) == wanted.num_rows == dataset.count_rows()
    assert perm.version == dataset.version
    names = [*dataset.schema.names, "_rowid", "_rowaddr", "_rowoffset"]
    perm = perm.select_columns(names).with_format("arrow")
    got = perm.to_arrow()
    assert rows_of(got.drop_columns(["_rowoffset"])) == rows_of(wanted)
    assert got["_rowoffset"].to_pylist() == list(range(len(perm)))

    rng = np.random.default_rng(1)
    if len(perm):
        for size in (1, 5, 40):
            positions = rng.integers(0, len(perm), size)
            got = perm.take_offsets(positions)
            assert rows_of(got.drop_columns(["_rowoffset"])) == rows_of(
                wanted.take(positions)
            )
            assert got["_rowoffset"].to_pylist() == positions.tolist()
    assert perm.take_offsets([]).num_rows == 0


def test_every_column_alone_and_in_reverse(dataset):
    wanted = oracle(dataset)
    perm = ll.open(dataset).with_format("arrow")
    names = perm.column_names
    for columns in [*([name] for name in names), names[::-1]]:
        got = perm.select_columns(columns).to_arrow()
        assert got.column_names == columns
        assert rows_of(got) == rows_of(wanted.select(columns))


def test_schemas_are_those_of_pylance(dataset):
    perm = ll.open(dataset)
    for ours, theirs in zip(perm.schema, dataset.schema, strict=True):
        if theirs.name == "image":
            assert ours.type == pa.large_binary()
        else:
            assert ours.equals(theirs, check_metadata=True)
    assert perm.schema.metadata == dataset.schema.metadata


def test_row_ids_lead_back_to_their_rows(dataset):
    source = ll.open(dataset)._source
    if source.num_rows == 0:
        return
    ids = source.row_ids(source.all_rows()).to_numpy()
    order = source.rows_of_ids(ids[::-1])[1]
    positions = pa.record_batch(order.offsets(0, len(order))).column(0).to_pylist()
    assert positions == list(range(len(ids)))[::-1]
    with pytest.raises(ValueError, match="row id 999999999"):
        source.rows_of_ids([999_999_999])


def test_fields_of_structs_by_dotted_name(tmp_path):
    dataset = FEATURES["nested_structs"](str(tmp_path / "t.lance"))
    perm = ll.open(dataset)
    rows = dataset.to_table().to_pylist()

    def at(row, *path):
        for name in path:
            row = None if row is None else row[name]
        return row

    columns = ["meta.inner.x", "id", "meta.tags", "meta.inner"]
    got = perm.select_columns(columns).to_arrow()
    assert got.column_names == columns
    for column in columns:
        assert got[column].to_pylist() == [at(row, *column.split(".")) for row in rows]
    flat = perm.flatten()
    assert flat.column_names == [
        "id",
        "meta.inner.x",
        "meta.inner.s",
        "meta.n",
        "meta.tags",
    ]
    assert flat.to_arrow()["meta.inner.s"].to_pylist() == [
        at(row, "meta", "inner", "s") for row in rows
    ]
    renamed = perm.rename_column("meta", "m").select_columns(["m.n"])
    assert renamed.to_arrow()["m.n"].to_pylist() == [
        at(row, "meta", "n") for row in rows
    ]


def test_only_selected_columns_are_read(tmp_path):
    """A column whose file is gone does not matter to a view that leaves it out."""
    dataset = FEATURES["added_columns"](str(tmp_path / "t.lance"))
    for fragment in dataset.get_fragments():
        for file in fragment.metadata.files[1:]:
            (tmp_path / "t.lance" / "data" / file.path).unlink()
    perm = ll.open(str(tmp_path / "t.lance"))
    old = perm.select_columns(["id", "name"])
    assert old.to_arrow()["id"].to_pylist() == list(range(90))
    with pytest.raises(ll.errors.TableChangedError, match="was not found"):
        perm.select_columns(["twice"]).head()


def test_system_columns_come_in_any_place_under_any_name(table):
    perm = ll.Permutation.identity(table)
    perm = perm.select_columns(["_rowoffset", "id", "_rowid", "_rowaddr"])
    perm = perm.rename_column("_rowid", "key")
    batch = perm.with_format("arrow").take_offsets([70, 3])
    assert batch.schema.names == ["_rowoffset", "id", "_rowaddr", "key"]
    assert batch["_rowoffset"].to_pylist() == [70, 3]
    assert batch["key"].to_pylist() == batch["_rowaddr"].to_pylist()
    wanted = table.search().select(["id", "_rowid"]).to_arrow()
    assert batch["key"].to_pylist() == wanted["_rowid"].take([70, 3]).to_pylist()


def test_versions_tags_and_branches_of_a_path(tmp_path):
    path = str(tmp_path / "t.lance")
    FEATURES["tagged_and_moved_on"](path)
    assert len(ll.open(path)) == 10
    assert len(ll.open(path, tag="first")) == 50
    assert len(ll.open(path, version=1)) == 50
    assert ll.open(path, tag="first").version == 1
    FEATURES["branch"](str(tmp_path / "b.lance"))
    assert len(ll.open(tmp_path / "b.lance")) == 50
    assert len(ll.open(tmp_path / "b.lance", branch="exp")) == 70


def test_a_view_stays_at_its_version(table):
    perm = ll.Permutation.identity(table)
    before = perm.to_arrow()
    table.add(table.to_arrow().slice(0, 5))
    table.delete("id < 40")
    table.update(where="id > 50", values={"name": "changed"})
    table.drop_columns(["x"])
    table.optimize()
    assert perm.to_arrow().equals(before)
    assert len(perm) == before.num_rows
    assert perm[0] == [before.slice(0, 1).to_pylist()[0]]
    assert len(ll.Permutation.identity(table)) == table.count_rows()


@pytest.mark.parametrize("scale", [1, 200])
def test_large_takes_cross_pages_and_fragments(tmp_path, scale):
    rows = 1000 * scale
    data = pa.table(
        {"id": np.arange(rows), "text": [f"{i:06}" * 4 for i in range(rows)]}
    )
    dataset = lance.write_dataset(data, tmp_path / "t", max_rows_per_file=rows // 3)
    perm = ll.open(dataset).with_format("arrow")
    positions = np.random.default_rng(0).permutation(rows)
    assert perm.take_offsets(positions).equals(data.take(positions).to_batches()[0])
    assert perm.shuffle(seed=1).to_arrow().sort_by("id").equals(data)


def test_the_native_reader_reads_every_feature(dataset):
    """The engine is for what is not in this list."""
    reader = ll.open(dataset).reader
    assert isinstance(reader, _native.Reader)


def test_a_format_of_old_is_read_by_its_own_library(tmp_path):
    data = tables.narrow(50)
    dataset = lance.write_dataset(
        data, tmp_path / "t.lance", data_storage_version="legacy"
    )
    for source in (tmp_path / "t.lance", str(tmp_path / "t.lance"), dataset):
        perm = ll.open(source)
        assert "by the table's own library" in perm.explain()
        for view in (perm, pickle.loads(pickle.dumps(perm))):
            assert view.to_arrow().equals(data)
            wanted = data.take([7, 3, 7]).to_pylist()
            assert view.take_offsets([7, 3, 7]) == wanted
            assert view.filter("id < 5").num_rows == 5
    dataset.delete("id < 10")
    assert perm.to_arrow().equals(data)
