"""Rows by position from tables with every feature, compared with pylance."""

from __future__ import annotations

import itertools
import pickle
import re

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lance_features import FEATURES, external_blobs, lists_of_structs_of_a_fixed_size
from lanceloader import _native


def oracle(dataset) -> pa.Table:
    """The whole table in storage order, by pylance, blobs as bytes."""
    whole = dataset.to_table(
        with_row_id=True, with_row_address=True, blob_handling="all_binary"
    )
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
    read = oracle(dataset).schema
    for ours, theirs in zip(perm.schema, dataset.schema, strict=True):
        if "blob" in str(theirs.type) or theirs.name == "image":
            assert ours.type == read.field(theirs.name).type
        else:
            assert ours.equals(theirs, check_metadata=True)
    assert perm.schema.metadata == dataset.schema.metadata


def test_row_ids_lead_back_to_their_rows(dataset):
    source = ll.open(dataset).source
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


def paths_of(field, prefix="") -> list[str]:
    """A column and the fields of its structs, by dotted name."""
    path = f"{prefix}{field.name}"
    children = field.type if pa.types.is_struct(field.type) else []
    inner = (paths_of(child, f"{path}.") for child in children)
    return [path, *itertools.chain.from_iterable(inner)]


def test_every_field_of_a_struct_is_that_of_the_whole_struct(dataset):
    perm = ll.open(dataset).with_format("arrow")
    wanted = oracle(dataset).to_pylist()
    paths = [path for field in perm.schema for path in paths_of(field) if "." in path]
    if not paths:
        return

    def at(row, path):
        for name in path.split("."):
            row = None if row is None else row[name]
        return row

    for columns in [*([path] for path in paths), [perm.column_names[0], *paths[::-1]]]:
        view = perm.select_columns(columns)
        for got in (view.to_arrow(), view.take_offsets(range(len(perm)))):
            for column in columns:
                assert got[column].to_pylist() == [at(row, column) for row in wanted]


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


@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_lists_of_structs_of_a_fixed_size(tmp_path, read):
    dataset, wanted = lists_of_structs_of_a_fixed_size(tmp_path / "t.lance")
    perm = ll.open(dataset).with_format("arrow").with_read(read)
    nested = {"deep.n": "n", "deep.pair": "pair"}
    for path, name in nested.items():
        rows = [row and row[name] for row in wanted["deep"].to_pylist()]
        wanted = wanted.append_column(path, pa.array(rows))
    for columns in (
        ["pair"],
        ["id", "pair"],
        ["deep"],
        ["deep.pair", "id", "deep.n"],
        ["again", "deep", "id", "pair"],
    ):
        view = perm.select_columns(columns)
        assert isinstance(view.open_reader(), _native.Reader)
        assert rows_of(view.to_arrow()) == rows_of(wanted.select(columns))
        got = view.take_offsets([31, 3, 3, 19, 20])
        assert rows_of(got) == rows_of(wanted.select(columns).take([31, 3, 3, 19, 20]))
        shuffled = view.shuffle(seed=1)
        order = perm.select_columns(["_rowoffset"]).shuffle(seed=1).to_arrow()
        places = order["_rowoffset"].to_pylist()
        rows = [row for batch in shuffled.iter(9) for row in batch.to_pylist()]
        assert rows == rows_of(wanted.select(columns).take(places))


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        (
            "2.2",
            pa.list_(pa.struct({"l": pa.list_(pa.int32())}), 2),
            "lists inside the structs of a list of a fixed size",
        ),
        ("2.0", pa.list_(pa.struct({"x": pa.int32()}), 2), "in a file of version 2.0"),
    ],
)
def test_what_no_library_reads_is_named(tmp_path, version, kind, words):
    data = pa.table({"id": range(3), "f": pa.array([None] * 3, kind)})
    lance.write_dataset(data, tmp_path / "t.lance", data_storage_version=version)
    table = _native.Table.open(str(tmp_path / "t.lance"))
    with pytest.raises(ll.errors.UnsupportedError, match=words):
        table.reader([("f", "f")]).take(_native.Order.all(3), [0])
    perm = ll.open(tmp_path / "t.lance")
    assert perm.select_columns(["id"]).take_offsets([1]) == [{"id": 1}]


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a struct"])
def test_blobs_outside_of_the_table_are_read_by_its_own_library(tmp_path, nested):
    dataset = external_blobs(str(tmp_path / "t.lance"), nested=nested)
    wanted = oracle(dataset)
    perm = ll.open(dataset).with_format("arrow")
    assert not isinstance(perm.open_reader(), _native.Reader)
    assert isinstance(perm.select_columns(["id"]).open_reader(), _native.Reader)
    view = perm.select_columns([*perm.column_names, "_rowid"])
    for got in (view, pickle.loads(pickle.dumps(view))):
        assert rows_of(got.to_arrow()) == rows_of(wanted.drop_columns(["_rowaddr"]))
        picked = rows_of(got.take_offsets([7, 3, 3, 0]).select(["id", "image"]))
        rows = wanted.select(["id", "image"]).take([7, 3, 3, 0])
        assert picked == rows_of(rows)
        loader = got.loader(4, shuffle=True, seed=1, format="arrow")
        rows = [row for batch in loader for row in batch.to_pylist()]
        rows.sort(key=lambda row: row["id"])
        assert rows == rows_of(wanted.drop_columns(["_rowaddr"]))


def test_a_blob_outside_of_the_table_among_others_is_named(tmp_path):
    (tmp_path / "it.bin").write_bytes(b"it")
    values = [b"x"] * 3_000 + [(tmp_path / "it.bin").as_uri()]
    data = pa.table(
        {"image": lance.blob_array(values)},
        schema=pa.schema([lance.blob_field("image")]),
    )
    path = tmp_path / "t.lance"
    options = {"allow_external_blob_outside_bases": True, "data_storage_version": "2.2"}
    perm = ll.open(lance.write_dataset(data, path, **options))
    assert perm[:2] == [{"image": b"x"}] * 2
    with pytest.raises(ll.errors.UnsupportedError, match="outside of the table"):
        perm[3_000]


def test_an_old_file_format_is_read_by_its_library(tmp_path):
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


def test_fields_of_structs_that_the_tables_own_library_reads(tmp_path):
    rows = [
        {"id": i, "m": None if i % 3 == 2 else {"w": i, "q": {"z.z": i}}}
        for i in range(9)
    ]
    data = pa.Table.from_pylist(rows)
    dataset = lance.write_dataset(
        data, tmp_path / "t.lance", data_storage_version="legacy"
    )
    # The legacy format keeps no validity of structs.
    rows = dataset.to_table().to_pylist()
    perm = ll.open(dataset).with_format("arrow")
    got = perm.select_columns(["m.q.z.z", "id", "m.w", "m"]).take_offsets([7, 2, 2])
    for place, row in zip([7, 2, 2], got.to_pylist(), strict=True):
        m = rows[place]["m"] or {"w": None, "q": {"z.z": None}}
        wanted = {"m.q.z.z": m["q"]["z.z"], "id": place, "m.w": m["w"]}
        assert row == wanted | {"m": rows[place]["m"]}
    assert perm.flatten().column_names == ["id", "m.w", "m.q.z.z"]
    with pytest.raises(ll.errors.ColumnNotFoundError, match=r"`m\.x` does not exist"):
        perm.select_columns(["m.x"])


@pytest.mark.parametrize("bad", [-1, 2**64, -(2**70)])
def test_positions_outside_of_the_rows_are_named(bad):
    perm = ll.open(pa.table({"x": range(10)}))
    with pytest.raises(
        (OverflowError, IndexError), match=re.escape(str(bad))
    ) as caught:
        perm.take_offsets([3, bad, 5])
    assert "9" in str(caught.value) or "10" in str(caught.value)
