"""``Transforms``, LanceDB's names for the formats that need no tensor library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanceloader._extras import need
from lanceloader.formats import arrow, pandas, polars, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np
    import polars as pl
    import pyarrow as pa

__all__ = ["Transforms"]


class Transforms:
    """Functions that convert a ``pyarrow.RecordBatch``, for ``Permutation.with_transform``."""

    arrow2python = staticmethod(python.rows)
    arrow2pythoncol = staticmethod(python.columns)
    arrow2arrow = staticmethod(arrow.batch)
    arrow2pandas = staticmethod(pandas.frame)

    @staticmethod
    def arrow2numpy(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
        """Return an array of shape (rows, columns)."""
        from lanceloader.formats.numpy import matrix

        return matrix(batch)

    @staticmethod
    def arrow2polars() -> Callable[[pa.RecordBatch], pl.DataFrame]:
        """Return a function that converts a batch to a polars data frame.

        As in LanceDB, and unlike the other methods, this one does not take the batch itself.

        Raises:
            ImportError: If polars is not installed.
        """
        need("polars", "Transforms.arrow2polars()")
        return polars.frame
