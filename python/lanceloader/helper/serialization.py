"""Objects as runs of bytes that can lie in shared memory, and made again without a copy.

The pickle of an object leaves out its arrays, tensors and Arrow data (protocol 5), which
follow each other as they are. Tensors of one storage share it afterwards too.
"""

from __future__ import annotations

import pickle
import sys
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

__all__ = ["Layout", "packed", "unpacked"]

# What Arrow wants its buffers to begin at a multiple of; more than any type of numbers needs.
ALIGNMENT = 64


class Layout(NamedTuple):
    """Where the parts of a parcel lie: buffers from 0 on, then their sizes, then the pickle."""

    num_buffers: int
    sizes_at: int
    pickle_at: int
    num_bytes: int


def packed(value: Any) -> tuple[Layout, list[tuple[int, Any]]]:
    """Give the layout of an object, and the runs of bytes that make it up, with their places.

    The runs are those of the object itself: write them before it changes.
    """
    stream: list[memoryview] = []
    pickler = Pickler(stream, value)
    pickler.dump(value)
    sizes = array("Q")
    runs: list[tuple[int, Any]] = []
    place = 0
    for buffer in pickler.buffers:
        run = buffer.raw()
        runs.append((place, run))
        sizes.append(run.nbytes)
        place += run.nbytes + -run.nbytes % ALIGNMENT
    sizes_at = place
    runs.append((sizes_at, memoryview(sizes).cast("B")))
    place = pickle_at = sizes_at + len(sizes) * sizes.itemsize
    for run in stream:
        runs.append((place, run))
        place += run.nbytes
    return Layout(len(sizes), sizes_at, pickle_at, place), runs


def unpacked(memory: memoryview, layout: Layout) -> Any:
    """Make the object whose parcel lies in ``memory``; its arrays are views of that."""
    sizes = memory[layout.sizes_at : layout.pickle_at].cast("Q").tolist()
    buffers = []
    place = 0
    for size in sizes:
        buffers.append(memory[place : place + size])
        place += size + -size % ALIGNMENT
    return pickle.loads(memory[layout.pickle_at : layout.num_bytes], buffers=buffers)


class ByteStream:
    """A file for the pickler. It keeps the runs that it is given: large bytes are no copies."""

    def __init__(self, runs: list[memoryview]) -> None:
        self.runs = runs

    def write(self, run: Any) -> None:
        self.runs.append(memoryview(run).cast("B"))


class Pickler(pickle.Pickler):
    """Leaves buffers out, also those of tensors."""

    def __init__(self, stream: list[memoryview], value: Any) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(
            ByteStream(stream), protocol=5, buffer_callback=self.buffers.append
        )
        self.has_torch = "torch" in sys.modules
        self.wholes: dict[int, Whole] = {}
        self.bytes_by_storage: dict[int, int] = {}
        if self.has_torch:
            from lanceloader.stages.tensor_tree import bytes_by_storage

            self.bytes_by_storage = bytes_by_storage(value)

    def reducer_override(self, value: Any) -> Any:
        """Take tensors apart; all else is pickled as always."""
        if not self.has_torch or not hasattr(value, "untyped_storage"):
            return NotImplemented
        from lanceloader.stages.tensor_tree import is_plain_tensor

        if isinstance(value, type) or not is_plain_tensor(value):
            return NotImplemented
        whole = self.whole_of(value)
        if whole is None:
            value = value.clone()
            whole = Whole(value.untyped_storage())
        place = value.storage_offset(), tuple(value.shape), value.stride()
        return part_of, (whole, value.dtype, *place)

    def whole_of(self, tensor: torch.Tensor) -> Whole | None:
        """Give the storage of a tensor, unless most of it is of no use."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if self.bytes_by_storage.get(key, tensor.nbytes) * 2 < storage.nbytes():
            return None
        return self.wholes.setdefault(key, Whole(storage))


class Whole:
    """A storage. The pickler writes one object once, however many tensors refer to it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage

    def __reduce__(self) -> tuple[Any, tuple[pickle.PickleBuffer]]:
        import torch

        values = torch.empty(0, dtype=torch.uint8).set_(self.storage).numpy()
        return bytes_of, (pickle.PickleBuffer(values),)  # type: ignore[arg-type]


def bytes_of(buffer: Any) -> torch.Tensor:
    """Give memory as a tensor of bytes."""
    import torch

    if not memoryview(buffer).nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(buffer, dtype=torch.uint8)


def part_of(
    whole: torch.Tensor,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> torch.Tensor:
    """Give a tensor that is a part of a storage."""
    import torch

    empty = torch.empty(0, dtype=dtype)
    return empty.set_(whole.untyped_storage(), offset, shape, stride)
