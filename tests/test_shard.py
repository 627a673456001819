"""Shards: what each rank gets, for every tail."""

from __future__ import annotations

import pickle

import determinism_page
import lanceloader as ll
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.world import World

PAGE = determinism_page.load()


def perm_of(num_rows: int) -> ll.Permutation:
    return ll.open(pa.table({"id": pa.array(range(num_rows), pa.int64())}))


def ids(perm) -> list[int]:
    return perm.to_arrow()["id"].to_pylist()


# num_rows, world_size, tail, rows of each rank
ROWS = [
    (10, 4, "uneven", [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]),
    (10, 4, "drop", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    (10, 4, "pad", [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]),
    (8, 4, "pad", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    (2, 5, "uneven", [[0], [1], [], [], []]),
    (2, 5, "drop", [[], [], [], [], []]),
    (2, 5, "pad", [[0], [1], [0], [1], [0]]),
    (0, 3, "uneven", [[], [], []]),
    (0, 3, "pad", [[], [], []]),
    (5, 1, "uneven", [[0, 1, 2, 3, 4]]),
]


@pytest.mark.parametrize(("num_rows", "world_size", "tail", "wanted"), ROWS)
def test_ranks(num_rows, world_size, tail, wanted):
    perm = perm_of(num_rows)
    shards = [perm.shard(rank, world_size, tail=tail) for rank in range(world_size)]
    assert list(map(ids, shards)) == wanted
    assert list(map(len, shards)) == list(map(len, wanted))


@given(
    st.integers(0, 200),
    st.integers(1, 9),
    st.sampled_from(["uneven", "drop", "pad"]),
    st.integers(0, 2**64 - 1),
)
def test_shards_of_a_shuffle(num_rows, world_size, tail, seed):
    perm = perm_of(num_rows).shuffle(seed=seed)
    order = ids(perm)
    shards = [
        ids(perm.shard(rank, world_size, tail=tail)) for rank in range(world_size)
    ]
    for rank, shard in enumerate(shards):
        assert shard == PAGE.shard(order, rank, world_size, tail)
    served = [row for shard in shards for row in shard]
    lengths = set(map(len, shards))
    if tail == "uneven":
        assert sorted(served) == list(range(num_rows))
        assert max(lengths) - min(lengths) <= 1
    else:
        assert len(lengths) == 1
        assert set(served) <= set(range(num_rows))
    if tail == "pad":
        assert set(served) == set(range(num_rows))


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_a_global_batch_is_the_same_rows_for_any_world(num_rows, batch, seed):
    perm = perm_of(num_rows).shuffle(seed=seed)
    whole = ids(perm)
    for world_size in (1, 2, 3, 4):
        shards = [ids(perm.shard(rank, world_size)) for rank in range(world_size)]
        rows = [row for shard in shards for row in shard[:batch]]
        assert set(rows) == set(whole[: batch * world_size])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((3, 3), ValueError),
        ((0, 0), ValueError),
        ((-1, 3), OverflowError),
        ((0, -3), OverflowError),
        ((0.5, 3), TypeError),
        (("0", 3), TypeError),
        ((None, 3), TypeError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error):
        perm_of(10).shard(*arguments)


def test_an_unknown_tail_is_named():
    with pytest.raises(ValueError, match="wrap"):
        perm_of(10).shard(0, 3, tail="wrap")


def of_epoch(perm, epoch: int) -> list[int]:
    """The rows that a loader serves in an epoch, sorted."""
    loader = perm.loader(1000, format="numpy_dict").set_epoch(epoch)
    return sorted(row for batch in loader for row in batch["id"].tolist())


@given(
    num_rows=st.integers(2, 60),
    world_size=st.integers(1, 5),
    tail=st.sampled_from(["uneven", "drop", "pad"]),
    times=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
    windowed=st.booleans(),
    data=st.data(),
)
def test_slices_of_a_shard_of_a_shuffle_keep_their_rows(
    num_rows, world_size, tail, times, seed, windowed, data
):
    options = {"block_size": 3, "window_blocks": 2} if windowed else {}
    perm = perm_of(num_rows).shuffle(seed=seed, **options).with_repeat(times)
    shard = perm.shard(data.draw(st.integers(0, world_size - 1)), world_size, tail=tail)
    cut = data.draw(st.integers(0, len(shard)))
    parts = [shard.with_take(cut), shard.with_skip(cut)]
    if 0 < cut < len(shard):
        parts += shard.split([cut, len(shard) - cut], how="sequential")
        # And shards of slices, which are of the same rows.
        part = perm.with_take(max(1, cut))
        shards = [part.shard(rank, world_size) for rank in range(world_size)]
        rows = [row for one in shards for row in of_epoch(one, 3)]
        assert sorted(rows) == of_epoch(part, 0)
    for part in parts:
        if len(part) not in (0, len(shard)):
            assert of_epoch(part, 0) == of_epoch(part, 1) == sorted(ids(part))


def test_a_shard_of_a_shuffle_is_that_of_the_shuffle_of_the_epoch():
    perm = perm_of(21)
    for rank in range(2):
        shard = perm.shuffle(seed=1).shard(rank, 2)
        for epoch in range(3):
            whole = perm.shuffle(seed=1, epoch=epoch).shard(rank, 2)
            assert of_epoch(shard, epoch) == sorted(ids(whole))


def test_a_shard_that_is_sent_to_another_process_stays_one(monkeypatch):
    """A loader must not divide it again where ``torch.distributed`` is in use."""
    monkeypatch.setattr(World, "found", lambda: World(0, 2))
    shard = ll.open(pa.table({"x": range(40)})).shard(0, 2)
    again = pickle.loads(pickle.dumps(shard))
    for each in (shard, again, shard.shuffle(seed=1), again.with_take(20)):
        loader = each.loader(4, format="numpy_dict")
        assert loader.world == World()
        assert sum(len(batch["x"]) for batch in loader) == len(shard) == 20


def test_a_table_made_of_a_shard_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "found", lambda: World(0, 2))
    shard = ll.open(pa.table({"x": range(40)})).shard(0, 2)
    copy = shard.materialize(tmp_path / "t.lance")
    assert copy.loader(4).world == World(0, 2)
