"""Splitting a converted batch into single rows, for datasets that combine rows themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError
from lanceloader.formats.ragged import Ragged

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["is_stack_dataset", "rows_of"]


def is_stack_dataset(frame: FrameType | None) -> bool:
    """Return whether torch's ``StackDataset`` requests a batch, directly or through ``Subset``.

    ``StackDataset`` iterates over a batch row by row, whereas ``DataLoader`` collates it whole.

    Args:
        frame: The frame of the function that requests the batch.
    """
    data = sys.modules.get("torch.utils.data")
    if data is None:
        return False
    subset = data.Subset.__getitems__.__code__
    while frame is not None and frame.f_code is subset:
        frame = frame.f_back
    stack = data.StackDataset.__getitems__.__code__
    return frame is not None and frame.f_code is stack


def rows_of(batch: Any, num_rows: int, format: str | None) -> list[Any]:  # noqa: A002
    """Split a batch into rows.

    Args:
        batch: A batch in one of our formats, or the result of a user's transform.
        num_rows: The number of rows in the batch.
        format: The name of the format if it is neither a sequence of rows nor a dict of columns
            (see ``whole_of``), else ``None``.

    Returns:
        One item per row: a dict of the row's values, a tensor of them, or a batch of one row.

    Raises:
        FormatError: If a part of the batch does not have one value per row.
    """
    if format == "torch_col":
        return list(batch.T)
    if format == "pandas":
        return [batch.iloc[at : at + 1] for at in range(num_rows)]
    if format in ("arrow", "polars"):
        return [batch.slice(at, 1) for at in range(num_rows)]
    return values_of(batch, num_rows, "a batch")


def values_of(values: Any, num_rows: int, name: str) -> list[Any]:
    """Return one item per row of a sequence or of a dict of (nested) columns.

    Args:
        values: The batch or column.
        num_rows: The number of rows.
        name: What to call ``values`` in the error message.

    Raises:
        FormatError: If ``values`` does not have one item per row.
    """
    if isinstance(values, Mapping):
        columns = {
            key: values_of(column, num_rows, f"column `{key}`")
            for key, column in values.items()
        }
        return [
            {key: column[at] for key, column in columns.items()}
            for at in range(num_rows)
        ]
    if isinstance(values, Ragged):
        ends = values.offsets.tolist()
        return [values.values[ends[at] : ends[at + 1]] for at in range(num_rows)]
    try:
        has_rows = len(values) == num_rows and not isinstance(values, set | frozenset)
    except TypeError:
        has_rows = False
    if not has_rows:
        message = (
            f"`StackDataset` combines single rows, but {name} of type {type(values).__name__} does "
            f"not have one value for each of {num_rows} rows; use a transform that returns a list "
            "with one item per row, or a dict of such lists"
        )
        raise FormatError(message)
    if not getattr(getattr(values, "flags", None), "writeable", True):
        # torch's collate warns about numpy arrays that are read-only.
        values = values.copy()
    return [values[at] for at in range(num_rows)]
