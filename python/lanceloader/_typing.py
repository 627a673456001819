"""Type aliases and protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import (
    Any,
    Literal,
    Protocol,
    SupportsIndex,
    TypeAlias,
    runtime_checkable,
)

__all__ = [
    "ArrayLike",
    "ArrowArrayExportable",
    "ArrowStreamExportable",
    "Format",
    "Nulls",
    "Pad",
    "Positions",
    "Progress",
    "Read",
    "Size",
    "StorageOptions",
    "Tail",
    "Transform",
    "WriteEngine",
]

Format: TypeAlias = Literal[
    "arrow",
    "numpy",
    "numpy_dict",
    "pandas",
    "polars",
    "python",
    "python_col",
    "torch",
    "torch_col",
    "torch_dict",
    "torch_matrix",
    "torch_row",
]
"""A format; see ``Permutation.with_format``."""

Tail: TypeAlias = Literal["uneven", "drop", "pad"]
"""The treatment of rows that do not divide evenly among ranks; see ``Permutation.shard``."""

Read: TypeAlias = Literal["auto", "resident", "external", "direct"]
"""A read strategy; see ``Permutation.with_read``."""

Size: TypeAlias = int | str
"""A size: a number of bytes, or a string such as ``"4GiB"``."""

WriteEngine: TypeAlias = Literal["local", "ray"]
"""What writes a table; see ``Permutation.materialize``."""

Nulls: TypeAlias = Literal["error", "fill", "mask"]
"""The policy of a dict format for nulls; see ``Permutation.with_format``."""

Pad: TypeAlias = float | Mapping[str, Any]
"""How a dict format pads lists; see ``Permutation.with_format``."""

StorageOptions: TypeAlias = dict[str, str]
"""Options of an object store, with Lance's names."""

PackStrategy: TypeAlias = Literal["concat", "first_fit", "best_fit"]
"""The algorithm that assigns documents to blocks; see ``Permutation.pack``."""

Labels: TypeAlias = Literal["shifted", "unshifted"]
"""The labels of packed blocks; see ``Permutation.pack``."""

LongDocuments: TypeAlias = Literal["split", "truncate", "drop", "error"]
"""The treatment of documents longer than a block; see ``Permutation.pack``."""

LongRows: TypeAlias = Literal["alone", "error"]
"""The treatment of rows longer than ``batch_tokens``; see ``Permutation.loader``."""

Progress: TypeAlias = bool | Callable[[int, int | None], object]
"""Whether to show a progress bar; or a function, which is called with the amounts done and in total."""

Transform: TypeAlias = Callable[[Any], Any]
"""A function that converts a ``pyarrow.RecordBatch``."""


class ArrayLike(Protocol):
    """A NumPy array, a tensor, or any other object that converts to a NumPy array."""

    def __array__(self) -> Any:
        """Return the values as a NumPy array."""


Positions: TypeAlias = Sequence[SupportsIndex] | ArrayLike
"""Positions of rows: a sequence, 1-D array or 1-D tensor of whole numbers."""


@runtime_checkable
class ArrowArrayExportable(Protocol):
    """An object that exports an Arrow array or batch."""

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Return the schema and the array as capsules."""


@runtime_checkable
class ArrowStreamExportable(Protocol):
    """An object that exports a stream of Arrow batches."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream as a capsule."""
