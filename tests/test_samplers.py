"""Samplers of torch and others: rows and batches are those of torch's own ``DataLoader``."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import pickle
import random

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.torch import DataLoader
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data import DataLoader as TorchLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

ROWS = 103
SIZE = 8


@pytest.fixture
def perm():
    """Rows in an order of their own, as positions are not row offsets."""
    return ll.open(pa.table({"x": range(ROWS)})).shuffle(seed=3)


def generator(seed):
    return torch.Generator().manual_seed(seed)


class Reversed:
    """A sampler of one's own, without a length."""

    def __init__(self, _perm=None):
        pass

    def __iter__(self):
        yield from range(ROWS - 1, -1, -3)


class Shuffler:
    """A sampler that draws from the global generators of Python and NumPy."""

    def __init__(self, _perm=None):
        pass

    def __len__(self):
        return 40

    def __iter__(self):
        rows = random.sample(range(ROWS), 20)
        rows += [int(row) for row in np.random.permutation(ROWS)[:20]]
        return iter(rows)


class Stateful:
    """A sampler with a state as of torchdata, which yields other rows in each pass."""

    def __init__(self, _perm=None):
        self.number, self.place, self.is_resumed = -1, 0, False

    def __len__(self):
        return 30

    def __iter__(self):
        if not self.is_resumed:
            self.number, self.place = self.number + 1, 0
        self.is_resumed = False
        while self.place < 30:
            self.place += 1
            yield (7 * self.number + self.place) % ROWS

    def state_dict(self):
        return {"number": self.number, "place": self.place}

    def load_state_dict(self, state):
        self.number, self.place = state["number"], state["place"]
        self.is_resumed = True


SAMPLERS = {
    "sequential": SequentialSampler,
    "random": lambda perm: RandomSampler(perm, generator=generator(5)),
    "random without a generator": RandomSampler,
    "random with replacement": lambda perm: RandomSampler(
        perm, replacement=True, num_samples=250, generator=generator(5)
    ),
    "weighted": lambda _: WeightedRandomSampler(
        [float(row % 5) for row in range(ROWS)], 90, generator=generator(5)
    ),
    "subset": lambda _: SubsetRandomSampler(range(10, 60, 3), generator(5)),
    "distributed": lambda perm: DistributedSampler(
        perm, num_replicas=3, rank=1, seed=9
    ),
    "stateful distributed": lambda perm: StatefulDistributedSampler(
        perm, num_replicas=3, rank=1, seed=9
    ),
    "list": lambda _: [5, 5, 102, 0, 7, 7, 3, 1, 99, 4],
    "range": lambda _: range(3, 90, 2),
    "array": lambda _: np.arange(50, 20, -1, np.int32),
    "tensor": lambda _: torch.arange(30),
    "nothing": lambda _: [],
    "without a length": Reversed,
    "global generators": Shuffler,
    "stateful": Stateful,
}


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


UNSEEDED = ("global generators", "random without a generator")


def sampled(name, perm):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    return SAMPLERS[name](perm)


def of_torch(perm, **options):
    """Return the batches of torch's own loader."""
    loader = TorchLoader(perm.with_format("arrow"), collate_fn=lambda x: x, **options)
    return [batch["x"].to_pylist() for batch in loader]


def rows(batches):
    return [batch["x"].tolist() for batch in batches]


def loader_of(perm, sampler, **options):
    return perm.loader(SIZE, sampler=sampler, format="numpy_dict", **options)


def batched(perm, sampler, **options):
    return perm.loader(batch_sampler=sampler, format="numpy_dict", **options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("drop_last", [False, True])
def test_rows_are_those_of_torch_s_loader(perm, name, drop_last):
    options = {"batch_size": SIZE, "drop_last": drop_last}
    theirs = sampled(name, perm)
    if isinstance(theirs, np.ndarray | torch.Tensor):
        theirs = theirs.tolist()
    wanted = [of_torch(perm, sampler=theirs, **options) for _ in range(2)]
    ours = sampled(name, perm)
    loader = loader_of(perm, ours, drop_last=drop_last)
    found = [rows(loader), rows(loader)]
    if name == "random without a generator":
        # torch draws one number more from the global generator, the seed of workers.
        kept = ROWS - ROWS % SIZE if drop_last else ROWS
        assert [len(set(flat(each))) for each in found] == [kept, kept]
        assert found[0] != found[1]
    elif name == "global generators":
        # Drawn in turn by both loaders, so only their numbers are the same.
        assert [list(map(len, each)) for each in found] == [
            list(map(len, each)) for each in wanted
        ]
    else:
        assert found == wanted


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_are_those_of_a_batch_sampler(perm, name):
    if name in ("array", "tensor", "random without a generator"):
        pytest.skip("torch's BatchSampler is over samplers that have generators here")
    theirs = BatchSampler(sampled(name, perm), 7, drop_last=False)
    wanted = of_torch(perm, batch_sampler=theirs)
    ours = BatchSampler(sampled(name, perm), 7, drop_last=False)
    loader = batched(perm, ours)
    assert rows(loader) == wanted
    if name != "without a length":
        assert len(loader) == len(wanted)


def test_batches_of_any_size(perm):
    batches = [[3], [5, 5, 5, 1], list(range(40)), (7, 8), np.array([9, 10])]
    loader = batched(perm, batches, transform_threads=2)
    assert rows(loader) == [
        perm.with_format("numpy_dict")[list(batch)]["x"].tolist() for batch in batches
    ]
    assert len(loader) == 5
    with pytest.raises(TypeError, match="not known before `batch_sampler` is read"):
        loader.num_rows  # noqa: B018


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


@pytest.mark.parametrize("cls", [DistributedSampler, StatefulDistributedSampler])
def test_epochs_are_forwarded(perm, cls):
    def of_epoch(epoch):
        sampler = cls(perm, num_replicas=2, rank=1, seed=4)
        sampler.set_epoch(epoch)
        return of_torch(perm, batch_size=SIZE, sampler=sampler)

    loader = loader_of(perm, cls(perm, num_replicas=2, rank=1, seed=4))
    for epoch in (0, 1, 5):
        assert rows(loader.set_epoch(epoch)) == of_epoch(epoch)
    several = loader_of(perm, cls(perm, num_replicas=2, rank=1, seed=4), epochs=3)
    assert rows(several) == flat(map(of_epoch, range(3)))
    inner = BatchSampler(cls(perm, num_replicas=2, rank=1, seed=4), SIZE, False)
    assert rows(batched(perm, inner).set_epoch(5)) == of_epoch(5)


def test_the_permutation_keeps_its_own_order_in_every_epoch(perm):
    loader = loader_of(perm, [4, 2, 0])
    assert rows(loader.set_epoch(3)) == [
        perm.with_format("numpy_dict")[[4, 2, 0]]["x"].tolist()
    ]
    assert loader.permutation.order.fingerprint() == perm.order.fingerprint()


def test_a_sampler_that_changes_is_read_anew(perm):
    chosen = [1, 2, 3]
    loader = loader_of(perm, chosen)
    first = rows(loader)
    chosen[:] = [9, 8]
    assert (
        rows(loader) == [perm.with_format("numpy_dict")[[9, 8]]["x"].tolist()] != first
    )


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


def test_ranks_of_a_distributed_sampler_are_not_divided_again(perm):
    found = []
    for rank in range(3):
        sampler = DistributedSampler(perm, 3, rank, seed=1)
        loader = loader_of(perm, sampler)
        assert loader.world.world_size == 1
        assert rows(loader) == of_torch(
            perm, batch_size=SIZE, sampler=DistributedSampler(perm, 3, rank, seed=1)
        )
        found += flat(rows(loader))
    assert set(found) == set(range(ROWS))
    for options in ({"rank": 1, "world_size": 3}, {"ranks": ll.RankOptions(1, 3)}):
        with pytest.raises(ValueError, match="divides the rows among 3 ranks, and so"):
            loader_of(perm, sampler, **options)
    assert len(loader_of(perm, sampler, world_size=1)) == len(loader)
    # A state of another number of ranks would be of other rows.
    batches = iter(loader)
    next(batches)
    other = loader_of(perm, DistributedSampler(perm, 2, 0, seed=1))
    other.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match="sampler for 3 ranks, but this one is for 2"):
        next(iter(other))


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


def test_other_samplers_are_divided_among_ranks(perm, monkeypatch):
    chosen = list(range(0, 100, 3))
    whole = rows(perm.loader(6, sampler=chosen, format="numpy_dict"))
    ranks = [
        rows(
            perm.loader(
                global_batch_size=6,
                sampler=chosen,
                format="numpy_dict",
                rank=rank,
                world_size=2,
                tail="uneven",
            )
        )
        for rank in (0, 1)
    ]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    # A batch of each rank in turn.
    batches = [[at, at + 1] for at in range(0, 10, 2)]
    ranks = [
        rows(batched(perm, batches, rank=rank, world_size=2, tail="pad"))
        for rank in (0, 1)
    ]
    wanted = rows(batched(perm, batches))
    assert ranks == [wanted[0::2], [*wanted[1::2], wanted[0]]]
    # Without a word about ranks, the sampler would give all of them the same rows.
    monkeypatch.setattr(
        "lanceloader.world.World.in_use",
        classmethod(lambda cls: cls(1, 4)),
    )
    with pytest.raises(ValueError, match="does not divide rows among the 4 ranks"):
        loader_of(perm, chosen)
    assert flat(rows(loader_of(perm, chosen, world_size=1))) == flat(whole)


BAD = {
    "too large": ([1, ROWS], IndexError, rf"`sampler` yielded {ROWS} as item 1, .*103"),
    "far too large": ([2**70], IndexError, "`sampler` yielded 1180591620717411303424"),
    "negative": ([0, 1, -1], IndexError, "`sampler` yielded -1 as item 2"),
    "fraction": ([1.5], TypeError, r"yielded 1\.5 of type float as item 0"),
    "flag": ([True], TypeError, "yielded True of type bool"),
    "flag of numpy": ([np.True_], TypeError, "of type bool"),
    "flag of torch": ([torch.tensor(True)], TypeError, "of type Tensor"),
    "text": (["1"], TypeError, "yielded '1' of type str"),
    "nothing": ([None], TypeError, "yielded None"),
    "batches": ([[1, 2]], TypeError, r"yielded \[1, 2\] .* as `batch_sampler`"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_position(perm, name):
    sampler, error, words = BAD[name]
    with pytest.raises(error, match=words):
        rows(loader_of(perm, sampler))


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([1, 2], TypeError, "yielded 1: pass it as `sampler` instead"),
        ([[1], []], ValueError, "batch 1 of `batch_sampler` is empty"),
        ([[1], [ROWS]], IndexError, "batch 1 of `batch_sampler` yielded 103 as item 0"),
        ([[1], [False]], TypeError, "batch 1 of `batch_sampler` yielded False"),
    ],
)
def test_what_is_no_batch(perm, batches, error, words):
    with pytest.raises(error, match=words):
        rows(batched(perm, batches))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sampler": 3}, TypeError, "`sampler` must be a sampler or another iterable"),
        ({"sampler": "abc"}, TypeError, "`sampler` must be a sampler"),
        ({"sampler": iter([1])}, TypeError, "can be read only once: pass a list"),
        ({"sampler": [1], "shuffle": True}, ValueError, "`shuffle`=True are mut"),
        ({"sampler": [1], "batch_tokens": 5}, ValueError, "`batch_tokens`=5 are mut"),
        ({"sampler": [1], "in_process": False}, ValueError, "`in_process`=False"),
        (
            {"batch_sampler": [[1]], "sampler": [1]},
            ValueError,
            r"`sampler`=\[1\] are mut",
        ),
        ({"batch_sampler": [[1]], "batch_size": 4}, ValueError, "`batch_size`=4"),
        ({"batch_sampler": [[1]], "drop_last": True}, ValueError, "`drop_last`=True"),
    ],
)
def test_options_that_do_not_fit_a_sampler(perm, options, error, words):
    with pytest.raises(error, match=words):
        perm.loader(**options)


def test_mixtures_and_blocks_have_no_samplers(perm):
    with pytest.raises(ValueError, match="`sampler` does not apply to a mixture"):
        ll.mix([perm, perm]).loader(4, sampler=[1])
    tokens = ll.open(pa.table({"t": [[1, 2], [3]]}))
    with pytest.raises(ValueError, match=r"`sampler`=.* does not apply to blocks"):
        tokens.pack(4, eos_id=0).loader(4, sampler=[1])


def test_an_endless_sampler_is_refused(perm, monkeypatch):
    class Endless:
        def __iter__(self):
            while True:
                yield 1

    monkeypatch.setattr("lanceloader.units.draws.MOST_BEYOND_LENGTH", 1 << 18)
    with pytest.raises(ValueError, match="did not end: a sampler is read for a whole"):
        next(iter(loader_of(perm, Endless())))


def test_a_loader_that_knows_no_length(perm):
    loader = loader_of(perm, Reversed())
    assert "steps of 8 rows of Reversed" in repr(loader)
    assert "any number of rows" in loader.explain()
    with pytest.raises(TypeError, match="Reversed of this loader has no length"):
        len(loader)
    whole = rows(loader)
    assert rows(loader.skip_batches(2)) == whole[2:]
    assert rows(loader.skip_batches(200)) == []


def test_workers_of_torch_s_own_loader_are_refused(perm):
    loader = loader_of(perm, RandomSampler(perm))
    assert len(list(TorchLoader(loader, batch_size=None))) == len(loader)


@pytest.mark.slow
def test_workers_of_torch_s_own_loader_would_each_read_the_sampler(perm):
    loader = TorchLoader(
        loader_of(perm, RandomSampler(perm)), batch_size=None, num_workers=2
    )
    with pytest.raises(ValueError, match=r"pass the loader to .*lanceloader\.torch"):
        list(loader)


def failing(batch):
    """Fail for some rows."""
    if (batch["x"] % 10 == 0).any():
        raise LookupError("ten")
    return batch


@pytest.mark.parametrize("name", ["random", "without a length", "list"])
def test_rows_that_fail_are_skipped(perm, name):
    """Whole batches are left out if all of their rows fail."""
    options = {"on_error": "skip", "transform": failing, "transform_threads": 0}
    loader = loader_of(perm, sampled(name, perm), **options)
    wanted = [
        [row for row in batch if row % 10]
        for batch in of_torch(perm, batch_size=SIZE, sampler=sampled(name, perm))
    ]
    assert rows(loader) == [batch for batch in wanted if batch]


def test_errors_name_the_rows(perm):
    order = perm.to_arrow()["x"].to_pylist()
    at = order.index(50)
    with pytest.raises(LookupError) as caught:
        list(loader_of(perm, [at], transform=failing, transform_threads=0))
    assert "batch 0" in str(caught.value.__notes__)
    assert "50" in str(caught.value.__notes__)


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


def test_torch_s_signature(perm):
    dataset = perm.with_format("numpy_dict")
    loader = DataLoader(dataset, 4, None, [5, 6, 7, 8, 9])
    assert [len(batch["x"]) for batch in loader] == [4, 1]
    loader = DataLoader(dataset, None, None, None, [[5], [6, 7]])
    assert [len(batch["x"]) for batch in loader] == [1, 2]
    with pytest.raises(
        ValueError, match=r"`sampler`=.* cannot be combined with a Load"
    ):
        DataLoader(perm.loader(4), sampler=[1])
