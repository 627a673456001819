"""Hostile arguments: the result is right, or a documented error names the argument or the value."""

from __future__ import annotations

import inspect

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from hostile import (
    HOSTILE,
    Parameter,
    Rows,
    parameters_of,
    public_methods,
    result_of,
)
from lanceloader import _native

# What other modules of the package call; users of the type do not.
INTERNAL = {
    "assign_tables",
    "make_units",
    "open_format_reader",
    "with_read_options",
    "with_rows",
    "with_selection",
}
ROWS = 20
# Arguments that are needed beside the hostile one.
REQUIRED = {"column": "label", "uri": "copy.lance"}


def required_of(parameters) -> list:
    return [
        REQUIRED.get(each.name, 5)
        for each in parameters
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", public_methods(ll.Permutation))
def test_methods_of_a_permutation(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where materialize writes what has a strange name
    table = tables.narrow(ROWS)
    perm, rows = ll.open(table), Rows(table)
    method = getattr(perm, name)
    signature = inspect.signature(method).parameters.values()
    subjects = parameters_of(method)
    check = rows.check
    if name in INTERNAL:
        # Whatever the words: there are some, and none of an internal error.
        subjects, check = [Parameter(r"\w+")], id
    if name == "map":
        # The function is called when rows are read.
        def check(mapped):
            result_of(lambda: rows.check(mapped), *subjects)

    for number, value in enumerate(HOSTILE):
        if name == "select_columns" and isinstance(value, dict):
            # New names of columns, or SQL expressions: no rows of the table.
            continue
        check(result_of(lambda value=value: method(value), value, *subjects))
        check(result_of(lambda value=value: method(value, value), value, *subjects))
        for parameter in signature:
            if parameter.kind is parameter.KEYWORD_ONLY:
                arguments = required_of(signature)
                if name == "materialize":
                    arguments = [f"{parameter.name}{number}.lance"]
                keywords = {parameter.name: value}
                result = result_of(
                    lambda a=arguments, k=keywords: method(*a, **k), value, *subjects
                )
                check(result)


@pytest.mark.parametrize("name", public_methods(ll.PermutationBuilder))
def test_methods_of_a_builder(name, table):
    method = getattr(ll.PermutationBuilder, name)
    subjects = parameters_of(method)
    known = set(ll.Permutation.identity(table).select_columns(["_rowid"]).to_arrow()[0])
    for value in HOSTILE:
        for parameter in subjects[1:]:
            builder = ll.permutation_builder(table)
            keywords = {str(parameter): value}
            plan = result_of(
                lambda b=builder, k=keywords: getattr(b, name)(**k).execute(),
                value,
                *subjects,
            )
            if plan is not None:
                assert {*plan.to_arrow()["row_id"].cast(pa.uint64())} <= known
        builder = ll.permutation_builder(table)
        result = result_of(
            lambda b=builder, v=value: getattr(b, name)(v), value, *subjects
        )
        assert result is None or isinstance(result, ll.PermutationBuilder)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_functions_that_make_a_permutation(value, table):
    if isinstance(value, dict | np.ndarray | pa.Array):
        return
    rows = Rows(table.to_arrow())
    plan = ll.permutation_builder(table).execute()
    calls = {
        ll.open: [lambda: ll.open(value)],
        ll.Permutation.identity: [lambda: ll.Permutation.identity(value)],
        ll.Permutation.from_tables: [
            lambda: ll.Permutation.from_tables(table, value),
            lambda: ll.Permutation.from_tables(table, None, value),
            lambda: ll.Permutation.from_tables(table, plan, value),
        ],
        ll.Permutations: [
            lambda: ll.Permutations(table, value),
            lambda: ll.Permutations(table, plan)[value],
        ],
    }
    for function, each in calls.items():
        for call in each:
            subjects = (value, *parameters_of(function), Parameter("split"))
            rows.check(result_of(call, *subjects))
    for option in (
        "version",
        "branch",
        "tag",
        "storage_options",
        "columns",
        "filter",
        "format",
    ):
        result = result_of(
            lambda option=option: ll.open(table.uri, **{option: value}),
            value,
            Parameter(option),
            # As `Permutation.filter`, which does it, calls it.
            Parameter("predicate"),
        )
        # True is version 1, which has the rows that were deleted later.
        (Rows(tables.narrow(111)) if option == "version" else rows).check(result)


@pytest.mark.parametrize("name", public_methods(_native.Order))
def test_methods_of_an_order(name):
    order = _native.Order.all(ROWS)
    method = getattr(order, name)
    for value in HOSTILE:
        for arguments in ((value,), (value, value), (value, value, value), (0, value)):
            result = result_of(
                lambda a=arguments: method(*a),
                value,
                *parameters_of(method),
                Parameter("row"),
            )
            if isinstance(result, _native.Order) and name not in ("all", "listed"):
                for position in range(min(result.num_rows, ROWS)):
                    assert 0 <= result.at(position) < ROWS
