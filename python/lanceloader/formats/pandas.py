"""Batches as pandas data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader._extras import need
from lanceloader.values import as_storable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["frame"]


def frame(batch: pa.RecordBatch) -> pd.DataFrame:
    """Return a data frame of shape (rows, columns). Most types are copied."""
    need("pandas", 'format "pandas"')
    return as_storable(batch).to_pandas()
