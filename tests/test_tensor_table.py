"""Tensors of one object, packed as one buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lanceloader.transport.serialization import packed, unpacked
from lanceloader.transport.tensor_table import TensorTable


def sent(value):
    """What a reader gets, and the number of buffers that are written."""
    layout, parts = packed(value)
    memory = np.zeros(layout.num_bytes, np.uint8)
    for offset, part in parts:
        memory[offset : offset + len(part)] = part
    return unpacked(memoryview(memory), layout), layout.num_buffers


def runs(value):
    return [(name, shape, count) for name, shape, count in TensorTable(value)._runs]


def test_tensors_that_lie_end_to_end_are_one_run():
    whole = torch.arange(24.0).view(4, 3, 2)
    value = dict(zip("abcd", whole.unbind(0), strict=True))
    assert runs(value) == [("float32", (3, 2), 4)]
    assert runs({"x": value["c"], "y": [value["a"], (value["b"],)]}) == [
        ("float32", (3, 2), 3)
    ]
    assert runs([value["a"], value["c"], value["d"]]) == [
        ("float32", (3, 2), 1),
        ("float32", (3, 2), 2),
    ]
    found, num_buffers = sent(value)
    assert num_buffers == 1
    assert list(found) == list(value)
    for name, tensor in value.items():
        assert torch.equal(found[name], tensor)
        found[name] += 1
        assert torch.equal(found[name], tensor + 1)
    addresses = [tensor.data_ptr() for tensor in found.values()]
    assert np.diff(addresses).tolist() == [24, 24, 24]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16]
)
def test_dtypes_and_shapes(dtype):
    value = [torch.ones(shape, dtype=dtype) for shape in ((), (1,), (3,), (2, 5))]
    value += torch.ones(5, dtype=dtype).unbind(0)
    found, num_buffers = sent((7, value))
    assert num_buffers == 1
    assert found[0] == 7
    for one, other in zip(found[1], value, strict=True):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


def test_tensors_that_overlap_still_do():
    whole = torch.arange(10)
    two = {"a": whole[:6], "b": whole[4:], "alone": torch.arange(3)}
    assert runs(two) == [("int64", (3,), 1)]
    for value in (two, {"a": whole, "c": whole[2:4], "b": whole[3:5]}):
        found, _ = sent(value)
        assert all(torch.equal(found[name], value[name]) for name in value)
        found["a"][4] = 77
        assert found["b"][0 if value["b"][0] == 4 else 1] == 77


def test_a_tensor_that_occurs_twice_is_one():
    tensor = torch.arange(5)
    found, num_buffers = sent([tensor, {"x": tensor}, "text"])
    assert num_buffers == 1
    assert found[0] is found[1]["x"]


def test_other_tensors_are_left_to_the_pickle():
    class Holder:
        def __reduce__(self):
            return list, ([torch.arange(4)],)

    value = {
        "turned": torch.arange(6).view(2, 3).T,
        "none": torch.empty(0, 4),
        "grad": torch.ones(2, requires_grad=True),
        "held": Holder(),
        "after text": ["a", torch.arange(3), "b"],
        "plain": torch.arange(2),
    }
    assert runs(value) == [("int64", (2,), 1)]
    found, _ = sent(value)
    assert torch.equal(found["turned"], value["turned"])
    assert found["none"].shape == (0, 4)
    assert found["grad"].requires_grad
    assert found["held"][0].tolist() == [0, 1, 2, 3]
    assert found["after text"][1].tolist() == [0, 1, 2]
    assert found["plain"].tolist() == [0, 1]
