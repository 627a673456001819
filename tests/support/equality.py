"""Whether two results are the same: values, types, dtypes, shapes and order of keys."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch


def same(ours, theirs) -> bool:
    """NaN equals NaN; a list may stand for a list subclass."""
    if isinstance(theirs, list | tuple):
        return (
            isinstance(ours, list | tuple)
            and len(ours) == len(theirs)
            and all(map(same, ours, theirs))
        )
    if isinstance(theirs, dict):
        return (
            isinstance(ours, dict)
            and list(ours) == list(theirs)
            and all(same(ours[key], theirs[key]) for key in theirs)
        )
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and same(ours.numpy(), theirs.numpy())
    if isinstance(theirs, np.ndarray):
        return (
            ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and same(ours.ravel().tolist(), theirs.ravel().tolist())
        )
    if isinstance(theirs, pa.RecordBatch | pa.Schema):
        return ours.equals(theirs, check_metadata=True)
    if isinstance(theirs, pd.DataFrame | pl.DataFrame):
        return ours.equals(theirs)
    if isinstance(theirs, float) and math.isnan(theirs):
        return math.isnan(ours)
    return theirs is ours or bool(theirs == ours) or (pd.isna(theirs) and pd.isna(ours))
