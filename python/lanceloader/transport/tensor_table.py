"""The tensors of an object as one buffer, from which the reader rebuilds all of them at once."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import pickle
from typing import TYPE_CHECKING, Any

from lanceloader.tensor_tree import is_plain_tensor

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    import torch

__all__ = ["ALIGNMENT", "TensorTable"]

# The alignment that Arrow recommends for buffers, which suffices for all types of numbers.
ALIGNMENT = 64

SCALARS = str, bytes, bool, int, float, type(None)


class TensorTable:
    """The contiguous tensors of a nested value that do not overlap in memory.

    Its pickle is a list of tensors.

    Args:
        value: Nested dicts, lists and tuples. Tensors in other objects are left out.
        excluded: The ``id`` of batches whose tensors in ``made_of`` are left out, too.

    Attributes:
        marker: The placeholder of the buffer in the pickle.
        num_bytes: The size of the buffer.
        parts: The parts of the buffer, with their offsets.
        numbers: The number of each tensor in the list, by the ``id`` of the tensor.
    """

    def __init__(self, value: Any, excluded: Container[int] = ()) -> None:
        # Writable, as the tensors are.
        self.marker = pickle.PickleBuffer(bytearray())
        self.num_bytes = 0
        self.parts: list[tuple[int, memoryview]] = []
        self.numbers: dict[int, int] = {}
        self._runs: list[list[Any]] = []
        """Runs of tensors of one kind that lie end to end: dtype, shape and number of tensors."""
        found = {id(tensor): tensor for tensor in tensors_in(value, excluded)}
        # Keep the tensors alive, or their ``id`` may be reused.
        self._found = found
        spans = sorted(
            [(one.data_ptr(), extent(one), at, one) for at, one in found.items()]
        )
        run_at = last_end = 0
        kind: Any = None
        for address, size, at, tensor in without_overlaps(spans):
            if not tensor.is_contiguous():
                continue
            same = tensor.dtype, tensor.shape
            if address == last_end and same == kind:
                self._runs[-1][2] += 1
            else:
                self._add(run_at, last_end)
                run_at, kind = address, same
                self._runs.append([name_of(same[0]), tuple(same[1]), 1])
            last_end = address + size
            self.numbers[at] = len(self.numbers)
        self._add(run_at, last_end)

    def _add(self, start: int, stop: int) -> None:
        """Add the memory from one address to another, in which tensors lie end to end."""
        if start == stop:
            return
        memory: Any = (ctypes.c_ubyte * (stop - start)).from_address(start)
        memory.owner = self._found
        self.num_bytes += -self.num_bytes % ALIGNMENT
        self.parts.append((self.num_bytes, memoryview(memory).cast("B")))
        self.num_bytes += stop - start

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return rebuild_tensors, (self.marker, self._runs)


def tensors_in(value: Any, excluded: Container[int] = ()) -> Iterator[torch.Tensor]:
    """Yield the plain tensors in nested dicts, lists, tuples and dataclasses, which may be cyclic.

    Args:
        value: The nested value.
        excluded: The ``id`` of batches whose tensors in ``made_of`` are left out.
    """
    import torch

    values = [value]
    seen: set[int] = set()
    while values:
        part = values.pop()
        if type(part) is torch.Tensor:
            if is_plain_tensor(part) and part.nbytes:
                yield part
            continue
        is_record = dataclasses.is_dataclass(part) and not isinstance(part, type)
        if not is_record and not isinstance(part, dict | list | tuple):
            continue
        if id(part) in seen:
            continue
        seen.add(id(part))
        # Read items by the methods of the base types: subclasses may make tensors while they are
        # iterated, which would not live as long as the value.
        if id(part) in excluded:
            arrays = part.made_of.arrays
            values += [part[name] for name in part if name not in arrays]
        elif isinstance(part, dict):
            values += dict.values(part)
        elif not isinstance(part, list | tuple):
            fields = dataclasses.fields(part)
            values += [getattr(part, field.name, None) for field in fields]
        # Skip lists of text or numbers, which may be long.
        else:
            items = [*iter_of(part)]
            if not (
                items
                and isinstance(items[0], SCALARS)
                and isinstance(items[-1], SCALARS)
            ):
                values += items


def iter_of(part: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    """Iterate a list or a tuple, ignoring ``__iter__`` of subclasses."""
    return list.__iter__(part) if isinstance(part, list) else tuple.__iter__(part)


def extent(tensor: torch.Tensor) -> int:
    """Return the number of bytes from the first element of a tensor to the end of the last one."""
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (sum((n - 1) * step for n, step in steps) + 1) * tensor.itemsize


def without_overlaps(
    spans: Sequence[tuple[int, int, int, torch.Tensor]],
) -> list[tuple[int, int, int, torch.Tensor]]:
    """Return the spans that overlap no other one, given spans sorted by address."""
    kept: list[tuple[int, int, int, torch.Tensor]] = []
    end = 0
    for span in spans:
        if span[0] >= end:
            kept.append(span)
        elif kept and kept[-1][0] + kept[-1][1] > span[0]:
            kept.pop()
        end = max(end, span[0] + span[1])
    return kept


_NAMES: dict[torch.dtype, str] = {}


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype."""
    name = _NAMES.get(dtype)
    if name is None:
        name = _NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


def rebuild_tensors(buffer: Any, runs: list[list[Any]]) -> list[torch.Tensor]:
    """Return the tensors of a table, which share the memory of a buffer."""
    import torch

    tensors: list[torch.Tensor] = []
    offset = 0
    for name, shape, count in runs:
        dtype = getattr(torch, name)
        size = math.prod(shape)
        offset += -offset % ALIGNMENT
        # Not views of a common base: autograd would take an in-place change of one for a change of all.
        for _ in range(count):
            tensor = torch.frombuffer(buffer, dtype=dtype, count=size, offset=offset)
            offset += tensor.nbytes
            tensors.append(tensor if len(shape) == 1 else tensor.view(shape))
    return tensors
