"""``lanceloader.compat.lance_torch``: batches are those of pylance's ``lance.torch.data``."""

from __future__ import annotations

import itertools
import random

import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import numpy as np
import pytest
import torch
from lance_torch_tables import (
    FIXTURES,
    SIZES,
    WARNINGS,
    assert_all_same,
    assert_same,
    both,
    ids,
    theirs,
    write,
)
from lanceloader.compat import lance_torch as ours
from torch.utils.data._utils import worker

pytestmark = WARNINGS
whole, deleted, path = FIXTURES


# Scans


@pytest.mark.parametrize("batch_size", [1, 64, 100, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"with_row_id": True},
        {"columns": ["vector", "id"]},
        {"columns": ["vector"]},
        {"columns": ["large"], "with_row_id": True},
        {"columns": {"small": "small"}},
        {"to_tensor_fn": None},
        {"batch_readahead": 1},
        {"auto_detect_rank": False},
        {"shard_granularity": "fragment"},
        {"shard_granularity": "batch"},
        {"cache": True},
    ],
    ids=repr,
)
def test_batches_are_those_of_pylance(path, batch_size, options):
    assert_all_same(*both(path, batch_size, **options))


@pytest.mark.parametrize("predicate", ["id % 3 = 0", "flag", "small < 3", "id < 0"])
@pytest.mark.parametrize("columns", [None, ["id", "maybe"]])
def test_filtered_rows_are_those_of_pylance_in_full_batches(path, predicate, columns):
    options = {"filter": predicate, "columns": columns, "with_row_id": True}
    wanted, found = both(path, 64, **options)
    assert ids(wanted) == ids(found)
    assert all(len(batch["id"]) == 64 for batch in found[:-1])
    if found:
        joined = [
            {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
            for batches in (wanted, found)
        ]
        assert_same(*joined)


def test_a_filter_that_matches_nothing_yields_nothing(whole):
    for name in ("FullScanSampler", "ShardedBatchSampler"):
        arguments = () if name == "FullScanSampler" else (0, 2)
        sampler = getattr(ours, name)(*arguments)
        dataset = ours.LanceDataset(whole, 10, filter="id < 0", sampler=sampler)
        assert list(dataset) == []


def test_tiny_fragments_are_joined_in_turn(tmp_path):
    path = write(tmp_path / "t.lance", [39, 17, 31, 7, 5, 84, 1, 84, 20])
    assert_all_same(*both(path, 84))


def test_items_belong_to_who_gets_them(whole):
    """Writing to one changes neither the others nor what the next iteration reads."""
    for cache in (None, True):
        dataset = ours.LanceDataset(whole, 100, cache=cache)
        wanted = ids(dataset)
        for batch in dataset:
            batch["id"].zero_()
            batch["vector"] *= 0
        assert ids(dataset) == wanted


# Samplers, ranks and epochs

SHARDS = [(rank, size) for size in (1, 2, 3) for rank in range(size)]


@pytest.mark.parametrize(("rank", "world_size"), SHARDS)
@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_samplers_choose_the_rows_of_pylance(path, name, rank, world_size, randomize):
    sampler = name, rank, world_size, randomize, 7
    wanted, found = both(path, 64, sampler)
    assert_all_same(wanted, found)
    assert world_size == 3 or len(found) > 2
    # pylance's own samplers mean the same.
    sampler = getattr(theirs, name)(rank, world_size, randomize, 7)
    assert_all_same(wanted, ours.LanceDataset(path, 64, sampler=sampler))


@pytest.mark.parametrize(("rank", "world_size"), SHARDS)
@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("batch_size", [1, 30])
def test_filtered_batches_of_ranks_and_epochs_are_those_of_pylance(
    path, rank, world_size, randomize, epoch, batch_size
):
    """Here pylance's epochs differ; batches of one row overflow its reservoir of 256."""
    found = []
    for library in (theirs, ours):
        sampler = library.ShardedBatchSampler(rank, world_size, randomize, 7)
        sampler.set_epoch(epoch)
        options = {"filter": "id % 2 = 0", "sampler": sampler}
        found.append(list(library.LanceDataset(path, batch_size, **options)))
    assert_all_same(*found)


@pytest.mark.parametrize("name", ["ShardedFragmentSampler", "ShardedBatchSampler"])
def test_set_epoch_changes_a_random_order(whole, name):
    """In epoch 0 it is pylance's, whose order is the same in all epochs."""
    sampler = getattr(ours, name)(0, 1, randomize=True, seed=3)
    dataset = ours.LanceDataset(whole, 64, sampler=sampler)
    orders = []
    for epoch in (0, 1, 2, 0):
        dataset.set_epoch(epoch)
        orders.append(ids(dataset))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(sum(SIZES))) for order in orders)
    plain = getattr(theirs, name)(0, 1, randomize=True, seed=4)
    assert orders[1] == ids(theirs.LanceDataset(whole, 64, sampler=plain))


def test_randomizing_leaves_the_generators_of_the_program_alone(whole):
    random.seed(1)
    state = random.getstate()
    for name in ("ShardedFragmentSampler", "ShardedBatchSampler"):
        sampler = getattr(ours, name)(0, 1, randomize=True)
        list(ours.LanceDataset(whole, 64, sampler=sampler))
    assert random.getstate() == state


def test_set_epoch_of_a_dataset_without_a_sampler_does_nothing(whole):
    dataset = ours.LanceDataset(whole, 64)
    dataset.set_epoch(3)
    assert ids(dataset) == list(range(sum(SIZES)))


@pytest.mark.parametrize("granularity", [None, "fragment", "batch"])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("workers", [None, 2])
def test_ranks_and_workers_get_the_rows_that_pylance_gives_them(
    path, granularity, ranks, workers, monkeypatch
):
    seen = []
    for rank, number in itertools.product(range(ranks), range(workers or 1)):
        if workers is not None:
            info = worker.WorkerInfo(
                id=number, num_workers=workers, seed=0, dataset=None
            )
            monkeypatch.setattr(worker, "_worker_info", info)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
        wanted, found = both(path, 32, shard_granularity=granularity)
        assert_all_same(wanted, found)
        seen += ids(found)
    assert sorted(seen) == lance.dataset(path).to_table()["id"].to_pylist()


def test_samplers_of_torch_distributed(whole, monkeypatch):
    with pytest.raises(RuntimeError, match="init_process_group"):
        ours.ShardedBatchSampler.from_torch()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for name in ("ShardedFragmentSampler", "ShardedBatchSampler"):
        samplers = [
            getattr(library, name).from_torch(randomize=True, seed=5)
            for library in (theirs, ours)
        ]
        assert_all_same(
            theirs.LanceDataset(whole, 50, sampler=samplers[0]),
            ours.LanceDataset(whole, 50, sampler=samplers[1]),
        )
    fixed = [
        list(library.ShardedFixedBatchSampler.from_torch(3, 20, randomize=True))
        for library in (theirs, ours)
    ]
    assert fixed[0] == fixed[1]


def test_rank_and_world_size_are_deprecated(whole):
    found = []
    for library in (theirs, ours):
        with pytest.warns(DeprecationWarning, match="deprecated"):
            dataset = library.LanceDataset(whole, 50, rank=1, world_size=2)
        found.append(list(dataset))
    assert_all_same(*found)


def test_samplers_may_be_called(path):
    for name, arguments in (
        ("FullScanSampler", ()),
        ("ShardedFragmentSampler", (1, 2)),
        ("ShardedBatchSampler", (1, 2)),
    ):
        wanted, found = (
            list(getattr(library, name)(*arguments)(lance.dataset(path), batch_size=64))
            for library in (theirs, ours)
        )
        assert_all_same(wanted, found)
    options = {"columns": ["id"], "filter": "id < 40", "with_row_id": True}
    (batch,) = ours.FullScanSampler()(path, batch_size=64, **options)
    assert batch.schema.names == ["id", "_rowid"]
    assert max(batch["id"].to_pylist()) == 39


def backwards(cls):
    class Backwards(cls):
        def iter_fragments(self, ds, **options):
            assert isinstance(ds, lance.LanceDataset)
            yield from reversed(ds.get_fragments())

    return Backwards()


def test_fragments_of_a_users_sampler_are_read_by_the_core(path, monkeypatch):
    wanted = list(
        theirs.LanceDataset(path, 64, sampler=backwards(theirs.FragmentSampler))
    )
    monkeypatch.setattr(lance.LanceDataset, "scanner", None)
    for library in (theirs, ours):
        sampler = backwards(library.FragmentSampler)
        assert_all_same(wanted, ours.LanceDataset(path, 64, sampler=sampler))


def test_fragments_may_be_chosen_by_id(path):
    class First(ours.FragmentSampler):
        def iter_fragments(self, ds, **options):
            return [ds.get_fragments()[-1].fragment_id, 0]

    fragments = lance.dataset(path).get_fragments()
    wanted = [*fragments[-1].to_table()["id"].to_pylist()]
    wanted += fragments[0].to_table()["id"].to_pylist()
    assert ids(ours.LanceDataset(path, 64, sampler=First())) == wanted


@pytest.mark.parametrize("library", [theirs, ours])
def test_batches_of_a_users_sampler_are_its_own(path, library):
    class Heads(library.Sampler):
        def __call__(self, ds, *args, columns=None, **options):
            for _ in range(3):
                yield from ds.head(40, columns=columns).combine_chunks().to_batches()

    wanted = list(theirs.LanceDataset(path, 100, sampler=Heads()))
    assert [len(batch["id"]) for batch in wanted] == [80, 40]
    assert_all_same(wanted, ours.LanceDataset(path, 100, sampler=Heads()))


@pytest.mark.parametrize("randomize", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_fixed_batches_are_those_of_pylance(rank, randomize):
    samplers = [
        library.ShardedFixedBatchSampler(rank, 3, randomize, 5, 4, 100)
        for library in (theirs, ours)
    ]
    for epoch in (0, 2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        assert list(samplers[0]) == list(samplers[1])
        assert len(samplers[0]) == len(samplers[1]) == 9
    assert list(ours.ShardedFixedBatchSampler(0, 2)) == []


# Samples


@pytest.mark.parametrize("n", [1, 50, 300, 10_000])
@pytest.mark.parametrize("batch_size", [40, 1000])
def test_samples_are_those_of_pylance_after_the_same_seed(path, n, batch_size):
    found = []
    for library in (theirs, ours):
        np.random.seed(3)
        found.append(list(library.LanceDataset(path, batch_size, samples=n)))
    assert_all_same(*found)


@pytest.mark.parametrize(("n", "max_takes"), [(60, 20), (300, 7), (500, 499)])
def test_samples_of_many_rows_are_runs_of_neighbours(path, n, max_takes):
    found = []
    for library in (theirs, ours):
        np.random.seed(3)
        dataset = lance.dataset(path)
        found.append(list(library.maybe_sample(dataset, n, "id", 50, max_takes)))
    assert_all_same(*found)


def test_samples_of_filtered_rows(whole):
    """pylance raises NotImplementedError for this filter."""
    dataset = ours.LanceDataset(whole, 30, samples=70, filter="id % 4 = 0")
    np.random.seed(3)
    one, other = ids(dataset), ids(dataset)
    assert len(one) == len(set(one)) == 70
    assert all(row % 4 == 0 for row in one)
    assert one != other
    everything = ours.LanceDataset(whole, 30, samples=1000, filter="id % 4 = 0")
    assert ids(everything) == list(range(0, sum(SIZES), 4))
