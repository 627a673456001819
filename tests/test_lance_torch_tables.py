"""``lanceloader.compat.lance_torch``: tables, the cache, errors, pickles and workers."""

from __future__ import annotations

import pickle
import re

import importable
import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import lancedb
import pytest
from lance_torch_tables import (
    FIXTURES,
    WARNINGS,
    assert_all_same,
    both,
    ids,
    rows,
    theirs,
    write,
)
from lanceloader.compat import lance_torch as ours
from torch.utils.data import DataLoader

pytestmark = WARNINGS
whole, deleted, path = FIXTURES


# Tables


def test_a_version_is_kept(tmp_path):
    path = write(tmp_path / "t.lance", [50])
    old = ours.LanceDataset(path, 100)
    lance.write_dataset(rows(50, 20), path, mode="append")
    lance.dataset(path).tags.create("second", 2)
    assert len(ids(old)) == 50
    assert old.dataset.version == 1
    assert len(ids(pickle.loads(pickle.dumps(old)))) == 50
    for version in (1, 2, "second"):
        assert_all_same(*both(path, 15, dataset_options={"version": version}))
    asof = {"asof": lance.dataset(path).versions()[1]["timestamp"]}
    assert_all_same(*both(path, 15, dataset_options=asof))
    session = {"session": lance.Session(), "version": 1}
    dataset = ours.LanceDataset(path, 15, dataset_options=session)
    assert len(ids(pickle.loads(pickle.dumps(dataset)))) == 50


def test_tables_of_all_libraries_are_read(tmp_path, whole):
    table = lancedb.connect(tmp_path).create_table("t", rows(0, 100))
    for dataset in (table, rows(0, 100), lance.dataset(tmp_path / "t.lance")):
        assert ids(ours.LanceDataset(dataset, 30)) == list(range(100))
    assert ours.LanceDataset(rows(0, 5), 5).dataset.count_rows() == 5
    assert ours.LanceDataset(table, 5).dataset.count_rows() == 100


def test_attributes(whole):
    wanted, found = (
        library.LanceDataset(whole, 7, columns=["id", "flag"], filter="id < 9")
        for library in (theirs, ours)
    )
    assert found.schema == wanted.schema
    assert found.dataset.count_rows() == wanted.dataset.count_rows()
    for name in (
        "columns",
        "batch_size",
        "filter",
        "samples",
        "with_row_id",
        "sampler",
    ):
        assert getattr(found, name) == getattr(wanted, name)
    assert re.fullmatch(
        r"<LanceDataset of \S+ at version \d+, batch_size=7>", repr(found)
    )


def test_an_empty_table_yields_nothing(tmp_path):
    lance.write_dataset(rows(0, 0), tmp_path / "t.lance")
    assert list(ours.LanceDataset(tmp_path / "t.lance", 7)) == []
    assert list(ours.LanceDataset(tmp_path / "t.lance", 7, samples=3)) == []


def test_credentials_reach_workers(whole):
    """As with pylance: a pickle of it holds the options."""
    options = {"storage_options": {"aws_secret_access_key": "secret"}}
    dataset = ours.LanceDataset(whole, 100, dataset_options=options)
    again = pickle.loads(pickle.dumps(dataset))
    assert again._table.source.storage_options == options["storage_options"]
    assert ids(again) == ids(dataset)
    rows = pickle.loads(
        pickle.dumps(ours.SafeLanceDataset(whole, dataset_options=options))
    )
    assert rows.dataset_options == options
    assert rows[3]["id"] == 3


# The cache


def test_a_cache_keeps_rows_in_a_folder(tmp_path):
    """pylance's keeps the order of the first epoch; ours keeps the rows."""
    sizes = [300_000, 200_000]
    path = write(tmp_path / "t.lance", sizes)
    sampler = ours.ShardedBatchSampler(0, 1, randomize=True)
    folder = tmp_path / "cache"
    dataset = ours.LanceDataset(
        path, 5000, sampler=sampler, cache=folder, columns=["id", "vector"]
    )
    first = list(dataset)
    packed = sum(file.stat().st_size for file in folder.rglob("*"))
    assert packed >= len(ids(first)) * (8 + 3 * 4)
    assert_all_same(first, dataset)
    dataset.set_epoch(1)
    assert ids(dataset) != ids(first)
    assert sorted(ids(dataset)) == list(range(sum(sizes)))


def test_a_cache_without_room_has_no_effect(whole, monkeypatch):
    monkeypatch.setenv("LANCELOADER_MEMORY_LIMIT", "1000")
    dataset = ours.LanceDataset(whole, 64, cache=True)
    with pytest.warns(UserWarning, match="`cache` has no effect"):
        found = list(dataset)
    assert_all_same(theirs.LanceDataset(whole, 64), found)


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": ["nope"]}, KeyError, "column `nope`.*the columns are `id`"),
        ({"filter": "nope > 3"}, ValueError, "column `nope` does not exist"),
        ({"shard_granularity": "row"}, ValueError, '"fragment", "batch", got .row'),
        ({"cache": 3}, TypeError, "`cache` must be true or the path"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"samples": -1}, ValueError, "`samples`"),
        ({"sampler": [1, 2]}, TypeError, "`sampler` must be a sampler of this module"),
        ({"dataset_options": {"version": 99}}, RuntimeError, "version 99"),
        ({"dataset_options": {"versoin": 1}}, TypeError, "versoin"),
        (
            {"shard_granularity": "batch", "auto_detect_rank": False},
            ValueError,
            "needs `rank` and `world_size` where `auto_detect_rank` is false",
        ),
    ],
    ids=repr,
)
def test_wrong_arguments_say_what_to_pass(whole, options, error, message):
    with pytest.raises(error, match=message):
        list(ours.LanceDataset(whole, **{"batch_size": 10} | options))


def test_no_table_at_a_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Lance table at"):
        ours.LanceDataset(tmp_path / "nowhere.lance", 10)


@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_wrong_ranks_are_refused(name):
    """pylance reads some rows twice, and others never."""
    sampler = getattr(ours, name)
    with pytest.raises(ValueError, match="`rank` must be below `world_size`"):
        sampler(2, 2)
    with pytest.raises(TypeError, match="`rank`"):
        sampler(None, None)


def test_arguments_that_there_are_not_are_named(whole):
    with pytest.warns(UserWarning, match="no arguments 3, with_rowid"):
        ours.LanceDataset(whole, 10, 3, with_rowid=True)


def test_a_fragment_that_there_is_not(whole):
    class Wrong(ours.FragmentSampler):
        def iter_fragments(self, ds, **options):
            yield 99

    with pytest.raises(ValueError, match="fragment 99, but the table has fragments 0"):
        list(ours.LanceDataset(whole, 10, sampler=Wrong()))


# Pickles and workers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"filter": "flag", "with_row_id": True},
        {"sampler": ours.ShardedFragmentSampler(1, 2, randomize=True, seed=9)},
        {"cache": True},
        {"to_tensor_fn": importable.listed},
    ],
    ids=repr,
)
def test_a_pickle_reads_the_same_batches(path, options):
    dataset = ours.LanceDataset(path, 64, **options)
    wanted = list(dataset)
    dataset.set_epoch(4)
    again = pickle.loads(pickle.dumps(dataset))
    assert_all_same(dataset, again)
    dataset.set_epoch(0)
    assert_all_same(wanted, dataset)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"shard_granularity": "batch"}, {"filter": "flag"}], ids=repr)  # fmt: skip
def test_workers_share_the_rows(path, workers, options):
    dataset = ours.LanceDataset(path, 32, **options)
    fork = "fork" if workers else None
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=fork
    )
    wanted = list(dataset)
    for _ in range(2):
        assert sorted(ids(loader)) == sorted(ids(wanted))


def test_workers_that_stay_hear_of_the_epoch(whole):
    sampler = ours.ShardedBatchSampler(0, 1, randomize=True, seed=2)
    dataset = ours.LanceDataset(whole, 50, sampler=sampler)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    for epoch in (0, 3, 1):
        sampler.set_epoch(epoch)
        assert ids(loader) == ids(dataset)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_yield_what_those_of_pylance_yield(deleted):
    found = []
    for library in (theirs, ours):
        options = {"batch_size": None, "num_workers": 2, "persistent_workers": False}
        dataset = library.LanceDataset(deleted, 32, with_row_id=True)
        found.append(list(library.get_safe_loader(dataset, **options)))
    assert_all_same(*found)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_that_stay_hear_of_the_epoch(whole):
    sampler = ours.ShardedFragmentSampler(0, 1, randomize=True, seed=2)
    dataset = ours.LanceDataset(whole, 50, sampler=sampler)
    loader = ours.get_safe_loader(dataset, batch_size=None, num_workers=1)
    orders = []
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        orders.append(ids(loader))
        assert orders[-1] == ids(dataset)
    assert orders[0] != orders[1]
