"""The rows of each rank and worker in any world, compared with slow simple code."""

from __future__ import annotations

import itertools
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st
from lanceloader._native import Order
from lanceloader.loader import schedule
from lanceloader.units.rows import order_of
from lanceloader.units.share import share_of
from lanceloader.world import World

TAILS = ["pad", "drop", "uneven"]
ROWS = 101


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=30)
    return ll.open(str(path)).select_columns(["id"]).with_format("arrow")


def ids(batches):
    return [row for batch in batches for row in batch["id"].to_pylist()]


# The arithmetic.


def sizes_of(num, parts):
    return [num // parts + (part < num % parts) for part in range(parts)]


def dealt(num_units, start, together, ranks, tail, drop_last):
    """What each rank gets of each batch, the slow way: a list of batches of lists of units."""
    batches = []
    for first in range(start, num_units, together):
        units = list(range(first, min(num_units, first + together)))
        sizes = sizes_of(together, ranks)
        if len(units) < together:
            if drop_last:
                break
            if tail == "uneven":
                sizes = sizes_of(len(units), ranks)
            elif tail == "drop":
                sizes = [len(units) // ranks] * ranks
                if sizes[0] == 0:
                    break
            else:
                most = -(-len(units) // ranks)
                sizes = [min(most, size) for size in sizes]
                # From the start of the epoch on, as often as it takes.
                units += list(range(num_units)) * ranks
        parts, at = [], 0
        for size in sizes:
            parts.append(units[at : at + size])
            at += size
        batches.append(parts)
    return batches


@st.composite
def epochs(draw):
    """An epoch, where it begins, how it is cut, and among how many."""
    num_units = draw(st.integers(0, 60))
    ranks = draw(st.integers(1, 5))
    return {
        "num_units": num_units,
        "start": draw(st.integers(0, num_units)),
        "together": draw(st.integers(ranks, 25)),
        "ranks": ranks,
        "tail": draw(st.sampled_from(TAILS)),
        "drop_last": draw(st.booleans()),
    }


def shares(num_units, start, together, ranks, tail, drop_last):
    worlds = [World(rank, ranks) for rank in range(ranks)]
    options = {"tail": tail, "drop_last": drop_last}
    return [share_of(num_units, start, together, world, **options) for world in worlds]


@given(epoch=epochs())
def test_shares_are_those_of_the_slow_way(epoch):
    num_units = epoch["num_units"]
    found = [
        [[unit % num_units for unit in batch] for batch in share.batches()]
        for share in shares(**epoch)
    ]
    wanted = dealt(**epoch)
    assert found == [[batch[rank] for batch in wanted] for rank in range(len(found))]
    assert len({len(rank) for rank in found}) == 1
    for share, batches in zip(shares(**epoch), found, strict=True):
        assert share.num_batches == len(batches)
        assert share.num_assigned == sum(map(len, batches))


@given(epoch=epochs(), more=st.integers(1, 5))
def test_batches_are_the_same_rows_in_every_world(epoch, more):
    """But for a short last one, of which a tail may add or leave out some."""
    one = epoch | {"ranks": 1}
    other = epoch | {"ranks": min(more, epoch["together"])}
    first, second = (
        [sorted(sum(parts, [])) for parts in dealt(**world)]  # noqa: RUF017
        for world in (one, other)
    )
    full = (epoch["num_units"] - epoch["start"]) // epoch["together"]
    assert first[:full] == second[:full]
    served = [unit for batch in second for unit in batch]
    rest = range(epoch["start"], epoch["num_units"])
    if epoch["drop_last"]:
        assert served == list(rest[: full * epoch["together"]])
    elif epoch["tail"] == "uneven":
        assert first == second
        assert sorted(served) == list(rest)
    elif epoch["tail"] == "drop":
        assert len(served) == len(set(served))
        assert len(rest) - len(served) < other["ranks"]
    else:
        assert set(served) >= set(rest)
        assert len(served) - len(rest) < other["ranks"]


@given(epoch=epochs(), num_workers=st.integers(1, 5), turn=st.integers(-9, 9))
def test_workers_serve_every_nth_batch_of_their_rank(epoch, num_workers, turn):
    for share in shares(**epoch):
        batches = list(share.batches())
        for worker in range(num_workers):
            part = share.of_worker(worker + turn, num_workers)
            mine = batches[(worker + turn) % num_workers :: num_workers]
            assert list(part.batches()) == mine
            assert part.num_batches == len(mine)


@given(epoch=epochs(), num_workers=st.integers(1, 3), data=st.data())
def test_the_order_of_a_share_is_its_batches_end_to_end(epoch, num_workers, data):
    num_units = epoch["num_units"]
    order = Order.all(num_units).shuffled(3)
    share = data.draw(st.sampled_from(shares(**epoch)))
    part = share.of_worker(data.draw(st.integers(0, num_workers - 1)), num_workers)
    rows = order_of(order, part)
    found = [rows.at(position) for position in range(len(rows))]
    units = [unit for batch in part.batches() for unit in batch]
    assert found == [order.at(unit % num_units) for unit in units]
    if part.is_run:
        first = part.first if part.num_full else part.last_start
        assert units == list(range(first, first + len(units)))


@given(
    num_rows=st.integers(1, 300),
    stages=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 4)), max_size=6
    ),
)
def test_stopped_and_resumed_at_any_worlds_every_row_comes_once(num_rows, stages):
    position, served = 0, []
    for ranks, each, steps in [*stages, (3, 7, None)]:
        together = ranks * each
        for share in shares(num_rows, position, together, ranks, "uneven", False):
            for batch in itertools.islice(share.batches(), steps):
                served += batch
        if steps is not None:
            position = min(num_rows, position + steps * together)
    assert sorted(served) == list(range(num_rows))


# Tables.


def loaders(perm, ranks, together=12, **options):
    return [
        perm.loader(global_batch_size=together, rank=rank, world_size=ranks, **options)
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_ranks_of_a_table(perm, ranks, tail):
    options = {"shuffle": True, "seed": 2, "tail": tail}
    found = [
        [ids([batch]) for batch in loader] for loader in loaders(perm, ranks, **options)
    ]
    order = perm.shuffle(2).to_arrow()["id"].to_pylist()
    wanted = dealt(ROWS, 0, 12, ranks, tail, False)
    for rank, batches in enumerate(found):
        assert batches == [[order[unit] for unit in step[rank]] for step in wanted]


def test_fewer_rows_than_ranks(perm):
    few = perm.with_take(3)
    for tail, wanted in (
        ("pad", [[0], [1], [2], [0], [1]]),
        ("drop", [[], [], [], [], []]),
        ("uneven", [[0], [1], [2], [], []]),
    ):
        found = loaders(few, 5, 5, tail=tail)
        assert [ids(loader) for loader in found] == wanted
        # Empty or not, all take the same steps.
        assert {len(list(loader)) for loader in found} == {int(tail != "drop")}
    assert all(list(loader) == [] for loader in loaders(perm.with_take(0), 2))


def test_states_are_equal_on_all_ranks_and_go_to_any_world(perm):
    options = {"shuffle": True, "seed": 4, "tail": "uneven"}
    served, state = [], None
    for ranks, together, steps in [(4, 12, 2), (1, 5, 1), (3, 9, 3), (2, 11, None)]:
        states = []
        for loader in loaders(perm, ranks, together, **options):
            if state is not None:
                loader.load_state_dict(state)
            for step, batch in enumerate(loader, 1):
                served += ids([batch])
                if step == steps:
                    break
            states.append(loader.state_dict())
        assert all(each == states[0] for each in states)
        state = states[0]
    assert sorted(served) == list(range(ROWS))


# Workers, without processes: what each would serve, taken in turns as torch does.


def in_turns(loader, num_workers, monkeypatch, states=None):
    copies = [pickle.loads(pickle.dumps(loader)) for _ in range(num_workers)]
    alive, found, worker = list(range(num_workers)), [], 0
    batches = {}
    while alive:
        if worker in alive:
            info = (worker, num_workers)
            monkeypatch.setattr(schedule, "worker_of", lambda info=info: info)
            if worker not in batches:
                if states:
                    copies[worker].load_state_dict(states[-1][worker])
                batches[worker] = iter(copies[worker])
            batch = next(batches[worker], None)
            if batch is None:
                alive.remove(worker)
            else:
                found.append(ids([batch]))
                if states is not None and len(found) % 3 == 0:
                    states.append([each.state_dict() for each in copies])
        worker = (worker + 1) % num_workers
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("epochs", [1, 3])
def test_workers_in_turns_give_the_batches_in_order(
    perm, num_workers, epochs, monkeypatch
):
    options = {"shuffle": True, "seed": 4, "epochs": epochs, "tail": "uneven"}
    for loader in loaders(perm, 2, 20, **options):
        wanted = [ids([batch]) for batch in loader]
        assert in_turns(loader, num_workers, monkeypatch) == wanted
        loader.skip_batches(2)
        assert in_turns(loader, num_workers, monkeypatch) == wanted[2:]


def test_states_of_workers_resume_in_turn(perm, monkeypatch):
    """Each of them where it stood, also where one is in the next epoch already."""
    (loader,) = loaders(perm, 1, 20, shuffle=True, seed=4, epochs=4)
    states = []
    wanted = in_turns(loader, 2, monkeypatch, states)
    assert wanted == [ids([batch]) for batch in loader]
    taken = list(enumerate(states, 1))
    for number, state in taken:
        again, first = [], number * 3 % 2
        # torchdata begins with the worker that is due.
        turned = [state[first], state[1 - first]]
        parts = []
        for worker, each in ((first, turned[0]), (1 - first, turned[1])):
            info = (worker, 2)
            monkeypatch.setattr(schedule, "worker_of", lambda info=info: info)
            copy = pickle.loads(pickle.dumps(loader))
            copy.load_state_dict(each)
            parts.append([ids([batch]) for batch in copy])
            monkeypatch.undo()
        for k in range(max(map(len, parts))):
            again += [part[k] for part in parts if k < len(part)]
        assert again == wanted[number * 3 :], number


def test_a_state_of_a_worker_is_refused_with_other_workers(perm, monkeypatch):
    (loader,) = loaders(perm, 1, 20)
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "worker_of", lambda: (0, 2))
        next(iter(loader))
        state = loader.state_dict()
    with pytest.raises(ValueError, match="one of 2 workers, but this loader has 1"):
        loader.load_state_dict(state)


# Where the world comes from.


class Mesh:
    """As a DeviceMesh is."""

    mesh_dim_names = ("replicate", "shard")

    def __init__(self, ndim, rank=1, size=3):
        self.ndim, self._rank, self._size = ndim, rank, size

    def get_local_rank(self):
        return self._rank

    def size(self):
        return self._size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 1}, "rank=1 and world_size=None"),
        ({"world_size": 2}, "rank=None and world_size=2"),
        (
            {"rank": 2, "world_size": 2},
            "`rank` must be below `world_size`, got rank 2 of world_size 2",
        ),
        ({"rank": 0, "world_size": 0}, "`world_size` must be at least 1, got 0"),
        ({"mesh": Mesh(1), "rank": 0}, "either `mesh` or `rank` and `world_size`"),
        ({"mesh": Mesh(2)}, r"not 2 \('replicate', 'shard'\); .*mesh\[\"repl"),
        ({"tail": "cut"}, "`tail` must be one of .*\"drop\".* got 'cut'"),
        ({"batch_size": 2, "global_batch_size": 2}, "pass one of them"),
        (
            {"rank": 0, "world_size": 9, "global_batch_size": 8},
            "`global_batch_size`=8 is too small for 9 ranks",
        ),
    ],
)
def test_impossible_worlds_are_refused(perm, options, words):
    with pytest.raises(ValueError, match=words):
        perm.loader(**options)


def test_a_mesh_or_a_group(perm):
    assert perm.loader(5, mesh=Mesh(1)).world == World(1, 3)
    group = SimpleNamespace(rank=lambda: 2, size=lambda: 4)
    assert perm.loader(5, mesh=group).world == World(2, 4)
    with pytest.raises(TypeError, match="`mesh` must be a DeviceMesh"):
        perm.loader(5, mesh=3)
    assert perm.loader(5, rank=np.int64(1), world_size=np.int64(2)).world == World(1, 2)


@pytest.fixture
def distributed(monkeypatch):
    """torch.distributed, as if this were rank 1 of 2."""
    names = {"is_available": True, "is_initialized": True}
    names |= {"get_rank": 1, "get_world_size": 2}
    fake = SimpleNamespace(**{k: lambda v=v: v for k, v in names.items()})
    monkeypatch.setitem(sys.modules, "torch.distributed", fake)
    return fake


def test_the_world_is_found(perm, distributed):
    loader = perm.loader(5)
    assert (loader.world, loader.global_batch_size) == (World(1, 2), 10)
    assert "rank 1 of 2" in repr(loader)
    # A shard is of one rank already, and so is a world that was given.
    assert perm.shard(1, 2).loader(5).world == World()
    assert perm.loader(5, world_size=1).world == World()
    # In a process that is not a rank it stays this one.
    away = pickle.dumps(loader)
    distributed.is_initialized = lambda: False
    assert pickle.loads(away).world == World(1, 2)


def test_a_loader_that_is_sent_to_ranks_finds_its_place_there(perm, distributed):
    """It was made before they were: ``mp.spawn(train, args=(loader,))``."""
    distributed.is_initialized = lambda: False
    loader = perm.loader(global_batch_size=10, tail="uneven")
    assert (loader.world, loader.batch_size) == (World(), 10)
    away = pickle.dumps(loader)
    distributed.is_initialized = lambda: True
    again = pickle.loads(away)
    assert (again.world, again.batch_size) == (World(1, 2), 5)
    assert replace(again._steps, world=None) == loader._steps


@pytest.mark.parametrize("size", [sys.maxsize, 2**64 - 1])
@pytest.mark.parametrize("tail", TAILS)
def test_batches_of_more_rows_than_there_are(perm, size, tail):
    """What the core is told fits into its numbers, whatever is served, to workers too."""
    documents = ll.open(pa.table({"id": [[k, k] for k in range(ROWS)]}))
    mixed = ll.mix({"a": perm, "b": perm.with_skip(1)})
    kinds = {
        "row": (perm, ROWS),
        "block": (documents.pack(2), ROWS),
        "mixed row": (mixed, mixed.num_rows),
    }
    for name, (kind, num_units) in kinds.items():
        found = []
        for rank in range(4):
            loader = kind.loader(
                size, rank=rank, world_size=4, tail=tail, format="arrow"
            )
            assert (len(loader), loader.batch_size) == (1, size)
            found += [batch.num_rows for batch in loader]
            share = loader.schedule.share(0, num_units)
            parts = [share.of_worker(worker, 3) for worker in range(3)]
            counts = [len(list(loader.units.load(None, part, None))) for part in parts]
            assert counts == [1, 0, 0], name
        least, over = divmod(num_units, 4)
        more = {"uneven": over, "pad": 4 * (over > 0), "drop": 0}[tail]
        assert found == [least + (rank < more) for rank in range(4)], name
