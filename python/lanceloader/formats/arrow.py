"""Batches as pyarrow record batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batch"]


def batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch itself, without a copy."""
    return batch
