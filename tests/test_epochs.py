"""Epochs of a loader: set during an iteration, several in one iteration, and without batches."""

from __future__ import annotations

import itertools
import pickle

import lanceloader as ll
import producers
import pyarrow as pa
import pytest
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader

pytestmark = [
    # That there are more workers than cores.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.timeout(60),
]


def table(num_rows):
    return ll.open(pa.table({"id": range(num_rows)})).with_format("torch_dict")


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def wanted(perm, epoch):
    order = perm.loader(100).set_epoch(epoch)
    return ids(order)


def place(loader):
    state = loader.state_dict()
    return state["epoch"], state["position"]


def in_workers(loader, num_workers):
    """A loader in worker processes, or as it is."""
    if not num_workers:
        return loader
    return DataLoader(loader, num_workers=num_workers, multiprocessing_context="fork")


# An epoch that is set while another goes on.

KINDS = {
    "plain": {},
    "copied": {"device": "cpu", "transform": producers.doubled, "transform_threads": 2},
    "workers": {},
    "helper": {"in_process": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_of_the_batch_handed_out_whatever_epoch_is_set(kind):
    perm = table(12).shuffle(3)
    loader = perm.loader(4, **KINDS[kind])
    loader = in_workers(loader, 2 if kind == "workers" else 0).set_epoch(0)
    batches = iter(loader)
    next(batches)
    assert place(loader) == (0, 4)
    loader.set_epoch(1)
    # Unless it goes on, training is where the next one begins.
    assert place(loader) == (1, 0)
    next(batches)
    assert place(loader) == (0, 8)
    rest = perm.loader(4)
    rest.load_state_dict(loader.state_dict())
    assert ids(rest) == wanted(perm, 0)[8:]
    next(batches)
    assert place(loader) == (0, 12)
    # Behind its end, too.
    assert next(batches, None) is None
    assert place(loader) == (1, 0)
    assert len(list(loader)) == 3
    assert place(loader) == (1, 12)


def test_an_epoch_set_twice_or_before_a_new_iteration():
    perm = table(12).shuffle(3)
    loader = perm.loader(4).set_epoch(0)
    batches = iter(loader)
    next(batches)
    loader.set_epoch(1).set_epoch(2)
    next(batches)
    assert place(loader) == (0, 8)
    # The next one is the one that counts.
    other = iter(loader)
    assert place(loader) == (2, 0)
    next(batches)
    assert place(loader) == (2, 0)
    assert ids(other) == wanted(perm, 2)
    # As after a place that was chosen.
    batches = iter(loader)
    next(batches)
    loader.skip_batches(1)
    next(batches)
    assert place(loader) == (2, 4)


# Several epochs in one iteration, and states of them.


@pytest.mark.parametrize(
    ("num_workers", "in_process"), [(0, True), (2, True), (0, False)]
)
def test_a_state_of_several_epochs_knows_which_was_the_first(num_workers, in_process):
    perm = table(10).shuffle(3)
    options = {"epochs": 3, "in_process": in_process}
    loader = in_workers(perm.loader(4, **options), num_workers).set_epoch(3)
    states = [loader.state_dict()]
    states += (loader.state_dict() for _ in loader)
    states.append(loader.state_dict())
    whole = [row for epoch in (3, 4, 5) for row in wanted(perm, epoch)]
    for step, state in enumerate(states):
        again = in_workers(perm.loader(4, epochs=3), num_workers)
        again.load_state_dict(pickle.loads(pickle.dumps(state)))
        epoch, steps = divmod(step, 3)
        assert ids(again) == whole[10 * epoch + 4 * steps :], step
        # The next iteration is of the same epochs.
        assert ids(again) == whole
        # A state taken before the first batch, too.
        again.load_state_dict(state)
        assert again.state_dict() == state


def test_a_state_of_one_epoch_of_several_others_is_refused():
    perm = table(10).shuffle(3)
    state = perm.loader(4).set_epoch(4).skip_batches(1).state_dict()
    for first in (0, 5):
        several = perm.loader(4, epochs=3).set_epoch(first)
        several.load_state_dict(state)
        batches = iter(several)
        words = rf"epoch 4, but .* epochs {first} to {first + 2}: call set_epoch"
        with pytest.raises(ValueError, match=words):
            next(batches)
    several = perm.loader(4, epochs=3)
    several.load_state_dict(state)
    rows = [*wanted(perm, 4)[4:], *wanted(perm, 5)]
    assert ids(several.set_epoch(3)) == rows
    # One that never ends goes on from anywhere.
    endless = perm.loader(4, epochs=None)
    endless.load_state_dict(state)
    assert ids(itertools.islice(endless, 5)) == rows


@pytest.mark.parametrize("first", [-1, "1", 2, None])
def test_damaged_first_epochs(first):
    loader = table(10).loader(4, epochs=2)
    state = loader.set_epoch(1).state_dict()
    assert state["first_epoch"] == state["epoch"] == 1
    with pytest.raises(ValueError, match="'first_epoch'"):
        loader.load_state_dict(state | {"first_epoch": first})


# Epochs without a batch.


def refuses(batch):
    raise ValueError("no batch is good enough")


def refuses_small(batch):
    if int(batch["id"].min()) < 4:
        raise ValueError("too small")
    return batch


EMPTY = {
    "no rows": (0, {}),
    "drop_last": (3, {"batch_size": 8, "drop_last": True}),
    "tail": (1, {"rank": 1, "world_size": 2, "tail": "drop"}),
    "left out": (10, {"transform": refuses, "on_error": "skip"}),
}


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("why", EMPTY)
def test_endless_epochs_without_batches_raise(why, num_workers):
    num_rows, options = EMPTY[why]
    perm = table(10).with_take(num_rows)
    loader = perm.loader(**{"batch_size": 4, "epochs": None} | options)
    batches = iter(in_workers(loader, num_workers))
    with pytest.raises(ValueError, match=r"epoch 0 .*has no batch .*would never end"):
        next(batches)


def test_blocks_and_mixtures_without_a_batch():
    documents = ll.open(pa.table({"tokens": [[1, 2], [3]]}))
    for endless in (
        documents.pack(2).loader(3, drop_last=True, epochs=None),
        documents.loader(batch_tokens=9, epochs=None, drop_last=True, **RANK),
        ll.mix([table(10)], stop=0).loader(2, epochs=None),
    ):
        with pytest.raises(ValueError, match="has no batch"):
            next(iter(endless))


RANK = {"rank": 1, "world_size": 2}


def test_in_a_helper_process():
    loader = table(3).loader(8, drop_last=True, epochs=None, in_process=False)
    with pytest.raises(ValueError, match="has no batch"):
        next(iter(loader))


def test_what_is_left_of_an_epoch_may_be_nothing():
    loader = table(10).loader(4, epochs=None).set_epoch(0).skip_batches(9)
    assert ids(itertools.islice(loader, 3)) == [*range(10)]
    # In the same iteration later ones count.
    loader = table(0).loader(4, epochs=2)
    assert list(loader) == []


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_batches_left_out_of_endless_epochs(num_workers):
    """One worker's batches are all left out, while others give some."""
    loader = table(12).loader(4, epochs=None, transform=refuses_small, on_error="skip")
    batches = itertools.islice(in_workers(loader, num_workers), 7)
    found = [(place(loader), ids([batch])) for batch in batches]
    assert found == [
        *(((0, 8), [4, 5, 6, 7]), ((0, 12), [8, 9, 10, 11])),
        *(((1, 8), [4, 5, 6, 7]), ((1, 12), [8, 9, 10, 11])),
        *(((2, 8), [4, 5, 6, 7]), ((2, 12), [8, 9, 10, 11])),
        ((3, 8), [4, 5, 6, 7]),
    ]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_few_batches_for_many_workers_of_torch_s_own_loader(num_workers):
    loader = table(4).loader(4, epochs=None)
    batches = TorchLoader(loader, batch_size=None, num_workers=num_workers)
    assert ids(itertools.islice(batches, 5)) == [*range(4)] * 5
    nothing = table(0).loader(4, epochs=None)
    batches = TorchLoader(nothing, batch_size=None, num_workers=num_workers)
    with pytest.raises(ValueError, match="has no batch"):
        next(iter(batches))


# The end of epochs of which nothing was handed out.


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_end_of_epochs_without_batches(num_workers):
    few = table(3).loader(8, drop_last=True, epochs=2)
    loader = in_workers(few, num_workers)
    assert list(loader) == []
    assert place(loader) == (1, 3)
    bad = table(3).loader(4, epochs=2, transform=refuses, on_error="skip")
    loader = in_workers(bad, num_workers)
    assert list(loader) == []
    assert place(loader) == (1, 3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_end_of_a_last_epoch_that_was_left_out(num_workers, tmp_path):
    seen = tmp_path / "seen"

    def once(batch):
        if seen.exists():
            raise ValueError("seen")
        seen.touch()
        return batch

    perm = table(3).loader(4, epochs=2, transform=once, on_error="skip")
    loader = in_workers(perm, num_workers)
    assert ids(loader) == [0, 1, 2]
    assert place(loader) == (1, 3)


@pytest.mark.parametrize("epochs", [2, 3])
def test_epochs_may_be_set_back(epochs):
    loader = ll.open(pa.table({"id": range(6)})).loader(
        3, shuffle=True, seed=1, epochs=epochs, format="numpy_dict"
    )

    def rows():
        return [batch["id"].tolist() for batch in loader]

    first = rows()
    assert len(first) == 2 * epochs
    loader.set_epoch(1)
    later = rows()
    assert later[: 2 * epochs - 2] == first[2:]
    assert loader.set_epoch(0) is loader
    assert rows() == first
    loader.set_epoch(1).set_epoch(0)
    assert len(loader) == 2 * epochs
    assert rows() == first
