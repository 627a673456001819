"""Sampling rows evenly, by weight and by class, with and without replacement."""

from __future__ import annotations

import pickle
from collections import Counter

import determinism_page
import lanceloader as ll
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

PAGE = determinism_page.load()
NUM_ROWS = 300
WEIGHTS = [row % 7 / 4 for row in range(NUM_ROWS)]
LABELS = [["a", "b", "b", None, "b"][row % 5] for row in range(NUM_ROWS)]
CODES = [[0, 1, 1, 2, 1][row % 5] for row in range(NUM_ROWS)]


@pytest.fixture(scope="module")
def perm():
    columns = {"id": range(NUM_ROWS), "w": WEIGHTS, "label": LABELS}
    return ll.open(pa.table(columns)).select_columns(["id"])


def ids(perm):
    return perm.to_arrow()["id"].to_pylist()


def test_weighted_draws_are_those_of_the_page(perm):
    wanted = PAGE.draws(1000, 7, 3, weights=WEIGHTS)
    by_column = perm.sample(1000, seed=7, epoch=3, weights="w", replacement=True)
    assert ids(by_column) == wanted
    for weights in [WEIGHTS, np.array(WEIGHTS), pa.array(WEIGHTS), pl.Series(WEIGHTS)]:
        drawn = perm.sample(1000, seed=7, epoch=3, weights=weights, replacement=True)
        assert ids(drawn) == wanted


def test_draws_by_class_are_those_of_the_page(perm):
    drawn = perm.sample(1000, seed=7, balance_by="label", replacement=True)
    assert ids(drawn) == PAGE.draws(1000, 7, classes=CODES)
    weights = {"b": 3, "a": 1, None: 0.5, "never seen": 9}
    drawn = perm.sample(
        1000, seed=7, balance_by="label", weights=weights, replacement=True
    )
    assert ids(drawn) == PAGE.draws(1000, 7, classes=CODES, weights=[1, 3, 0.5])


def test_even_draws_are_those_of_the_page(perm):
    drawn = perm.sample(1000, seed=7, replacement=True)
    assert ids(drawn) == PAGE.draws(1000, 7, n=NUM_ROWS)
    assert len(perm.sample(2.5, seed=7, replacement=True)) == 750
    assert ids(perm.sample(3.0, seed=7, replacement=True)) == ids(drawn)[:900]


@pytest.mark.parametrize("size", [0, 1, 100, 257])
def test_rows_without_replacement_are_those_of_the_page(perm, size):
    drawn = ids(perm.sample(size, seed=7, epoch=1, weights="w"))
    assert drawn == PAGE.choose(size, 7, 1, weights=WEIGHTS)
    assert len(set(drawn)) == size
    assert all(WEIGHTS[row] > 0 for row in drawn)
    sizes = Counter(CODES)
    drawn = ids(perm.sample(size, seed=7, balance_by="label"))
    of_rows = [1 / sizes[code] for code in CODES]
    assert drawn == PAGE.choose(size, 7, weights=of_rows)


def test_rows_come_as_often_as_their_weights_say(perm):
    size = 200_000
    drawn = perm.sample(size, seed=1, weights="w", replacement=True)
    counts = np.bincount(ids(drawn), minlength=NUM_ROWS)
    expected = np.array(WEIGHTS) / sum(WEIGHTS) * size
    assert not counts[expected == 0].any()
    some = expected > 0
    chi_square = ((counts - expected)[some] ** 2 / expected[some]).sum()
    degrees = some.sum() - 1
    assert abs(chi_square - degrees) < 5 * (2 * degrees) ** 0.5


def test_classes_come_equally_often(perm):
    drawn = perm.sample(30_000, seed=1, balance_by="label", replacement=True)
    counts = Counter(LABELS[row] for row in ids(drawn))
    assert all(abs(count - 10_000) < 500 for count in counts.values())
    # The first of a sample without replacement, too, are as often of each class.
    firsts = Counter(
        LABELS[ids(perm.sample(1, seed=seed, balance_by="label"))[0]]
        for seed in range(600)
    )
    assert all(abs(count - 200) < 60 for count in firsts.values())


def test_without_replacement_every_row_is_as_likely_as_drawing_one_by_one():
    perm = ll.open(pa.table({"id": range(4)}))
    weights = [1.0, 2.0, 3.0, 4.0]
    drawn = (ids(perm.sample(2, seed=seed, weights=weights)) for seed in range(4000))
    pairs = Counter(tuple(sorted(pair)) for pair in drawn)
    for (a, b), count in pairs.items():
        x, y = weights[a], weights[b]
        wanted = 4000 * (x / 10 * y / (10 - x) + y / 10 * x / (10 - y))
        assert abs(count - wanted) < 5 * wanted**0.5


def test_epochs_draw_anew(perm):
    for arguments in [
        {},
        {"replacement": True},
        {"weights": "w"},
        {"balance_by": "label", "replacement": True},
    ]:
        epochs = {
            tuple(ids(perm.sample(50, seed=3, epoch=epoch, **arguments)))
            for epoch in range(5)
        }
        assert len(epochs) == 5
        assert ids(perm.sample(50, seed=3, epoch=0, **arguments)) in map(list, epochs)
    assert (
        ids(perm.sample(50, seed=3, epoch=2))
        == PAGE.shuffled(NUM_ROWS, 3, 2, purpose=b"sample!!")[:50]
    )


def test_any_number_of_draws_costs_nothing(perm):
    size = 2**40
    drawn = perm.sample(size, seed=7, weights="w", replacement=True)
    assert len(drawn) == size
    assert drawn.order.num_bytes < 16 * NUM_ROWS + 1024
    assert drawn.row(size - 1)["id"] in range(NUM_ROWS)
    assert ids(drawn.with_take(100)) == PAGE.draws(100, 7, weights=WEIGHTS)
    shard = drawn.shard(3, 8).with_take(50)
    assert ids(shard) == PAGE.draws(400, 7, weights=WEIGHTS)[3::8]


def test_weights_belong_to_the_rows_of_the_view(perm):
    view = perm.shuffle(seed=5).with_skip(100)
    rows = ids(view)
    wanted = PAGE.draws(500, 7, weights=[WEIGHTS[row] for row in rows])
    drawn = view.sample(500, seed=7, weights="w", replacement=True)
    assert ids(drawn) == [rows[at] for at in wanted]


@pytest.mark.parametrize(
    "arguments",
    [
        {"replacement": True},
        {"weights": "w", "replacement": True},
        {"balance_by": "label", "replacement": True},
        {"balance_by": "label", "weights": {"a": 1, "b": 2, None: 0}},
        {"weights": "w"},
    ],
)
def test_samples_pickle(perm, arguments):
    drawn = perm.sample(100, seed=7, **arguments)
    again = pickle.loads(pickle.dumps(drawn))
    assert ids(again) == ids(drawn)
    assert repr(again.order) == repr(drawn.order)
    assert ids(drawn.shuffle(seed=1)) != ids(drawn)
    assert sorted(ids(drawn.shuffle(seed=1))) == sorted(ids(drawn))


def test_explain_describes_a_sample(perm):
    drawn = perm.sample(10, seed=7, balance_by="label", replacement=True)
    assert "drawn by seed 7 epoch 0 from 3 classes of 300 rows" in drawn.explain()


def test_columns_of_any_number_are_weights():
    columns = {
        "id": pa.array(range(4)),
        "int8": pa.array([0, 1, 2, 3], pa.int8()),
        "uint64": pa.array([0, 1, 2, 3], pa.uint64()),
        "float32": pa.array([0, 1, 2, 3], pa.float32()),
    }
    perm = ll.open(pa.table(columns | {"bool": pa.array([False, True, True, False])}))
    wanted = PAGE.draws(50, 1, weights=[0, 1, 2, 3])
    for name in ["int8", "uint64", "float32"]:
        assert ids(perm.sample(50, seed=1, weights=name, replacement=True)) == wanted
    drawn = perm.sample(50, seed=1, weights="bool", replacement=True)
    assert set(ids(drawn)) == {1, 2}


BAD = [
    (
        {"weights": [1.0] * 9},
        r"dtype float64 and shape \(9,\): pass numbers of shape \(10,\)",
    ),
    ({"weights": np.ones((10, 2))}, r"shape \(10, 2\)"),
    ({"weights": ["a"] * 10}, r"pass numbers of shape \(10,\)"),
    ({"weights": [1.0, -2.5] + [0.0] * 8}, "weight -2.5 of row 1: wanted a finite"),
    ({"weights": [1.0] * 9 + [float("nan")]}, "weight NaN of row 9"),
    ({"weights": [float("inf")] + [1.0] * 9}, "weight inf of row 0"),
    ({"weights": [0] * 10}, "10 weights of which none is above 0"),
    ({"weights": pa.array([1.0, None] * 5)}, "of an array have 5 nulls"),
    ({"weights": "holes"}, "column `holes` have 1 nulls"),
    ({"weights": "label"}, "column `label` have dtype object"),
    ({"weights": {"a": 1}}, "pass `balance_by`"),
    ({"weights": "x", "balance_by": "label"}, "`weights` must be a dict .* not str"),
    ({"weights": {"a": 1}, "balance_by": "label"}, "no weight for class 'b'"),
    (
        {"weights": {"a": 1, "b": -1}, "balance_by": "label"},
        "class 'b' of column `label` must be .* got -1.0",
    ),
    ({"weights": {"a": 0, "b": 0}, "balance_by": "label"}, "none is above 0"),
    ({"weights": "nothing"}, "`nothing`"),
    ({"balance_by": "nothing"}, "`nothing`"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_impossible_weights_are_named(arguments, text, replacement):
    columns = {"x": range(10), "holes": [1, None] + [1] * 8, "label": ["a", "b"] * 5}
    perm = ll.open(pa.table(columns))
    error = KeyError if "nothing" in text else ValueError
    with pytest.raises(error, match=text):
        perm.sample(5, seed=1, replacement=replacement, **arguments)


def test_impossible_sizes_are_named(perm):
    few = [1.0] * 3 + [0.0] * (NUM_ROWS - 3)
    with pytest.raises(ValueError, match="4 rows without replacement: wanted at most"):
        perm.sample(4, seed=1, weights=few)
    with pytest.raises(ValueError, match=r"`size` must be finite .* got inf"):
        perm.sample(float("inf"), seed=1, replacement=True)
    nobody = perm.with_take(0)
    with pytest.raises(ValueError, match="none to draw from"):
        nobody.sample(1, seed=1, replacement=True)
    assert len(nobody.sample(0, seed=1, replacement=True)) == 0


@given(
    st.lists(st.floats(0, 1e300) | st.just(0.0), min_size=1, max_size=40).filter(any),
    st.integers(0, 2**64 - 1),
)
def test_any_weights_draw_as_the_page_says(weights, seed):
    perm = ll.open(pa.table({"id": range(len(weights))}))
    drawn = ids(perm.sample(100, seed=seed, weights=weights, replacement=True))
    assert drawn == PAGE.draws(100, seed, weights=weights)
    size = sum(weight > 0 for weight in weights)
    assert ids(perm.sample(size, seed=seed, weights=weights)) == PAGE.choose(
        size, seed, weights=weights
    )
