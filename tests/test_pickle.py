"""Pickled permutations read the same rows, from a small pickle."""

from __future__ import annotations

import copy
import functools
import pickle

import cloudpickle
import importable
import lance
import lancedb
import lanceloader as ll
import lanceloader.torch
import pyarrow as pa
import pytest
import tables
from equality import same
from lanceloader._native import Order
from source_kinds import SOURCES, SQL, dataset, ids, lancedb_table, mask, travelled

VIEWS = {
    "all rows": lambda perm: perm,
    "filter": lambda perm: perm.filter("label = 2 or id > 90"),
    "mask": mask,
    "shuffle": lambda perm: perm.shuffle(seed=3, epoch=2, clump_size=4),
    "windowed": lambda perm: perm.shuffle(3, epoch=2, block_size=4, window_blocks=3),
    "random split": lambda perm: perm.split([0.6, 0.4], seed=1)[1],
    "sequential split": lambda perm: perm.split([30, 40], how="sequential")[1],
    "stratified": lambda perm: perm.split([0.5, 0.5], seed=1, stratify_by="label")[0],
    "grouped": lambda perm: perm.split([0.5, 0.5], seed=1, group_by="label")[0],
    "hashed": lambda perm: perm.split([0.5, 0.5], seed=1, hash_by="id")[0],
    "fold": lambda perm: perm.kfold(5, seed=1)[2].train,
    "split by value": lambda perm: perm.split_by("label")[1],
    "shard": lambda perm: perm.shuffle(seed=1).shard(1, 3, tail="pad"),
    "sample": lambda perm: perm.sample(0.3, seed=9),
    "weighted": lambda perm: perm.sample(90, seed=9, weights="id", replacement=True),
    "balanced": lambda perm: perm.sample(20, seed=9, balance_by="label"),
    "skip and take": lambda perm: perm.with_skip(20).with_take(30),
    "repeat": lambda perm: perm.with_take(20).with_repeat(3),
    "no rows": lambda perm: perm.with_take(0),
    "columns": lambda perm: perm.select_columns(["name", "id", "_rowid"]),
    "renamed": lambda perm: perm.rename_columns({"id": "key", "x": "id"}),
    "removed": lambda perm: perm.remove_columns(["name", "y"]),
    "batch size": lambda perm: perm.with_batch_size(33),
    "everything": lambda perm: (
        mask(perm)
        .shuffle(seed=1)
        .split([0.8, 0.2], seed=2)[0]
        .shard(0, 2)
        .rename_column("id", "key")
        .with_skip(2)
        .with_batch_size(4)
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("view", VIEWS)
def test_an_unpickled_permutation_has_the_same_rows(tmp_path, source, view):
    if view == "filter" and source not in SQL:
        pytest.skip("a filter of every kind of source that differs is enough")
    perm = VIEWS[view](ll.open(SOURCES[source](tmp_path)))
    again = travelled(perm)
    assert again.to_arrow().equals(perm.to_arrow(), check_metadata=True)
    assert again.schema.equals(perm.schema, check_metadata=True)
    assert list(again) == list(perm)
    positions = [*range(0, len(perm), 3)][::-1]
    assert again.take_offsets(positions) == perm.take_offsets(positions)
    for name in ("shape", "selection", "batch_size", "offset", "limit", "version"):
        assert getattr(again, name) == getattr(perm, name)
    assert repr(again) == repr(perm)
    twice = travelled(again)
    assert twice.to_arrow().equals(perm.to_arrow(), check_metadata=True)


@pytest.mark.parametrize("source", SOURCES)
def test_verbs_apply_after_unpickling(tmp_path, source):
    perm = ll.open(SOURCES[source](tmp_path)).shuffle(seed=1).with_skip(5)
    again = travelled(perm)
    for verb in VIEWS.values():
        assert verb(again).to_arrow().equals(verb(perm).to_arrow())


@pytest.mark.parametrize("source", SOURCES)
def test_base_table_opens_the_table_again(tmp_path, source):
    table = SOURCES[source](tmp_path)
    perm = ll.Permutation.identity(table).shuffle(seed=1)
    again = travelled(perm)
    base = again.base_table
    assert base is again.base_table
    reopened = ll.Permutation.identity(base).select_columns(["id", "name"])
    assert ids(reopened) == ids(ll.open(table))
    if isinstance(table, lancedb.table.LanceTable):
        assert isinstance(base, lancedb.table.LanceTable)
        assert base.name == table.name
        assert base.count_rows() == table.count_rows()
        assert base.current_branch() == table.current_branch()
        if source != "memory":
            assert base.version == table.version


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(table, protocol):
    perm = ll.open(table).filter("label = 2").shuffle(seed=1)
    again = pickle.loads(pickle.dumps(perm, protocol))
    assert ids(again) == ids(perm)


FORMATS = [
    ("python", {}),
    ("python_col", {}),
    ("arrow", {}),
    ("numpy", {}),
    ("pandas", {}),
    ("polars", {}),
    ("torch", {}),
    ("torch_row", {}),
    ("torch_col", {}),
    ("torch_dict", {}),
    ("torch_dict", {"nulls": "mask"}),
    ("torch_dict", {"nulls": "fill", "fill_value": {"a": 7, "b": 0.5}}),
    ("numpy_dict", {"nulls": "mask"}),
    ("numpy_dict", {}),
]


@pytest.mark.parametrize(("kind", "options"), FORMATS, ids=str)
def test_formats_and_null_policies_pickle(tmp_path, kind, options):
    """BUG-22: polars too."""
    values = [1, None, 3] if "nulls" in options else [1, 2, 3]
    data = pa.table({"a": values * 5, "b": pa.array(range(15), pa.float32())})
    lance.write_dataset(data, tmp_path / "t.lance")
    for source in (data, tmp_path / "t.lance"):
        view = ll.open(source).with_format(kind, **options)
        again = travelled(view)
        assert same(again.take_offsets([4, 0]), view.take_offsets([4, 0]))
        assert same(list(again.iter(4)), list(view.iter(4)))
        assert same(next(iter(again.iter(4))), view[:4])


@pytest.mark.parametrize(
    "transform",
    [
        importable.ids,
        functools.partial(importable.plus, number=3),
        importable.Doubled(),
        ll.Transforms.arrow2python,
        ll.Transforms.arrow2pythoncol,
        ll.Transforms.arrow2arrow,
        ll.Transforms.arrow2numpy,
        ll.Transforms.arrow2pandas,
        ll.Transforms.arrow2polars(),
    ],
    ids=repr,
)
def test_transforms_that_have_a_name(table, transform):
    view = ll.open(table).select_columns(["id", "label"]).with_transform(transform)
    assert same(travelled(view).take_offsets([3, 50]), view.take_offsets([3, 50]))


def test_a_transform_without_a_name_is_named_by_the_error(table):
    view = ll.open(table).with_transform(lambda batch: batch.num_rows)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(view)
    assert view.take_offsets([1, 2]) == 2


def test_cloudpickle_pickles_lambdas(table):
    offset = 100
    view = ll.open(table).shuffle(seed=1)
    view = view.with_transform(
        lambda batch: [x + offset for x in importable.ids(batch)]
    )
    again = pickle.loads(cloudpickle.dumps(view))
    assert list(again.iter(9)) == list(view.iter(9))
    folder = table._conn.uri
    view = view.with_connection_factory(
        lambda name: lancedb.connect(folder).open_table(name)
    )
    again = pickle.loads(cloudpickle.dumps(view))
    assert again.take_offsets([0, 99]) == view.take_offsets([0, 99])


@pytest.fixture
def large(db):
    return db.create_table("large", tables.narrow(100_000))


def size(value) -> int:
    return len(pickle.dumps(value))


def test_a_pickle_is_small(large):
    perm = ll.Permutation.identity(large)
    train, val = perm.shuffle(seed=1).split({"train": 0.9, "val": 0.1}, seed=2)
    assert size(perm) < 2048
    assert size(train) < 4096
    assert size(val.shard(3, 8).with_skip(5).with_repeat(3).sample(0.5, seed=1)) < 4096
    assert size(perm.kfold(5, seed=1)[2].train) < 4096
    # A bit per row at most, in blocks of 65,536; less where long runs of rows are kept.
    assert size(perm.filter("label = 2")) < 2 * 65_536 / 8 + 2048
    assert size(perm.filter("id < 70000")) < 4096
    assert size(ll.open(large.uri).shuffle(seed=1)) < 2048


def test_a_pickle_is_small_after_reading(large):
    perm = ll.Permutation.identity(large).shuffle(seed=1)
    before = size(perm)
    perm.take_offsets([0, 99_999])
    batches = iter(perm)
    next(batches)
    len(perm.base_table)
    assert size(perm) == before
    again = travelled(perm)
    again.base_table  # noqa: B018
    again.take_offsets([0])
    assert abs(size(again) - before) < 100


def test_a_pickled_split_holds_its_own_rows_only(large):
    builder = ll.permutation_builder(large)
    plan = builder.split_random(counts=[100, 90_000], seed=1).execute()
    few = ll.Permutation.from_tables(large, plan, 0)
    many = ll.Permutation.from_tables(large, plan, 1)
    assert size(few) < 4096
    assert size(many) < 90_000 * 4 + 4096
    assert ids(travelled(few)) == ids(few)
    again = travelled(many)
    assert ids(again) == ids(many)
    assert again.split == 1
    assert again.permutation_table.count_rows() == 90_000
    from_plan = ll.Permutation.from_tables(again.base_table, again.permutation_table, 1)
    assert ids(from_plan) == ids(many)


def test_rows_in_memory_are_pickled_once():
    data = tables.narrow(20_000)
    parts = ll.open(data).split([0.5, 0.5], seed=1)
    assert size(parts) < data.nbytes * 1.1 + 4096
    assert size(list(parts)) < data.nbytes * 1.1 + 4096


def test_splits_are_pickled_with_their_names(table):
    parts = ll.open(table).split({"train": 0.9, "val": 0.1}, seed=1)
    again = travelled(parts)
    assert again.names == ["train", "val"]
    assert ids(again["val"]) == ids(parts["val"])
    fold = travelled(ll.open(table).kfold(3, seed=1))[1]
    assert len(fold.train) + len(fold.val) == 100


def test_orders_pickle():
    order = Order.all(1000).shuffled(3).slice(10, 100)
    again = travelled(order)
    assert [again.at(k) for k in range(100)] == [order.at(k) for k in range(100)]


@pytest.mark.parametrize("source", ["lancedb", "dataset", "path", "branch", "memory"])
def test_later_writes_do_not_change_a_pickled_permutation(tmp_path, source):
    """BUG-19, BUG-20 and BUG-21."""
    table = SOURCES[source](tmp_path)
    perm = ll.open(table).shuffle(seed=4)
    pickled = pickle.dumps(perm)
    wanted = perm.to_arrow()
    writer = lance.dataset(table) if source == "path" else table
    writer.delete("id < 40")
    if hasattr(writer, "add"):
        writer.add(tables.narrow(9))
        writer.optimize()
    else:
        writer.optimize.compact_files()
    writer.drop_columns(["y"])
    again = pickle.loads(pickled)
    assert again.to_arrow().equals(wanted)
    assert again.version == perm.version
    for view in (again, perm):
        assert view.filter("id >= 20 and id < 25").num_rows == 5


@pytest.mark.parametrize("any_kind", ["disk", "memory"])
def test_a_plan_is_read_at_its_version(tmp_path, any_kind):
    table = lancedb_table("memory://" if any_kind == "memory" else tmp_path / "db")
    builder = ll.permutation_builder(table).split_random(fixed=2, seed=1)
    plan = builder.shuffle(seed=2).execute()
    part = ll.Permutation.from_tables(table, plan, 1)
    wanted = part.to_arrow()
    table.delete("id < 40")
    table.add(tables.narrow(9))
    assert travelled(part).to_arrow().equals(wanted)
    table.optimize()
    late = ll.Permutation.from_tables(table, plan, 1)
    assert travelled(late).to_arrow().equals(wanted)


def test_a_tag_may_move_afterwards(tmp_path):
    written = dataset(tmp_path)
    written.tags.create("best", written.version)
    perm = ll.open(written.uri, tag="best")
    pickled = pickle.dumps(perm)
    written.delete("id < 50")
    written.tags.update("best", lance.dataset(written.uri).version)
    assert len(ll.open(written.uri, tag="best")) == 60
    assert len(pickle.loads(pickled)) == len(perm) == 100


@pytest.mark.parametrize("source", ["lancedb", "memory", "branch", "old version"])
def test_pickling_does_not_move_the_handle(tmp_path, source):
    table = SOURCES[source](tmp_path)
    before = table.version, table.current_branch(), table.count_rows()
    perm = ll.open(table).shuffle(seed=1)
    again = travelled(perm)
    again.head()
    again.base_table  # noqa: B018
    again.filter("id > 3").head()
    assert (table.version, table.current_branch(), table.count_rows()) == before
    if source != "old version":
        table.add(tables.narrow(3))
        assert table.count_rows() == before[2] + 3


def test_views_share_the_table_and_the_reader(any_table):
    """As in LanceDB: verbs copy no handle, and open nothing again."""
    plan = ll.permutation_builder(any_table).shuffle(seed=1).execute()
    perm = ll.Permutation.from_tables(any_table, plan)
    perm.head()
    for view in (
        perm.with_batch_size(3),
        perm.with_format("arrow"),
        perm.shuffle(seed=1),
        perm.with_skip(3),
        perm.filter("id > 3"),
        copy.copy(perm),
    ):
        assert view.base_table is any_table
        assert view.permutation_table is plan
    assert perm.with_batch_size(3).reader is perm.reader
    assert perm.select_columns(["id"]).base_table is any_table


def test_copies(any_table):
    perm = ll.open(any_table).shuffle(seed=1).with_transform(lambda b: b.num_rows)
    for again in (copy.copy(perm), copy.deepcopy(perm)):
        assert again is not perm
        assert again.take_offsets([1, 2, 3]) == 3
        assert again.to_arrow().equals(perm.to_arrow())
    deep = copy.deepcopy({"train": perm, "again": perm})
    assert deep["train"] is deep["again"]
    narrow = copy.copy(perm).select_columns(["id"])
    assert perm.num_columns == 5
    assert narrow.num_columns == 1


def test_a_deep_copy_is_its_own(table):
    perm = ll.open(table)
    deep = copy.deepcopy(perm)
    deep.selection.pop("id")
    assert "id" in perm.selection


@pytest.mark.parametrize("source", ["lancedb", "memory", "branch", "old version"])
def test_table_and_permutation_table_match_after_unpickling(tmp_path, source):
    """BUG-21: row ids of one version are not those of another."""
    table = SOURCES[source](tmp_path)
    plan = ll.permutation_builder(table).split_random(
        counts=[30, 40], seed=1, split_names=["a", "b"]
    )
    perm = ll.Permutation.from_tables(table, plan.execute(), "b")
    if source != "old version":
        table.add(tables.narrow(3))
    for again in (travelled(perm), travelled(travelled(perm))):
        base, plan = again.base_table, again.permutation_table
        assert ll.Permutations(base, plan).split_names == ["a", "b"]
        assert ids(ll.Permutation.from_tables(base, plan, "b")) == ids(perm)
