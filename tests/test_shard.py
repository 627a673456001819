"""Shards: what each rank gets, for every tail."""

from __future__ import annotations

import lanceloader as ll
import pyarrow as pa
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

PAGE = reference.load()


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
