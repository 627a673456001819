"""Which tensors of a batch lie in one storage, so that it can be copied or sent as a whole."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bytes_used", "is_simple", "leaves", "mapped"]

PLAIN = (str, bytes, bool, int, float, type(None))


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Give ``value`` with its tensors, and what else has a ``to``, replaced.

    Dicts, lists, tuples and dataclasses keep their types.
    """
    if isinstance(value, PLAIN):
        return value
    if is_leaf(value):
        return function(value)
    if isinstance(value, Mapping):
        return with_items(
            value, {name: mapped(part, function) for name, part in value.items()}
        )
    if isinstance(value, tuple):
        places = [mapped(part, function) for part in value]
        return (
            type(value)(*places) if hasattr(value, "_fields") else type(value)(places)
        )
    if isinstance(value, list):
        items = [mapped(part, function) for part in value]
        if type(value) is list:
            return items
        same_kind = copy.copy(value)
        same_kind[:] = items
        return same_kind
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Neither __init__ nor frozen may stand in the way.
        new: Any = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                part = mapped(getattr(value, field.name), function)
                object.__setattr__(new, field.name, part)
        return new
    return value


def with_items(value: Any, items: dict[Any, Any]) -> Any:
    if type(value) is dict:
        return items
    if not isinstance(value, dict):
        return type(value)(items)
    new = copy.copy(value)
    new.update(items)
    return new


def is_leaf(value: Any) -> bool:
    return callable(getattr(value, "to", None)) and not isinstance(value, type)


def leaves(value: Any) -> list[Any]:
    """Give everything in ``value`` that can be moved."""
    found: list[Any] = []
    mapped(value, found.append)
    return found


def is_simple(leaf: Any) -> bool:
    """Whether a tensor is no more than a part of a storage in memory."""
    import torch

    return (
        type(leaf) is torch.Tensor
        and leaf.device.type == "cpu"
        and leaf.layout == torch.strided
        and not leaf.requires_grad
        and not leaf.is_conj()
        and not leaf.is_neg()
        and not leaf.is_quantized
    )


def bytes_used(value: Any) -> dict[int, int]:
    """Say how many bytes the tensors of ``value`` take of each storage that they lie in.

    A tensor that occurs twice counts once.
    """
    tensors = {id(leaf): leaf for leaf in leaves(value) if is_simple(leaf)}
    used: dict[int, int] = {}
    for tensor in tensors.values():
        key = tensor.untyped_storage()._cdata
        used[key] = used.get(key, 0) + tensor.nbytes
    return used
