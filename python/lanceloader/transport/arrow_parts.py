"""Arrow data that shows a part of its buffers, as a slice does: pickled, it would bring them whole."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["compacted"]

SHARED_BYTES = 4096
"""What Arrow data may bring with it beyond as much as its own rows have."""


def compacted(value: Any) -> Any:
    """Return Arrow data in buffers of its own if those that it shows are far larger; else the value itself.

    Args:
        value: Any object.
    """
    pa = sys.modules.get("pyarrow")
    if pa is None or not isinstance(
        value, (pa.RecordBatch, pa.Table, pa.Array, pa.ChunkedArray)
    ):
        return value
    if value.get_total_buffer_size() <= 2 * value.nbytes + SHARED_BYTES:
        return value
    try:
        return value.take(pa.array(range(len(value)), pa.int64()))
    except pa.ArrowNotImplementedError:
        return value
