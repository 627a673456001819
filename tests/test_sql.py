"""The columns that an SQL text names, and the error for one that does not exist."""

from __future__ import annotations

import pytest
from lanceloader.errors import ColumnNotFoundError
from lanceloader.sql import references, sql_error, with_names

COLUMNS = ["id", "X", "a b", "s", "s.t", "sepal.length", "tick`ed", "day", "é"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("id > 1", ["id"]),
        ("ID>1 and x=2", ["id", "X"]),
        ("`x` = 1 or `X` = 2", ["X"]),
        ("'id' = 'it''s id' -- id", []),
        ("1id /* id\nid */ = 2e5", []),
        ("`a b` = 1", ["a b"]),
        ('"a b" = 1', ["a b"]),
        ("s.t = 1", ["s"]),
        ("`s.t` = 1", ["s.t"]),
        ("sepal.length > 1 and Sepal.length > 1", ["sepal.length"]),
        ("sepal . `length` > 1", ["sepal.length"]),
        ("`tick``ed` = 'id'", ["tick`ed"]),
        ("s.id = 1", ["s"]),
        ("id(1) = abs(id)", ["id"]),
        ("id in (1, 2) and x IN(3)", ["id", "X"]),
        ("é = 1", ["é"]),
        ("idx = 1 and _id = 2 and id_ = 3", []),
        ("d > INTERVAL '1' day", ["day"]),
        ("'unfinished id", ["id"]),
        ("", []),
    ],
)
def test_the_columns_that_a_text_names(text, wanted):
    assert [found.column for found in references(text, COLUMNS)] == wanted


def test_other_names_leave_the_rest_as_it_is():
    text = (
        "`sepal.length` > 1 -- sepal.length\n and sepal.length < 'sepal.length' or s.id"
    )
    assert (
        with_names(text, COLUMNS, {"sepal.length": "c0", "s": "c1", "id": "c2"})
        == "c0 > 1 -- sepal.length\n and c0 < 'sepal.length' or c1.id"
    )


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Schema error: No field named tagret. Did you mean 'age'?.", "tagret"),
        ("No field named tagret. Valid fields are `age`, `target`.", "tagret"),
        ('x (No field named "TARGET". Valid fields are a), /home/a.rs:1:2', "TARGET"),
    ],
)
def test_a_missing_column_is_compared_with_those_of_the_table(said, name):
    known = ["age", *(f"c{k}" for k in range(9)), "target"]
    error = sql_error("filter", "tagret > 1", ValueError(said), known)
    assert isinstance(error, ColumnNotFoundError)
    assert str(error).startswith(
        f"Invalid input, filter 'tagret > 1': column `{name}` does not exist; did you mean "
        "`target`"
    )


def test_places_in_sources_are_left_out():
    said = "Invalid user input: no literal 'x', /a/b.rs:23:88, /c/d.rs:1:2 (and, so)"
    error = sql_error("filter", "id > 'x'", ValueError(said), ["id"])
    assert str(error) == (
        "Invalid input, filter \"id > 'x'\": no literal 'x' (and, so)"
    )
