"""Batches as pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader._extras import need
from lanceloader.values import as_storable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["frame"]


def frame(batch: pa.RecordBatch) -> pd.DataFrame:
    """Give a frame of shape (rows, columns). A copy for most types."""
    need("pandas", 'format "pandas"')
    return as_storable(batch).to_pandas()
