"""Batches of columns, sent as the blocks that they were made of: no work for each tensor at either end."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

from lanceloader.formats import Columns
from lanceloader.transport.blocks import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.formats._columns import MadeOf

__all__ = ["batches_in", "reduced"]

MOST_RECIPES = 64
"""How many recipes are remembered. There are several where batches have different columns."""

MOST_PARTS = 64
"""The length of the longest list that is looked through."""

SCALARS = int, str, float, bool, type(None)
PLAIN = {
    "lanceloader.workers.batches": ("SkippedBatch",),
    "lanceloader.helper.batches": ("HelperReport",),
    "lanceloader.transport.buffered": ("BufferedBatch",),
}
"""Types of messages that hold no tensors, by their modules, which need not be imported."""

Recipe = tuple[
    tuple[str, ...], tuple[tuple[tuple[str, ...], str, tuple[int, ...]], ...]
]
"""The names of the columns in their order; and the names, dtype and shape of those of each block."""

_recipes: dict[Recipe, Recipe] = {}


def batches_in(value: Any) -> list[Columns]:
    """Return the batches in a message, each of which can be sent as its blocks.

    Returns:
        The batches, or none if the message may hold their tensors elsewhere, too.
    """
    found: dict[int, Columns] = {}
    for part in parts_of(value):
        if type(part) is Columns:
            if id(part) in found or not is_as_made(part):
                return []
            found[id(part)] = part
        elif not has_no_tensors(part):
            return []
    return list(found.values())


def parts_of(value: Any) -> Iterator[Any]:
    """Yield what short lists and tuples consist of."""
    kind = type(value)
    if (kind is list or kind is tuple) and len(value) <= MOST_PARTS:
        for part in value:
            yield from parts_of(part)
    else:
        yield value


def has_no_tensors(part: Any) -> bool:
    """Return whether a part of a message is known to hold no tensors."""
    kind = type(part)
    return kind in SCALARS or kind.__name__ in PLAIN.get(kind.__module__, ())


def is_as_made(columns: Columns) -> bool:
    """Return whether the tensors of a batch still are the columns of its blocks."""
    made: MadeOf | None = columns.made_of or Columns.last_made_of
    if made is None:
        return False
    import torch

    for (names, _, shape), block in zip(made.runs, made.blocks, strict=True):
        address = address_of(block)
        for name in names:
            tensor = columns.get(name)
            if tensor is not made.arrays[name] or type(tensor) is not torch.Tensor:
                return False
            at = tensor.data_ptr()
            if (
                tensor.requires_grad
                or tensor.shape != shape[1:]
                or not tensor.is_contiguous()
                or at != address
            ):
                return False
            address += tensor.nbytes
    columns.made_of = made
    return bool(made.runs)


def reduced(columns: Columns) -> tuple[Any, tuple[Any, ...]]:
    """Reduce a batch to its blocks and the columns that are in none."""
    made: Any = columns.made_of
    others = {name: part for name, part in columns.items() if name not in made.arrays}
    recipe = tuple(columns), made.runs
    if len(_recipes) > MOST_RECIPES:
        _recipes.clear()
    # The pickle of a message holds an object once.
    recipe = _recipes.setdefault(recipe, recipe)
    return columns_of, (recipe, others, *map(pickle.PickleBuffer, made.blocks))


def columns_of(recipe: Recipe, others: dict[str, Any], *blocks: Any) -> Columns:
    """Return the batch that was reduced, as views of its blocks."""
    import torch

    names, runs = recipe
    columns = Columns(dict.fromkeys(names))
    for (of_run, dtype, shape), block in zip(runs, blocks, strict=True):
        whole = torch.frombuffer(block, dtype=getattr(torch, dtype))
        # Not views of one tensor: autograd would take a change of one for a change of all.
        parts: Any = whole.unsafe_split(math.prod(shape[1:]))
        if len(shape) > 2:
            parts = [part.view(shape[1:]) for part in parts]
        columns.update(zip(of_run, parts, strict=True))
    columns.update(others)
    return columns
