"""Reading batches in order: sizes, tails, skip and take, whole reads, reading ahead."""

from __future__ import annotations

import copy
import pickle
import threading

import lanceloader as ll
import lanceloader.permutation
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st


def sizes(batches) -> list[int]:
    return [batch.num_rows for batch in batches]


@pytest.fixture
def perm(any_table):
    """100 live rows in three fragments of 111, some deleted."""
    return ll.Permutation.identity(any_table).with_format("arrow")


@pytest.mark.parametrize("batch_size", [1, 7, 40, 50, 99, 100, 101, 100_000])
def test_only_the_last_batch_may_be_short(perm, batch_size):
    """Across fragments and deletions: BUG-13."""
    whole = perm.to_arrow()
    batches = list(perm.iter(batch_size))
    assert sizes(batches[:-1]) == [batch_size] * (len(batches) - 1)
    assert pa.Table.from_batches(batches).equals(whole)
    full = list(perm.iter(batch_size, skip_last_batch=True))
    assert sizes(full) == [batch_size] * (100 // batch_size)
    assert full == batches[: len(full)]


def test_a_loop_gives_batches_of_the_set_size(perm):
    assert sizes(perm) == [100]
    assert sizes(perm.with_batch_size(30)) == [30, 30, 30, 10]
    assert sizes(perm.with_batch_size(30).iter(60)) == [60, 40]
    assert sizes(perm.iter(0)) == [100]


def test_order_is_the_same_every_time_and_by_position(perm):
    shuffled = perm.shuffle(seed=3)
    first = pa.Table.from_batches(shuffled.iter(9))
    assert pa.Table.from_batches(shuffled.iter(31)).equals(first)
    taken = shuffled.take_offsets(range(100))
    assert pa.Table.from_batches([taken]).equals(first)
    assert first["id"].to_pylist() != perm.to_arrow()["id"].to_pylist()
    assert sorted(first["id"].to_pylist()) == perm.to_arrow()["id"].to_pylist()


def test_iterators_of_one_view_do_not_disturb_each_other(perm):
    a, b = perm.iter(10), perm.iter(10)
    assert next(a) == next(b)
    second = next(a)
    assert second["id"].to_pylist() != next(perm.iter(10))["id"].to_pylist()
    assert next(b) == second
    del a
    assert next(b)["id"].to_pylist() == perm.to_arrow()["id"].to_pylist()[20:30]


def test_an_iterator_left_halfway_stops_its_thread():
    perm = ll.open(pa.table({"x": range(2_000_000)})).shuffle(seed=1)
    before = threading.active_count()
    for _ in range(20):
        batches = perm.iter(10)
        next(batches)
        del batches
    assert threading.active_count() == before


@given(
    st.integers(0, 120),
    st.lists(
        st.tuples(st.sampled_from(["skip", "take", "repeat"]), st.integers(0, 150)),
        max_size=4,
    ),
)
def test_skip_take_and_repeat(num_rows, verbs):
    """The last skip and the last take count, each from the rows underneath."""
    perm = ll.open(pa.table({"x": pa.array(range(num_rows), pa.int64())}))
    base, skip, take = list(range(num_rows)), None, None
    for verb, n in verbs:
        if verb == "repeat":
            n %= 4
            base = base[skip or 0 :][:take] * n
            skip = take = None
            perm = perm.with_repeat(n)
            continue
        new_skip, new_take = (n, take) if verb == "skip" else (skip, n)
        if (new_skip or 0) + (new_take or 0) > len(base):
            with pytest.raises(ValueError, match="greater than the number of rows"):
                getattr(perm, f"with_{verb}")(n)
            continue
        skip, take = new_skip, new_take
        perm = getattr(perm, f"with_{verb}")(n)
    wanted = base[skip or 0 :][:take]
    assert len(perm) == len(wanted)
    assert perm.to_arrow()["x"].to_pylist() == wanted
    assert (perm.offset, perm.limit) == (skip, take)
    if wanted:
        assert perm.take_offsets([0, len(wanted) - 1]) == [
            {"x": wanted[0]},
            {"x": wanted[-1]},
        ]


def test_names_that_lancedb_deprecates_warn(any_table):
    perm = lanceloader.permutation.Permutation.identity(any_table)
    for name in ("skip", "take", "repeat"):
        with pytest.warns(DeprecationWarning, match=f"with_{name}"):
            getattr(perm, name)(1)


def test_nothing_to_read_is_an_empty_iteration(perm):
    """BUG-14."""
    for empty in (perm.with_take(0), perm.with_skip(100), perm.with_repeat(0)):
        assert len(empty) == 0
        assert list(empty.iter(10)) == []
        assert list(empty) == []
        assert empty.to_arrow().num_rows == 0
        assert empty.to_arrow().schema.equals(perm.schema)
        assert empty.take_offsets([]).schema.equals(perm.schema)
        assert empty.head().num_rows == 0


def test_positions_of_every_kind(perm):
    wanted = perm.to_arrow()["id"].take([3, 99, 0, 3]).to_pylist()
    torch = pytest.importorskip("torch")
    for positions in (
        [3, 99, 0, 3],
        (3, 99, 0, 3),
        np.array([3, 99, 0, 3]),
        np.array([3, 99, 0, 3], np.uint8),
        [np.int64(3), 99, np.int16(0), 3],
        torch.tensor([3, 99, 0, 3]),
        pa.array([3, 99, 0, 3]).to_numpy(),
    ):
        assert perm.take_offsets(positions)["id"].to_pylist() == wanted
        assert perm.__getitems__(positions)["id"].to_pylist() == wanted
        assert perm[positions]["id"].to_pylist() == wanted


def test_slices(perm):
    ids = perm.to_arrow()["id"].to_pylist()
    for cut in (
        slice(None),
        slice(10, 20),
        slice(-5, None),
        slice(None, None, -1),
        slice(80, 10, -7),
        slice(50, 10),
        slice(90, 200),
    ):
        assert perm[cut]["id"].to_pylist() == ids[cut]


def test_single_positions(perm):
    rows = perm.to_arrow().to_pylist()
    assert perm.with_format("python")[5] == [rows[5]]
    assert perm[-1].num_rows == 1
    assert perm.row(5) == rows[5]
    assert perm.row(-1) == rows[-1]
    assert perm[np.int64(5)]["id"].to_pylist() == [rows[5]["id"]]
    for index in (100, -101, 10**30, -(10**30)):
        with pytest.raises(
            IndexError, match=f"row {index} is out of range for 100 rows"
        ):
            perm[index]


@pytest.mark.parametrize(
    ("positions", "error"),
    [
        ([100], IndexError),
        ([0, 5, 10**12], IndexError),
        ([2**64], OverflowError),
        ([-1], OverflowError),
        ([0.5], TypeError),
        (["1"], TypeError),
        ([None], TypeError),
        (None, TypeError),
        (5, TypeError),
        ("12", TypeError),
        ({3}, TypeError),
        ([[1, 2]], TypeError),
        (np.array([0.5]), TypeError),
        (np.array([-1]), OverflowError),
        (np.zeros((2, 2), int), (TypeError, ValueError)),
    ],
)
def test_invalid_positions_are_refused(perm, positions, error):
    with pytest.raises(error):
        perm.take_offsets(positions)


def test_a_view_with_skip_and_take_is_taken_from_as_it_is_iterated(perm):
    """BUG-17."""
    view = perm.with_skip(20).with_take(30)
    ids = view.to_arrow()["id"].to_pylist()
    assert view.take_offsets([0, 29])["id"].to_pylist() == [ids[0], ids[29]]
    with pytest.raises(IndexError):
        view.take_offsets([30])


def test_everything_at_once(perm):
    arrow = perm.to_arrow()
    assert perm.to_pandas().equals(arrow.to_pandas())
    pl = pytest.importorskip("polars")
    assert perm.to_polars().equals(pl.from_arrow(arrow))
    assert perm.head(3).equals(arrow.slice(0, 3).to_batches()[0])
    assert perm.head(0).num_rows == 0
    assert perm.head(1000).num_rows == 100


def test_distinct_values(perm):
    data = perm.to_arrow()
    assert perm.unique("label") == data["label"].unique().to_pylist()
    shuffled = perm.shuffle(seed=1)
    assert shuffled.unique("label") == shuffled.to_arrow()["label"].unique().to_pylist()
    view = ll.open(
        pa.table(
            {
                "s": [None, "a", "a", None],
                "d": pa.array(["x", None, "x", "y"]).dictionary_encode(),
                "v": [[1], [1], [2], [1]],
                "m": [{"x": 1}] * 4,
            }
        )
    )
    assert view.unique("s") == [None, "a"]
    assert view.unique("d") == ["x", None, "y"]
    assert view.unique("m.x") == [1]
    assert view.with_take(0).unique("s") == []
    with pytest.raises(ll.errors.FormatError, match="column `v` of type list"):
        view.unique("v")
    with pytest.raises(ll.errors.ColumnNotFoundError):
        view.unique("nothing")


@pytest.mark.usefixtures("bars_at_once")
def test_a_progress_bar_counts_rows(perm, capsys):
    assert sizes(perm.iter(30, progress=True)) == [30, 30, 30, 10]
    perm.to_arrow(progress=True)
    shown = capsys.readouterr().err
    assert "100/100" in shown
    assert "rows/s" in shown


def test_filters():
    perm = ll.open(pa.table({"x": [0, 1, None, 3, 4], "y": list("abcde")}))
    kept = perm.filter("x > 0")
    assert kept.to_arrow()["y"].to_pylist() == ["b", "d", "e"]
    assert kept.filter("y != 'd'").to_arrow()["y"].to_pylist() == ["b", "e"]
    assert kept.filter([True, False, True]).to_arrow()["y"].to_pylist() == ["b", "e"]
    flags = [True, False, True, False, False]
    for mask in (pa.array(flags), pl.Series(flags)):
        assert perm.filter(mask).to_arrow()["y"].to_pylist() == ["a", "c"]
    for mask in (pa.array([None, *flags[1:]]), pl.Series([None, *flags[1:]])):
        with pytest.raises(ValueError, match="`predicate` has 1 nulls"):
            perm.filter(mask)
    assert len(perm.filter("x > 100")) == 0
    assert list(perm.filter("x > 100").iter(3)) == []
    shuffled = perm.shuffle(seed=2)
    order = shuffled.to_arrow()["y"].to_pylist()
    assert shuffled.filter("x > 0").to_arrow()["y"].to_pylist() == [
        y for y in order if y in "bde"
    ]
    assert shuffled.filter("x is null").to_arrow()["y"].to_pylist() == ["c"]


@pytest.mark.parametrize(
    ("predicate", "error", "text"),
    [
        ("x >", ValueError, "filter 'x >'"),
        ("nothing = 1", ValueError, "`nothing` does not exist"),
        ("", ValueError, "filter ''"),
        ("x + 1", ValueError, "filter"),
        ([True], ValueError, r"boolean array of shape \(5,\)"),
        (np.ones(5), ValueError, r"boolean array of shape \(5,\)"),
        (None, ValueError, r"boolean array of shape \(5,\)"),
        (7, ValueError, r"boolean array of shape \(5,\)"),
    ],
)
def test_invalid_filters_are_refused(predicate, error, text):
    perm = ll.open(pa.table({"x": [0, 1, None, 3, 4]}))
    with pytest.raises(error, match=text):
        perm.filter(predicate)


def test_a_filter_is_of_the_version_that_is_served(any_table):
    perm = ll.Permutation.identity(any_table)
    before = perm.filter("id < 30").to_arrow()
    any_table.delete("id < 25")
    any_table.update(where="id = 29", values={"x": 9.0})
    assert perm.filter("id < 30").to_arrow().equals(before)
    assert len(ll.Permutation.identity(any_table).filter("id < 30")) == 5


def test_a_filter_may_use_columns_that_are_not_selected(any_table):
    perm = ll.Permutation.identity(any_table).select_columns(["name"])
    assert perm.filter("id = 42").to_arrow().to_pydict() == {"name": ["row 42"]}


def test_rows_too_wide_for_one_array_are_read_whole():
    """40,000 rows of 64 KB: more than 32-bit offsets hold at once."""
    perm = ll.open(pa.table({"x": [b"x" * 65_536]})).with_repeat(40_000)
    table = perm.to_arrow()
    assert table.num_rows == 40_000
    assert table["x"].num_chunks > 1
    assert perm.unique("x") == [b"x" * 65_536]


def test_the_bytes_of_slices_are_counted_once():
    data = pa.table({"x": np.arange(100_000)})
    batches = [data.slice(at, 100) for at in range(0, 100_000, 100)]
    assert "800,000 bytes" in ll.open(pa.concat_tables(batches)).explain()


VERBS = {
    "nothing": lambda perm: perm,
    "shuffled": lambda perm: perm.shuffle(seed=1),
    "a part of a split": lambda perm: perm.split([12, 5], seed=1)[0].with_batch_size(7),
    "a stratum": lambda perm: perm.strata("label")[0].with_batch_size(3),
    "pickled": lambda perm: pickle.loads(pickle.dumps(perm)),
    "copied": copy.copy,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_loop_leaves_no_row_out_but_where_lancedbs_names_are_used(verb):
    """LanceDB's loop leaves a short last batch out, which its tests ask for."""
    data = tables.narrow(20).set_column(3, "label", pa.array([0] * 10 + [1] * 10))
    opened = ll.open(data, format="arrow").with_batch_size(7)
    theirs = lanceloader.permutation.Permutation.identity(data)
    theirs = theirs.with_format("arrow").with_batch_size(7)
    view, old = VERBS[verb](opened), VERBS[verb](theirs)
    assert sum(sizes(view)) == len(view)
    assert len(view) % view.batch_size
    assert list(old) == list(view)[:-1]
    assert list(old.iter(old.batch_size)) == list(view)
    assert sum(sizes(old.loader(7))) == len(old)
    assert isinstance(old, ll.Permutation)


def test_splits_of_a_permutation_table_are_of_the_names_that_were_used(table):
    plan = ll.permutation_builder(table).split_sequential(counts=[60, 20]).execute()
    for module, wanted in ((ll, [7] * 8 + [4]), (lanceloader.permutation, [7] * 8)):
        splits = module.Permutations(table, plan)
        first = splits[0].with_format("arrow").with_batch_size(7)
        assert sizes(first) == wanted
        assert {type(split) for split in splits} == {module.Permutation}
