"""What transforms did to rows."""

from __future__ import annotations

import threading

__all__ = ["TransformCounts"]


class TransformCounts:
    """What transforms did, up to the batch that was yielded last. The numbers only grow.

    Attributes:
        rows_skipped: Rows left out because the transform failed on them.
        rows_filled: Rows replaced because the transform failed on them.
        batches_skipped: Batches left out because all of their rows were.
    """

    def __init__(self) -> None:
        self.rows_skipped = 0
        self.rows_filled = 0
        self.batches_skipped = 0
        self._lock = threading.Lock()

    def add(self, rows_skipped: int, rows_filled: int, batches_skipped: int) -> None:
        """Add what became of one batch."""
        with self._lock:
            self.rows_skipped += rows_skipped
            self.rows_filled += rows_filled
            self.batches_skipped += batches_skipped
