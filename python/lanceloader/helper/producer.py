"""What a helper process makes items with, and how the parent sends it."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lanceloader.sources.secrets import travelling
from lanceloader.transport.serialization import Layout, laid_out, unpacked, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FunctionProducer", "PickledProducer", "Producer", "loaded"]


class Producer(Protocol):
    """What makes the items of any number of iterations, one after the other."""

    @property
    def most_items(self) -> int:
        """The most items that share a message."""

    def items(self, argument: Any) -> Iterable[Any]:
        """Return the items of an iteration.

        Args:
            argument: What the parent sent for this iteration.
        """

    def report(self) -> Any:
        """Return what is sent to the parent with each item and at the end."""

    def num_bytes(self) -> int:
        """Return the bytes of the item made last."""


class FunctionProducer(NamedTuple):
    """A producer that calls functions without arguments."""

    make: Callable[[], Iterable[Any]]
    statistics: Callable[[], Any] | None

    @property
    def most_items(self) -> int:
        """Return 1: items may be as large as they like."""
        return 1

    def items(self, argument: None) -> Iterable[Any]:
        """Return what ``make`` returns."""
        del argument
        return self.make()

    def report(self) -> Any:
        """Return the statistics, or ``None`` without a function of them."""
        return None if self.statistics is None else self.statistics()

    def num_bytes(self) -> int:
        """Return 0, as the bytes of the item made last are unknown."""
        return 0


class PickledProducer:
    """A producer as a pickle, whose read-only buffers are not copied until they are written.

    The pickle may hold credentials, as it only goes to a process that this one started.

    Args:
        producer: The producer.

    Raises:
        Exception: If it cannot be pickled.
    """

    def __init__(self, producer: Producer) -> None:
        self._buffers: list[pickle.PickleBuffer] = []
        # Not pickled by multiprocessing, which would use torch's reducers, which need named files.
        with travelling(is_allowed=True):
            self._data = pickle.dumps(
                producer, protocol=5, buffer_callback=self._is_copied
            )
        self._digest = hashlib.blake2b(self._data).digest()

    def _is_copied(self, buffer: pickle.PickleBuffer) -> bool:
        """Return whether a buffer becomes a part of the pickle, as it may change later."""
        if may_change(buffer):
            return True
        self._buffers.append(buffer)
        return False

    def equals(self, other: PickledProducer) -> bool:
        """Return whether another pickle is of an equal producer."""
        if self._digest != other._digest or len(self._buffers) != len(other._buffers):
            return False
        return all(map(is_equal, self._buffers, other._buffers))

    def write(self) -> tuple[Layout, int]:
        """Write the pickle to anonymous memory, once; return its layout and the open file."""
        layout, parts = laid_out(map(whole, self._buffers), [memoryview(self._data)])
        file = os.memfd_create("lanceloader-producer", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, layout.num_bytes)
            with mmap.mmap(file, layout.num_bytes) as memory:
                for offset, part in parts:
                    memory[offset : offset + len(part)] = part
        except BaseException:
            os.close(file)
            raise
        # Kept for comparisons, which need no copy of the data.
        self._data = b""
        return layout, file


def loaded(layout: Layout, file: int) -> Any:
    """Return the producer that was written to an open file, which is closed."""
    try:
        memory = mmap.mmap(file, layout.num_bytes, access=mmap.ACCESS_READ)
    finally:
        os.close(file)
    return unpacked(memoryview(memory), layout)


def may_change(buffer: pickle.PickleBuffer) -> bool:
    """Return whether the memory of a buffer can be written to, at least by whom it is a view of."""
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
    """Return whether two buffers are the same memory or hold the same bytes."""
    import numpy as np

    sizes = one.raw().nbytes, other.raw().nbytes
    if 0 in sizes or sizes[0] != sizes[1]:
        return sizes[0] == sizes[1]
    a, b = (np.frombuffer(buffer.raw(), np.uint8) for buffer in (one, other))
    return a.ctypes.data == b.ctypes.data or np.array_equal(a, b)
