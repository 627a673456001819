"""Anonymous shared memory that one process writes and another one reads.

A segment is an anonymous file in memory. Only open files and mappings refer to it, so nothing remains
of it when processes are killed, and it takes no space in ``/dev/shm``.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ReadableSegments", "Segment", "WritableSegments"]

# Capacities are powers of two, from this one on. Pages that are never written take no memory.
SMALLEST = 1 << 16
# The most segments that the reader uses at the same time; further batches are copied. Each segment
# takes an open file in both processes, whose number is limited.
MOST_IN_USE = 32


class Segment:
    """A piece of shared memory, in the process that writes it."""

    def __init__(self, number: int, num_bytes: int) -> None:
        self.number = number
        self.file = os.memfd_create("lanceloader", os.MFD_CLOEXEC)
        self.is_known = False
        self.grow(num_bytes)

    def grow(self, num_bytes: int) -> None:
        """Increase the capacity, after which the reader must map the segment again."""
        self.capacity = max(SMALLEST, 1 << (num_bytes - 1).bit_length())
        os.ftruncate(self.file, self.capacity)
        # Writing to mapped pages is three times as fast as system calls.
        self.memory = memoryview(mmap.mmap(self.file, self.capacity))
        self.is_known = False

    def write(self, buffers: list[tuple[int, Any]]) -> None:
        """Write each buffer to its offset."""
        for offset, buffer in buffers:
            self.memory[offset : offset + len(buffer)] = buffer


class WritableSegments:
    """The segments of the writer, which are reused when the reader has released them."""

    def __init__(self) -> None:
        self.free: list[Segment] = []
        self.in_use: dict[int, Segment] = {}
        self.num_made = 0

    def write(self, buffers: list[tuple[int, Any]], num_bytes: int) -> Segment:
        """Write buffers to a free segment, and return it as in use."""
        fitting = [part for part in self.free if part.capacity >= num_bytes]
        if fitting:
            segment = min(fitting, key=lambda part: part.capacity)
            self.free.remove(segment)
        elif self.free:
            segment = self.free.pop()
            segment.grow(num_bytes)
        else:
            segment = Segment(self.num_made, num_bytes)
            self.num_made += 1
        self.in_use[segment.number] = segment
        segment.write(buffers)
        return segment

    def release(self, number: int, *, is_kept: bool) -> None:
        """Make a segment free that the reader has released, or close it."""
        segment = self.in_use.pop(number)
        if is_kept:
            self.free.append(segment)
        else:
            os.close(segment.file)


class ReadableSegments:
    """The segments of the reader, mapped into its memory."""

    def __init__(self) -> None:
        self.mappings: dict[int, mmap.mmap] = {}
        self.in_use: dict[int, weakref.ref[Any]] = {}
        self.released: deque[int] = deque()
        self.retired: set[int] = set()

    def map(self, number: int, file: int, capacity: int) -> None:
        """Map a segment that is new or has grown."""
        try:
            self.mappings[number] = mmap.mmap(file, capacity)
        finally:
            os.close(file)

    def view(self, number: int, num_bytes: int) -> memoryview:
        """Return the contents of a segment, which is in use while anything refers to them."""
        import numpy as np

        whole = np.frombuffer(self.mappings[number], np.uint8, num_bytes)
        if len(self.in_use) >= MOST_IN_USE:
            whole = whole.copy()
            self.released.append(number)
        else:
            # The callback may run in any thread at any time, so it must not take a lock.
            released = self.released
            self.in_use[number] = weakref.ref(whole, lambda _: released.append(number))
        return memoryview(whole)  # type: ignore[arg-type]

    def take_released(self) -> Iterable[tuple[int, bool]]:
        """Yield the segments that were released, and whether each may be written to again."""
        while self.released:
            number = self.released.popleft()
            self.in_use.pop(number, None)
            is_kept = number not in self.retired
            if not is_kept:
                self.retired.discard(number)
                del self.mappings[number]
            yield number, is_kept

    def retire(self) -> None:
        """Never reuse the segments that are in use, as a forked process refers to them, too."""
        self.retired.update(list(self.in_use))
