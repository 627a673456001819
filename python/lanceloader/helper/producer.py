"""Producers, which make the items of a helper process, and how the parent sends them."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lanceloader.sources.secrets import travelling
from lanceloader.transport.serialization import Layout, as_buffer, lay_out, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FunctionProducer", "PickledProducer", "Producer", "loaded"]


class Producer(Protocol):
    """Makes the items of any number of iterations, one after another."""

    @property
    def most_items(self) -> int:
        """The maximum number of items in a message."""

    def items(self, argument: Any) -> Iterable[Any]:
        """Return the items of an iteration.

        Args:
            argument: The argument that the parent sent for this iteration.
        """

    def report(self) -> Any:
        """Return the report that is sent to the parent with each item and at the end."""

    def num_bytes(self) -> int:
        """Return the number of bytes of the last item."""


class FunctionProducer(NamedTuple):
    """A producer that calls functions without arguments."""

    make: Callable[[], Iterable[Any]]
    statistics: Callable[[], Any] | None

    @property
    def most_items(self) -> int:
        """Return 1, as items may have any size."""
        return 1

    def items(self, argument: None) -> Iterable[Any]:
        """Return what ``make`` returns."""
        del argument
        return self.make()

    def report(self) -> Any:
        """Return the statistics, or ``None`` if there is no function for them."""
        return None if self.statistics is None else self.statistics()

    def num_bytes(self) -> int:
        """Return 0, as the size of the last item is unknown."""
        return 0


class PickledProducer:
    """A pickled producer, whose read-only buffers are not copied before they are written.

    The pickle may hold credentials, as it is only sent to a process that this one started.

    Args:
        producer: The producer.

    Raises:
        Exception: If it cannot be pickled.
    """

    def __init__(self, producer: Producer) -> None:
        self._buffers: list[pickle.PickleBuffer] = []
        # Not pickled by multiprocessing, whose reducers for torch need named files.
        with travelling(is_allowed=True):
            self._data = pickle.dumps(
                producer, protocol=5, buffer_callback=self._is_in_band
            )
        self._digest = hashlib.blake2b(self._data).digest()

    def _is_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Return whether to copy a buffer into the pickle, as it may change later."""
        if may_change(buffer):
            return True
        self._buffers.append(buffer)
        return False

    def equals(self, other: PickledProducer) -> bool:
        """Return whether another producer has an equal pickle."""
        if self._digest != other._digest or len(self._buffers) != len(other._buffers):
            return False
        return all(map(is_equal, self._buffers, other._buffers))

    def write(self) -> tuple[Layout, int]:
        """Write the pickle to anonymous memory, once; return its layout and the open file."""
        layout, parts = lay_out(map(as_buffer, self._buffers), [memoryview(self._data)])
        file = os.memfd_create("lanceloader-producer", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, layout.num_bytes)
            with mmap.mmap(file, layout.num_bytes) as memory:
                for offset, part in parts:
                    memory[offset : offset + len(part)] = part
        except BaseException:
            os.close(file)
            raise
        # This object is kept for comparisons, which do not need the data.
        self._data = b""
        return layout, file


def loaded(layout: Layout, file: int) -> Any:
    """Load the producer from an open file, and close the file."""
    try:
        memory = mmap.mmap(file, layout.num_bytes, access=mmap.ACCESS_READ)
    finally:
        os.close(file)
    return unpacked(memoryview(memory), layout)


def may_change(buffer: pickle.PickleBuffer) -> bool:
    """Return whether the memory of a buffer is writable, possibly through the object that owns it."""
    import numpy as np

    view = buffer.raw()
    if not view.readonly:
        return True
    owner: Any = view.obj
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    if owner is None:
        return False
    try:
        return not memoryview(owner).readonly
    except TypeError:
        return False


def is_equal(one: pickle.PickleBuffer, other: pickle.PickleBuffer) -> bool:
    """Return whether two buffers are the same memory, or hold equal bytes."""
    import numpy as np

    sizes = one.raw().nbytes, other.raw().nbytes
    if 0 in sizes or sizes[0] != sizes[1]:
        return sizes[0] == sizes[1]
    a, b = (np.frombuffer(buffer.raw(), np.uint8) for buffer in (one, other))
    return a.ctypes.data == b.ctypes.data or np.array_equal(a, b)
