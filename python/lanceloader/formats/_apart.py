"""A batch in its format, taken apart into rows, for those who put rows together themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lanceloader.errors import FormatError
from lanceloader.formats._columns import Ragged

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["is_for_a_stack", "rows_of"]


def is_for_a_stack(frame: FrameType | None) -> bool:
    """Whether it is torch's ``StackDataset`` that asks for a batch, also through ``Subset``.

    It goes through what it gets row by row, whereas ``DataLoader`` collates it as it is.

    Args:
        frame: Of the caller who asks for the batch.
    """
    data = sys.modules.get("torch.utils.data")
    if data is None:
        return False
    passes_on = data.Subset.__getitems__.__code__
    while frame is not None and frame.f_code is passes_on:
        frame = frame.f_back
    stacks = data.StackDataset.__getitems__.__code__
    return frame is not None and frame.f_code is stacks


def rows_of(batch: Any, num_rows: int, format: str | None) -> list[Any]:  # noqa: A002
    """Take a batch apart.

    Args:
        batch: In a format, or what a transform of the user makes.
        num_rows: How many rows it has.
        format: The format, if it is one of those whose length is not the number of rows.

    Returns:
        For each row a dict of its values, a tensor of them, or a batch of one row.

    Raises:
        FormatError: If something of the batch does not have a value for each row.
    """
    if format == "torch_col":
        return list(batch.T)
    if format == "pandas":
        return [batch.iloc[at : at + 1] for at in range(num_rows)]
    if format in ("arrow", "polars"):
        return [batch.slice(at, 1) for at in range(num_rows)]
    return values_of(batch, num_rows, "a batch")


def values_of(values: Any, num_rows: int, name: str) -> list[Any]:
    """Return what each row has of some values, which may be nested columns."""
    if isinstance(values, Mapping):
        columns = {
            key: values_of(column, num_rows, f"`{key}`")
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
            f"StackDataset puts rows together, and {name} of type {type(values).__name__} does not "
            f"have one value for each of {num_rows} rows: use a transform that returns a list with "
            "an item per row, or a dict of such"
        )
        raise FormatError(message)
    if not getattr(getattr(values, "flags", None), "writeable", True):
        # torch warns where it collates an array of numpy that it cannot write to.
        values = values.copy()
    return [values[at] for at in range(num_rows)]
