"""How the C library keeps memory that is freed, for batches whose values are objects of their own."""

from __future__ import annotations

__all__ = ["keep_freed_memory"]

MOST_DYNAMIC = 32 << 20
"""The largest mapped block, with its header, whose release raises glibc's threshold."""

_is_kept = False


def keep_freed_memory() -> None:
    """Keep up to 64 MiB of freed memory at the end of the heap of glibc, from the first call on.

    The values of a batch are freed together. glibc then returns their pages to the system, and the
    pages of the next batch are faulted in and cleared one by one, which costs more than copying the
    values. glibc keeps up to twice the size of the largest mapped block that was freed, so freeing one
    block suffices, which need not be written to. Thresholds that were set, for example by
    ``MALLOC_TRIM_THRESHOLD_``, stay: see "Dynamic mmap threshold" in mallopt(3).
    """
    import numpy as np

    global _is_kept
    if not _is_kept:
        _is_kept = True
        np.empty(MOST_DYNAMIC - (1 << 16), np.uint8)
