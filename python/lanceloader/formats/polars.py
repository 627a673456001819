"""Batches as Polars data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lanceloader._extras import need

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

__all__ = ["frame"]


def frame(batch: pa.RecordBatch) -> pl.DataFrame:
    """Return a data frame of shape (rows, columns). Most types are not copied."""
    need("polars", 'format "polars"')
    import polars as pl

    return cast("pl.DataFrame", pl.from_arrow(batch))
