"""How the C library keeps memory that is freed, for batches whose values are objects of their own."""

from __future__ import annotations

__all__ = ["keep_freed_memory"]

MOST_DYNAMIC = 32 << 20
"""The largest block from which glibc learns, with its header."""

_is_kept = False


def keep_freed_memory() -> None:
    """Keep up to 64 MiB of freed memory at the end of the heap of glibc, from the first call on.

    The values of a batch are freed together. glibc then gives their pages back to the system, and
    those of the next batch are faulted in and cleared one by one, which costs more than to copy
    the values. It keeps twice the size of the largest block that it mapped and that was freed, so
    one that is never written to suffices. Where thresholds were set, as by ``MALLOC_TRIM_THRESHOLD_``,
    they stay: see "Dynamic mmap threshold" in mallopt(3).
    """
    import numpy as np

    global _is_kept
    if not _is_kept:
        _is_kept = True
        np.empty(MOST_DYNAMIC - (1 << 16), np.uint8)
