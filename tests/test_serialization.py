"""Serialization of batches: values, what they share, and how long they live."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from lanceloader.helper.producer import PickledProducer
from lanceloader.tensor_tree import tree_map
from lanceloader.transport.serialization import packed
from transferred import transferred


class Lazy(dict):
    """A dict that makes its tensors when it is read."""

    def values(self):
        return [torch.full((3,), float(number)) for number in super().values()]


class Made:
    """An object whose tensors are made when it is pickled."""

    def __reduce__(self):
        return list, ([torch.full((3,), 7.0), torch.full((3,), 8.0)],)


def test_tensors_that_are_made_while_pickling():
    for _ in range(20):
        found = transferred([Lazy(a=1, b=2), Made(), Made()])
        for made in found[1:]:
            assert [tensor.tolist() for tensor in made] == [[7.0] * 3, [8.0] * 3]


def test_values_that_hold_themselves():
    batch = [torch.arange(3)]
    batch.append(batch)
    found = transferred(batch)
    assert found[0].tolist() == [0, 1, 2]
    assert found[1] is found


@pytest.mark.timeout(60)
def test_values_that_are_shared_many_times():
    nested = [torch.arange(3)]
    for _ in range(60):
        nested = [nested, nested]
    found = transferred(nested)
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found[0].tolist() == [0, 1, 2]


def test_neighbours_in_memory_are_changed_one_by_one():
    both = torch.stack([torch.arange(3.0), torch.arange(3.0)])
    found = transferred({"a": both[0], "b": both[1]})
    weight = torch.nn.Parameter(torch.full((), 2.0))
    scaled = found["a"] * weight
    found["b"].mul_(3)
    scaled.sum().backward()
    assert weight.grad == 3
    assert found["a"].mul_(weight).tolist() == [0, 2, 4]
    assert found["b"].tolist() == [0, 3, 6]


def test_a_value_that_was_sent_is_released_at_once():
    class Batch(dict):
        pass

    batch = Batch(x=torch.arange(1000))
    is_alive = weakref.ref(batch)
    gc.disable()
    try:
        transferred({"batch": dict(batch), "whole": [batch["x"][::2]]})
        layout, parts = packed([batch["x"]])
        tensor = weakref.ref(batch["x"])
        del layout, parts, batch
        assert tensor() is None
        assert is_alive() is None
    finally:
        gc.enable()


class AttributeDict(dict):
    __getattr__ = dict.__getitem__


def test_dicts_that_raise_for_attributes():
    found = transferred(AttributeDict(a=torch.arange(3)))
    assert type(found) is AttributeDict
    assert found.a.tolist() == [0, 1, 2]
    doubled = tree_map(found, lambda tensor: tensor * 2)
    assert doubled["a"].tolist() == [0, 2, 4]


class Pair(tuple):
    def __new__(cls, a, b):
        return super().__new__(cls, (a, b))

    def __getnewargs__(self):
        return tuple(self)


def test_tuples_with_arguments_of_their_own():
    found = transferred(Pair(torch.arange(10)[::3], 1))
    assert type(found) is Pair
    assert found[0].tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize("make", [lambda z: z.conj(), lambda z: z.conj().imag])
def test_tensors_that_are_conjugated_or_negated_when_read(make):
    value = make(torch.complex(torch.arange(3.0), torch.arange(3.0) + 1))
    assert torch.equal(transferred([value])[0], value)


def test_transposed_tensors_share_their_memory():
    square = torch.arange(9).view(3, 3)
    found = transferred({"x": square, "y": square.t()})
    found["x"][0, 1] = 100
    assert found["y"][1, 0] == 100


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor


def test_dataclasses():
    whole = torch.arange(8)
    found = transferred(Record(whole[:4], whole[4:]))
    assert (found.x.tolist(), found.y.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7])


def test_views_of_arrays_that_change_are_compared_by_value():
    whole = np.zeros(100_000)
    view = whole[:]
    view.flags.writeable = False
    before = PickledProducer({"scale": view})
    assert before.equals(PickledProducer({"scale": view}))
    whole[:] = 2
    assert not before.equals(PickledProducer({"scale": view}))
    fixed = np.zeros(100_000)
    fixed.flags.writeable = False
    assert PickledProducer(fixed).equals(PickledProducer(fixed))
