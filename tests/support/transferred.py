"""What another process gets."""

from __future__ import annotations

from lanceloader.transport.serialization import packed, unpacked


def transferred(value):
    """Return a value as it arrives in another process."""
    layout, parts = packed(value)
    memory = bytearray(layout.num_bytes)
    for offset, part in parts:
        memory[offset : offset + len(part)] = part
    return unpacked(memoryview(memory), layout)
