"""Batches sent as the buffers of their columns. The receiving process makes the arrays."""

from __future__ import annotations

import functools
import importlib
import pickle
from typing import TYPE_CHECKING, Any

from lanceloader import _native
from lanceloader.formats import Columns, name_of, native_of
from lanceloader.tensor_tree import columns_of_block
from lanceloader.transport.arrow_parts import compacted
from lanceloader.transport.columns import MOST_RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from lanceloader._native import Batch
    from lanceloader._typing import Format

__all__ = ["BUFFERED", "BufferedBatch", "buffering", "make_batch"]

BUFFERED: tuple[Format, ...] = "arrow", "torch_dict", "numpy_dict"
"""The formats whose batches are sent as buffers and made by the receiving process."""


class BufferedBatch:
    """The buffers of a batch, which are unpickled as the batch itself.

    Args:
        recipe: How to make the batch from its buffers.
        num_rows: The number of its rows.
        buffers: The buffers, or ``None`` for each that is missing.
    """

    __slots__ = ("buffers", "num_rows", "recipe")

    def __init__(
        self,
        recipe: ColumnsRecipe | RecordsRecipe,
        num_rows: int,
        buffers: Sequence[Any],
    ) -> None:
        self.recipe = recipe
        self.num_rows = num_rows
        self.buffers = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, tuple[Any, ...]]:
        # Only called by a plain queue: into shared memory, the buffers are written out of band.
        del protocol
        parts = [None if part is None else bytearray(part) for part in self.buffers]
        return make_batch, (self.recipe, self.num_rows, parts)


def make_batch(recipe: Any, num_rows: int, buffers: Sequence[Any]) -> Any:
    """Make a batch from its buffers."""
    return recipe.make(num_rows, buffers)


class ColumnsRecipe:
    """How to make a dict of columns from blocks, each of which holds adjacent columns.

    Args:
        library: The library of the arrays: ``"torch"`` or ``"numpy"``.
        names: The names of the columns.
        runs: For each block, the numbers of its columns, their dtype, and the shape of the value of a
            row.
    """

    def __init__(
        self,
        library: str,
        names: tuple[str, ...],
        runs: tuple[tuple[tuple[int, ...], str, tuple[int, ...]], ...],
    ) -> None:
        self._arguments = library, names, runs
        self._blank = dict.fromkeys(names)
        self._runs = [
            (tuple(map(names.__getitem__, numbers)), dtype, inner)
            for numbers, dtype, inner in runs
        ]
        self._arrays_from_block: Any = (
            tensors_from_block
            if library == "torch"
            else importlib.import_module(f"lanceloader.formats.{library}").vectors
        )

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return columns_recipe, self._arguments

    def make(self, num_rows: int, blocks: Sequence[Any]) -> Columns:
        """Return the batch, whose arrays are views of the blocks."""
        columns = Columns(self._blank)
        for (names, dtype, inner), block in zip(self._runs, blocks, strict=True):
            shape = (len(names), num_rows, *inner)
            arrays = self._arrays_from_block(names[0], block, dtype, shape)
            columns.update(zip(names, arrays, strict=True))
        if Columns.are_copied:
            shapes = [
                (names, dtype, (len(names), num_rows, *inner))
                for names, dtype, inner in self._runs
            ]
            columns.note_blocks(tuple(shapes), [*blocks])
        return columns


@functools.lru_cache(MOST_RECIPES)
def columns_recipe(*arguments: Any) -> ColumnsRecipe:
    """Return the recipe with these arguments, which is cached."""
    return ColumnsRecipe(*arguments)


def tensors_from_block(
    name: str, block: Any, dtype: str, shape: tuple[int, ...]
) -> Any:
    """Return one tensor for each column of a block; see ``columns_of_block``."""
    import torch

    del name
    whole = torch.frombuffer(block, dtype=getattr(torch, dtype))
    return columns_of_block(whole, shape)


class RecordsRecipe:
    """How to make a record batch from the buffers of its columns.

    Args:
        schema: The pickled schema, whose columns have no children.
    """

    def __init__(self, schema: bytes) -> None:
        self._pickled = schema
        self.schema: pa.Schema = pickle.loads(schema)
        self._types = [
            (data_type, data_type.num_buffers) for data_type in self.schema.types
        ]

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return records_recipe, (self._pickled,)

    def make(self, num_rows: int, buffers: Sequence[Any]) -> pa.RecordBatch:
        """Return the batch, whose columns are views of the buffers."""
        import pyarrow as pa

        parts = [None if part is None else pa.py_buffer(part) for part in buffers]
        arrays = []
        at = 0
        for data_type, num_buffers in self._types:
            own = parts[at : at + num_buffers]
            at += num_buffers
            num_nulls = 0 if own[0] is None else -1
            arrays.append(pa.Array.from_buffers(data_type, num_rows, own, num_nulls))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


@functools.lru_cache(MOST_RECIPES)
def records_recipe(schema: bytes) -> RecordsRecipe:
    """Return the recipe of a pickled schema, which is cached."""
    return RecordsRecipe(schema)


def buffering(
    view: Any, convert: Callable[[Any], Any], formats: Sequence[Format]
) -> Callable[[Any], Any] | None:
    """Return a function that converts raw batches to ``BufferedBatch`` where possible.

    It converts all other batches to the format. Returns ``None`` if the format is not one of ``formats``,
    or if this process does not send its batches through shared memory.

    Args:
        view: The view whose rows the batches are, without functions of the user.
        convert: Converts a raw batch to the format.
        formats: The formats to send as buffers.
    """
    transform = view.transform_fn
    name = name_of(transform) or ""
    # Blob columns of a view become files, which are not Arrow data. Mixtures do not have the attribute.
    if not Columns.are_sent or name not in formats or getattr(view, "has_files", True):
        return None
    if name == "arrow":
        return RecordBuffers(convert)
    if native_of(transform) is None:
        return None
    library = name.removesuffix("_dict")
    return functools.partial(to_column_buffers, convert, library, {})


def to_column_buffers(
    convert: Callable[[Any], Any],
    library: str,
    recipes: dict[Any, ColumnsRecipe],
    batch: Any,
) -> Any:
    """Return the buffers from which the receiver makes a dict of arrays, if the batch allows it.

    Args:
        convert: Converts batches that have columns which cannot be arrays without a copy.
        library: The library of the arrays.
        recipes: The recipes of earlier batches.
        batch: The raw batch.
    """
    if not isinstance(batch, _native.Batch) or not batch.num_rows:
        return convert(batch)
    own: Batch = batch if batch.is_owned else batch.to_owned()
    names, runs, others = own.runs()
    runs_key = tuple(
        (tuple(numbers), dtype, tuple(inner)) for numbers, dtype, inner, _ in runs
    )
    key = tuple(names), runs_key
    recipe = recipes.get(key)
    if recipe is None:
        is_whole = not others and len(set(names)) == len(names)
        if not is_whole or any(dtype == "bfloat16" for _, dtype, _ in runs_key):
            return convert(own)
        if len(recipes) >= MOST_RECIPES:
            recipes.clear()
        recipe = recipes[key] = ColumnsRecipe(library, *key)
    return BufferedBatch(recipe, own.num_rows, [block for *_, block in runs])


class RecordBuffers:
    """Returns the buffers from which the receiver makes a record batch, if the batch allows it.

    Args:
        convert: Converts a raw batch to a record batch, which is returned if its columns are not flat, or if
            the core did not make it.
    """

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._convert = convert
        self._flat: _native.FlatSchema | None = None
        """The schema of the previous batch."""
        self._recipe: RecordsRecipe | None = None
        """The recipe of batches with that schema."""

    def __call__(self, batch: Any) -> Any:
        """Return the buffers of a raw batch, or the batch as Arrow data."""
        if isinstance(batch, _native.Batch):
            buffers = None if self._flat is None else self._flat.buffers(batch)
            if buffers is None:
                # The first batch, or one with another schema.
                self._flat = flat = _native.FlatSchema.of(batch)
                if flat is not None:
                    self._recipe = recipe_of(flat)
                    buffers = flat.buffers(batch)
            if self._recipe is not None and buffers is not None:
                return BufferedBatch(self._recipe, batch.num_rows, buffers)
        return compacted(self._convert(batch))


def recipe_of(flat: _native.FlatSchema) -> RecordsRecipe:
    """Return the recipe of batches with a schema."""
    import pyarrow as pa

    return RecordsRecipe(pickle.dumps(pa.schema(flat)))
