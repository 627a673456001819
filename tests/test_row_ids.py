"""Stable row ids, compared with those of pylance and LanceDB for the same table."""

from __future__ import annotations

import random

import lance
import lancedb
import lanceloader as ll
import pyarrow as pa
import pytest
import tables
from lancedb.permutation import permutation_builder as theirs
from lanceloader.streaming import StreamingDataset

VERSIONS = ["2.0", "2.1", "2.2"]


def history(folder, version, seed, steps=12):
    """A table of random updates, upserts, deletions and appends, never compacted."""
    rng = random.Random(seed)
    path = folder / "db" / "t.lance"
    dataset = lance.write_dataset(
        tables.narrow(60),
        path,
        max_rows_per_file=25,
        enable_stable_row_ids=True,
        data_storage_version=version,
    )
    num_ids = 60
    kinds = ["update", "update", "merge", "some columns", "delete", "append"]
    for step in range(steps):
        low = rng.randrange(num_ids)
        high = low + rng.randrange(1, 12)
        kind = rng.choice(kinds)
        if kind == "update":
            where = rng.choice([f"id = {low}", f"id >= {low} and id < {high}"])
            dataset.update({"name": f"'step {step}'"}, where=where)
        elif kind == "delete":
            dataset.delete(f"id = {low} or label = {step % 5} and id > {high + 20}")
        elif kind == "append":
            rows = tables.narrow(num_ids + 7, seed=step).slice(num_ids)
            lance.write_dataset(rows, path, mode="append")
            num_ids += 7
        else:
            rows = tables.narrow(high, seed=step).slice(low)
            builder = dataset.merge_insert("id").when_matched_update_all()
            if kind == "merge":
                builder.when_not_matched_insert_all().execute(rows)
                num_ids = max(num_ids, high)
            else:
                builder.execute(rows.select(["id", "name"]))
        dataset = lance.dataset(path)
    return dataset


@pytest.fixture(params=VERSIONS)
def dataset(request, tmp_path):
    return history(tmp_path, request.param, 0)


def table_of(dataset):
    folder, _, name = dataset.uri.rpartition("/")
    return lancedb.connect(folder).open_table(name.removesuffix(".lance"))


@pytest.mark.parametrize("version", VERSIONS)
def test_one_update(tmp_path, version):
    """The least that has an id at two places."""
    dataset = lance.write_dataset(
        tables.narrow(10),
        tmp_path / "t.lance",
        enable_stable_row_ids=True,
        data_storage_version=version,
    )
    dataset.update({"name": "'new'"}, where="id = 3")
    perm = ll.open(dataset).with_format("arrow")
    found = perm.filter("id > 2").select_columns(["id", "_rowid", "name"]).to_arrow()
    assert found["id"].to_pylist() == [4, 5, 6, 7, 8, 9, 3]
    assert found["_rowid"].to_pylist() == [4, 5, 6, 7, 8, 9, 3]
    assert found["name"].to_pylist()[-1] == "new"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(4))
def test_filters_and_row_ids(tmp_path, version, seed):
    dataset = history(tmp_path, version, seed)
    perm = ll.open(dataset).with_format("arrow")
    columns = [*perm.column_names, "_rowid", "_rowaddr"]
    for predicate in (None, "id > 3", "id % 3 = 1", "name like 'step%'", "id = -1"):
        wanted = dataset.to_table(
            filter=predicate, with_row_id=True, with_row_address=True
        )
        view = perm if predicate is None else perm.filter(predicate)
        got = view.select_columns(columns).to_arrow()
        assert got.to_pylist() == wanted.select(columns).to_pylist()
        assert view.shuffle(seed=1).num_rows == wanted.num_rows


def test_ids_lead_to_their_rows_and_ids_of_deleted_rows_to_none(dataset):
    source = ll.open(dataset).source
    live = dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_pylist()
    for ids in (live, live[::-1], live[::3]):
        order = source.rows_of_ids(pa.array(ids, pa.uint64()).to_numpy())[1]
        got = pa.record_batch(order.offsets(0, len(order))).column(0).to_pylist()
        assert got == [live.index(row_id) for row_id in ids]
    gone = sorted(set(range(max(live))) - set(live))
    assert gone
    for row_id in gone:
        with pytest.raises(ValueError, match=f"row id {row_id}"):
            source.rows_of_ids(pa.array([row_id], pa.uint64()).to_numpy())


@pytest.mark.parametrize("builder", [ll.permutation_builder, theirs])
def test_permutation_tables(dataset, builder):
    table = table_of(dataset)
    rows = table.search().with_row_id(True).to_arrow()
    names = {row["_rowid"]: row["name"] for row in rows.to_pylist()}
    plan = builder(table).filter("id > 10").shuffle(seed=3).execute()
    ids = plan.to_arrow()["row_id"].to_pylist()
    assert sorted(ids) == sorted(
        row["_rowid"] for row in rows.to_pylist() if row["id"] > 10
    )
    perm = ll.Permutation.from_tables(table, plan).select_columns(["name", "_rowid"])
    got = perm.with_format("arrow").to_arrow()
    assert got["_rowid"].to_pylist() == ids
    assert got["name"].to_pylist() == [names[row_id] for row_id in ids]


def test_streaming(dataset):
    table = table_of(dataset)
    rows = table.search().with_row_id(True).to_arrow().to_pylist()
    wanted = sorted((r["id"], r["name"], r["_rowid"]) for r in rows if r["id"] > 10)
    streamed = StreamingDataset(
        table, num_splits=1, filter="id > 10", columns=["id", "name", "_rowid"]
    )
    got = [(int(row["id"]), row["name"], int(row["_rowid"])) for row in streamed]
    assert sorted(got) == wanted


@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_loaders(dataset, read):
    perm = ll.open(dataset).filter("id > 10").select_columns(["id", "name", "_rowid"])
    loader = perm.loader(7, shuffle=True, seed=2, format="arrow", read=read)
    got = [row for batch in loader for row in batch.to_pylist()]
    wanted = dataset.to_table(
        columns=["id", "name"], filter="id > 10", with_row_id=True
    ).to_pylist()
    assert sorted(map(str, got)) == sorted(map(str, wanted))
