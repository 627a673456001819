"""The tensors of nested values, and the storages that they share."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

__all__ = [
    "bytes_by_storage",
    "columns_of_block",
    "is_plain_tensor",
    "is_sparse_tensor",
    "tree_leaves",
    "tree_map",
]

PLAIN = (str, bytes, bool, int, float, type(None))


def tree_map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a nested value with ``function`` applied to its leaves.

    Leaves are tensors and other objects with a method ``to``. Dicts, lists, tuples and dataclasses
    keep their types.
    """
    if isinstance(value, PLAIN):
        return value
    if is_leaf(value):
        return function(value)
    if isinstance(value, Mapping):
        return with_items(
            value, {name: tree_map(part, function) for name, part in value.items()}
        )
    if isinstance(value, tuple):
        elements = [tree_map(part, function) for part in value]
        has_fields = hasattr(value, "_fields")
        return type(value)(*elements) if has_fields else type(value)(elements)
    if isinstance(value, list):
        items = [tree_map(part, function) for part in value]
        if type(value) is list:
            return items
        same_kind = copy.copy(value)
        same_kind[:] = items
        return same_kind
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Copied without `__init__`, which may take other arguments, and also if frozen.
        new: Any = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                part = tree_map(getattr(value, field.name), function)
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
    # Looked up on the type: some dicts raise for attributes that are not keys.
    return callable(getattr(type(value), "to", None)) and not isinstance(value, type)


def tree_leaves(value: Any) -> list[Any]:
    """Return the leaves of a nested value; see ``tree_map``."""
    found: list[Any] = []
    tree_map(value, found.append)
    return found


def is_plain_tensor(leaf: Any) -> bool:
    """Return whether a leaf is a plain strided view of a storage in memory of the CPU."""
    import torch

    return (
        type(leaf) is torch.Tensor
        and leaf.is_cpu
        and leaf.layout == torch.strided
        and not leaf.requires_grad
        and not leaf.is_conj()
        and not leaf.is_neg()
        and not leaf.is_quantized
    )


def is_sparse_tensor(leaf: Any) -> bool:
    """Return whether a leaf is a sparse tensor in memory of the CPU, of any layout."""
    import torch

    return (
        type(leaf) is torch.Tensor
        and leaf.device.type == "cpu"
        and (leaf.is_sparse or str(leaf.layout).startswith("torch.sparse_"))
    )


def columns_of_block(block: torch.Tensor, shape: tuple[int, ...]) -> Any:
    """Return one tensor for each column of a block, as views of its storage.

    The tensors are not views of a common base: autograd would take an in-place change of one for a change
    of all.

    Args:
        block: A tensor of one dimension.
        shape: Columns, rows and, for fixed-size lists, the sizes of the lists.
    """
    parts: Any = block.unsafe_split(math.prod(shape[1:]))
    return [part.view(shape[1:]) for part in parts] if len(shape) > 2 else parts


def bytes_by_storage(leaves: Iterable[Any]) -> dict[int, int]:
    """Return the number of bytes that plain tensors use of each storage.

    A tensor that occurs twice counts once.
    """
    tensors = {id(leaf): leaf for leaf in leaves if is_plain_tensor(leaf)}
    used: dict[int, int] = {}
    for tensor in tensors.values():
        key = tensor.untyped_storage()._cdata
        used[key] = used.get(key, 0) + tensor.nbytes
    return used
