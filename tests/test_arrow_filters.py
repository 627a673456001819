"""Filters over Arrow data read only the columns they name, of any name and type."""

from __future__ import annotations

import decimal
import math

import lanceloader as ll
import polars as pl
import pyarrow as pa
import pytest
from lanceloader.errors import ColumnNotFoundError, UnsupportedError

NAN = float("nan")

# Columns that LanceDB refuses, changes or takes for vectors, and one that is harmless.
COLUMNS = {
    "id": pa.array(range(4)),
    "vector": pa.array(
        [[0.1, 0.2], [0.3, 0.4], [NAN, 1.0], None], pa.list_(pa.float64())
    ),
    "embedding": pa.array(
        [[NAN, 1.0], None, [1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)
    ),
    "null_vector": pa.array([None] * 4, pa.list_(pa.float32(), 2)),
    "text_embedding": pa.array([[1], [1, 300], [], None]),
    "sepal.length": pa.array([5.0, 6.0, 7.0, None]),
    "sepal": pa.array([{"length": 1.0}] * 4),
    "petal.length": pa.array([5.0, 6.0, 7.0, None]),
    "_rowid": pa.array([13, 12, 11, 10], pa.uint64()),
    "": pa.array([1, 2, 3, 4]),
    "ti`ck": pa.array([1, 2, 3, 4]),
    "Upper": pa.array([1, 2, 3, 4]),
    "category": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "decimal32": pa.array(
        [decimal.Decimal("1.25"), None, decimal.Decimal(2), decimal.Decimal(3)],
        pa.decimal32(5, 2),
    ),
    "interval": pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
    "day": pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
    "union": pa.UnionArray.from_dense(
        pa.array([0, 0, 1, 1], pa.int8()),
        pa.array([0, 1, 0, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["a", "b"])],
    ),
    "run_end": pa.RunEndEncodedArray.from_arrays(
        pa.array([2, 4], pa.int32()), pa.array(["x", "y"])
    ),
    "list_view": pa.array([[1], None, [2, 3], []], pa.list_view(pa.int64())),
    "string_view": pa.array(["a", "b", None, "more than twelve"]).cast(
        pa.string_view()
    ),
    "nested": pa.array(
        [{"s": ["a"]}, None, {"s": None}, {"s": ["b", "c"]}],
        pa.struct({"s": pa.list_view(pa.string_view())}),
    ),
}


@pytest.fixture(scope="module")
def perm():
    data = pa.table(COLUMNS)
    # In chunks, one of them empty.
    parts = [data.slice(0, 1), data.slice(1, 0), data.slice(1)]
    return ll.open(pa.concat_tables(parts)).select_columns(["id"])


def first_is_low(row):
    return row["vector"] is not None and row["vector"][0] <= 0.3


@pytest.mark.parametrize(
    ("predicate", "holds"),
    [
        ("id >= 2", lambda row: row["id"] >= 2),
        ("array_element(vector, 1) <= 0.3", first_is_low),
        ("vector[2] = 1.0", lambda row: row["id"] == 2),
        ("embedding IS NULL", lambda row: row["embedding"] is None),
        ("array_element(embedding, 2) = 1.0", lambda row: row["id"] == 0),
        ("null_vector IS NULL", lambda row: row["null_vector"] is None),
        ("array_length(text_embedding) = 2", lambda row: row["id"] == 1),
        ("array_has(text_embedding, 300)", lambda row: row["id"] == 1),
        ("`sepal.length` > 5", lambda row: (row["sepal.length"] or 0) > 5),
        ("sepal.length = 1", lambda row: row["sepal"]["length"] == 1),
        ("petal.length > 5", lambda row: (row["petal.length"] or 0) > 5),
        ("'petal.length' = 'petal.length'", lambda _: True),
        ("_rowid > 11", lambda row: row["_rowid"] > 11),
        ("_ROWID > 11", lambda row: row["_rowid"] > 11),
        ("_rowoffset > 1", lambda row: row["id"] > 1),
        ("`` > 1", lambda row: row[""] > 1),
        ("`ti``ck` > 1", lambda row: row["ti`ck"] > 1),
        ("upper > 2 and UPPER < 4", lambda row: 2 < row["Upper"] < 4),
        ("upper(category) = 'A'", lambda row: row["category"] == "a"),
        ("category IS NULL", lambda row: row["category"] is None),
        (
            "decimal32 > CAST('1.50' AS decimal(5, 2))",
            lambda row: row["decimal32"] is not None and row["decimal32"] > 1.5,
        ),
        ("run_end = 'x'", lambda row: row["run_end"] == "x"),
        ("list_view IS NULL", lambda row: row["list_view"] is None),
        ("array_length(list_view) = 2", lambda row: len(row["list_view"] or []) == 2),
        ("string_view > 'a'", lambda row: (row["string_view"] or "") > "a"),
        (
            "array_has(nested.s, 'c')",
            lambda row: "c" in ((row["nested"] or {}).get("s") or []),
        ),
        ("true", lambda _: True),
    ],
)
def test_rows_are_those_of_python(perm, predicate, holds):
    rows = pa.table(COLUMNS).to_pylist()
    wanted = [row["id"] for row in rows if holds(row)]
    assert perm.filter(predicate).to_arrow()["id"].to_pylist() == wanted


def test_columns_of_any_type_are_left_alone(perm):
    """All of them, whether SQL could name them or not."""
    kept = ll.open(pa.table(COLUMNS)).filter("id = 2").to_arrow()
    for name, column in COLUMNS.items():
        value, wanted = kept[name].combine_chunks()[0], column[2]
        assert value.type == wanted.type
        if name != "vector":
            assert value == wanted
    assert math.isnan(kept["vector"][0].as_py()[0])


@pytest.mark.parametrize(
    "predicate", ["`union` = 1", "UNION = 1", "`interval` IS NULL"]
)
def test_a_type_that_sql_does_not_know_is_named(perm, predicate):
    with pytest.raises(
        UnsupportedError, match=r"(?i)column `(union|interval)` .*boolean array"
    ):
        perm.filter(predicate)


def test_a_word_that_is_also_a_column_of_such_a_type(perm):
    """What is wrong is that the engine has no intervals, not the column `day`."""
    with pytest.raises(ValueError, match="INTERVAL '1' DAY"):
        perm.filter("id > INTERVAL '1' day")


def test_a_misspelt_column_is_compared_with_all_columns(perm):
    with pytest.raises(ColumnNotFoundError) as caught:
        perm.filter("id > 1 and string_veiw = 'a'")
    assert str(caught.value).startswith(
        "Invalid input, filter \"id > 1 and string_veiw = 'a'\": column `string_veiw` does not "
        "exist; did you mean `string_view`"
    )


def test_a_frame_of_polars():
    frame = pl.DataFrame(
        {
            "id": [0, 1, 2],
            "c": pl.Series(["a", "b", "a"], dtype=pl.Categorical),
            "e": pl.Series(["a", "b", "a"], dtype=pl.Enum(["b", "a"])),
            "s": ["x", None, "y"],
            "l": [["a"], [], None],
        }
    )
    perm = ll.open(frame).select_columns(["id"])
    for predicate, wanted in [
        ("c = 'a'", [0, 2]),
        ("e < 'b'", [0, 2]),
        ("s IS NULL", [1]),
        ("array_has(l, 'a')", [0]),
    ]:
        assert perm.filter(predicate).to_arrow()["id"].to_pylist() == wanted


@pytest.mark.parametrize("column", ["id", "_rowid"])
def test_more_rows_than_a_fragment_has(column):
    """Row ids are then not row offsets."""
    perm = ll.open(pa.table({"id": range(1_100_000)}))
    kept = perm.shuffle(seed=1).filter(f"{column} >= 1048570").to_arrow()["id"]
    assert sorted(kept.to_pylist()) == list(range(1_048_570, 1_100_000))


def test_no_rows():
    perm = ll.open(pa.table(COLUMNS).slice(0, 0))
    assert len(perm.filter("category = 'a' and list_view IS NULL")) == 0


def test_split_by_an_expression_over_arrow_data():
    builder = ll.permutation_builder(pa.table(COLUMNS)).filter("`sepal.length` > 5")
    plan = builder.split_calculated("_rowid % 2").execute().to_arrow()
    assert plan.to_pydict() == {"split_id": [0, 1], "row_id": [1, 2]}
