"""Arrow data that is a part of larger buffers, such as a slice: its pickle would hold all of them."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["compacted"]

SLACK_BYTES = 4096
"""Arrow data is copied if its buffers exceed twice the bytes of its rows by more than this."""


def compacted(value: Any) -> Any:
    """Copy Arrow data whose buffers are far larger than its rows; return any other value unchanged.

    Args:
        value: Any object.
    """
    pa = sys.modules.get("pyarrow")
    if pa is None or not isinstance(
        value, (pa.RecordBatch, pa.Table, pa.Array, pa.ChunkedArray)
    ):
        return value
    if value.get_total_buffer_size() <= 2 * value.nbytes + SLACK_BYTES:
        return value
    try:
        return value.take(pa.array(range(len(value)), pa.int64()))
    except pa.ArrowNotImplementedError:
        return value
