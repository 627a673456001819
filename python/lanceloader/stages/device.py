"""Batches in pinned memory and on a device, copied during the step before.

Tensors and other objects with a method ``to`` are copied; strings, numbers, numpy arrays and Arrow data
are not. Tensors that share a storage, such as the columns of a batch, are copied at once and share a
storage afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from lanceloader.formats import Columns
from lanceloader.stages.ordered_map import OrderedMap
from lanceloader.tensor_tree import (
    bytes_by_storage,
    columns_of_block,
    is_plain_tensor,
    tree_leaves,
    tree_map,
)
from lanceloader.transport.blocks import address_of
from lanceloader.transport.columns import is_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from lanceloader.formats._columns import MadeOf

__all__ = ["copied_ahead", "on_device", "pinned"]

Timed: TypeAlias = "Callable[[Callable[[Any], Any]], Callable[[Any], Any]]"
"""A decorator that measures the time of a function."""


def pinned(value: Any) -> Any:
    """Return a batch with its tensors in pinned memory, for asynchronous copies to a device.

    Without an accelerator that supports pinned memory, this warns once, as torch does, and returns
    ``value``.

    Args:
        value: A tensor, or nested dicts, lists, tuples and dataclasses of tensors.
    """
    return map_by_storage(value, pin) if can_pin() else value


def on_device(
    batches: Iterable[Any],
    device: str | torch.device | None = None,
    *,
    pin_memory: bool = False,
    timed: Timed = lambda call: call,
) -> Iterator[Any]:
    """Return an iterator over batches whose tensors are in pinned memory, on a device, or both in turn.

    For CUDA and for pinned memory, a thread copies one batch ahead. Copies to CUDA use a stream of
    their own, so they overlap with the computation of the step before. The batches may be used on
    the current stream of the thread that calls ``next``. Nothing starts before the first ``next``.

    Args:
        batches: Tensors, or nested dicts, lists, tuples and dataclasses of tensors.
        device: The device to copy to, by default none. ``"cuda"`` is the current device of the
            caller.
        pin_memory: Whether to copy through pinned memory. Without an accelerator this warns and
            has no effect.
        timed: Measures the time of the function that copies a batch.

    Raises:
        TypeError: From ``next``, if the first batch has no tensors.
    """
    import torch

    place = None if device is None else torch.device(device)
    pins = pin_memory and can_pin()
    if place is None and not pins:
        return iter(batches)
    # Batches that are made from now on say which blocks their columns lie in.
    if pins or (place is not None and place.type == "cuda"):
        Columns.are_copied = True
    if place is not None and place.type == "cuda":
        if place.index is None:
            # Each thread has its own current device.
            place = torch.device("cuda", torch.cuda.current_device())
        return copied_ahead(batches, place, torch.cuda, pins=pins, timed=timed)
    check = DeviceCheck(place)
    if not pins:
        return OrderedMap(
            batches,
            timed(lambda batch: tree_map(check(batch), lambda leaf: to(leaf, place))),
            threads=0,
            ahead=0,
            name="lanceloader-device",
        )
    choose = accelerator_setter()

    def pin_and_move(batch: Any) -> Any:
        choose()
        batch = map_by_storage(check(batch), pin)
        return batch if place is None else tree_map(batch, lambda leaf: to(leaf, place))

    return OrderedMap(
        batches, timed(pin_and_move), threads=1, ahead=1, name="lanceloader-device"
    )


def copied_ahead(
    batches: Iterable[Any],
    device: torch.device,
    cuda: Any,
    *,
    pins: bool,
    timed: Timed = lambda call: call,
) -> Iterator[Any]:
    """Return an iterator over batches on a device, copied one ahead on a separate stream.

    Args:
        batches: As for ``on_device``.
        device: The device, with its index.
        cuda: ``torch.cuda``, or an object with the same streams.
        pins: Whether to copy through pinned memory.
        timed: As for ``on_device``.
    """
    stream = CopyStream(device, cuda, pins=pins)
    copies = OrderedMap(
        batches, timed(stream.start), threads=1, ahead=1, name="lanceloader-device"
    )
    return CopiedBatches(copies, stream)


class CopyStream:
    """A CUDA stream for copies, which run in parallel to the computation."""

    def __init__(self, device: torch.device, cuda: Any, *, pins: bool) -> None:
        self.device = device
        self.cuda = cuda
        self.stream = cuda.Stream(device)
        self.pins = pins
        self.check = DeviceCheck(device)

    def start(self, batch: Any) -> Copied:
        """Start to copy a batch, and return the copy and the event of its completion."""
        self.check(batch)
        copies: list[Any] = []
        late: list[Any] = []

        def copied(leaf: Any) -> Any:
            leaf = pin(leaf) if self.pins else leaf
            if not hasattr(leaf, "record_stream"):
                # Without `record_stream` its memory might be reused too early, so `finish` copies it.
                late.append(leaf)
                return leaf
            copies.append(to(leaf, self.device))
            return copies[-1]

        # The context also sets the current device, for pinned memory.
        with self.cuda.stream(self.stream):
            batch = map_by_storage(batch, copied)
            return Copied(batch, copies, bool(late), self.stream.record_event())

    def finish(self, copied: Copied) -> Any:
        """Return a copy for use on the current stream, which waits for its completion."""
        current = self.cuda.current_stream(self.device)
        current.wait_event(copied.event)
        for leaf in copied.copies:
            # The memory belongs to the copy stream, which would reuse it for the next batch once
            # Python frees the tensor, even if the current stream still reads it.
            leaf.record_stream(current)
        if not copied.has_late:
            return copied.batch
        return tree_map(
            copied.batch,
            lambda leaf: (
                leaf if hasattr(leaf, "record_stream") else to(leaf, self.device)
            ),
        )


class Copied(NamedTuple):
    """A batch on its way to a device.

    Attributes:
        batch: The batch with its copies in place of its tensors.
        copies: The tensors that were copied to; columns of one block are one.
        has_late: Whether the batch has other objects that are still to be copied.
        event: The event of the completion of the copies.
    """

    batch: Any
    copies: list[Any]
    has_late: bool
    event: Any


class CopiedBatches:
    """An iterator over copied batches, each for use on the current stream of the caller."""

    def __init__(self, copies: OrderedMap[Any, Copied], stream: CopyStream) -> None:
        self._copies = copies
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._stream.finish(next(self._copies))

    @property
    def runs_ahead(self) -> bool:
        """Whether copies are started before they are requested."""
        return self._copies.runs_ahead

    @property
    def num_ready(self) -> int:
        """The number of batches whose copy was started and that were not yielded yet."""
        return self._copies.num_ready

    def close(self) -> None:
        """Stop copying."""
        self._copies.close()


class DeviceCheck:
    """Checks that the first batch has tensors, as ``device`` would have no effect otherwise."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.is_done = device is None or device.type == "cpu"

    def __call__(self, batch: Any) -> Any:
        is_empty = isinstance(batch, list | tuple | Mapping) and not batch
        if not self.is_done and not is_empty and not tree_leaves(batch):
            message = (
                f"`device`={str(self.device)!r} has no effect on a {type(batch).__name__} without "
                'tensors: pass a format of tensors, such as "torch_dict"'
            )
            raise TypeError(message)
        self.is_done = self.is_done or not is_empty
        return batch


def to(leaf: Any, device: Any) -> Any:
    try:
        return leaf.to(device, non_blocking=True)
    except TypeError:
        return leaf.to(device)


def pin(leaf: Any) -> Any:
    is_elsewhere = getattr(getattr(leaf, "device", None), "type", "cpu") != "cpu"
    if is_elsewhere or not hasattr(leaf, "pin_memory"):
        return leaf
    if not is_plain_tensor(leaf) or not leaf.is_contiguous() or leaf.is_pinned():
        return leaf.pin_memory()
    import torch

    copied = torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu", pin_memory=True)
    copy_bytes(copied, leaf)
    return copied


def copy_bytes(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy the bytes of a contiguous tensor to another one of its size, in this thread alone.

    torch would copy with a thread for each core. Those threads spin for a while afterwards, and take the
    cores from the threads that read and from the training step.
    """
    import numpy as np
    import torch

    if source.nbytes:
        to, of = (part.reshape(-1).view(torch.uint8) for part in (target, source))
        np.copyto(to.numpy(), of.numpy())


def map_by_storage(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a batch with copied tensors; those of one storage are views of one copy.

    Args:
        value: A batch.
        function: Copies one tensor.
    """
    import torch

    if type(value) is Columns and value.made_of is not None and is_unchanged(value):
        made = value.made_of
        others = {name: part for name, part in value.items() if name not in made.arrays}
        if not shares_blocks(others, made):
            return map_blocks(value, made, others, function)
    used = bytes_by_storage(tree_leaves(value))
    copies: dict[int, Any] = {}

    def replaced(leaf: Any) -> Any:
        if not is_plain_tensor(leaf):
            return function(leaf)
        storage = leaf.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        # A storage is only copied as a whole if several tensors use most of it.
        if used[key] <= leaf.nbytes or used[key] * 2 < size:
            return function(leaf)
        if key not in copies:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            copies[key] = function(whole)
        new = torch.empty(0, dtype=leaf.dtype, device=copies[key].device)
        return new.set_(
            copies[key].untyped_storage(),
            leaf.storage_offset(),
            leaf.shape,
            leaf.stride(),
        )

    return tree_map(value, replaced)


def shares_blocks(others: dict[str, Any], made: MadeOf) -> bool:
    """Return whether tensors of a batch are views of its blocks, beside the columns themselves."""
    views = [leaf for leaf in tree_leaves(others) if is_plain_tensor(leaf)]
    if not views:
        return False
    starts = set(map(address_of, made.blocks))
    return any(view.untyped_storage().data_ptr() in starts for view in views)


def map_blocks(
    columns: Columns,
    made: MadeOf,
    others: dict[str, Any],
    function: Callable[[Any], Any],
) -> Columns:
    """Return a batch whose tensors are the columns of copied blocks.

    Args:
        columns: The batch.
        made: What it was made of.
        others: Its other columns.
        function: Copies one tensor.
    """
    import torch

    copied = Columns(dict.fromkeys(columns))
    for (names, dtype, shape), block in zip(made.runs, made.blocks, strict=True):
        whole = function(torch.frombuffer(block, dtype=getattr(torch, dtype)))
        copied.update(zip(names, columns_of_block(whole, shape), strict=True))
    if others:
        copied.update(map_by_storage(others, function))
    return copied


def accelerator_setter() -> Callable[[], None]:
    """Return a function that sets the accelerator of another thread to the current one of this thread."""
    import torch

    accelerator: Any = getattr(torch, "accelerator", None)
    if accelerator is None:
        at = torch.cuda.current_device()
        return lambda: torch.cuda.set_device(at)
    at = accelerator.current_device_index()
    return lambda: accelerator.set_device_index(at)


_has_warned = False


def can_pin() -> bool:
    """Return whether pinned memory is supported, and warn once if it is not."""
    global _has_warned
    import torch

    accelerator: Any = getattr(torch, "accelerator", None)
    has_any = (accelerator or torch.cuda).is_available()
    is_mps = (
        has_any
        and accelerator is not None
        and accelerator.current_accelerator().type == "mps"
    )
    if has_any and not is_mps:
        return True
    if not _has_warned:
        _has_warned = True
        why = "not supported on MPS now" if is_mps else "no accelerator is found"
        message = f"pin_memory=True, but {why}: pinned memory won't be used"
        warnings.warn(message, stacklevel=3)
    return False
