"""Batches of columns, sent as the blocks that they were made of, without work for each tensor."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from lanceloader.formats import Columns
from lanceloader.tensor_tree import columns_of_block
from lanceloader.transport.blocks import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.formats._columns import MadeOf

__all__ = ["batches_in", "reduce_columns"]

MOST_RECIPES = 64
"""The maximum number of cached recipes. There are several if batches have different columns."""

MOST_PARTS = 64
"""The length of the longest list that is searched."""

SCALARS = int, str, float, bool, type(None)
TENSOR_FREE = {
    "lanceloader.workers.batches": ("SkippedBatch",),
    "lanceloader.helper.batches": ("HelperReport",),
    "lanceloader.transport.buffered": ("BufferedBatch",),
}
"""The names of types that hold no tensors, by module. The modules need not be imported."""

Recipe = tuple[
    tuple[str, ...], tuple[tuple[tuple[str, ...], str, tuple[int, ...]], ...]
]
"""The names of the columns in order; and for each block, the names, dtype and shape of its columns."""

_recipes: dict[Recipe, Recipe] = {}


def batches_in(value: Any) -> list[Columns]:
    """Return the batches in a message that can be sent as their blocks.

    Returns:
        All batches in the message, or an empty list if it may hold their tensors elsewhere, too.
    """
    found: dict[int, Columns] = {}
    for part in leaves_of(value):
        if type(part) is Columns:
            if id(part) in found or not is_unchanged(part):
                return []
            found[id(part)] = part
        elif not has_no_tensors(part):
            return []
    return list(found.values())


def leaves_of(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested short lists and tuples."""
    kind = type(value)
    if (kind is list or kind is tuple) and len(value) <= MOST_PARTS:
        for part in value:
            yield from leaves_of(part)
    else:
        yield value


def has_no_tensors(part: Any) -> bool:
    """Return whether a leaf of a message is known to hold no tensors."""
    kind = type(part)
    return kind in SCALARS or kind.__name__ in TENSOR_FREE.get(kind.__module__, ())


def is_unchanged(columns: Columns) -> bool:
    """Return whether the tensors of a batch are still the columns of its blocks, in place."""
    made: MadeOf | None = columns.made_of or Columns.last_made_of
    if made is None:
        return False
    import torch

    for (names, dtype, shape), block in zip(made.runs, made.blocks, strict=True):
        address = address_of(block)
        torch_dtype = getattr(torch, dtype)
        for name in names:
            tensor = columns.get(name)
            if tensor is not made.arrays[name] or type(tensor) is not torch.Tensor:
                return False
            at = tensor.data_ptr()
            if (
                tensor.requires_grad
                or tensor.dtype != torch_dtype
                or tensor.shape != shape[1:]
                or not tensor.is_contiguous()
                or at != address
            ):
                return False
            address += tensor.nbytes
    columns.made_of = made
    return bool(made.runs)


def reduce_columns(columns: Columns) -> tuple[Any, tuple[Any, ...]]:
    """Reduce a batch to its blocks, and the columns that are in no block."""
    made: Any = columns.made_of
    others = {name: part for name, part in columns.items() if name not in made.arrays}
    recipe = tuple(columns), made.runs
    if len(_recipes) > MOST_RECIPES:
        _recipes.clear()
    # Batches of a message share one recipe object, which the pickle then holds once.
    recipe = _recipes.setdefault(recipe, recipe)
    return rebuild_columns, (recipe, others, *map(pickle.PickleBuffer, made.blocks))


def rebuild_columns(recipe: Recipe, others: dict[str, Any], *blocks: Any) -> Columns:
    """Return the batch that ``reduce_columns`` reduced, as views of its blocks."""
    import torch

    names, runs = recipe
    columns = Columns(dict.fromkeys(names))
    for (run_names, dtype, shape), block in zip(runs, blocks, strict=True):
        whole = torch.frombuffer(block, dtype=getattr(torch, dtype))
        columns.update(zip(run_names, columns_of_block(whole, shape), strict=True))
    if Columns.are_copied:
        columns.note_blocks(runs, [*blocks])
    columns.update(others)
    return columns
