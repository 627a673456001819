"""Arrow data in memory whose nested values are slices: each level has an offset of its own."""

from __future__ import annotations

import lanceloader as ll
import pyarrow as pa
import pytest

COUNT = 12
LEAVES = {
    "int64": pa.array([*range(COUNT - 1), None]),
    "int8": pa.array(range(COUNT), pa.int8()),
    "bool": pa.array([True, None, False] * 4),
    "string": pa.array(["a", None, "bcd"] * 4),
    "view": pa.array(["a", None, "a long one, out of line"] * 4, pa.string_view()),
    "list": pa.array([[1], None, [], [2, 3]] * 3),
    "dictionary": pa.array(["x", "y", None] * 4).dictionary_encode(),
    "vector": pa.array([[n, n + 1] for n in range(COUNT)], pa.list_(pa.int32(), 2)),
}


def struct_of(values, name):
    mask = pa.array([row % 5 == 3 for row in range(len(values))])
    return pa.StructArray.from_arrays([values], [name], mask=mask)


def vectors_of(values):
    return pa.FixedSizeListArray.from_arrays(values[: len(values) // 2 * 2], 2)


def lists_of(values):
    offsets = [0, *range(1, len(values)), len(values)]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


SHAPES = {
    "structs in structs": [
        lambda values: struct_of(values, "a"),
        lambda values: struct_of(values, "b"),
        lambda values: struct_of(values, "c"),
    ],
    "structs in vectors": [
        lambda values: struct_of(values, "a"),
        lambda values: struct_of(values, "b"),
        vectors_of,
        lambda values: struct_of(values, "c"),
    ],
    "structs in lists": [
        lambda values: struct_of(values, "a"),
        lambda values: struct_of(values, "b"),
        lists_of,
        lambda values: struct_of(values, "c"),
    ],
    "vectors in structs": [vectors_of, lambda values: struct_of(values, "a")],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("leaf", LEAVES)
def test_rows_are_those_of_slices(shape, leaf):
    for skipped in ((0, 0, 2), (1, 0, 0), (2, 1, 0), (0, 1, 1), (1, 1, 1, 1)):
        values = LEAVES[leaf]
        cuts = iter(skipped)
        for make in SHAPES[shape]:
            cut = next(cuts, 0)
            values = make(values.slice(cut, len(values) - 2 * cut))
        table = pa.table({"x": values}).slice(next(cuts, 0))
        wanted = table.to_pylist()
        perm = ll.open(table)
        assert perm.to_arrow().to_pylist() == wanted
        places = [len(wanted) - 1, 0]
        assert perm.select(places).to_arrow().to_pylist() == [wanted[p] for p in places]


def test_buffers_need_not_be_aligned():
    numbers = pa.array(range(8))
    moved = pa.py_buffer(b"-" + numbers.buffers()[1].to_pybytes()).slice(1)
    column = pa.Array.from_buffers(pa.int64(), 8, [None, moved])
    nested = pa.StructArray.from_arrays([column], ["y"])
    perm = ll.open(pa.table({"x": column, "s": nested})).with_format("python_col")
    assert perm[:]["x"] == list(range(8))
    assert perm[[5]]["s"] == [{"y": 5}]
