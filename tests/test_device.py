"""Pinning and copying to a device: which tensors are moved, and in which order."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import types
from collections import OrderedDict, defaultdict
from typing import NamedTuple

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.formats._columns import Columns, Ragged
from lanceloader.stages import device as stage
from lanceloader.stages.device import copied_ahead, map_by_storage, on_device, pinned
from lanceloader.tensor_tree import tree_leaves, tree_map
from lanceloader.torch import DataLoader

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch.cuda.is_available() is false"
)


class Pair(NamedTuple):
    x: torch.Tensor
    name: str


@dataclasses.dataclass(frozen=True)
class Sample:
    x: torch.Tensor
    size: int = dataclasses.field(init=False, default=3)


class Movable:
    """What is no tensor, but can be moved."""

    place = "cpu"

    def to(self, place):
        new = Movable()
        new.place = str(place)
        return new


class MyList(list):
    pass


def nested():
    x = torch.arange(3.0)
    return {
        "x": x,
        "columns": Columns(x=x, text=["a"]),
        "ordered": OrderedDict(b=x, a=1),
        "default": defaultdict(list, x=x),
        "frozen": types.MappingProxyType({"x": x}),
        "list": [x, "text", None, 3, [x]],
        "my": MyList([x, 1]),
        "tuple": (x, b"bytes"),
        "pair": Pair(x, "name"),
        "ragged": Ragged(x, torch.tensor([0, 1, 3])),
        "sample": Sample(x),
        "movable": Movable(),
    }


def test_tensors_in_nested_values_are_found():
    value = nested()
    found = tree_map(value, lambda leaf: "moved")
    assert found == {
        "x": "moved",
        "columns": {"x": "moved", "text": ["a"]},
        "ordered": {"b": "moved", "a": 1},
        "default": {"x": "moved"},
        "frozen": {"x": "moved"},
        "list": ["moved", "text", None, 3, ["moved"]],
        "my": ["moved", 1],
        "tuple": ("moved", b"bytes"),
        "pair": ("moved", "name"),
        "ragged": ("moved", "moved"),
        "sample": Sample("moved"),
        "movable": "moved",
    }
    assert [type(part) for part in found.values()][1:-1] == [
        type(part) for part in value.values()
    ][1:-1]
    assert found["default"]["new"] == []
    # What was given is as it was.
    assert all(isinstance(leaf, torch.Tensor | Movable) for leaf in tree_leaves(value))


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        3,
        None,
        np.arange(3),
        pa.array([1, 2]),
        pa.record_batch({"x": [1]}),
        pa.table({"x": [1]}).to_pandas(),
        torch.float32,
        torch.Tensor,
        range(3),
    ],
)
def test_values_without_tensors_are_left_alone(value):
    assert tree_map(value, pytest.fail) is value
    (found,) = on_device([[value]], "cpu")
    assert found[0] is value


@pytest.mark.parametrize("place", ["meta", torch.device("meta")])
def test_other_devices(place):
    found = list(on_device([nested(), nested()], place))
    assert len(found) == 2
    for batch in found:
        tensors = [
            leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)
        ]
        assert len(tensors) == 13
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert batch["movable"].place == "meta"
        assert batch["columns"]["text"] == ["a"]


def test_tensors_already_on_the_device_are_not_copied():
    batches = [nested(), nested()]
    assert list(on_device(batches)) == batches
    for given, found in zip(batches, on_device(batches, "cpu"), strict=True):
        assert found["x"] is given["x"]


def test_a_device_is_not_ignored():
    for batch in (pa.record_batch({"x": [1]}), ["a"], {"x": np.ones(3)}):
        with pytest.raises(TypeError, match=r"`device`='meta' .* without tensors"):
            next(on_device([batch], "meta"))
    assert list(on_device([[], [torch.ones(1)], ["a"]], "meta"))[2] == ["a"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_pinning_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(stage, "_has_warned", False)
    value = nested()
    with pytest.warns(UserWarning, match="no accelerator is found"):
        assert pinned(value) is value
    # Once: a second warning would be an error here.
    assert pinned(value) is value
    (found,) = on_device([value], pin_memory=True)
    assert found is value
    (found,) = on_device([value], "meta", pin_memory=True)
    assert found["x"].device.type == "meta"


# Tensors of one storage.


def test_tensors_of_one_storage_go_in_one_copy():
    whole = torch.arange(24, dtype=torch.float32)
    batch = dict(zip("abc", whole.view(3, 8).unbind(0), strict=True))
    batch |= {"odd": whole[1::2], "int": whole.view(torch.int32)[3:5]}
    batch |= {"own": torch.arange(4), "same": batch["a"], "empty": torch.empty(0)}
    large = torch.arange(1000.0)
    batch |= {"p": large[:2], "q": large[7:9], "wide": torch.ones(2, 2).T}
    copies = []

    def copied(tensor):
        copies.append(tensor)
        return tensor.clone()

    found = map_by_storage(batch, copied)
    assert found.keys() == batch.keys()
    for name, tensor in batch.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
        assert found[name].data_ptr() != tensor.data_ptr() or not tensor.numel()
    assert sum(tensor.nbytes >= 96 for tensor in copies) == 1
    assert len(copies) == 6
    found["a"][0] = 7
    assert found["same"][0] == 7
    assert whole[0] == 0


def test_tensors_that_are_more_than_memory():
    batch = {
        "grad": torch.ones(4, requires_grad=True),
        "sparse": torch.eye(2).to_sparse(),
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "meta": torch.ones(2, device="meta"),
    }
    copies = []
    map_by_storage(batch, copies.append)
    assert len(copies) == 5
    assert all(a is b for a, b in zip(copies, batch.values(), strict=True))


@pytest.mark.parametrize(
    "source",
    [
        torch.arange(12, dtype=torch.float32).view(3, 4),
        torch.arange(5).bfloat16(),
        torch.tensor([True, False]),
        torch.tensor(7.0),
        torch.empty(0, 3),
        torch.tensor([1 + 2j]),
    ],
)
def test_bytes_are_copied(source):
    target = torch.zeros_like(source)
    stage.copy_bytes(target, source)
    assert torch.equal(target, source)


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """A batch of a table, two columns of which lie end to end."""
    monkeypatch.setattr(Columns, "are_copied", True)
    count = 200
    rows = pa.table(
        {
            "x": pa.array(np.arange(count), pa.float32()),
            "y": pa.array(-np.arange(count), pa.float32()),
            "text": [str(at) for at in range(count)],
            "tokens": pa.array(
                np.arange(4 * count).reshape(-1, 4).tolist(), pa.list_(pa.int64(), 4)
            ),
        }
    )
    lance.write_dataset(rows, tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance")
    perm.warm()
    found = next(iter(perm.loader(52, shuffle=True, seed=1, format="torch_dict")))
    assert any(len(names) == 2 for names, *_ in found.made_of.runs)
    return found


def copies_of(batch):
    """Copy a batch, and return the copy and the tensors that were copied."""
    copies = []

    def copied(tensor):
        copies.append(tensor)
        return tensor.clone()

    found = map_by_storage(batch, copied)
    assert list(found) == list(batch)
    for name, column in batch.items():
        if name == "text":
            assert found[name] == column
            continue
        assert torch.equal(found[name], column), name
        assert found[name].dtype == column.dtype
        assert found[name].data_ptr() != column.data_ptr()
    return found, copies


@pytest.mark.parametrize("change", ["none", "value"])
def test_blocks_of_a_batch_are_copied_whole(batch, change):
    if change == "value":
        batch["x"][0] = 9
    found, copies = copies_of(batch)
    assert type(found) is Columns
    assert sorted(copy.numel() for copy in copies) == [104, 208]
    # Not views of a common base.
    assert found["x"]._base is None
    assert found["y"]._base is None


def other_item(batch):
    batch["x"] = torch.ones(52)


def other_type(batch):
    batch["x"].data = batch["x"].data.view(torch.int32)


def swapped(batch):
    batch["x"], batch["y"] = batch["y"], batch["x"]


def views(batch):
    batch["inputs"], batch["targets"] = batch["tokens"][:, :-1], batch["tokens"][:, 1:]


@pytest.mark.parametrize("change", [other_item, other_type, swapped, views])
def test_columns_that_blocks_no_longer_hold(batch, change):
    change(batch)
    found, copies = copies_of(batch)
    if change is views:
        storages = {
            found[name].untyped_storage().data_ptr()
            for name in ("inputs", "targets", "tokens")
        }
        assert len(storages) == 1
        assert len(copies) == 2


class Pinnable:
    """What can be pinned and moved, but has no ``record_stream``, such as a ``PackedSequence``."""

    def __init__(self, places=()):
        self.places = places

    def pin_memory(self):
        return Pinnable((*self.places, "pinned"))

    def to(self, place):
        return Pinnable((*self.places, str(place)))


def test_what_is_copied_late_is_pinned_first():
    streams = FakeStreams()
    batches = iter([[FakeTensor(streams, 0), Pinnable()]])
    ((_, value),) = copied_ahead(batches, torch.device("cuda", 0), streams, pins=True)
    assert value.places == ("pinned", "cuda:0")


# Streams, with ones that only write down what is asked of them.


class FakeStreams:
    """What ``torch.cuda`` has of streams; the current one belongs to a thread, as there."""

    def __init__(self):
        self.log = []
        self.local = threading.local()

    class Event:
        def __init__(self, number):
            self.number = number

    def Stream(self, device):  # noqa: N802
        return FakeStream(self, f"side of {device}")

    @contextlib.contextmanager
    def stream(self, stream):
        before = self.current_stream(None)
        self.local.stream = stream
        yield
        self.local.stream = before

    def current_stream(self, device):
        name = f"main of {threading.current_thread().name}"
        return getattr(self.local, "stream", None) or FakeStream(self, name)


class FakeStream:
    def __init__(self, streams, name):
        self.streams = streams
        self.name = name

    def record_event(self):
        copied = [what for kind, what, _ in self.streams.log if kind == "copy"]
        self.streams.log.append(("event", copied[-1], self.name))
        return copied[-1]

    def wait_event(self, event):
        self.streams.log.append(("wait", event, self.name))


class FakeTensor:
    def __init__(self, streams, number, is_there=False):
        self.streams = streams
        self.number = number
        self.is_there = is_there

    def to(self, device, *, non_blocking):
        assert non_blocking
        name = self.streams.current_stream(device).name
        self.streams.log.append(("copy", self.number, name))
        return FakeTensor(self.streams, self.number, is_there=True)

    def record_stream(self, stream):
        assert self.is_there
        self.streams.log.append(("record", self.number, stream.name))


def test_copies_are_one_ahead_on_a_stream_of_their_own():
    streams = FakeStreams()
    changed = threading.Condition()
    taken = 0

    def source():
        nonlocal taken
        for number in range(5):
            with changed:
                taken += 1
                changed.notify_all()
            yield {"x": FakeTensor(streams, number), "text": ["a"], "late": Movable()}

    place = torch.device("cuda", 0)
    found = copied_ahead(source(), place, streams, pins=False)
    assert taken == 0
    for number, batch in enumerate(found):
        assert batch["x"].number == number
        assert batch["x"].is_there
        assert batch["late"].place == "cuda:0"
        with changed:
            wanted = min(number + 2, 5)
            assert changed.wait_for(lambda wanted=wanted: taken >= wanted, 20)
            assert taken == wanted
    side, main = "side of cuda:0", f"main of {threading.current_thread().name}"
    for number in range(5):
        # Only the order of what belongs to one batch is certain.
        assert [(k, on) for k, what, on in streams.log if what == number] == [
            ("copy", side),
            ("event", side),
            ("wait", main),
            ("record", main),
        ]


def test_closing_ends_copies():
    streams = FakeStreams()
    batches = (FakeTensor(streams, number) for number in range(1000))
    found = copied_ahead(batches, torch.device("cuda", 0), streams, pins=False)
    next(found)
    found.close()
    assert list(found) == []
    for thread in threading.enumerate():
        if thread.name.startswith("lanceloader-dev"):
            thread.join(20)
            assert not thread.is_alive()


# With a device.


@needs_cuda
def test_on_cuda():
    whole = torch.arange(3 << 20, dtype=torch.float32)

    def batches():
        for number in range(20):
            x, y, z = (whole + number).view(3, -1).unbind(0)
            yield {"x": x, "y": y, "z": Ragged(z, torch.arange(3)), "text": ["a"]}

    for pin_memory in (False, True):
        for number, batch in enumerate(
            on_device(batches(), "cuda", pin_memory=pin_memory)
        ):
            assert batch["x"].is_cuda
            torch.cuda._sleep(1_000_000)
            total = batch["x"].sum(dtype=torch.float64) + batch["z"].values.sum(
                dtype=torch.float64
            )
            wanted = (whole + number).view(3, -1)[[0, 2]].sum(dtype=torch.float64)
            assert total.item() == wanted.item()


@needs_cuda
def test_pinned():
    found = pinned(nested())
    assert all(
        leaf.is_pinned() for leaf in tree_leaves(found) if not isinstance(leaf, Movable)
    )
    (found,) = on_device([nested()], pin_memory=True)
    assert found["x"].is_pinned()


@needs_cuda
@pytest.mark.parametrize("format", ["torch_dict", "torch_col"])
@pytest.mark.parametrize("pin_memory", [False, True])
def test_epochs_of_a_loader_on_cuda(format, pin_memory):
    # Steps that take longer than a batch: a batch must not be overwritten before its step has run.
    rows = pa.table({name: np.arange(100_000.0) * at for at, name in enumerate("abc")})
    perm = ll.open(rows)
    options = {"shuffle": True, "seed": 3, "epochs": 2, "format": format}
    expected = [sums_of(batch).tolist() for batch in perm.loader(1000, **options)]
    found = []
    for batch in perm.loader(1000, device="cuda", pin_memory=pin_memory, **options):
        torch.cuda._sleep(2_000_000)
        found.append(sums_of(batch))
        assert found[-1].is_cuda
    assert [one.tolist() for one in found] == expected


def sums_of(batch):
    """Return the sum of each column."""
    parts = batch.values() if isinstance(batch, dict) else batch
    return torch.stack([part.double().sum() for part in parts])


@needs_cuda
@pytest.mark.parametrize("num_workers", [0, 2])
def test_our_data_loader_on_cuda(num_workers):
    rows = pa.table({"x": np.arange(20_000)})
    loader = DataLoader(
        ll.open(rows), batch_size=256, shuffle=True, seed=1, format="torch_dict",
        num_workers=num_workers, device="cuda",
        multiprocessing_context="spawn" if num_workers else None,
    )  # fmt: skip
    found = torch.cat([batch["x"] for batch in loader])
    assert found.is_cuda
    assert sorted(found.tolist()) == list(range(20_000))


@needs_cuda
def test_memory_of_a_device_is_flat():
    loader = ll.open(pa.table({"x": np.zeros(1 << 20)})).loader(
        1 << 16, shuffle=True, seed=1, epochs=20, format="torch_dict", device="cuda",
        pin_memory=True,
    )  # fmt: skip
    peaks = []
    for _ in loader:
        torch.cuda._sleep(100_000)
        peaks.append(torch.cuda.memory_allocated())
    # The batch, the one that is copied ahead, and one that is made meanwhile.
    assert max(peaks[len(peaks) // 2 :]) - peaks[0] <= 3 * (1 << 16) * 8
