"""Serialization of objects into shared memory, from which they are loaded without a copy.

Arrays, tensors and Arrow data are written out of band, as with pickle protocol 5, followed by the
pickle of the object. Tensors that overlap in memory also do so after loading. Buffers that lie in shared
memory already stay where they are.
"""

from __future__ import annotations

import functools
import operator
import pickle
import sys
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lanceloader.tensor_tree import bytes_by_storage
from lanceloader.transport.arrow_parts import compacted
from lanceloader.transport.blocks import place_of
from lanceloader.transport.buffered import BufferedBatch, made
from lanceloader.transport.columns import batches_in, reduced
from lanceloader.transport.tensor_table import ALIGNMENT, TensorTable, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch

__all__ = ["Layout", "laid_out", "packed", "unpacked", "whole"]

Buffer: TypeAlias = tuple[int, list[Any]]
"""The size of a buffer, and its parts with their offsets; or ``LIST``, and the buffers of a batch."""

LIST = -1
"""The size that stands for buffers which are loaded together, as a list."""
IN_SEGMENT, LISTED, MISSING = range(-1, -4, -1)
"""Markers in place of an address: the buffer is in this segment, a list of buffers begins, or a buffer of
the list is missing."""


class Layout(NamedTuple):
    """The layout of a serialized object: buffers from offset 0 on, then their sizes, then the pickle.

    A size is followed by the place of the buffer if that lies elsewhere, or else by a negative number.
    """

    num_buffers: int
    sizes_at: int
    pickle_at: int
    num_bytes: int


def packed(
    value: Any, reducers: Mapping[type, Callable[[Any], Any]] | None = None
) -> tuple[Layout, list[tuple[int, Any]]]:
    """Return the layout of a serialized object, and its parts with their offsets.

    The offset of a part is negative if it lies in shared memory, where it must stay as long as it is read.

    The parts are views of the buffers of the object, so they must be written before it changes.

    Args:
        value: The object.
        reducers: The functions that reduce objects other than plain tensors, by their type, in
            place of those of ``copyreg``.
    """
    stream: list[memoryview] = []
    pickler = TensorPickler(stream, value)
    if reducers is not None:
        pickler.dispatch_table = reducers
    pickler.dump(value)
    return laid_out(pickler.buffers, stream)


def whole(buffer: pickle.PickleBuffer) -> Buffer:
    """Return a buffer of one part."""
    memory = buffer.raw()
    return memory.nbytes, [(0, memory)]


def laid_out(
    buffers: Iterable[Buffer], stream: Iterable[memoryview]
) -> tuple[Layout, list[tuple[int, Any]]]:
    """Return the layout of a pickle and its buffers, and all parts with their offsets."""
    sizes = array("q")
    parts: list[tuple[int, Any]] = []
    offset = 0
    for num_bytes, pieces in buffers:
        if num_bytes == LIST:
            sizes.extend((len(pieces), LISTED))
            for piece in pieces:
                if piece is None:
                    sizes.extend((0, MISSING))
                    continue
                memory = memoryview(piece).cast("B")
                place = place_of(memory, piece)
                sizes.extend((memory.nbytes, place))
                parts.append((-1 if place >= 0 else offset, memory))
                if place < 0:
                    offset += memory.nbytes + -memory.nbytes % ALIGNMENT
            continue
        place = place_of(pieces[0][1]) if len(pieces) == 1 else IN_SEGMENT
        sizes.extend((num_bytes, place))
        if place >= 0:
            parts.append((-1, pieces[0][1]))
            continue
        for at, memory in pieces:
            parts.append((offset + at, memory))
        offset += num_bytes + -num_bytes % ALIGNMENT
    sizes_at = offset
    parts.append((sizes_at, memoryview(sizes).cast("B")))
    offset = pickle_at = sizes_at + len(sizes) * sizes.itemsize
    for piece in stream:
        parts.append((offset, piece))
        offset += piece.nbytes
    return Layout(len(sizes) // 2, sizes_at, pickle_at, offset), parts


def unpacked(
    memory: memoryview,
    layout: Layout,
    block: Callable[[int, int], memoryview] | None = None,
) -> Any:
    """Return the object that is serialized in ``memory``, of which its arrays are views.

    Args:
        memory: The serialized object.
        layout: Its layout.
        block: Returns a buffer that lies elsewhere, of its place and its size.
    """
    sizes = iter(memory[layout.sizes_at : layout.pickle_at].cast("q").tolist())
    buffers: list[Any] = []
    offset = num_listed = 0
    into = buffers
    for size, place in zip(sizes, sizes, strict=True):
        if place == LISTED:
            listed: list[Any] = []
            buffers.append(listed)
            into, num_listed = (listed, size) if size else (buffers, 0)
            continue
        if place >= 0:
            if block is None:
                raise RuntimeError("a buffer lies in the memory of another process")
            into.append(block(place, size))
        elif place == MISSING:
            into.append(None)
        else:
            into.append(memory[offset : offset + size])
            offset += size + -size % ALIGNMENT
        if num_listed:
            num_listed -= 1
            if not num_listed:
                into = buffers
    return pickle.loads(memory[layout.pickle_at : layout.num_bytes], buffers=buffers)


class ByteStream:
    """A writable file for a pickler, which keeps the buffers that are written without a copy."""

    def __init__(self, parts: list[memoryview]) -> None:
        self.parts = parts

    def write(self, part: Any) -> None:
        self.parts.append(memoryview(part).cast("B"))


class TensorPickler(pickle.Pickler):
    """A pickler that writes buffers out of band, also those of tensors."""

    def __init__(self, stream: list[memoryview], value: Any) -> None:
        self.buffers: list[Buffer] = []
        self.value = value
        self.has_torch = "torch" in sys.modules
        batches = batches_in(value) if self.has_torch else []
        self.batches = {id(batch) for batch in batches}
        self.table = TensorTable(value, self.batches) if self.has_torch else None
        self.numbers = {} if self.table is None else self.table.numbers
        # It must not refer to the pickler: the value would live until garbage is collected.
        self.lists: dict[int, Sequence[Any]] = {}
        """The buffers of batches, by the ``id`` of what stands for them."""
        add = functools.partial(add_buffer, self.buffers, self.table, self.lists)
        super().__init__(ByteStream(stream), protocol=5, buffer_callback=add)
        self.storages: dict[int, PickledStorage] = {}
        self.bytes_by_storage: dict[int, int] | None = None

    def reducer_override(self, value: Any) -> Any:
        """Reduce a tensor to its place in the table, or to its storage and its view of it.

        Batches that are as they were made are reduced to what they were made of. Other objects are pickled as usual.
        """
        number = self.numbers.get(id(value))
        if number is not None:
            return operator.getitem, (self.table, number)
        if id(value) in self.batches:
            return reduced(value)
        if type(value) is BufferedBatch:
            marker = pickle.PickleBuffer(bytearray())
            self.lists[id(marker)] = value.buffers
            return made, (value.recipe, value.num_rows, marker)
        if not self.has_torch or not hasattr(type(value), "untyped_storage"):
            compact = compacted(value)
            return NotImplemented if compact is value else compact.__reduce_ex__(5)
        from lanceloader.tensor_tree import is_plain_tensor, is_sparse_tensor

        if is_sparse_tensor(value):
            # What torch's own function rebuilds, it keeps alive until a file is loaded.
            return sparse_tensor, value.__reduce_ex__(5)[1]
        if is_lazy_tensor(value):
            value = value.resolve_conj().resolve_neg()
        if not is_plain_tensor(value):
            return NotImplemented
        storage = self.storage_of(value)
        if storage is None:
            value = value.clone()
            storage = PickledStorage(value.untyped_storage())
        view = value.storage_offset(), tuple(value.shape), value.stride()
        return tensor_from_storage, (storage, value.dtype, *view)

    def storage_of(self, tensor: torch.Tensor) -> PickledStorage | None:
        """Return the storage of a tensor to pickle, or ``None`` if the value uses less than half of it."""
        if self.bytes_by_storage is None:
            self.bytes_by_storage = bytes_by_storage(tensors_in(self.value))
        storage = tensor.untyped_storage()
        key = storage._cdata
        if self.bytes_by_storage.get(key, tensor.nbytes) * 2 < storage.nbytes():
            return None
        return self.storages.setdefault(key, PickledStorage(storage))


def add_buffer(
    buffers: list[Buffer],
    table: TensorTable | None,
    lists: dict[int, Sequence[Any]],
    buffer: pickle.PickleBuffer,
) -> None:
    """Add a buffer to those that are written."""
    of_batch = lists.pop(id(buffer), None)
    if of_batch is not None:
        buffers.append((LIST, [*of_batch]))
    elif table is not None and buffer is table.marker:
        buffers.append((table.num_bytes, table.parts))
    else:
        buffers.append(whole(buffer))


def is_lazy_tensor(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is to be conjugated or negated when it is read."""
    return not tensor.requires_grad and (tensor.is_conj() or tensor.is_neg())


class PickledStorage:
    """A storage, as one object that the pickler writes once for all tensors that refer to it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage

    def __reduce__(self) -> tuple[Any, tuple[pickle.PickleBuffer]]:
        import torch

        values = torch.empty(0, dtype=torch.uint8).set_(self.storage).numpy()
        return tensor_of_bytes, (pickle.PickleBuffer(values),)  # type: ignore[arg-type]


def tensor_of_bytes(buffer: Any) -> torch.Tensor:
    """Return a tensor of bytes that is a view of a buffer."""
    import torch

    if not memoryview(buffer).nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(buffer, dtype=torch.uint8)


def tensor_from_storage(
    whole: torch.Tensor,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> torch.Tensor:
    """Return a tensor that is a view of a storage."""
    import torch

    empty = torch.empty(0, dtype=dtype)
    return empty.set_(whole.untyped_storage(), offset, shape, stride)


def sparse_tensor(layout: torch.layout, parts: tuple[Any, ...]) -> torch.Tensor:
    """Return the sparse tensor that torch reduced to ``parts``: its indices, values and shape."""
    import torch

    if layout is torch.sparse_coo:
        indices, values, shape, is_coalesced = parts
        return torch.sparse_coo_tensor(
            indices, values, shape, check_invariants=False, is_coalesced=is_coalesced
        )
    compressed, plain, values, shape = parts
    return torch.sparse_compressed_tensor(
        compressed, plain, values, shape, layout=layout, check_invariants=False
    )
