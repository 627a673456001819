"""Types that several modules name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    "Positions",
    "Progress",
    "Read",
    "Size",
    "StorageOptions",
    "Tail",
    "Transform",
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
"""The names that ``with_format`` takes."""

Tail: TypeAlias = Literal["uneven", "drop", "pad"]
"""What becomes of the rows that do not divide among the ranks."""

Read: TypeAlias = Literal["auto", "resident", "external", "direct"]
"""The names that ``with_read`` takes."""

Size: TypeAlias = int | str
"""Bytes: a number, or a text like ``"4GiB"``."""

Nulls: TypeAlias = Literal["error", "fill", "mask"]
"""What a dict format does with nulls."""

StorageOptions: TypeAlias = dict[str, str]
"""Options of an object store, as Lance names them."""

PackStrategy: TypeAlias = Literal["concat", "first_fit", "best_fit"]
"""How documents are put into blocks; see ``Permutation.pack``."""

LongDocuments: TypeAlias = Literal["split", "truncate", "drop", "error"]
"""What becomes of a document that is longer than a block; see ``Permutation.pack``."""

LongRows: TypeAlias = Literal["alone", "error"]
"""What becomes of a row that is longer than ``batch_tokens``; see ``Permutation.loader``."""

Progress: TypeAlias = bool | Callable[[int, int | None], object]
"""Whether to show a bar; or a function, called with how much is done and how much there is."""

Transform: TypeAlias = Callable[[Any], Any]
"""Called with each ``pyarrow.RecordBatch``."""


class ArrayLike(Protocol):
    """A numpy array, a tensor, or anything else that numpy takes."""

    def __array__(self) -> Any:
        """Give it as a numpy array."""


Positions: TypeAlias = Sequence[SupportsIndex] | ArrayLike
"""Places of rows: a sequence of whole numbers, or a 1-d array or tensor of them."""


@runtime_checkable
class ArrowArrayExportable(Protocol):
    """An object that hands over an Arrow array or batch."""

    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]:
        """Give the schema and the array as capsules."""


@runtime_checkable
class ArrowStreamExportable(Protocol):
    """An object that hands over a stream of Arrow batches."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Give the stream as a capsule."""
