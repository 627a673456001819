"""Stage 6, FORMAT: conversion of Arrow batches to the user's format.

One module per library, imported on first use. A transform is a function of a
``pyarrow.RecordBatch``. The transforms here are module-level functions or partials of them, so
permutations can be pickled.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any, get_args

from lanceloader._extras import need
from lanceloader._typing import Format
from lanceloader.formats._columns import Columns, check_fill_columns, check_nulls
from lanceloader.formats._padding import check_pad, padding_in
from lanceloader.formats.functions import Mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._native import Batch
    from lanceloader._typing import Transform

__all__ = [
    "FORMATS",
    "Columns",
    "check_fill_columns",
    "check_nulls",
    "check_pad",
    "format_of",
    "has_free_length",
    "inputs_of",
    "is_format",
    "is_matrix",
    "is_torch",
    "name_of",
    "native_of",
    "needs_own_buffers",
    "transform_of",
    "whole_of",
]

FORMATS: dict[str, tuple[str, str]] = {
    "arrow": ("arrow", "batch"),
    "numpy": ("numpy", "matrix"),
    "numpy_dict": ("numpy", "columns"),
    "pandas": ("pandas", "frame"),
    "polars": ("polars", "frame"),
    "python": ("python", "rows"),
    "python_col": ("python", "columns"),
    "torch": ("torch", "rows"),
    "torch_col": ("torch", "matrix"),
    "torch_dict": ("torch", "columns"),
    "torch_matrix": ("torch", "row_matrix"),
    "torch_row": ("torch", "row_tensors"),
}
"""The module and function of each format, by the name of the format."""

if set(FORMATS) != set(get_args(Format)):
    raise AssertionError(set(FORMATS) ^ set(get_args(Format)))

OPTIONAL = ("pandas", "polars", "torch")
"""Modules named after the optional library that they need."""

# Writing to these cannot change Arrow's buffers: Python objects are copies, the rest is read-only.
_READ_ONLY = ("arrow", "numpy", "pandas", "polars", "python")


def transform_of(name: object, **options: Any) -> Transform:
    """Return the transform of a format.

    Args:
        name: One of ``FORMATS``.
        options: For the dict formats, the keyword arguments of ``with_format``.

    Raises:
        ValueError: If the format does not exist or takes no options.
        ImportError: If the format's library is not installed.
    """
    if not isinstance(name, str) or name not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        message = f"Invalid format: {name}; pass one of {known}"
        raise ValueError(message)
    module, function = FORMATS[name]
    if module in OPTIONAL:
        need(module, f'format "{name}"')
    library = importlib.import_module(f"lanceloader.formats.{module}")
    transform: Transform = getattr(library, function)
    if options:
        if not name.endswith("_dict"):
            dicts = " and ".join(f'"{key}"' for key in FORMATS if key.endswith("_dict"))
            message = f'format "{name}" takes no options, got {", ".join(options)}; only {dicts} do'
            raise ValueError(message)
        transform = functools.partial(transform, **options)
    return transform


def format_of(transform: Transform) -> Transform:
    """Return the transform to the format, which is the last step of one with functions of ``map``."""
    return transform.transform if isinstance(transform, Mapped) else transform


def has_free_length(transform: Transform) -> bool:
    """Return whether a format pads lists to the longest one of a batch."""
    transform = format_of(transform)
    if not isinstance(transform, functools.partial):
        return False
    return any(one.get("length") is None for one in padding_in(transform.keywords))


def inputs_of(transform: Transform, *, by_row: bool) -> Transform:
    """Return the transform to what functions of ``map`` and ``filter`` are called with.

    That is a dict of columns in the library of the format, or a whole batch or data frame.

    Args:
        transform: The transform of the permutation.
        by_row: Whether the function takes single rows.

    Raises:
        ValueError: If the format is a user's function, or has no rows as dicts.
    """
    transform = format_of(transform)
    name = name_of(transform)
    if name is None:
        raise ValueError(
            "functions of rows cannot follow with_transform(), whose results have no columns: call "
            "map() or filter() first"
        )
    if name in ("arrow", "pandas", "polars"):
        if by_row:
            message = (
                f'format "{name}" has no rows as dicts: pass batched=True, for a function of whole '
                "batches"
            )
            raise ValueError(message)
        return transform
    if name.endswith("_dict"):
        return transform
    library, _ = FORMATS[name]
    return transform_of("python_col" if library == "python" else f"{library}_dict")


def name_of(transform: Transform) -> str | None:
    """Return the name of the format of a transform, or ``None`` for a user's function."""
    transform = format_of(transform)
    function: Any = getattr(transform, "func", transform)
    package, _, library = (getattr(function, "__module__", None) or "").rpartition(".")
    if package != __name__:
        return None
    found = library, getattr(function, "__name__", None)
    return next((name for name, place in FORMATS.items() if place == found), None)


def native_of(transform: Transform) -> Callable[[Batch], Any] | None:
    """Return the function that converts a batch of the core as ``transform`` converts Arrow's.

    Returns:
        The function, or ``None``: only the dict formats and ``"torch_matrix"`` have one. It is
        several times faster than ``transform`` for columns of numbers.
    """
    options: dict[str, Any] = {}
    function: Any = transform
    if isinstance(transform, functools.partial):
        function, options = transform.func, transform.keywords
    if is_matrix(transform):
        return sys.modules[transform.__module__].matrix_from_native  # type: ignore[no-any-return]
    package, _, library = (getattr(function, "__module__", None) or "").rpartition(".")
    if package != __name__ or options.get("nulls") == "mask":
        return None
    if FORMATS.get(f"{library}_dict") != (library, getattr(function, "__name__", None)):
        return None
    return functools.partial(
        sys.modules[f"{package}.{library}"].from_native, transform=transform
    )


def is_format(transform: Transform, format: Format) -> bool:  # noqa: A002
    """Return whether a transform is that of ``format``, a format without options."""
    library, function = FORMATS[format]
    module = getattr(transform, "__module__", None)
    name = getattr(transform, "__name__", None)
    return module == f"{__name__}.{library}" and name == function


def whole_of(transform: Transform) -> str | None:
    """Return the name of the format if its batches are neither rows nor a dict of columns.

    For all other formats and for a user's function, return ``None``.
    """
    wholes: tuple[Format, ...] = "arrow", "pandas", "polars", "torch_col"
    transform = format_of(transform)
    return next((name for name in wholes if is_format(transform, name)), None)


def is_matrix(transform: Transform) -> bool:
    """Return whether a transform is that of ``"torch_matrix"``, which needs row-major values."""
    return is_format(transform, "torch_matrix")


def is_torch(transform: Transform) -> bool:
    """Return whether a transform is that of one of the torch formats."""
    transform = format_of(transform)
    if isinstance(transform, functools.partial):
        transform = transform.func
    return getattr(transform, "__module__", None) == f"{__name__}.torch"


def needs_own_buffers(transform: Transform) -> bool:
    """Return whether writing to a converted batch may change Arrow's buffers.

    Such batches must not share buffers with anything else. True for all but our own read-only
    formats: tensors alias Arrow's buffers, and a user's transform may return anything.
    """
    module = getattr(transform, "__module__", None) or ""
    package, _, last = module.rpartition(".")
    return package != __name__ or last not in _READ_ONLY
