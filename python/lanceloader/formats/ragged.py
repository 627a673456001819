"""``Ragged``: a column of lists of different lengths, and padding it to one length."""

from __future__ import annotations

import sys
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

from lanceloader.choices import check_choice
from lanceloader.numbers import count

__all__ = ["Ragged", "Side"]

Side = Literal["right", "left"]
"""The side of a list to which padding is added."""


class Ragged(NamedTuple):
    """A column of lists of different lengths, in the formats ``"torch_dict"`` and ``"numpy_dict"``.

    List ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Example:
        >>> import pyarrow as pa
        >>> documents = pa.table({"tokens": [[1, 2, 3], [4], [5, 6]]})
        >>> tokens = ll.open(documents, format="numpy_dict")[:]["tokens"]
        >>> tokens.values, tokens.offsets
        (array([1, 2, 3, 4, 5, 6]), array([0, 3, 4, 6]))
        >>> tokens.padded(0)
        array([[1, 2, 3],
               [4, 0, 0],
               [5, 6, 0]])
    """

    values: Any
    """The values of all lists, concatenated: a 1-D array or tensor; or one with more dimensions,
    for lists of vectors."""

    offsets: Any
    """The start of each list and the end of the last one: int64 of length ``num_lists + 1``."""

    @property
    def lengths(self) -> Any:
        """The length of each list: int64 of length ``num_lists``."""
        return self.offsets[1:] - self.offsets[:-1]

    @overload
    def padded(
        self,
        value: Any,
        *,
        side: Side = ...,
        length: SupportsIndex | None = ...,
        multiple_of: SupportsIndex | None = ...,
        return_mask: Literal[False] = ...,
    ) -> Any: ...

    @overload
    def padded(
        self,
        value: Any,
        *,
        side: Side = ...,
        length: SupportsIndex | None = ...,
        multiple_of: SupportsIndex | None = ...,
        return_mask: Literal[True],
    ) -> tuple[Any, Any]: ...

    def padded(
        self,
        value: Any,
        *,
        side: Side = "right",
        length: SupportsIndex | None = None,
        multiple_of: SupportsIndex | None = None,
        return_mask: bool = False,
    ) -> Any:
        """Return the lists as one array or tensor, in which shorter lists are padded.

        Args:
            value: The value of the padding, which the dtype of the values must be able to hold.
            side: The side of each list to which padding is added.
            length: The length to which all lists are padded; by default that of the longest one.
            multiple_of: A number of which the length is made a multiple, by more padding.
            return_mask: Whether to return a mask as well, which is true for the values of lists and
                false for padding: an attention mask.

        Returns:
            An array or tensor of shape (num_lists, length), with the dtype and on the device of the
            values; or of shape (num_lists, length, ...) for lists of vectors. With
            ``return_mask``, a pair of it and the mask, booleans of shape (num_lists, length).

        Raises:
            ValueError: If a list is longer than ``length``, or the dtype of the values cannot hold
                ``value``.

        Example:
            >>> import numpy as np
            >>> tokens = ll.Ragged(np.array([1, 2, 3, 4]), np.array([0, 3, 4]))
            >>> padded, mask = tokens.padded(-1, side="left", multiple_of=4, return_mask=True)
            >>> padded
            array([[-1,  1,  2,  3],
                   [-1, -1, -1,  4]])
            >>> mask.sum(axis=1)
            array([3, 1])
        """
        check_choice("side", side, Side)
        lengths = self.lengths
        width = width_of(lengths, length, multiple_of)
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        values = self.values[first:last]
        shape = (len(lengths), width, *values.shape[1:])
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(values, torch.Tensor):
            places = torch.arange(width, device=values.device)
            lengths = lengths.to(values.device)
            kind, stored = values.dtype, signed(torch, values.dtype)
            values = values.view(stored)
            filler = torch.tensor(checked(value, kind), dtype=kind).view(stored)
            out = torch.full(shape, filler.item(), dtype=stored, device=values.device)
        else:
            import numpy as np

            places = np.arange(width)
            kind = values.dtype
            out = np.full(shape, checked(value, kind), kind)
        if side == "right":
            mask = places < lengths[:, None]
        else:
            mask = places >= width - lengths[:, None]
        # Lists lie one after the other, and so do the places of a mask.
        out[mask] = values
        out = out.view(kind)
        return (out, mask) if return_mask else out


def width_of(
    lengths: Any, length: SupportsIndex | None, multiple_of: SupportsIndex | None
) -> int:
    """Return the length to which lists are padded.

    Raises:
        ValueError: If a list is longer than ``length``.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    width = longest
    if length is not None:
        width = count(length, "length")
        if longest > width:
            message = (
                f"`length`={width} is less than the {longest} values of the longest list: pass a "
                "larger length, or shorten the lists first"
            )
            raise ValueError(message)
    if multiple_of is not None:
        step = count(multiple_of, "multiple_of", least=1)
        width = -(-width // step) * step
    return width


def checked(value: Any, kind: Any) -> Any:
    """Return the value of padding, if a dtype of NumPy or torch can hold it.

    Raises:
        ValueError: If it cannot.
    """
    name = str(kind).removeprefix("torch.")
    least, most = limits(name)
    try:
        fits = most is None or (int(value) == value and least <= value <= most)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        message = f"values of type {name} cannot be padded with {value!r}: pass a value of this type"
        raise ValueError(message)
    return value


def limits(name: str) -> tuple[int, int | None]:
    """Return the least and the largest value of a dtype; ``None`` if it is not one of integers."""
    if name == "bool":
        return 0, 1
    unsigned = name.startswith("uint")
    bits = name.removeprefix("u").removeprefix("int")
    if not name.removeprefix("u").startswith("int") or not bits.isdigit():
        return 0, None
    half = 2 ** (int(bits) - 1)
    return (0, 2 * half - 1) if unsigned else (-half, half - 1)


def signed(torch: Any, kind: Any) -> Any:
    """Return the dtype of the same width in which torch can assign by a mask."""
    wide = {
        torch.uint16: torch.int16,
        torch.uint32: torch.int32,
        torch.uint64: torch.int64,
    }
    return wide.get(kind, kind)
