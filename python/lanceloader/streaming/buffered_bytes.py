"""The bytes of batches under way, and their limit."""

from __future__ import annotations

from collections import deque
from typing import Any

MAX_BYTES = 256 << 20
"""The limit if nobody passed one."""


class BufferedBytes:
    """The bytes of batches that were read and not yet yielded, held below a limit.

    A read under way counts as much as batches had per row so far. Until a batch was read, one read
    of each stream is under way, or any number if nobody passed the limit.
    """

    def __init__(
        self, max_bytes: int, num_streams: int, *, is_default: bool = False
    ) -> None:
        self.max_bytes = max_bytes
        self.is_default = is_default
        self.held: list[deque[tuple[int, int]]] = new_deques(num_streams)
        """Of each stream, where each batch ends and its bytes."""
        self.pending = [0] * num_streams
        """Of each stream, rows that are being read."""
        self.num_bytes = 0
        self.pending_rows = 0
        self.seen_rows = 0
        self.seen_bytes = 0

    def reserve(self, i: int, num_rows: int) -> bool:
        """Reserve bytes for a read of stream ``i``, and return whether there was room."""
        is_idle = not self.held[i] and not self.pending[i]
        per_row = self.seen_bytes / self.seen_rows if self.seen_rows else None
        if per_row is None and self.is_default:
            per_row = 0.0
        rows = self.pending_rows + num_rows
        if not is_idle and (
            per_row is None or self.num_bytes + rows * per_row > self.max_bytes
        ):
            return False
        self.pending[i] += num_rows
        self.pending_rows += num_rows
        return True

    def add(self, i: int, end: int, batch: Any) -> None:
        """Replace a reservation by the batch that was read, whose rows end at ``end``."""
        self.held[i].append((end, batch.nbytes))
        self.num_bytes += batch.nbytes
        self.pending[i] -= batch.num_rows
        self.pending_rows -= batch.num_rows
        self.seen_rows += batch.num_rows
        self.seen_bytes += batch.nbytes

    def release(self, i: int, position: int) -> None:
        """Release the batches of stream ``i`` that end at or before ``position``."""
        held = self.held[i]
        while held and held[0][0] <= position:
            self.num_bytes -= held.popleft()[1]


def new_deques(count: int) -> list[deque[Any]]:
    """Return empty deques."""
    return [deque() for _ in range(count)]
