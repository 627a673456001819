"""Anonymous shared memory that one process writes and another one reads.

A segment is an anonymous file in memory. Only open files and mappings refer to it, so nothing remains
of it when processes are killed, and it takes no space in ``/dev/shm``. The first byte of a segment
is its state, through which the reader releases it without a message to the writer. The blocks that the
object in a segment refers to are released with the segment.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any

from lanceloader.transport.blocks import abandon
from lanceloader.transport.serialization import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lanceloader.transport.serialization import Layout

__all__ = ["ReadableSegments", "Segment", "WritableSegments"]

# Capacities are powers of two, from this one on. Pages that are never written take no memory.
MIN_CAPACITY = 1 << 16
# The maximum number of segments in use by the reader; further batches are copied. Each segment takes an
# open file in the writer, and open files are limited.
MOST_IN_USE = 32
# Smaller batches are copied at once, which costs less than keeping a segment for each.
SMALL_BYTES = 1 << 13

# The bytes before the data, which hold the state; Arrow's recommended alignment of buffers.
HEADER = 64
# The states of a segment: free to be written, in use by the reader, or never to be written again.
FREE, IN_USE, DROPPED = range(3)


class Segment:
    """A piece of shared memory, in the process that writes it.

    Attributes:
        blocks: The blocks that are in use together with the segment.
        is_announced: Whether the reader was sent the file, in its present capacity.
    """

    def __init__(self, number: int, num_bytes: int) -> None:
        self.number = number
        self.blocks: list[Any] = []
        self.file = os.memfd_create("lanceloader", os.MFD_CLOEXEC)
        self.is_announced = False
        try:
            self.grow(num_bytes)
        except BaseException:
            os.close(self.file)
            raise

    def grow(self, num_bytes: int) -> None:
        """Increase the capacity, after which the reader must map the segment again."""
        self.capacity = max(MIN_CAPACITY, 1 << (HEADER + num_bytes - 1).bit_length())
        os.ftruncate(self.file, self.capacity)
        # Writing to mapped pages is three times as fast as system calls.
        self.memory = memoryview(mmap.mmap(self.file, self.capacity))
        self.is_announced = False

    @property
    def num_bytes(self) -> int:
        """The maximum number of bytes of data."""
        return self.capacity - HEADER

    @property
    def state(self) -> int:
        """``FREE``, ``IN_USE`` or ``DROPPED``."""
        return self.memory[0]

    def release(self) -> None:
        """Mark the segment as free."""
        self.memory[0] = FREE

    def write(self, buffers: Iterable[tuple[int, Any]]) -> None:
        """Write each buffer to its offset, and mark the segment as in use."""
        memory = self.memory
        memory[0] = IN_USE
        for offset, buffer in buffers:
            if offset < 0:
                self.blocks.append(buffer)
                continue
            start = HEADER + offset
            memory[start : start + len(buffer)] = buffer


class WritableSegments:
    """The segments of the writer, which are reused once the reader has released them."""

    def __init__(self) -> None:
        self.free: list[Segment] = []
        self.in_use: dict[int, Segment] = {}
        self.num_created = 0

    def write(self, buffers: Iterable[tuple[int, Any]], num_bytes: int) -> Segment:
        """Write buffers to a free or new segment, and return the segment, which is then in use."""
        self._collect_released()
        fitting = [part for part in self.free if part.num_bytes >= num_bytes]
        if fitting:
            segment = min(fitting, key=lambda part: part.capacity)
            self.free.remove(segment)
        elif self.free:
            segment = self.free.pop()
            try:
                segment.grow(num_bytes)
            except BaseException:
                os.close(segment.file)
                raise
        else:
            segment = Segment(self.num_created, num_bytes)
            self.num_created += 1
        self.in_use[segment.number] = segment
        try:
            segment.write(buffers)
        except BaseException:
            # The reader never hears of it.
            segment.release()
            raise
        return segment

    def _collect_released(self) -> None:
        """Free the segments that the reader has released, and close those that it dropped."""
        for number, segment in list(self.in_use.items()):
            state = segment.state
            if state == FREE:
                segment.blocks.clear()
                self.free.append(self.in_use.pop(number))
            elif state == DROPPED:
                abandon(segment.blocks)
                os.close(self.in_use.pop(number).file)


class ReadableSegments:
    """The segments of the reader, mapped into its memory."""

    def __init__(self) -> None:
        self.mappings: dict[int, mmap.mmap] = {}
        self.blocks: mmap.mmap | None = None
        """The file of the blocks."""
        self.in_use: dict[int, Lease] = {}
        self.retired: set[int] = set()
        self.is_owner = True
        _LIVE.add(weakref.ref(self, _LIVE.discard))

    def map(self, number: int, file: int, capacity: int) -> None:
        """Map a segment that is new or has grown, and close the file."""
        try:
            self.mappings[number] = mmap.mmap(file, capacity)
        finally:
            os.close(file)

    def map_blocks(self, file: int) -> None:
        """Map the file of the blocks, and close it."""
        try:
            self.blocks = mmap.mmap(file, 0)
        finally:
            os.close(file)

    def is_mapped(self, number: int, capacity: int) -> bool:
        """Return whether a segment is mapped with all of its capacity."""
        mapping = self.mappings.get(number)
        return mapping is not None and len(mapping) == capacity

    def load(self, number: int, layout: Layout) -> Any:
        """Return the object in a segment, which stays in use while any of the arrays is referenced."""
        import numpy as np

        whole: Any = np.frombuffer(
            self.mappings[number], np.uint8, layout.num_bytes, HEADER
        )
        is_copied = len(self.in_use) >= MOST_IN_USE
        lease = self.in_use[number] = Lease(self, number)

        blocks: memoryview | None = None

        def load_block(place: int, size: int) -> memoryview:
            nonlocal blocks
            memory: Any = self.blocks
            if is_copied:
                return memoryview(bytearray(memory[place : place + size]))
            if blocks is None:
                blocks = memoryview(lease.track(np.frombuffer(memory, np.uint8)))
            return blocks[place : place + size]

        try:
            if is_copied or layout.num_bytes < SMALL_BYTES:
                whole = whole.copy()
            else:
                lease.track(whole)
            return unpacked(memoryview(whole), layout, load_block)
        finally:
            lease.seal()

    def release(self, number: int) -> None:
        """Release a segment to its writer, or drop it if a fork may refer to it."""
        self.in_use.pop(number, None)
        if not self.is_owner:
            return
        if number in self.retired:
            self.retired.discard(number)
            self.mappings.pop(number)[0] = DROPPED
        else:
            self.mappings[number][0] = FREE

    def retire(self) -> None:
        """Never reuse the segments that are in use, as a fork will refer to them, too."""
        self.retired.update(list(self.in_use))

    def disown(self) -> None:
        """Stop releasing segments, in a fork of the reader."""
        self.is_owner = False
        self.mappings.clear()
        self.blocks = None


class Lease:
    """The use of a segment, which ends with the last of the tracked arrays.

    Args:
        segments: The segments of the reader.
        number: The number of the segment.
    """

    def __init__(self, segments: ReadableSegments, number: int) -> None:
        self._arrays: dict[int, weakref.ref[Any]] = {}
        self._is_sealed = False
        # Arrays end in any thread at any time, so no lock may be taken: the thread that pops the item
        # releases the segment.
        self._segment = [(segments, number)]

    def track(self, array: Any) -> Any:
        """Keep the segment in use while an array lives, and return the array."""
        reference = weakref.ref(array, self._forget)
        self._arrays[id(reference)] = reference
        return array

    def seal(self) -> None:
        """Declare that no further arrays will be tracked, so that the lease may end."""
        self._is_sealed = True
        self._end_if_unused()

    def _forget(self, array: weakref.ref[Any]) -> None:
        self._arrays.pop(id(array), None)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._is_sealed and not self._arrays:
            with contextlib.suppress(IndexError):
                segments, number = self._segment.pop()
                segments.release(number)


_LIVE: set[weakref.ref[ReadableSegments]] = set()


def _live() -> list[ReadableSegments]:
    return [found for each in _LIVE.copy() if (found := each()) is not None]


def _before_fork() -> None:
    for segments in _live():
        segments.retire()


def _in_child() -> None:
    for segments in _live():
        segments.disown()
    _LIVE.clear()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
