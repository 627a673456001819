"""Tables on a LanceDB server: the rows of the local table, in the order asked for."""

from __future__ import annotations

import datetime as dt
import pickle

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lanceloader import errors
from remote_server import API_KEY, Connect, serving
from torch.utils.data import DataLoader

TAKES = [[0], [5, 3, 5, 99], range(99, -1, -1), np.array([50, 50, 49]), []]


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch):
    monkeypatch.delenv("LANCEDB_API_KEY", raising=False)


@pytest.fixture
def server(tmp_path, table):
    with serving(tmp_path / "db") as server:
        yield server


@pytest.fixture
def remote(server):
    return Connect(server.url)("t")


@pytest.fixture
def perm(remote):
    return ll.Permutation.identity(remote)


@pytest.fixture
def local(table):
    return ll.Permutation.identity(table)


def test_properties_of_a_remote_table(perm, local):
    assert len(perm) == 100
    assert perm.schema == local.schema
    assert perm.column_names == local.column_names
    assert perm.shape == (100, 5)
    assert perm.version == local.version
    assert "by its own library" in repr(perm)
    assert "by the table's own library" in perm.explain()


@pytest.mark.parametrize("positions", TAKES, ids=str)
def test_takes_are_in_the_order_asked_for(perm, local, positions):
    wanted = local.with_format("arrow").take_offsets(positions)
    assert perm.with_format("arrow").take_offsets(positions).equals(wanted)
    assert list(perm.__getitems__(positions)) == local.take_offsets(positions)


def test_a_batch_is_one_query(perm, server):
    server.queries.clear()
    perm.take_offsets([5, 3, 5, 99])
    (query,) = server.queries
    assert query["filter"] == "_rowoffset IN (5, 3, 99)"
    assert query["version"] == perm.version


def test_takes_of_more_rows_than_one_query_names(db, tmp_path):
    db.create_table("large", pa.table({"x": range(20_000)}))
    positions = np.random.default_rng(0).permutation(20_000)[:9000]
    with serving(tmp_path / "db") as server:
        perm = ll.Permutation.identity(Connect(server.url)("large"))
        batch = perm.with_format("arrow").take_offsets(positions)
    assert batch["x"].to_pylist() == positions.tolist()


def test_single_rows_and_slices(perm, local):
    assert perm[7] == local[7]
    assert perm[-1] == local[-1]
    assert perm[10:40:7] == local[10:40:7]
    assert perm.row(3) == local.row(3)
    assert perm.head(3) == local.head(3)
    for position in (100, -101):
        with pytest.raises(IndexError, match="out of range for 100 rows"):
            perm[position]
    with pytest.raises(IndexError):
        perm.take_offsets([100])


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
@pytest.mark.parametrize("skip_last", [False, True])
def test_iteration(perm, local, batch_size, skip_last):
    wanted = list(local.iter(batch_size, skip_last))
    assert list(perm.iter(batch_size, skip_last)) == wanted


def test_reading_everything(perm, local):
    assert perm.to_arrow().equals(local.to_arrow())
    assert perm.unique("label") == local.unique("label")


def test_columns(perm, local, server):
    def chosen(perm):
        perm = perm.select_columns(["name", "id", "y"]).rename_column("id", "key")
        return perm.remove_columns(["y"])

    assert chosen(perm).column_names == ["name", "key"]
    assert chosen(perm).take_offsets([9, 2]) == chosen(local).take_offsets([9, 2])
    assert chosen(perm).schema == chosen(local).schema
    asked = set(server.queries[-1]["columns"])
    assert asked == {"name", "id", "__lancedb_take_row_offset"}


@pytest.mark.parametrize("name", ["_rowid", "_rowoffset", "_rowaddr"])
@pytest.mark.parametrize("rows", ["all", "filtered"])
def test_system_columns(perm, local, name, rows):
    def chosen(perm):
        perm = perm if rows == "all" else perm.filter("id >= 60")
        return perm.select_columns([name, "id"]).with_format("arrow")[[4, 40, 2]]

    try:
        found = chosen(perm)
    except (errors.UnsupportedError, errors.ColumnNotFoundError):
        assert name != "_rowid"
    else:
        assert found.equals(chosen(local))


def test_every_type_comes_through(db, tmp_path):
    data = tables.every_type(40, nulls=True).drop_columns(["dictionary"])
    db.create_table("types", data)
    with serving(tmp_path / "db") as server:
        perm = ll.Permutation.identity(Connect(server.url)("types"))
        batch = perm.with_format("arrow").take_offsets([7, 39, 7])
    assert pa.Table.from_batches([batch]).equals(data.take([7, 39, 7]))


@pytest.mark.parametrize(
    "chosen",
    [
        lambda perm: perm.filter("label = 2 and id > 20"),
        lambda perm: perm.filter("id > 60").filter("x < 0.5"),
        lambda perm: perm.filter("id > 60").shuffle(seed=3).filter("x < 0.5"),
        lambda perm: perm.filter("id < 0"),
        lambda perm: perm.shuffle(seed=3).filter([k % 3 == 0 for k in range(100)]),
        lambda perm: perm.shuffle(seed=3, epoch=2),
        lambda perm: perm.split({"a": 0.7, "b": 0.3}, seed=7)["b"],
        lambda perm: perm.split(3, seed=1, stratify_by="label")[2],
        lambda perm: perm.split_by("label")[1],
        lambda perm: perm.shuffle(seed=1).shard(2, 3),
        lambda perm: perm.sample(10, seed=5),
        lambda perm: perm.with_skip(30).with_take(20).with_repeat(2),
        lambda perm: perm.filter("label > 1").split([5, 5], seed=1)[1].shard(0, 2),
    ],
)
def test_verbs_choose_the_rows_of_the_local_table(perm, local, chosen):
    wanted = chosen(local).to_arrow()
    assert chosen(perm).to_arrow().equals(wanted)


def test_a_filter_after_a_shuffle_is_refused(perm):
    with pytest.raises(errors.UnsupportedError, match="before it is shuffled"):
        perm.shuffle(seed=1).filter("id > 3")


def test_an_invalid_filter_is_named(perm):
    with pytest.raises(ValueError, match="nothing > 3"):
        perm.filter("nothing > 3")


BUILDS = {
    "all": lambda builder: builder,
    "random": lambda builder: builder.split_random(ratios=[0.6, 0.4], seed=3),
    "sequential": lambda builder: builder.split_sequential(counts=[30, 20]),
    "hash": lambda builder: builder.split_hash(["name"], [2, 1]),
    "calculated": lambda builder: builder.split_calculated("id % 2"),
    "shuffled": lambda builder: builder.shuffle(seed=9, clump_size=4),
    "filtered": lambda builder: builder.filter("id > 20").split_random(
        fixed=2, seed=1, split_names=["a", "b"]
    ),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_permutation_tables_are_those_of_the_local_table(remote, table, build):
    plan = build(ll.permutation_builder(remote)).execute()
    wanted = build(ll.permutation_builder(table)).execute()
    assert plan.to_arrow().equals(wanted.to_arrow(), check_metadata=True)
    for split in range(len(ll.Permutations(table, wanted))):
        ours = ll.Permutation.from_tables(remote, plan, split)
        theirs = ll.Permutation.from_tables(table, wanted, split)
        assert ours.to_arrow().equals(theirs.to_arrow())


def test_a_build_is_one_scan_of_row_ids(remote, server):
    ll.permutation_builder(remote).split_random(fixed=2, seed=1).execute()
    scans = [query for query in server.queries if query["k"] > 1]
    assert [query["columns"] for query in scans] == [["_rowid"]]


def test_the_version_is_pinned(remote, table, server):
    plan = ll.permutation_builder(remote).shuffle(seed=4).execute()
    perm = ll.Permutation.identity(remote)
    rows = perm.to_arrow()
    planned = ll.Permutation.from_tables(remote, plan).to_arrow()
    table.delete("id < 50")
    table.add(tables.narrow(10))
    table.optimize()
    assert len(perm) == 100
    assert perm.to_arrow().equals(rows)
    assert perm.select_columns(["id"])[0] == [{"id": 0}]
    assert ll.Permutation.from_tables(remote, plan).to_arrow().equals(planned)
    now = ll.Permutation.identity(remote)
    assert now.version == table.version
    assert now.to_arrow().equals(table.to_arrow())


def test_a_table_checked_out_at_a_version(remote):
    remote.checkout(1)
    perm = ll.Permutation.identity(remote)
    remote.checkout_latest()
    assert (perm.version, len(perm)) == (1, 50)
    assert perm.row(12)["id"] == 12
    assert len(ll.Permutation.identity(remote)) == 100


def test_no_key_in_a_pickle(perm, remote, server):
    plan = ll.permutation_builder(remote).shuffle(seed=4).execute()
    perm.head()
    for each in (
        perm,
        perm.shuffle(seed=1).select_columns(["id"]),
        perm.with_connection_factory(Connect(server.url)),
        ll.Permutation.from_tables(remote, plan),
    ):
        assert API_KEY.encode() not in pickle.dumps(each)


def test_the_key_comes_from_the_environment(perm, table, monkeypatch):
    rows = perm.shuffle(seed=5).to_arrow()
    pickled = pickle.dumps(perm.shuffle(seed=5))
    monkeypatch.setenv("LANCEDB_API_KEY", API_KEY)
    table.delete("id < 50")
    again = pickle.loads(pickled)
    assert len(again) == 100
    assert again.to_arrow().equals(rows)
    assert pickle.loads(pickle.dumps(again)).to_arrow().equals(rows)


def test_without_a_key_the_error_says_so(perm):
    pickled = pickle.dumps(perm)
    with pytest.raises(ValueError, match=r"LANCEDB_API_KEY|api_key"):
        pickle.loads(pickled).head()


def test_a_connection_factory_opens_the_table(perm, local, server):
    made = perm.filter("id > 50").with_connection_factory(Connect(server.url))
    again = pickle.loads(pickle.dumps(made))
    assert again.to_arrow().equals(local.filter("id > 50").to_arrow())
    assert again.base_table.name == "t"


def test_a_wrong_key_is_refused(server):
    with pytest.raises(Exception, match=r"401|no such key"):
        ll.Permutation.identity(Connect(server.url, api_key="wrong")("t"))


@pytest.mark.filterwarnings("ignore:.*cleanup_older_than:UserWarning")
def test_a_version_cleaned_away_is_an_error(perm, table):
    table.update(values={"y": 0.0})
    table.optimize(cleanup_older_than=dt.timedelta(0), delete_unverified=True)
    with pytest.raises((RuntimeError, ValueError), match=r"version|not found"):
        perm.head()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore:lance:UserWarning")
@pytest.mark.parametrize("context", [None, "fork", "forkserver", "spawn"])
def test_in_a_data_loader(perm, local, context):
    """The parent's client has threads and connections that no child may use."""
    options = {}
    if context is not None:
        options = {"num_workers": 2, "multiprocessing_context": context, "timeout": 150}
    perm, local = (p.select_columns(["id"]).shuffle(seed=2) for p in (perm, local))
    perm.head()
    for _ in range(5 if context == "fork" else 1):
        batches = list(DataLoader(perm, batch_size=30, **options))
        ids = [int(key) for batch in batches for key in batch["id"]]
        assert ids == local.to_arrow()["id"].to_pylist()
