"""torchdata: ``StatefulDataLoader`` and nodes over our loaders and permutations."""

from __future__ import annotations

import pytest
import trainers
from torch.utils.data import (
    BatchSampler,
    SequentialSampler,
)
from torchdata.nodes import (
    IterableWrapper,
    Loader,
    MapStyleWrapper,
    Prefetcher,
    SamplerWrapper,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from trainers import BATCH, ROWS, SLOW_TWO, STEPS, ids, loader_of, wanted

pytestmark = trainers.MARKS
perm = trainers.perm


def stateful(perm, num_workers, epochs=1, **options):
    loader = loader_of(perm, epochs=epochs)
    return StatefulDataLoader(
        loader, batch_size=None, num_workers=num_workers, **options
    )


@pytest.mark.parametrize(
    "num_workers", [0, 1, SLOW_TWO, pytest.param(3, marks=pytest.mark.slow)]
)
def test_torchdata_resumes_at_any_step(perm, num_workers):
    whole = wanted(perm)
    loader = stateful(perm, num_workers)
    states = [loader.state_dict() for _ in loader]
    assert len(states) == STEPS
    for step in (0, 1, 4, 9):
        again = stateful(perm, num_workers)
        again.load_state_dict(states[step])
        assert ids(again) == whole[(step + 1) * BATCH :], step
        assert ids(again) == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_at_the_end_of_an_epoch(perm, num_workers):
    loader = stateful(perm, num_workers)
    assert len(ids(loader)) == ROWS
    again = stateful(perm, num_workers)
    again.load_state_dict(loader.state_dict())
    assert ids(again) == wanted(perm)


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_torchdata_over_several_epochs(perm, num_workers):
    """Workers are in different epochs at a time, and each goes on in its own."""
    whole = wanted(perm, 0) + wanted(perm, 1) + wanted(perm, 2)
    loader = stateful(perm, num_workers, epochs=3, snapshot_every_n_steps=4)
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    assert ids(batches) == whole
    for step in (7, 10, 11, 12, 21, 31):
        again = stateful(perm, num_workers, epochs=3)
        again.load_state_dict(states[step])
        assert ids(again) == ids(batches[step + 1 :]), step


def test_torchdata_s_states_are_not_ours(perm):
    loader = stateful(perm, 0)
    next(iter(loader))
    with pytest.raises(ValueError, match="pass the dict of state_dict"):
        loader_of(perm).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("num_batches", [0, 3, STEPS])
def test_nodes_of_torchdata_over_a_loader(perm, num_batches):
    def made():
        node = IterableWrapper(loader_of(perm))
        return Loader(Prefetcher(node, 2), restart_on_stop_iteration=False)

    nodes = made()
    batches = iter(nodes)
    begun = [next(batches) for _ in range(num_batches)]
    again = made()
    again.load_state_dict(nodes.state_dict())
    assert ids(begun) + ids(again) == wanted(perm)


def test_nodes_of_torchdata_over_a_permutation(perm):
    sampler = BatchSampler(SequentialSampler(perm), BATCH, drop_last=False)
    node = MapStyleWrapper(perm, SamplerWrapper(sampler))
    assert ids(node) == list(range(ROWS))
