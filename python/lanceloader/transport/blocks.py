"""Buffers that the core has already written to shared memory, which need no copy.

Once ``share`` has been called, the core allocates large buffers as pieces of one anonymous file. A batch is
sent as the offsets of its buffers in the file; the buffers are kept until the reader has released them.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from lanceloader import _native

__all__ = ["abandon", "address_of", "file_of_blocks", "place_of", "share"]

LEAST_BYTES = 1 << 17
"""The core allocates smaller buffers elsewhere."""
MOST_ABANDONED = 64 << 20
"""The maximum number of abandoned bytes, beyond which all buffers are copied again."""

_region: tuple[int, int, int] | None = None
"""The file, and the addresses in this process at which its mapping begins and ends."""
_abandoned: list[Any] = []
"""Buffers that forks of the reader may refer to for as long as they live."""
_is_sending = True
"""Whether buffers are sent as offsets in the file."""


def share() -> None:
    """Make the core allocate large buffers in shared memory from now on, if the system supports it.

    Only for processes that drop a batch once it is sent, as the reader may write to its buffers.
    """
    global _region
    if _region is None and hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            file, start, size = _native.share_memory()
            _region = file, start, start + size


def file_of_blocks() -> int:
    """Return the open file that holds the blocks."""
    if _region is None:
        raise RuntimeError("this process does not share its blocks")
    return _region[0]


def place_of(memory: memoryview, owner: Any = None) -> int:
    """Return the offset of a buffer in the file, or -1 if the buffer lies elsewhere.

    Args:
        memory: The bytes of the buffer.
        owner: The object that exported the bytes.
    """
    if _region is None or not _is_sending or memory.nbytes < LEAST_BYTES:
        return -1
    _, start, end = _region
    address = address_of(memory if owner is None else owner)
    return address - start if start <= address < end else -1


def address_of(buffer: Any) -> int:
    """Return the address of a buffer, which must not be empty."""
    if isinstance(buffer, _native.Block):
        return buffer.address
    import numpy as np

    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def abandon(buffers: list[Any]) -> None:
    """Keep buffers allocated for good, as forks of the reader may refer to them."""
    global _is_sending
    _abandoned.extend(buffers)
    if sum(memory.nbytes for memory in _abandoned) > MOST_ABANDONED:
        _is_sending = False


def _in_child() -> None:
    global _region
    # In a fork, the core does not allocate in shared memory.
    _region = None


os.register_at_fork(after_in_child=_in_child)
