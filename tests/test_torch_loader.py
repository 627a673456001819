"""``lanceloader.torch.DataLoader``: batches and states with workers are those without."""

from __future__ import annotations

import itertools
import multiprocessing

import lance
import lanceloader as ll
import pytest
import tables
import torch
from killing import kill_worker
from lanceloader.torch import DataLoader
from process_state import soon
from torch.utils.data import DataLoader as TorchLoader

pytestmark = pytest.mark.filterwarnings(
    # That there are more workers than cores.
    "ignore:This DataLoader will create:UserWarning"
)
ROWS, BATCH = 1003, 100
WORKERS = [(0, False), (1, True), (2, False), (3, True)]


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=300)
    return ll.open(str(path)).select_columns(["id"]).with_format("torch_dict")


def loader_of(perm, num_workers=0, persistent_workers=False, **options):
    options = {"batch_size": BATCH, "shuffle": True, "seed": 5} | options
    if num_workers:
        options |= {"multiprocessing_context": "fork"}
    return DataLoader(
        perm, num_workers=num_workers, persistent_workers=persistent_workers, **options
    )


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def wanted(perm, epoch=0):
    return perm.shuffle(5, epoch=epoch).with_format("arrow")[:]["id"].to_pylist()


def left(at, epoch, perm):
    return wanted(perm, epoch)[at * BATCH :]


@pytest.mark.parametrize(("num_workers", "persistent"), WORKERS)
def test_batches_and_states_are_those_without_workers(perm, num_workers, persistent):
    loader = loader_of(perm, num_workers, persistent)
    plain = perm.loader(BATCH, shuffle=True, seed=5)
    assert len(loader) == len(plain) == 11
    for epoch in (0, 1, 3):
        plain.set_epoch(epoch)
        for batch, same in zip(loader.set_epoch(epoch), plain, strict=True):
            assert ids([batch]) == ids([same])
            assert loader.state_dict() == plain.state_dict()
        assert loader.state_dict() == plain.state_dict()


@pytest.mark.parametrize(("num_workers", "persistent"), WORKERS)
def test_a_state_resumes_with_any_number_of_workers(perm, num_workers, persistent):
    """Past epoch 1, under prefetching, and in the loader that it was taken from too."""
    loader = loader_of(perm, num_workers, persistent).set_epoch(2)
    states = [loader.state_dict() for _ in loader]
    for step in (0, 6, 10):
        loader.load_state_dict(states[step])
        assert ids(loader) == left(step + 1, 2, perm)
        # And not again: the next iteration is whole.
        assert ids(loader) == wanted(perm, 2)
        other = loader_of(perm, (num_workers + 1) % 3)
        other.load_state_dict(states[step])
        assert ids(other.set_epoch(2)) == left(step + 1, 2, perm)
        assert ids(other.set_epoch(3)) == wanted(perm, 3)


@pytest.mark.parametrize(("num_workers", "persistent"), WORKERS)
def test_after_the_last_batch(perm, num_workers, persistent):
    """In the loop there is nothing left; behind it the next epoch, if it has no number."""
    loader = loader_of(perm, num_workers, persistent)
    for _ in loader:
        inside = loader.state_dict()
    loader.load_state_dict(loader.state_dict())
    assert ids(loader) == wanted(perm)
    loader.load_state_dict(inside)
    assert ids(loader) == []
    assert ids(loader) == wanted(perm)


@pytest.mark.parametrize("epoch", [2**32 + 1, 2**63 + 3, 2**64 - 1])
def test_workers_that_stay_hear_of_any_epoch(perm, epoch):
    loader = loader_of(perm, 2, persistent_workers=True)
    for number in (epoch, 0, epoch):
        loader.set_epoch(number).skip_batches(3)
        assert ids(loader) == left(3, number, perm)
    assert loader.state_dict()["epoch"] == epoch


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_several_epochs_in_one_iteration(perm, num_workers):
    loader = loader_of(perm, num_workers, epochs=3, batch_size=300)
    batches = []
    for number, batch in enumerate(loader, 1):
        batches.append(ids([batch]))
        if number == 6:
            state = loader.state_dict()
    rows = list(itertools.chain.from_iterable(batches))
    assert rows == wanted(perm, 0) + wanted(perm, 1) + wanted(perm, 2)
    loader.load_state_dict(state)
    assert ids(loader) == rows[sum(map(len, batches[:6])) :]


@pytest.mark.parametrize(("num_workers", "persistent"), WORKERS)
def test_skipping_breaking_and_beginning_anew(perm, num_workers, persistent):
    loader = loader_of(perm, num_workers, persistent, drop_last=True)
    assert len(loader) == 10
    assert ids(loader.skip_batches(7)) == wanted(perm)[700:1000]
    for batch in loader.set_epoch(1):
        assert ids([batch]) == wanted(perm, 1)[:100]
        break
    assert loader.state_dict()["position"] == 100
    begun = iter(loader)
    assert loader.state_dict()["position"] == 0
    assert ids([next(begun)]) == wanted(perm, 1)[:100]
    assert ids(begun) == wanted(perm, 1)[100:1000]
    assert loader.stats().batches == 10


def test_two_iterations_of_workers_start_at_their_own_epochs(perm):
    """Workers start slowly: what is said afterwards must not reach them."""
    loader = loader_of(perm, 2)
    one = iter(loader.set_epoch(1).skip_batches(3))
    other = iter(loader.set_epoch(2).skip_batches(5))
    assert ids(one) == left(3, 1, perm)
    assert loader.state_dict()["position"] == 500
    assert ids(other) == left(5, 2, perm)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks(perm, num_workers):
    served = []
    for rank in range(3):
        options = {"rank": rank, "world_size": 3, "tail": "uneven"}
        loader = loader_of(
            perm, num_workers, batch_size=None, global_batch_size=99, **options
        )
        loader.skip_batches(1)
        served += ids(loader)
        assert loader.dataset.world.world_size == 3
    assert sorted(served) == sorted(wanted(perm)[99:])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_left_out_by_a_transform_count(perm, num_workers):
    order = wanted(perm)
    bad = {*order[:200], *order[500:600], order[333], *order[900:]}

    def fussy(batch):
        if bad.intersection(batch["id"].tolist()):
            raise ValueError("bad rows")
        return batch["id"].tolist()

    loader = loader_of(perm, num_workers, transform=fussy, on_error="skip")
    seen, states = [], []
    for rows in loader:
        seen.append(rows)
        states.append(loader.state_dict())
    good = [row for row in order if row not in bad]
    assert list(itertools.chain.from_iterable(seen)) == good
    for step in (0, 2, len(states) - 1):
        loader.load_state_dict(states[step])
        rest = list(itertools.chain.from_iterable(loader))
        before = sum(map(len, seen[: step + 1]))
        assert rest == good[before:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_copies_are_made_here_and_ahead_without_counting(perm, num_workers):
    loader = loader_of(perm, num_workers, device="meta")
    for step, batch in enumerate(loader, 1):
        assert batch["id"].device.type == "meta"
        assert loader.state_dict()["position"] == min(ROWS, step * BATCH)


def halves(batch):
    if 7 in batch["id"].tolist():
        raise ZeroDivisionError("seven")
    return {"id": batch["id"] / 2}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_collate_function_and_what_it_raises(perm, num_workers):
    without = perm.filter("id != 7").loader(100)
    loader = DataLoader(without, num_workers=num_workers, collate_fn=halves)
    halved = [row for batch in loader for row in batch["id"].tolist()]
    assert halved == [k / 2 for k in range(ROWS) if k != 7]
    loader = DataLoader(perm, 5, num_workers=num_workers, collate_fn=halves)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ZeroDivisionError, match="seven"):
        next(batches)


def children():
    return multiprocessing.active_children()


# The signal that torch makes an error of may come in the middle of torch's own code.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("ahead", [1, 6])
def test_a_killed_worker_is_an_error_and_training_goes_on_from_its_state(
    perm, persistent, ahead
):
    loader = loader_of(perm, 2, persistent, batch_size=10, prefetch_factor=ahead)
    batches = iter(loader.set_epoch(1))
    seen = ids([next(batches) for _ in range(5)])
    state = loader.state_dict()

    def kill_and_drain():
        """Some batches may lie ready."""
        nonlocal state
        for child in children():
            kill_worker(child.pid)
        for batch in batches:
            seen.extend(ids([batch]))
            state = loader.state_dict()

    with pytest.raises(RuntimeError, match=r"worker .*(killed|exited unexpectedly)"):
        kill_and_drain()
    assert loader.state_dict() == state
    assert state["position"] == len(seen) < ROWS
    again = loader_of(perm, 2, batch_size=10)
    again.load_state_dict(state)
    assert seen + ids(again) == wanted(perm, 1)


def test_workers_end_with_the_iteration(perm):
    batches = iter(loader_of(perm, 2))
    next(batches)
    assert len(children()) == 2
    del batches
    assert soon(lambda: not children())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"in_order": False, "num_workers": 1},
            "`in_order`=False is not supported",
        ),
        (
            {"sampler": [1], "shuffle": True},
            "`sampler` and `shuffle`=True are mutually",
        ),
        ({"batch_sampler": [[1]], "batch_size": 2}, "`batch_sampler` and `batch_size`"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"seed": 1}, "pass shuffle=True"),
        ({"persistent_workers": True}, "needs num_workers > 0"),
        ({"num_workers": -1}, "`num_workers` must not be negative"),
    ],
)
def test_arguments_of_a_permutation(perm, options, words):
    with pytest.raises(ValueError, match=words):
        DataLoader(perm, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 3}, "`batch_size`=3 cannot be combined with a Loader"),
        ({"shuffle": True}, r"`shuffle`=True .*pass it to loader\(\)"),
        ({"drop_last": True}, "`drop_last`=True"),
        ({"format": "arrow"}, "`format`='arrow' cannot be combined with a Loader"),
    ],
)
def test_arguments_that_a_loader_had_already(perm, options, words):
    with pytest.raises(ValueError, match=words):
        DataLoader(perm.loader(5), **options)


def test_other_datasets(perm):
    with pytest.raises(
        TypeError, match="`dataset` must be a Loader or a Permutation, not list"
    ):
        DataLoader([1, 2, 3])
    with pytest.raises(ValueError, match="for another"):
        loader_of(perm).load_state_dict(perm.loader(5).state_dict())


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_torch_s_own_loader(perm, num_workers):
    loader = perm.loader(BATCH, shuffle=True, seed=5, epochs=2)
    assert isinstance(loader, torch.utils.data.IterableDataset)
    batches = TorchLoader(loader, batch_size=None, num_workers=num_workers)
    assert len(batches) == 22
    assert ids(batches) == wanted(perm, 0) + wanted(perm, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("context", ["forkserver", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_other_ways_to_start_workers(perm, context, persistent):
    loader = DataLoader(
        *(perm, 100, True),
        seed=5,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=context,
    )
    for batch in loader.set_epoch(1):
        last, state = batch, loader.state_dict()
        if state["position"] == 400:
            break
    assert ids([last]) == wanted(perm, 1)[300:400]
    loader.load_state_dict(state)
    assert ids(loader) == left(4, 1, perm)
    assert ids(loader.set_epoch(2)) == wanted(perm, 2)
