"""States of loaders with samplers: the rows of torch's own ``DataLoader`` go on, with workers too."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import random

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.torch import DataLoader
from sampler_kinds import (
    ROWS,
    SAMPLERS,
    SIZE,
    UNSEEDED,
    failing,
    flat,
    generator,
    loader_of,
    rows,
    sampled,
)
from torch.utils.data import (
    DistributedSampler,
    RandomSampler,
)


@pytest.fixture
def perm():
    """Rows in an order of their own, as positions are not row offsets."""
    return ll.open(pa.table({"x": range(ROWS)})).shuffle(seed=3)


@pytest.mark.parametrize("at", [0, 1, 3, 5])
@pytest.mark.parametrize("num_passes", [0, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_state_in_any_step_of_any_pass(perm, name, at, num_passes):
    """A loader made anew, as after a crash, goes on with the same rows."""
    loader = loader_of(perm, sampled(name, perm))
    for _ in range(num_passes):
        rows(loader)
    batches = iter(loader)
    for _ in range(at):
        if next(batches, None) is None:
            # The state is that of the next pass.
            batches = loader
            break
    state = json.loads(json.dumps(loader.state_dict()))
    if not state["position"] and name in UNSEEDED:
        pytest.skip("rows that are not drawn yet depend on the global generators")
    rest = rows(batches)
    resumed = loader_of(perm, sampled(name, perm))
    torch.manual_seed(123)
    random.seed(123)
    np.random.seed(123)
    resumed.load_state_dict(state)
    assert rows(resumed) == rest
    if name not in UNSEEDED:
        assert rows(resumed) == rows(loader)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_state_of_a_loader_that_was_resumed(perm, name):
    """After a second crash in the same epoch."""
    loader = loader_of(perm, sampled(name, perm))
    batches = iter(loader)
    for _ in range(2):
        next(batches, None)
    state = json.loads(json.dumps(loader.state_dict()))
    if not state["position"]:
        pytest.skip("the pass has ended")
    next(batches, None)
    rest = rows(batches)
    for _ in range(2):
        resumed = loader_of(perm, sampled(name, perm))
        resumed.load_state_dict(state)
        again = iter(resumed)
        next(again, None)
        again_state = resumed.state_dict()
        last = loader_of(perm, sampled(name, perm))
        last.load_state_dict(json.loads(json.dumps(again_state)))
        if again_state["position"]:
            assert rows(last) == rest
        assert rows(again) == rest


@pytest.mark.parametrize("name", ["random", "weighted", "subset", "stateful"])
def test_a_state_after_a_pass_goes_on_with_the_next_one(perm, name):
    loader = loader_of(perm, sampled(name, perm))
    rows(loader)
    rows(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    wanted = rows(loader)
    resumed = loader_of(perm, sampled(name, perm))
    resumed.load_state_dict(state)
    assert rows(resumed) == wanted


@pytest.mark.parametrize("name", ["random", "distributed", "stateful"])
@pytest.mark.parametrize("at", [2, 17, 30])
def test_a_state_in_an_iteration_of_several_epochs(perm, name, at):
    loader = loader_of(perm, sampled(name, perm), epochs=4)
    batches = iter(loader)
    for _ in range(at):
        next(batches, None)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = rows(batches)
    resumed = loader_of(perm, sampled(name, perm), epochs=4)
    resumed.load_state_dict(state)
    assert rows(resumed) == rest


def test_global_generators_are_left_as_they_were_when_rows_are_drawn_again(perm):
    loader = loader_of(perm, RandomSampler(perm))
    next(iter(loader))
    state = loader.state_dict()
    resumed = loader_of(perm, RandomSampler(perm))
    resumed.load_state_dict(state)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    rows(resumed)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_sampler_is_refused_when_a_state_is_loaded(perm):
    loader = loader_of(perm, RandomSampler(perm, generator=generator(1)))
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    for other, words in (
        (perm.loader(SIZE), "another sampler: RandomSampler there, nothing here"),
        (loader_of(perm, [1, 2]), "another sampler: RandomSampler there, list here"),
    ):
        with pytest.raises(ValueError, match=words):
            other.load_state_dict(state)
    listed = loader_of(perm, [1, 2, 3] * 10)
    next(iter(listed))
    state = listed.state_dict()
    changed = loader_of(perm, [1, 2, 4] * 10)
    changed.load_state_dict(state)
    with pytest.raises(ValueError, match="yields other rows than when the state was"):
        next(iter(changed))
    with pytest.raises(ValueError, match="state is damaged: 'sampler'"):
        listed.load_state_dict(state | {"sampler": 3})


def test_a_state_of_one_rank_fits_the_others(perm):
    zero, one = (
        loader_of(perm, DistributedSampler(perm, 2, rank, seed=1)) for rank in (0, 1)
    )
    batches, others = iter(zero), iter(one)
    next(batches)
    next(others)
    state = zero.state_dict()
    resumed = loader_of(perm, DistributedSampler(perm, 2, 1, seed=1))
    resumed.load_state_dict(state)
    assert rows(resumed) == rows(others)


def test_loaders_with_samplers_pickle_and_copy(perm):
    loader = loader_of(perm, RandomSampler(perm, generator=generator(2)))
    wanted = None
    for other in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader), loader):
        found = rows(other)
        wanted = wanted or found
        assert found == wanted


WORKERS = ["random", "random without a generator", "distributed", "stateful", "list"]


def with_workers(perm, name, num_workers, **options):
    return DataLoader(
        perm,
        SIZE,
        sampler=sampled(name, perm),
        format="numpy_dict",
        num_workers=num_workers,
        **options,
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("is_persistent", [False, True])
def test_workers_yield_the_same(perm, context, is_persistent):
    options = {
        "multiprocessing_context": context,
        "persistent_workers": is_persistent,
    }
    for name in WORKERS if context == "fork" else WORKERS[:3]:
        wanted = with_workers(perm, name, 0)
        loader = with_workers(perm, name, 2, **options)
        for epoch in range(2):
            if name == "distributed":
                wanted.set_epoch(epoch)
                loader.set_epoch(epoch)
            torch.manual_seed(epoch)
            first = rows(wanted)
            torch.manual_seed(epoch)
            # torch draws the seed of the workers first.
            if name != "random without a generator":
                assert rows(loader) == first
            else:
                assert sorted(flat(rows(loader))) == sorted(flat(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (2, 3)])
def test_states_with_workers(perm, name, workers):
    loader = with_workers(perm, name, workers[0], epochs=2)
    batches = iter(loader)
    for _ in range(3):
        next(batches, None)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = rows(batches)
    resumed = with_workers(perm, name, workers[1], epochs=2)
    resumed.load_state_dict(state)
    found = rows(resumed)
    if name == "random without a generator":
        # The second epoch is drawn anew.
        assert found[:10] == rest[:10]
    else:
        assert found == rest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_workers_skip_batches_and_copy_in_order(perm):
    chosen = list(range(60))
    loader = DataLoader(
        perm,
        batch_sampler=[[at] for at in chosen],
        format="numpy_dict",
        num_workers=3,
        transform=failing,
        on_error="skip",
        collate_fn=functools.partial(dict),
    )
    order = perm.to_arrow()["x"].to_pylist()
    kept = [order[at] for at in chosen if order[at] % 10]
    batches = iter(loader)
    found = [next(batches)["x"].tolist() for _ in range(20)]
    state = loader.state_dict()
    assert found + rows(batches) == [[row] for row in kept]
    assert state["position"] == order.index(kept[19]) + 1
