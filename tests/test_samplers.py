"""Samplers of torch and others: rows and batches are those of torch's own ``DataLoader``."""

from __future__ import annotations

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
    Reversed,
    batched,
    failing,
    flat,
    loader_of,
    of_torch,
    rows,
    sampled,
)
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
)
from torch.utils.data import DataLoader as TorchLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler


@pytest.fixture
def perm():
    """Rows in an order of their own, as positions are not row offsets."""
    return ll.open(pa.table({"x": range(ROWS)})).shuffle(seed=3)


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
