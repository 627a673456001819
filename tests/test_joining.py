"""Concatenating what transforms return for single rows, for every kind of batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.formats._columns import Ragged
from lanceloader.stages.concat import concat, empty_like, num_rows_of
from lanceloader.stages.transform import ErrorPolicy, transformed


def as_kind(kind, numbers):
    values = np.asarray(numbers, dtype=np.int64)
    column = pa.array(numbers, pa.int64())
    ends = np.arange(len(values) + 1) * 2
    return {
        "list": lambda: values.tolist(),
        "numpy": lambda: np.stack([values, values], axis=1),
        "tensor": lambda: torch.from_numpy(values),
        "record batch": lambda: pa.record_batch({"x": column}),
        "table": lambda: pa.table({"x": column}),
        "array": lambda: column,
        "ragged": lambda: Ragged(np.repeat(values, 2), ends),
        "dict": lambda: {"x": torch.from_numpy(values), "t": [*map(str, values)]},
        "tuple": lambda: (torch.from_numpy(values), values.tolist()),
        "pandas": lambda: pa.table({"x": column}).to_pandas(),
    }[kind]()


KINDS = ["list", "numpy", "tensor", "record batch", "table", "array"]
KINDS += ["ragged", "dict", "tuple", "pandas"]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "equals"):
        return a.equals(b)
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_joined(kind):
    parts = [as_kind(kind, numbers) for numbers in ([1, 2], [3], [], [4, 5])]
    assert [num_rows_of(part) for part in parts] == [2, 1, 0, 2]
    whole, wanted = concat(parts), as_kind(kind, [1, 2, 3, 4, 5])
    assert type(whole) is type(wanted)
    assert same(whole, wanted)

    # Through the stage, with a row that fails.
    def call(batch):
        numbers = batch.column(0).to_pylist()
        if 3 in numbers:
            raise LookupError(3)
        return as_kind(kind, numbers)

    batch = pa.record_batch({"x": [1, 2, 3, 4, 5]})
    (found,) = transformed([batch], call, threads=1, policy=ErrorPolicy("skip"))
    assert same(found, as_kind(kind, [1, 2, 4, 5]))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_rows(kind):
    """They are joined with any others as if they were not there."""
    some = as_kind(kind, [1, 2])
    none = empty_like(some)
    assert type(none) is type(some)
    assert num_rows_of(none) == 0
    assert same(concat([none, some]), some)
    assert same(some, as_kind(kind, [1, 2]))


def test_parts_of_lists():
    part = Ragged(np.arange(10), np.array([2, 3, 7]))
    values, offsets = concat([part, part])
    assert values.tolist() == [2, 3, 4, 5, 6] * 2
    assert offsets.tolist() == [0, 1, 5, 6, 10]


@pytest.mark.parametrize(
    "parts",
    [
        [[1], torch.ones(1)],
        [{"x": [1]}, {"y": [1]}],
        [torch.ones(1, 3), torch.ones(1, 4)],
        [np.ones((1, 3)), np.ones((1, 4))],
        [([1],), ([1], [2])],
        [pa.record_batch({"x": [1]}), pa.record_batch({"x": ["a"]})],
    ],
)
def test_what_cannot_be_joined(parts):
    with pytest.raises(ValueError, match=r"rows|dicts|tuples"):
        concat(parts)


@pytest.mark.parametrize(
    "value", [None, 3, "text", torch.tensor(1), {}, {"x": [1], "y": []}, np.float64(1)]
)
def test_values_without_rows_are_refused(value):
    with pytest.raises(ValueError, match="one output row per input row"):
        num_rows_of(value)
