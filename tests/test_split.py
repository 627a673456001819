"""Splits: sizes, disjointness, and each way of choosing rows, against the published algorithms."""

from __future__ import annotations

import collections

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

PAGE = determinism_page.load()


def perm_of(num_rows: int, **columns) -> ll.Permutation:
    return ll.open(pa.table({"id": range(num_rows), **columns}))


def ids(perm) -> list[int]:
    return perm.select_columns(["id"]).to_arrow()["id"].to_pylist()


def codes(values) -> list[int]:
    seen: dict[object, int] = {}
    return [seen.setdefault(value, len(seen)) for value in values]


@given(
    st.integers(20, 400),
    st.lists(st.integers(1, 10), min_size=1, max_size=5),
    st.integers(0, 2**64 - 1),
)
def test_random_splits_are_slices_of_one_shuffle(num_rows, weights, seed):
    shares = [weight / (2 * sum(weights)) for weight in weights]
    shares = [max(share, 1.01 / num_rows) for share in shares]
    parts = perm_of(num_rows).split(shares, seed=seed)
    shuffled = PAGE.shuffled(num_rows, seed, purpose=b"split!!!")
    start = 0
    for part, size in zip(parts, PAGE.counts(shares, num_rows), strict=True):
        assert ids(part) == shuffled[start : start + size]
        start += size


def test_sizes_by_name_by_place_by_count_and_in_equal_parts():
    perm = perm_of(10)
    parts = perm.split({"train": 0.8, "val": 0.2}, seed=1)
    assert parts.names == ["train", "val"]
    assert len(parts["train"]) == len(parts[0]) == 8
    assert repr(parts) == "<Splits train: 8 rows, val: 2 rows>"
    assert [len(part) for part in perm.split([7, 2], seed=1)] == [7, 2]
    assert [len(part) for part in perm.split(3, seed=1)] == [3, 3, 3]
    assert [len(part) for part in perm.split([0.5, 0.5], seed=1)] == [5, 5]
    train, val = perm.split({"train": 9, "val": 1}, how="sequential")
    assert ids(train) + ids(val) == list(range(10))
    with pytest.raises(
        KeyError, match="no split is named 'test'; the names are train, val"
    ):
        parts["test"]
    with pytest.raises(IndexError):
        parts[2]


@pytest.mark.parametrize(
    "shares",
    [
        [0.1] * 10,
        [0.7, 0.2, 0.1],
        [0.6, 0.3, 0.1],
        [1 / 3] * 3,
        [0.05, 0.55, 0.3, 0.1],
        [1 / 49] * 49,
    ],
)
def test_shares_that_sum_to_one_but_for_rounding_lose_no_row(shares):
    parts = perm_of(490).split(shares, seed=0)
    assert sum(map(len, parts)) == 490


def test_clumps_stay_together():
    (part,) = perm_of(40).split([1.0], seed=3, clump_size=4)
    rows = ids(part)
    assert sorted(rows) == list(range(40))
    assert all(
        rows[k : k + 4] == list(range(rows[k], rows[k] + 4)) for k in range(0, 40, 4)
    )


@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=4, max_size=80),
    st.integers(0, 2**64 - 1),
)
def test_stratified_splits_share_every_label(labels, seed):
    num_rows = len(labels)
    parts = perm_of(num_rows, label=labels).split(
        [0.5, 0.25], seed=seed, stratify_by="label"
    )
    sizes = PAGE.counts([0.5, 0.25], num_rows)
    assert list(map(ids, parts)) == PAGE.stratified(codes(labels), sizes, seed)
    for part, size in zip(parts, sizes, strict=True):
        found = collections.Counter(labels[row] for row in ids(part))
        for label, total in collections.Counter(labels).items():
            assert abs(found[label] - total * size / num_rows) < 2


@given(st.lists(st.integers(0, 9), min_size=4, max_size=80), st.integers(0, 2**64 - 1))
def test_grouped_splits_keep_groups_whole(groups, seed):
    parts = perm_of(len(groups), user=groups).split(
        [0.5, 0.5], seed=seed, group_by="user"
    )
    sizes = PAGE.counts([0.5, 0.5], len(groups))
    assert list(map(ids, parts)) == PAGE.grouped(codes(groups), sizes, seed)
    users = [{groups[row] for row in ids(part)} for part in parts]
    assert not users[0] & users[1]


def test_hash_splits_depend_on_the_values_alone():
    names = [f"user {k % 50}" for k in range(400)]
    perm = perm_of(400, name=names)
    a, b, c = perm.split([0.5, 0.3, 0.1], seed=9, hash_by="name")
    ends = np.cumsum([0.5, 0.3, 0.1]) * 2**64
    for row, name in enumerate(names):
        part = np.searchsorted(ends, PAGE.stable_hash((name,), 9), side="right")
        assert (row in ids(a), row in ids(b), row in ids(c)) == tuple(
            part == np.arange(3)
        )
    longer = perm_of(500, name=[*names, *names[:100]])
    assert set(ids(a)) <= set(
        ids(longer.split([0.5, 0.3, 0.1], seed=9, hash_by="name")[0])
    )


@pytest.mark.parametrize("wide", ["int64", "uint8", "dictionary", "large_string"])
def test_hash_splits_do_not_see_how_a_column_is_stored(wide):
    if wide in ("int64", "uint8"):
        narrow = pa.array([k % 100 for k in range(300)], pa.int16())
        other = narrow.cast(wide)
    else:
        narrow = pa.array([f"word {k % 100}" for k in range(300)])
        other = (
            narrow.dictionary_encode() if wide == "dictionary" else narrow.cast(wide)
        )
    split = [
        ids(perm_of(300, key=column).split([0.5], seed=1, hash_by="key")[0])
        for column in (narrow, other)
    ]
    assert split[0] == split[1]


def test_labels_may_be_several_columns_with_nulls_and_need_not_be_selected():
    data = tables.every_type(120, nulls=True).append_column("id", pa.array(range(120)))
    perm = ll.open(data).select_columns(["id"])
    for columns in ("bool", ["bool", "string"], ["int8", "date32", "dictionary"]):
        for way in ("stratify_by", "group_by", "hash_by"):
            parts = perm.split([0.5, 0.5], seed=1, **{way: columns})
            rows = [row for part in parts for row in ids(part)]
            assert sorted(rows) == list(range(120))
            assert parts[0].column_names == ["id"]


def test_fields_of_structs_may_be_labels():
    meta = [{"user": k % 4} for k in range(40)]
    a, b = perm_of(40, meta=meta).split([0.5, 0.5], seed=1, group_by="meta.user")
    users = [
        {row["user"] for row in part.to_arrow()["meta"].to_pylist()} for part in (a, b)
    ]
    assert not users[0] & users[1]


def test_splits_of_any_view_split_what_it_serves():
    perm = perm_of(100).filter(np.arange(100) % 3 == 0).shuffle(seed=5)
    parts = perm.split([0.5, 0.5], seed=2)
    assert sorted(ids(parts[0]) + ids(parts[1])) == list(range(0, 100, 3))
    first, second = perm.split([0.5, 0.5], how="sequential")
    assert ids(first) + ids(second) == ids(perm)


def test_a_column_may_say_where_rows_belong():
    perm = perm_of(9, fold=["b", "a", None] * 3)
    parts = perm.split_by("fold")
    assert parts.names == ["b", "a", "None"]
    assert [ids(part) for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("options", [{}, {"stratify_by": "y"}, {"group_by": "y"}])
def test_every_row_is_validated_once(options):
    perm = perm_of(103, y=[k % 11 for k in range(103)])
    folds = perm.kfold(5, seed=3, **options)
    assert len(folds) == 5
    assert sorted(row for fold in folds for row in ids(fold.val)) == list(range(103))
    for train, val in folds:
        assert sorted(ids(train) + ids(val)) == list(range(103))
        assert ids(train.shuffle(seed=1)) != ids(train)


def test_samples():
    perm = perm_of(100)
    assert (
        ids(perm.sample(20, seed=4)) == PAGE.shuffled(100, 4, purpose=b"sample!!")[:20]
    )
    assert ids(perm.sample(0.2, seed=4)) == ids(perm.sample(20, seed=4))
    assert len(perm.sample(0, seed=4)) == 0
    assert sorted(ids(perm.sample(1.0, seed=4))) == list(range(100))


BAD = [
    (lambda p: p.split([0.5, 0.6], seed=1), ValueError, "must sum to 1.0 or less"),
    (lambda p: p.split([0.5, -0.1], seed=1), ValueError, "between 0.0 and 1.0"),
    (lambda p: p.split([0.5, float("nan")], seed=1), ValueError, "between 0.0 and 1.0"),
    (lambda p: p.split([0.01], seed=1), ValueError, "rounds to 0 rows"),
    (lambda p: p.split([6, 5], seed=1), ValueError, "11 rows but only 10"),
    (lambda p: p.split([0, 5], seed=1), ValueError, "greater than 0"),
    (lambda p: p.split([-1, 5], seed=1), OverflowError, "-1|negative"),
    (lambda p: p.split(11, seed=1), ValueError, "at least 1 row per split"),
    (lambda p: p.split(0, seed=1), ValueError, "greater than 0"),
    (lambda p: p.split([], seed=1), TypeError, "must be a dict or sequence"),
    (lambda p: p.split({}, seed=1), TypeError, "must be a dict or sequence"),
    (lambda p: p.split("0.9", seed=1), TypeError, "'0.9'"),
    (lambda p: p.split(None, seed=1), TypeError, "None"),
    (lambda p: p.split([True, False], seed=1), TypeError, "whole numbers or shares"),
    (lambda p: p.split(["a"], seed=1), TypeError, "whole numbers or shares"),
    (lambda p: p.split([0.5, 0.5]), ValueError, "pass `seed`"),
    (lambda p: p.split([0.5], seed=-1), OverflowError, "-1"),
    (lambda p: p.split([0.5], seed=2**64), OverflowError, "too big"),
    (lambda p: p.split([0.5], seed=1.5), TypeError, "float"),
    (lambda p: p.split([0.5], how="sideways"), ValueError, "got 'sideways'"),
    (
        lambda p: p.split([0.5], seed=1, clump_size=0),
        ValueError,
        "`clump_size` must be at least 1, got 0",
    ),
    (
        lambda p: p.split([0.5], seed=1, group_by="id", hash_by="id"),
        ValueError,
        "`group_by` and `hash_by` are mutually exclusive",
    ),
    (lambda p: p.split([0.5], seed=1, group_by="ide"), KeyError, "`id`"),
    (lambda p: p.split([0.5], seed=1, group_by=[]), ValueError, "at least one"),
    (lambda p: p.split([5], seed=1, hash_by="id"), ValueError, "must be shares"),
    (lambda p: p.split([0.7, 0.7], seed=1, hash_by="id"), ValueError, "at most 1"),
    (lambda p: p.split([0.5, 0.0], seed=1, hash_by="id"), ValueError, "above 0"),
    (lambda p: p.split_by("nothing"), KeyError, "`id`"),
    (lambda p: p.kfold(1, seed=1), ValueError, "`folds` must be at least 2, got 1"),
    (lambda p: p.kfold(0, seed=1), ValueError, "`folds` must be at least 2, got 0"),
    (lambda p: p.kfold(11, seed=1), ValueError, "`folds`=11 exceeds"),
    (lambda p: p.sample(11, seed=1), ValueError, "the number of rows, 10"),
    (lambda p: p.sample(1.5, seed=1), ValueError, "between 0 and 1"),
    (lambda p: p.sample(float("nan"), seed=1), ValueError, "between 0 and 1"),
    (lambda p: p.sample(-1, seed=1), OverflowError, "-1"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call(perm_of(10))


def test_a_type_without_a_hash_is_named():
    perm = perm_of(3, v=[[1], [2], [3]])
    with pytest.raises(ll.errors.UnsupportedError, match="List"):
        perm.split([0.5], seed=1, hash_by="v")


def test_split_is_lancedb_s_attribute_as_well(table):
    plan = ll.permutation_builder(table).split_sequential(fixed=4).execute()
    perm = ll.Permutation.from_tables(table, plan, 3)
    assert perm.split == 3
    assert isinstance(perm.split, int)
    assert perm.select_columns(["id"]).split == 3
    train, val = perm.split([0.5, 0.5], seed=1)
    assert sorted(ids(train) + ids(val)) == sorted(ids(perm))


def test_numbers_of_numpy():
    perm = ll.open(pa.table({"x": range(10)}))
    for sizes in (
        [np.float64(0.9), np.float64(0.1)],
        np.array([0.9, 0.1]),
        [np.int64(9), np.int64(1)],
        {"train": np.float32(0.9), "val": 0.1},
    ):
        assert [len(part) for part in perm.split(sizes, seed=1)] == [9, 1]
    assert len(perm.split(np.int64(2), seed=1)) == 2


def test_arguments_that_would_do_nothing_are_refused():
    perm = ll.open(pa.table({"x": range(10)}))
    for options in (
        {"seed": 1, "clump_size": 2, "stratify_by": "x"},
        {"how": "sequential", "clump_size": 2},
        {"how": "sequential", "seed": 1},
    ):
        with pytest.raises(ValueError, match=r"has no effect|only applies"):
            perm.split(2, **options)


def test_folds_without_rows_are_refused():
    perm = ll.open(pa.table({"g": [0, 1] * 5}))
    with pytest.raises(ValueError, match=r"`folds`=4 .* fold 1 would have no rows"):
        perm.kfold(4, seed=1, group_by="g")


@pytest.mark.parametrize("way", ["stratify_by", "group_by"])
def test_columns_without_equality_are_named(way):
    perm = ll.open(pa.table({"tags": [[1], [2]]}))
    with pytest.raises(ll.errors.FormatError, match="column `tags` of type list"):
        perm.split(2, seed=1, **{way: "tags"})
    with pytest.raises(ll.errors.FormatError, match="column `tags`"):
        perm.split_by("tags")
