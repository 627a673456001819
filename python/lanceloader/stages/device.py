"""Batches in pinned memory and on a device, copied while the step before is at work.

Tensors are moved, and whatever else has a method ``to``; text, numbers, numpy and Arrow stay
as they are. Tensors that are parts of one storage, as the columns of a batch are, go in one
copy and are parts of one storage again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from lanceloader.stages.ordered_map import OrderedMap
from lanceloader.stages.tensor_tree import bytes_used, is_simple, leaves, mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

__all__ = ["copied_ahead", "on_device", "pinned"]

Timed: TypeAlias = "Callable[[Callable[[Any], Any]], Callable[[Any], Any]]"
"""Makes a function count its time."""


def pinned(value: Any) -> Any:
    """Copy the tensors of a batch to pinned memory, from where a device copies by itself.

    Without an accelerator that has any, warns once, as torch does, and changes nothing.

    Args:
        value: A tensor, or any nesting of dicts, lists, tuples and dataclasses.
    """
    return together(value, pin) if can_pin() else value


def on_device(
    batches: Iterable[Any],
    device: str | torch.device | None = None,
    *,
    pin_memory: bool = False,
    timed: Timed = lambda call: call,
) -> Iterator[Any]:
    """Give batches whose tensors are on a device, or pinned, or both in turn.

    To CUDA and for pinning, a thread works one batch ahead, and copies on a stream of its own:
    the copy goes on while the step before computes. What is handed over may be used on the
    current stream of whoever asks, like any tensor. Nothing begins before the first ``next``.

    Args:
        batches: Any nestings of dicts, lists, tuples and dataclasses.
        device: Where to; by default they stay where they are. ``"cuda"`` means what it means
            to the caller now.
        pin_memory: Whether to copy through pinned memory. Ignored, with a warning, if there is
            no accelerator.
        timed: Makes the function that copies a batch count its time.

    Raises:
        TypeError: From ``next``, if the first batch has nothing that could be moved.
    """
    import torch

    place = None if device is None else torch.device(device)
    pins = pin_memory and can_pin()
    if place is None and not pins:
        return iter(batches)
    if place is not None and place.type == "cuda":
        if place.index is None:
            # Threads have a current device of their own.
            place = torch.device("cuda", torch.cuda.current_device())
        return copied_ahead(batches, place, torch.cuda, pins=pins, timed=timed)
    check = Check(place)
    if not pins:
        return OrderedMap(
            batches,
            timed(lambda batch: mapped(check(batch), lambda leaf: to(leaf, place))),
            threads=0,
            ahead=0,
            name="lanceloader-device",
        )
    choose = chosen_accelerator()

    def pin_and_move(batch: Any) -> Any:
        choose()
        batch = together(check(batch), pin)
        return batch if place is None else mapped(batch, lambda leaf: to(leaf, place))

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
    """Give batches on a device, copied one ahead on a stream of their own.

    Args:
        batches: As for ``on_device``.
        device: With its index.
        cuda: ``torch.cuda``, or what has its streams.
        pins: Whether to copy through pinned memory.
        timed: As for ``on_device``.
    """
    side = Side(device, cuda, pins=pins)
    copies = OrderedMap(
        batches, timed(side.begin), threads=1, ahead=1, name="lanceloader-device"
    )
    return Handed(copies, side)


class Side:
    """A stream on which copies go on beside the computation."""

    def __init__(self, device: torch.device, cuda: Any, *, pins: bool) -> None:
        self.device = device
        self.cuda = cuda
        self.stream = cuda.Stream(device)
        self.pins = pins
        self.check = Check(device)

    def begin(self, batch: Any) -> tuple[Any, Any]:
        """Begin to copy; give the copy, and the event that says that it is there."""
        self.check(batch)
        # The context chooses the device too, for pinning.
        with self.cuda.stream(self.stream):
            if self.pins:
                batch = together(batch, pin)
            batch = together(batch, self.move)
            return batch, self.stream.record_event()

    def move(self, leaf: Any) -> Any:
        return to(leaf, self.device) if hasattr(leaf, "record_stream") else leaf

    def finish(self, batch: Any, event: Any) -> Any:
        """Make the current stream wait for the copy, and keep its memory until that is done."""
        current = self.cuda.current_stream(self.device)
        current.wait_event(event)

        def finished(leaf: Any) -> Any:
            if not hasattr(leaf, "record_stream"):
                # Nobody could say how long the side stream must keep its memory.
                return to(leaf, self.device)
            # It was allocated on the side stream, which would give its memory to the next
            # batch as soon as Python lets go of it, though the current stream may be behind.
            leaf.record_stream(current)
            return leaf

        return mapped(batch, finished)


class Handed:
    """Copies, each made ready for the stream of whoever asks."""

    def __init__(self, copies: OrderedMap[Any, tuple[Any, Any]], side: Side) -> None:
        self._copies = copies
        self._side = side

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._side.finish(*next(self._copies))

    @property
    def num_ready(self) -> int:
        """Batches whose copy was begun, and that were not handed over."""
        return self._copies.num_ready

    def close(self) -> None:
        """Copy no more."""
        self._copies.close()


class Check:
    """Refuses a first batch that cannot be moved, so that a device is not ignored silently."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.is_done = device is None or device.type == "cpu"

    def __call__(self, batch: Any) -> Any:
        is_empty = isinstance(batch, list | tuple | Mapping) and not batch
        if not self.is_done and not is_empty and not leaves(batch):
            message = (
                f"device={str(self.device)!r}: a {type(batch).__name__} without tensors cannot "
                'be moved there; wanted a format like "torch_dict"'
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
    return leaf.pin_memory()


def together(value: Any, function: Callable[[Any], Any]) -> Any:
    """Give ``value`` with its tensors replaced, those of one storage by parts of its copy.

    Args:
        value: A batch.
        function: Copies one tensor.
    """
    import torch

    used = bytes_used(value)
    copies: dict[int, Any] = {}

    def replaced(leaf: Any) -> Any:
        if not is_simple(leaf):
            return function(leaf)
        storage = leaf.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        # A tensor on its own keeps its storage; a few of a large one do not take all along.
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

    return mapped(value, replaced)


def chosen_accelerator() -> Callable[[], None]:
    """Give what chooses, in another thread, the accelerator that is the current one here."""
    import torch

    accelerator: Any = getattr(torch, "accelerator", None)
    if accelerator is None:
        at = torch.cuda.current_device()
        return lambda: torch.cuda.set_device(at)
    at = accelerator.current_device_index()
    return lambda: accelerator.set_device_index(at)


_has_warned = False


def can_pin() -> bool:
    """Whether there is pinned memory; warns once if there is none."""
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
