"""What users of Hugging Face datasets expect: select, take, skip, splits by name, rows, and hints."""

from __future__ import annotations

import inspect
import math
import pickle
import re
import warnings

import lanceloader as ll
import lanceloader.permutation
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.verbs.absent import INSTEAD

ROWS = 23


def numbers(perm):
    return perm.to_arrow()["x"].to_pylist()


@pytest.fixture(scope="module")
def perm():
    return ll.open(pa.table({"x": range(ROWS), "y": [x % 4 for x in range(ROWS)]}))


def ranges():
    bounds = st.integers(-3, ROWS + 3)
    return st.builds(range, bounds, bounds, st.sampled_from([-7, -2, -1, 1, 2, 5]))


def positions():
    inside = st.lists(st.integers(0, ROWS - 1), max_size=40)
    return st.one_of(
        ranges(),
        inside,
        st.lists(st.integers(-2, ROWS + 1), max_size=5),
        inside.map(tuple),
        inside.map(lambda rows: np.array(rows, np.int32)),
        inside.map(lambda rows: pa.array(rows, pa.uint16())),
        inside.map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
    )


@given(indices=positions(), seed=st.none() | st.integers(0, 5))
def test_select_is_indexing(indices, seed):
    perm = ll.open(pa.table({"x": range(ROWS)}))
    if seed is not None:
        perm = perm.shuffle(seed)
    base = numbers(perm)
    wanted = [int(index) for index in getattr(indices, "tolist", lambda: indices)()]
    if any(not 0 <= index < ROWS for index in wanted):
        with pytest.raises(IndexError, match="out of range"):
            perm.select(indices)
        return
    assert numbers(perm.select(indices)) == [base[index] for index in wanted]


def test_select_of_a_range_takes_no_memory():
    perm = ll.open(pa.table({"x": range(100_000)}))
    assert perm.select(range(10, 99_999, 3)).order.num_bytes < 200
    assert perm.select(range(0)).num_rows == 0


@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        ("x", TypeError, "select_columns"),
        (["x", "y"], TypeError, "select_columns"),
        ([True] * ROWS, TypeError, "mask"),
        (np.ones(ROWS, bool), TypeError, "mask"),
        ([0.5], TypeError, "whole numbers"),
        (np.zeros((2, 2), int), TypeError, "shape"),
        ([ROWS], IndexError, f"row {ROWS} is out of range for {ROWS} rows"),
        ([-1], IndexError, "must not be negative"),
        (np.array([3, -5]), IndexError, "must not be negative"),
        (range(ROWS, ROWS + 1), IndexError, "out of range"),
    ],
)
def test_select_refuses(perm, indices, error, match):
    with pytest.raises(error, match=match):
        perm.select(indices)


@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["take", "skip"]), st.integers(0, 12)), max_size=6
    )
)
def test_take_and_skip_add_up(calls):
    perm = ll.open(pa.table({"x": range(ROWS)})).shuffle(seed=3)
    wanted = numbers(perm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for verb, number in calls:
            if number > len(wanted):
                with pytest.raises(ValueError, match=f"{number} exceeds the number of"):
                    getattr(perm, verb)(number)
                continue
            perm = getattr(perm, verb)(number)
            wanted = wanted[:number] if verb == "take" else wanted[number:]
    assert numbers(perm) == wanted


def test_lancedb_s_take_and_skip_replace_each_other():
    perm = lanceloader.permutation.Permutation.identity(pa.table({"x": range(ROWS)}))
    with pytest.warns(DeprecationWarning, match="with_take|with_skip"):
        perm = perm.take(10).skip(2)
    assert numbers(perm) == list(range(2, 12))


@given(
    rows=st.integers(2, 60),
    train=st.none() | st.floats(0.01, 0.99) | st.integers(1, 60),
    test=st.none() | st.floats(0.01, 0.99) | st.integers(1, 60),
    shuffle=st.booleans(),
)
def test_train_test_split_has_the_sizes_of_scikit_learn(rows, train, test, shuffle):
    def size(given, rounded):
        return rounded(given * rows) if isinstance(given, float) else given

    perm = ll.open(pa.table({"x": range(rows)}))
    wanted_test = size(0.25 if train is None and test is None else test, math.ceil)
    wanted_train = size(train, math.floor)
    if wanted_test is None:
        wanted_test = rows - wanted_train
    if wanted_train is None:
        wanted_train = rows - wanted_test
    options = {"seed": 7} if shuffle else {"shuffle": False}

    def split():
        return perm.train_test_split(test_size=test, train_size=train, **options)

    if wanted_train < 1 or wanted_test < 1 or wanted_train + wanted_test > rows:
        with pytest.raises(ValueError, match="both have rows"):
            split()
        return
    splits = split()
    assert list(splits.keys()) == ["train", "test"]
    found = numbers(splits["train"]) + numbers(splits["test"])
    assert (len(splits["train"]), len(splits["test"])) == (wanted_train, wanted_test)
    assert len(set(found)) == len(found)
    if not shuffle:
        assert found == list(range(len(found)))


def test_train_test_split_is_split(perm):
    ours = perm.train_test_split(0.2, seed=7)
    train, test = perm.split({"train": ROWS - 5, "test": 5}, seed=7)
    assert numbers(ours["train"]) == numbers(train)
    assert numbers(ours["test"]) == numbers(test)
    strata = perm.train_test_split(0.5, seed=1, stratify_by_column="y")
    counts = strata["test"].to_arrow()["y"].value_counts().field("counts").to_pylist()
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"test_size": 0.2}, "needs a seed"),
        ({"test_size": 1.5, "seed": 1}, "between 0 and 1"),
        ({"test_size": 0.0, "seed": 1}, "between 0 and 1"),
        ({"test_size": ROWS, "seed": 1}, "both have rows"),
        ({"test_size": 0.2, "shuffle": False, "seed": 1}, "no effect"),
    ],
)
def test_train_test_split_refuses(perm, options, match):
    with pytest.raises(ValueError, match=match):
        perm.train_test_split(**options)


def test_splits_are_like_a_dict(perm):
    splits = perm.train_test_split(0.2, seed=7)
    assert "train" in splits
    assert "val" not in splits
    assert dict(splits) == {"train": splits[0], "test": splits[1]}
    assert dict(splits.items()) == dict(
        zip(splits.keys(), splits.values(), strict=True)
    )
    without_names = perm.split([0.5, 0.5], seed=1)
    assert without_names.keys() == without_names.items() == []
    assert without_names[1] in without_names


def test_rows_one_by_one(perm):
    rows = list(perm.iter_rows())
    assert rows == perm[:]
    tensors = list(perm.with_format("torch_dict").iter_rows())
    assert [row["x"].item() for row in tensors] == list(range(ROWS))
    with pytest.raises(ValueError, match="no rows as dicts"):
        perm.with_format("pandas").iter_rows()
    with pytest.raises(ValueError, match="with_transform"):
        perm.with_transform(len).iter_rows()


def test_in_does_not_read_everything(perm):
    with pytest.raises(TypeError, match="filter"):
        3 in perm  # noqa: B015


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_absent_names_say_what_to_call(perm, name):
    assert not hasattr(ll.Permutation, name)
    assert not hasattr(perm, name)
    with pytest.raises(AttributeError, match="permutations have no") as caught:
        getattr(perm, name)
    assert caught.value.name == name


def test_what_absent_names_suggest_exists():
    for name, text in INSTEAD.items():
        for found in re.findall(r"perm\.(\w+)", text):
            assert hasattr(ll.Permutation, found) or found in (
                "base_table",
                "transform_fn",
            ), name


def test_other_names_are_plain_attribute_errors(perm):
    with pytest.raises(AttributeError, match="'Permutation' object has no attribute"):
        perm.lodaer  # noqa: B018
    assert pickle.loads(pickle.dumps(perm)).head(1) == perm.head(1)
    with pytest.raises(AttributeError):
        object.__new__(ll.Permutation).selection  # noqa: B018


def test_the_signature_of_split_is_its_own():
    signature = inspect.signature(ll.Permutation.split)
    assert list(signature.parameters)[:3] == ["self", "sizes", "seed"]
    assert "disjoint parts" in inspect.getdoc(ll.Permutation.split)
    perm = ll.open(pa.table({"x": range(4)}))
    assert perm.split == 0
    assert numbers(ll.Permutation.split(perm, [1, 3], seed=1)[0]) == numbers(
        perm.split([1, 3], seed=1)[0]
    )
    with pytest.raises(AttributeError):
        perm.split = 3
