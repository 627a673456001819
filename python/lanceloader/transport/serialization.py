"""Serialization of objects into shared memory, from which they are loaded without a copy.

Arrays, tensors and Arrow data are written out of band, as with pickle protocol 5, followed by the
pickle of the object. Tensors that overlap in memory still overlap after loading. Buffers that already lie
in shared memory stay there.
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
from lanceloader.transport.buffered import BufferedBatch, make_batch
from lanceloader.transport.columns import batches_in, reduce_columns
from lanceloader.transport.tensor_table import ALIGNMENT, TensorTable, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch

__all__ = ["Layout", "as_buffer", "lay_out", "packed", "unpacked"]

Buffer: TypeAlias = tuple[int, list[Any]]
"""The size of a buffer and its parts with offsets; or ``BUFFER_LIST`` and the buffers of a batch."""

BUFFER_LIST = -1
"""The size that marks buffers which are loaded together, as a list."""
IN_SEGMENT, LIST_START, MISSING = range(-1, -4, -1)
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

    The offset of a part is negative if the part already lies in shared memory, where it must be kept until
    the reader has released it. The parts are views of the buffers of the object, so they must be written
    before it changes.

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
    return lay_out(pickler.buffers, stream)


def as_buffer(buffer: pickle.PickleBuffer) -> Buffer:
    """Return a pickle buffer as a ``Buffer`` of one part."""
    memory = buffer.raw()
    return memory.nbytes, [(0, memory)]


def lay_out(
    buffers: Iterable[Buffer], stream: Iterable[memoryview]
) -> tuple[Layout, list[tuple[int, Any]]]:
    """Return the layout of a pickle and its buffers, and all parts with their offsets."""
    sizes = array("q")
    parts: list[tuple[int, Any]] = []
    offset = 0
    for num_bytes, pieces in buffers:
        if num_bytes == BUFFER_LIST:
            sizes.extend((len(pieces), LIST_START))
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
    load_block: Callable[[int, int], memoryview] | None = None,
) -> Any:
    """Return the object that is serialized in ``memory``, of which its arrays are views.

    Args:
        memory: The serialized object.
        layout: Its layout.
        load_block: Returns the buffer outside ``memory`` at a place, given the place and the size.
    """
    sizes = iter(memory[layout.sizes_at : layout.pickle_at].cast("q").tolist())
    buffers: list[Any] = []
    offset = num_listed = 0
    target = buffers
    for size, place in zip(sizes, sizes, strict=True):
        if place == LIST_START:
            listed: list[Any] = []
            buffers.append(listed)
            target, num_listed = (listed, size) if size else (buffers, 0)
            continue
        if place >= 0:
            if load_block is None:
                raise RuntimeError("a buffer lies in the memory of another process")
            target.append(load_block(place, size))
        elif place == MISSING:
            target.append(None)
        else:
            target.append(memory[offset : offset + size])
            offset += size + -size % ALIGNMENT
        if num_listed:
            num_listed -= 1
            if not num_listed:
                target = buffers
    return pickle.loads(memory[layout.pickle_at : layout.num_bytes], buffers=buffers)


class ByteStream:
    """A file for a pickler that keeps the written buffers without copying them."""

    def __init__(self, parts: list[memoryview]) -> None:
        self.parts = parts

    def write(self, part: Any) -> None:
        self.parts.append(memoryview(part).cast("B"))


class TensorPickler(pickle.Pickler):
    """A pickler that writes buffers out of band, including those of tensors."""

    def __init__(self, stream: list[memoryview], value: Any) -> None:
        self.buffers: list[Buffer] = []
        self.value = value
        self.has_torch = "torch" in sys.modules
        batches = batches_in(value) if self.has_torch else []
        self.batches = {id(batch) for batch in batches}
        self.table = TensorTable(value, self.batches) if self.has_torch else None
        self.numbers = {} if self.table is None else self.table.numbers
        # The callback must not refer to the pickler, or a cycle would keep the value alive.
        self.lists: dict[int, Sequence[Any]] = {}
        """The buffers of batches, by the ``id`` of the marker that stands for them."""
        add = functools.partial(add_buffer, self.buffers, self.table, self.lists)
        super().__init__(ByteStream(stream), protocol=5, buffer_callback=add)
        self.storages: dict[int, PickledStorage] = {}
        self.bytes_by_storage: dict[int, int] | None = None

    def reducer_override(self, value: Any) -> Any:
        """Reduce a tensor to its place in the table, or to its storage and its view of it.

        Unchanged batches are reduced to the blocks that they were made of. Other objects are pickled
        as usual.
        """
        number = self.numbers.get(id(value))
        if number is not None:
            return operator.getitem, (self.table, number)
        if id(value) in self.batches:
            return reduce_columns(value)
        if type(value) is BufferedBatch:
            marker = pickle.PickleBuffer(bytearray())
            self.lists[id(marker)] = value.buffers
            return make_batch, (value.recipe, value.num_rows, marker)
        if not self.has_torch or not hasattr(type(value), "untyped_storage"):
            compact = compacted(value)
            return NotImplemented if compact is value else compact.__reduce_ex__(5)
        from lanceloader.tensor_tree import is_plain_tensor, is_sparse_tensor

        if is_sparse_tensor(value):
            # torch's own function keeps the tensors that it rebuilds alive until the next `torch.load`.
            return rebuild_sparse_tensor, value.__reduce_ex__(5)[1]
        if is_lazy_tensor(value):
            value = value.resolve_conj().resolve_neg()
        if not is_plain_tensor(value):
            return NotImplemented
        storage = self.storage_of(value)
        if storage is None:
            value = value.clone()
            storage = PickledStorage(value.untyped_storage())
        view = value.storage_offset(), tuple(value.shape), value.stride()
        return rebuild_tensor, (storage, value.dtype, *view)

    def storage_of(self, tensor: torch.Tensor) -> PickledStorage | None:
        """Return the storage of a tensor, or ``None`` if the value uses less than half of the storage."""
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
    """Append a buffer, or the buffers that it stands for, to those that are written."""
    batch_buffers = lists.pop(id(buffer), None)
    if batch_buffers is not None:
        buffers.append((BUFFER_LIST, [*batch_buffers]))
    elif table is not None and buffer is table.marker:
        buffers.append((table.num_bytes, table.parts))
    else:
        buffers.append(as_buffer(buffer))


def is_lazy_tensor(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has a pending conjugation or negation."""
    return not tensor.requires_grad and (tensor.is_conj() or tensor.is_neg())


class PickledStorage:
    """A storage that the pickler writes once for all tensors that refer to it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage

    def __reduce__(self) -> tuple[Any, tuple[pickle.PickleBuffer]]:
        import torch

        values = torch.empty(0, dtype=torch.uint8).set_(self.storage).numpy()
        return byte_tensor, (pickle.PickleBuffer(values),)  # type: ignore[arg-type]


def byte_tensor(buffer: Any) -> torch.Tensor:
    """Return a buffer as a tensor of bytes, without a copy."""
    import torch

    if not memoryview(buffer).nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(buffer, dtype=torch.uint8)


def rebuild_tensor(
    storage: torch.Tensor,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> torch.Tensor:
    """Return a tensor that is a view of a storage."""
    import torch

    empty = torch.empty(0, dtype=dtype)
    return empty.set_(storage.untyped_storage(), offset, shape, stride)


def rebuild_sparse_tensor(layout: torch.layout, parts: tuple[Any, ...]) -> torch.Tensor:
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
