"""What ``ll.mix`` refuses, and its messages."""

from __future__ import annotations

import lanceloader as ll
import pyarrow as pa
import pytest
from mixture_reference import numbered, served, sources_of


def test_columns_must_fit():
    a = numbered(0, 5, x=float, y=str)
    b = numbered(0, 5, y=str, x=float)
    assert ll.mix([a, b]).column_names == ["id", "x", "y"]
    assert served(ll.mix([a, b]).loader(10, format="python_col"))
    lacking = numbered(0, 5, x=float)
    with pytest.raises(ValueError, match="source 1 has no column `y`, which source 0"):
        ll.mix([a, lacking])
    with pytest.raises(ValueError, match="source 0 has no column `y`, which source 1"):
        ll.mix([lacking, a])
    assert ll.mix([a, lacking], columns=["x", "id"]).column_names == ["x", "id"]
    with pytest.raises(ll.errors.ColumnNotFoundError, match=r"source 1: .*y"):
        ll.mix([a, lacking], columns=["y"])
    other = numbered(0, 5, x=int, y=str)
    with pytest.raises(
        ValueError,
        match="`x` has type int64 in source 'b', but type double in source 'a'",
    ):
        ll.mix({"a": a, "b": other})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "1 numbers for 2 sources"),
        ({"weights": {"a": 1}}, "no weight for 'b'"),
        ({"weights": {"a": 1, "b": 1, "c": 1}}, "a weight for 'c', which is not"),
        ({"weights": [1, -1]}, "source 'b' must not be negative, got -1"),
        ({"weights": [1, float("nan")]}, "source 'b' must be finite, got nan"),
        ({"weights": [0, 0]}, "all 0"),
        ({"weights": [1, 0], "stop": "all"}, "source 'b' has weight 0 .*never end"),
        (
            {"schedule": [(0, [1, 1]), (8, [1, 0])], "stop": "all"},
            "source 'b' has weight 0 from row 8 on",
        ),
        ({"weights": [1, 1], "schedule": [(0, [1, 1])]}, "pass one of them"),
        ({"schedule": [(5, [1, 1])]}, r"increase from 0 on, got \[5\]"),
        ({"schedule": [(0, [1, 1]), (9, [1, 1]), (4, [1, 1])]}, r"got \[0, 9, 4\]"),
        ({"stop": "last"}, "`stop` must be .* got 'last'"),
        ({"shape": "round"}, "`shape` must be .* got 'round'"),
        ({"source_column": "id"}, "`source_column`='id' .*pass another name"),
    ],
)
def test_what_cannot_be_mixed(options, message):
    with pytest.raises(ValueError, match=message):
        ll.mix(sources_of([5, 5]), **options)


def test_other_things_cannot_be_mixed():
    with pytest.raises(
        ValueError, match="`batch_tokens`=64 does not apply to a mixture"
    ):
        ll.mix([numbered(0, 5)]).loader(batch_tokens=64)
    with pytest.raises(ValueError, match="`sources` is empty"):
        ll.mix([])
    with pytest.raises(TypeError, match="source 0 must be a Permutation, not list"):
        ll.mix([[1, 2]])
    with pytest.raises(ValueError, match="source 1 has no rows"):
        ll.mix([numbered(0, 5), numbered(0, 5).with_take(0)])
    with pytest.raises(
        TypeError, match="`weights` must be numbers, got 'x' for source 0"
    ):
        ll.mix([numbered(0, 5)], weights=["x"])
    with pytest.raises(TypeError, match='"size" or "equal"'):
        ll.mix([numbered(0, 5)], weights="some")


def test_sources_that_are_served_in_the_end_may_begin_late():
    mixture = ll.mix(
        sources_of([4, 4]), schedule=[(0, [1, 0]), (20, [1, 1])], stop="all"
    )
    loader = mixture.loader(1, format="python_col")
    assert [len(served(loader.set_epoch(epoch))) for epoch in range(3)] == [28, 8, 8]


@pytest.mark.parametrize(
    "option",
    [{"length": "x"}, {"padded": False}, {"bucket_rows": 9}, {"long": "error"}],
)
def test_options_of_a_token_budget_are_refused(option):
    """They would be ignored otherwise: a mixture has batches of a number of rows."""
    perm = ll.open(pa.table({"x": range(9)}))
    (name,) = option
    with pytest.raises(ValueError, match=f"`{name}`.*batch_tokens"):
        ll.mix([perm, perm]).loader(2, **option)
