"""The statistics of ``StreamingDataset``."""

from __future__ import annotations

from lanceloader.streaming.attributes import DatasetAttributes
from lanceloader.streaming.counters import (
    BYTES,
    CONSUMED,
    FETCH,
    FILLED,
    MICROSECONDS,
    RAW,
    READY,
    SKIPPED,
    TRANSFORM,
    UNSCANNED,
)


class DatasetStatistics(DatasetAttributes):
    """Totals over all iterations and workers, and gauges of the current iteration."""

    @property
    def bytes_loaded(self) -> int:
        """Bytes of Arrow data read, before any transform, over all iterations and workers."""
        return int(self._counters.value(BYTES))

    @property
    def fetch_time(self) -> float:
        """Seconds spent reading, summed over threads, workers and iterations."""
        return self._counters.value(FETCH) / MICROSECONDS

    @property
    def transform_time(self) -> float:
        """Seconds spent in the transform, summed over threads, workers and iterations."""
        return self._counters.value(TRANSFORM) / MICROSECONDS

    @property
    def rows_skipped(self) -> int:
        """Rows dropped because their transform failed, over all iterations and workers."""
        return int(self._counters.value(SKIPPED))

    @property
    def rows_filled(self) -> int:
        """Rows replaced because their transform failed, over all iterations and workers."""
        return int(self._counters.value(FILLED))

    @property
    def raw_queue_depth(self) -> int:
        """Rows read and waiting for the transform. A high number means a slow transform."""
        return int(self._counters.value(RAW))

    @property
    def prefetch_queue_depth(self) -> int:
        """Rows transformed and waiting for the consumer. Zero means slow reads or transforms."""
        return int(self._counters.value(READY))

    @property
    def unscanned_rows(self) -> int:
        """Rows of this iteration that were not requested yet."""
        return int(self._counters.value(UNSCANNED))

    @property
    def consumed_rows(self) -> int:
        """Rows of this iteration that were yielded; with packing, documents."""
        return int(self._counters.value(CONSUMED))
