"""Orders in Python, compared with lists and the published algorithms."""

from __future__ import annotations

import pickle

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lanceloader import _native
from lanceloader._native import Order

PAGE = determinism_page.load()


def rows(order: Order) -> list[int]:
    return pa.record_batch(order.offsets(0, len(order))).column(0).to_pylist()


@pytest.mark.parametrize("num_rows", [1, 2, 10, 255, 256, 257, 258, 999, 4096, 4097])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("clump", [1, 3, 5000])
def test_shuffles_are_those_of_the_page(num_rows, seed, clump):
    shuffled = Order.all(num_rows).shuffled(seed, 2, clump)
    wanted = PAGE.shuffled(num_rows, seed, 2, clump)
    assert rows(shuffled) == wanted
    assert sorted(wanted) == list(range(num_rows))
    inverse = [shuffled.position_of(row) for row in range(num_rows)]
    assert [wanted[position] for position in inverse] == list(range(num_rows))


@pytest.mark.parametrize("num_rows", [0, 1, 10, 256, 999, 4096, 10_007])
@pytest.mark.parametrize("blocks", [(1, 1), (3, 2), (100, 3), (64, 64), (5000, 7)])
def test_windowed_shuffles_are_those_of_the_page(num_rows, blocks):
    for seed, epoch in [(0, 0), (2**64 - 1, 2)]:
        shuffled = Order.all(num_rows).windowed(seed, epoch, *blocks)
        wanted = PAGE.windowed(num_rows, seed, epoch, *blocks)
        assert rows(shuffled) == wanted
        assert sorted(wanted) == list(range(num_rows))
        again = pickle.loads(pickle.dumps(shuffled))
        assert rows(again) == wanted
        assert repr(again) == repr(shuffled)
        inverse = [shuffled.position_of(row) for row in range(0, num_rows, 77)]
        assert [wanted[position] for position in inverse] == list(
            range(0, num_rows, 77)
        )


def test_a_windowed_shuffle_says_so():
    perm = ll.open(pa.table({"x": range(1000)}))
    shuffled = perm.shuffle(7, epoch=3, block_size=10)
    assert "epoch 3 in blocks of 10 and windows of 64 blocks" in shuffled.explain()
    assert shuffled.to_arrow()["x"].to_pylist() == PAGE.windowed(1000, 7, 3, 10, 64)
    few = perm.shuffle(7, block_size=10, window_blocks=2)
    assert few.to_arrow()["x"].to_pylist() == PAGE.windowed(1000, 7, 0, 10, 2)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"block_size": 8, "clump_size": 2}, "`clump_size`=2 and `block_size`=8"),
        ({"window_blocks": 8}, "`window_blocks`=8 .*pass `block_size`"),
        ({"block_size": 0}, "`block_size` must be at least 1, got 0"),
        (
            {"block_size": 4, "window_blocks": 0},
            "`window_blocks` must be at least 1, got 0",
        ),
    ],
)
def test_impossible_windows_are_refused(arguments, wanted):
    perm = ll.open(pa.table({"x": range(10)}))
    with pytest.raises(ValueError, match=wanted):
        perm.shuffle(7, **arguments)


def test_seeds_and_epochs_are_not_added_up():
    drawn = {
        tuple(rows(Order.all(50).shuffled(seed, epoch)))
        for seed in range(8)
        for epoch in range(8)
    }
    assert len(drawn) == 64


def test_purposes_with_one_seed_are_independent():
    order = Order.all(50)
    drawn = [
        order.shuffled(3),
        order.shuffled_for_split(3),
        order.shuffled_for_sample(3),
    ]
    assert len({tuple(rows(order)) for order in drawn}) == 3


def test_a_trillion_rows_cost_nothing():
    order = Order.all(10**12).shuffled(7, 3).shard(5, 64, "uneven").slice(10**9, 1000)
    assert order.num_bytes <= 1024
    offset = order.at(999)
    assert 0 <= offset < 10**12
    assert order.position_of(offset) == 999
    assert len(pickle.dumps(order)) < 300


orders = st.deferred(lambda: st.one_of(leaves, verbs))
leaves = st.one_of(
    st.integers(0, 60).map(lambda n: (Order.all(n), list(range(n)))),
    st.lists(st.integers(0, 2**40), max_size=40).map(lambda xs: (Order.listed(xs), xs)),
    st.lists(st.integers(0, 200_000), max_size=40).map(
        lambda xs: (Order.set(xs), sorted(set(xs)))
    ),
)


@st.composite
def verbs_over(draw):
    order, wanted = draw(orders)
    size = len(wanted)
    verb = draw(
        st.sampled_from(
            ["slice", "step", "shuffle", "window", "repeat", "shard", "pick"]
        )
    )
    if verb == "slice":
        start = draw(st.integers(0, size))
        length = draw(st.integers(0, size - start))
        return order.slice(start, length), wanted[start : start + length]
    if verb == "step" and size:
        return order.slice(size - 1, (size + 2) // 3, -3), wanted[::-3]
    if verb == "shuffle":
        seed = draw(st.integers(0, 2**64 - 1))
        image = PAGE.permutation(size, PAGE.key(b"shuffle!", seed))
        return order.shuffled(seed), [wanted[image(k)] for k in range(size)]
    if verb == "window":
        blocks = draw(st.integers(1, 9)), draw(st.integers(1, 5))
        image = PAGE.windowed(size, 5, 1, *blocks)
        return order.windowed(5, 1, *blocks), [wanted[k] for k in image]
    if verb == "repeat" and size < 100:
        times = draw(st.integers(0, 3))
        return order.repeat(times), wanted * times
    if verb == "shard":
        world_size = draw(st.integers(1, 7))
        rank = draw(st.integers(0, world_size - 1))
        tail = draw(st.sampled_from(["uneven", "drop", "pad"]))
        return (
            order.shard(rank, world_size, tail),
            PAGE.shard(wanted, rank, world_size, tail),
        )
    if size:
        picked = draw(st.lists(st.integers(0, size - 1), max_size=30))
        return order.pick(Order.listed(picked)), [wanted[k] for k in picked]
    return order, wanted


verbs = verbs_over()


@given(orders)
def test_any_chain_of_verbs_is_that_of_lists(case):
    order, wanted = case
    assert len(order) == len(wanted)
    assert rows(order) == wanted
    again = pickle.loads(pickle.dumps(order))
    assert rows(again) == wanted
    if wanted:
        middle = len(wanted) // 2
        assert order.at(middle) == wanted[middle]
        assert order.position_of(wanted[middle]) == wanted.index(wanted[middle])
        part = pa.record_batch(order.offsets(middle, len(wanted)))
        assert part.column(0).to_pylist() == wanted[middle:]
    assert order.position_of(2**50) is None


@given(orders, st.lists(st.integers(0, 200), max_size=50))
def test_filters_keep_order(case, kept):
    order, wanted = case
    got = order.filtered(Order.set(kept))
    assert rows(got) == [row for row in wanted if row in kept]


@given(st.lists(orders, max_size=4))
def test_orders_end_to_end(cases):
    joined = Order.concat([order for order, _ in cases])
    assert rows(joined) == [row for _, wanted in cases for row in wanted]


def test_a_filter_costs_at_most_a_bit_per_row_and_less_if_it_is_sparse_or_dense():
    rng = np.random.default_rng(0)
    half = np.flatnonzero(rng.random(1_000_000) < 0.5)
    # The bits, and what rank and select look up: an eighth of them at most.
    assert Order.set(half).num_bytes < 1_000_000 / 8 * 1.125
    assert Order.set(range(1_000_000)).num_bytes < 2_000
    assert Order.set(range(0, 1_000_000, 10_000)).num_bytes < 2_500


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda order: order.slice(5, 6), IndexError),
        (lambda order: order.slice(2**63, 2**63), IndexError),
        (lambda order: order.slice(0, 3, 0), ValueError),
        (lambda order: order.slice(0, 3, -1), IndexError),
        (lambda order: order.at(10), IndexError),
        (lambda order: order.offsets(0, 11), IndexError),
        (lambda order: order.shard(3, 3, "uneven"), ValueError),
        (lambda order: order.shard(0, 0, "uneven"), ValueError),
        (lambda order: order.shard(0, 1, "wrap"), ValueError),
        (lambda order: order.shuffled(0, 0, 0), ValueError),
        (lambda order: order.shuffled(-1), OverflowError),
        (lambda order: order.repeat(2**63), ValueError),
        (lambda order: order.pick(Order.all(11)), IndexError),
        (lambda _: Order.listed([-1]), OverflowError),
        (lambda _: Order.listed([2**64]), OverflowError),
        (lambda _: Order.listed(["a"]), TypeError),
        (lambda _: Order.listed([0.5]), TypeError),
        (lambda _: Order.listed(None), TypeError),
        (lambda _: Order.listed(np.zeros((2, 2), int)), (TypeError, ValueError)),
        (lambda _: Order.listed(np.array([0.5])), TypeError),
        (lambda _: Order.from_parts(5, [("range", 2**63, 2**62)]), ValueError),
        (lambda _: Order.from_parts(5, [("spiral",)]), ValueError),
        (lambda _: Order.from_parts(5, [("bitmap", b"junk")]), ValueError),
        (lambda _: Order.from_parts(5, [("listed", 3, b"abc")]), ValueError),
    ],
)
def test_bad_arguments(call, error):
    with pytest.raises(error):
        call(Order.all(10))


def test_lists_of_every_integer_type_and_layout():
    wanted = [3, 1, 4, 1, 5]
    for kind in "bBhHiIlLqQ":
        assert rows(Order.listed(np.array(wanted, kind))) == wanted
    strided = np.arange(20, dtype=np.int32)[::-2]
    assert rows(Order.listed(strided)) == strided.tolist()
    assert rows(Order.listed(tuple(wanted))) == wanted
    assert rows(Order.listed(range(5, 0, -1))) == [5, 4, 3, 2, 1]
    assert rows(Order.listed([np.int64(3), np.uint8(4)])) == [3, 4]
    assert rows(Order.listed(pa.array(wanted, pa.uint64()).to_numpy())) == wanted


def test_the_repr_and_direction_of_an_order():
    order = Order.all(100).shuffled(7, 2).slice(10, 50)
    assert repr(order) == "<Order of 50 rows, from 10 on, shuffled by seed 7 epoch 2>"
    assert not order.is_ascending
    assert Order.all(5).is_ascending
    assert Order.set([5, 2]).is_ascending


def test_the_split_rules_are_those_of_the_page():
    for num_rows in (10, 70, 333):
        for ratios in (
            [1 / 3] * 3,
            [0.25, 0.25],
            [0.55, 0.45],
            [0.3, 0.41],
            [0.1] * 10,
        ):
            wanted = PAGE.counts(ratios, num_rows)
            assert _native.split_counts(num_rows, ratios=ratios) == wanted


def test_a_view_over_no_rows_has_no_order_to_speak_of():
    perm = ll.open(pa.table({"x": pa.array([], pa.int64())}))
    assert len(perm.shuffle(seed=1).shard(0, 3)) == 0
    assert list(perm.shuffle(seed=1).iter(3)) == []


def test_masks_with_nulls_are_named():
    perm = ll.open(pa.table({"x": range(3)}))
    with pytest.raises(ValueError, match="`predicate` has 1 nulls"):
        perm.filter(pa.array([True, None, False]))
