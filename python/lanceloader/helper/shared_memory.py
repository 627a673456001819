"""Shared memory without names, written by one process and seen by another.

A segment is an anonymous file in memory. Nothing refers to it but open files and mappings,
so nothing is left of it whoever is killed, and it takes no room in ``/dev/shm``.
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

# Capacities are powers of two from here on. Pages that are never written take no memory.
SMALLEST = 1 << 16
# Segments that may be in use by the reader. Each takes an open file in both processes, of which
# there may be few; from then on batches are copied out.
MOST_IN_USE = 32


class Segment:
    """A piece of shared memory, in the process that writes it."""

    def __init__(self, number: int, num_bytes: int) -> None:
        self.number = number
        self.file = os.memfd_create("lanceloader", os.MFD_CLOEXEC)
        self.is_known = False
        self.grow(num_bytes)

    def grow(self, num_bytes: int) -> None:
        """Make room; the reader has to map it again."""
        self.capacity = max(SMALLEST, 1 << (num_bytes - 1).bit_length())
        os.ftruncate(self.file, self.capacity)
        # Pages that are there already are written three times as fast as by system calls.
        self.memory = memoryview(mmap.mmap(self.file, self.capacity))
        self.is_known = False

    def write(self, runs: list[tuple[int, Any]]) -> None:
        """Write each run of bytes to its place."""
        for place, run in runs:
            self.memory[place : place + len(run)] = run


class WritableSegments:
    """The segments of a writer: those that nobody reads any more are written to again."""

    def __init__(self) -> None:
        self.free: list[Segment] = []
        self.in_use: dict[int, Segment] = {}
        self.num_made = 0

    def write(self, runs: list[tuple[int, Any]], num_bytes: int) -> Segment:
        """Write runs of bytes to a free segment, which is in use from then on."""
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
        segment.write(runs)
        return segment

    def release(self, number: int, *, is_kept: bool) -> None:
        """Take a segment back that the reader is done with, or let go of it."""
        segment = self.in_use.pop(number)
        if is_kept:
            self.free.append(segment)
        else:
            os.close(segment.file)


class ReadableSegments:
    """The segments that another process writes, mapped into this one."""

    def __init__(self) -> None:
        self.mappings: dict[int, mmap.mmap] = {}
        self.in_use: dict[int, weakref.ref[Any]] = {}
        self.released: deque[int] = deque()
        self.retired: set[int] = set()

    def map(self, number: int, file: int, capacity: int) -> None:
        """Map a segment that is new, or has grown."""
        try:
            self.mappings[number] = mmap.mmap(file, capacity)
        finally:
            os.close(file)

    def view(self, number: int, num_bytes: int) -> memoryview:
        """Give what was written to a segment; it is in use while anything refers to it."""
        import numpy as np

        whole = np.frombuffer(self.mappings[number], np.uint8, num_bytes)
        if len(self.in_use) >= MOST_IN_USE:
            whole = whole.copy()
            self.released.append(number)
        else:
            # This runs in any thread, in the midst of anything, so it takes no lock.
            released = self.released
            self.in_use[number] = weakref.ref(whole, lambda _: released.append(number))
        return memoryview(whole)  # type: ignore[arg-type]

    def take_released(self) -> Iterable[tuple[int, bool]]:
        """Give the segments that are used no more, and whether each may be written to again."""
        while self.released:
            number = self.released.popleft()
            self.in_use.pop(number, None)
            is_kept = number not in self.retired
            if not is_kept:
                self.retired.discard(number)
                del self.mappings[number]
            yield number, is_kept

    def retire(self) -> None:
        """Never have those in use written to again: after a fork another process sees them."""
        self.retired.update(list(self.in_use))
