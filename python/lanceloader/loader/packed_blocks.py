"""Packed documents as a dataset: blocks by position."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from lanceloader.formats import whole_of
from lanceloader.formats._rows import rows_of
from lanceloader.formats.functions import draws
from lanceloader.randomness import RowKeys
from lanceloader.units.share import Share, share_of
from lanceloader.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from lanceloader._typing import Positions
    from lanceloader.units.packed import PackedUnits

__all__ = ["PackedBlocks"]

BLOCKS_AT_ONCE = 64
"""The number of blocks that are read together while a dataset is iterated."""


class PackedBlocks:
    """The blocks of an epoch by position, for datasets and torch's ``DataLoader``."""

    def units(self) -> PackedUnits:
        """Return the blocks as units, which keep their plan."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of blocks, in the order of the permutation itself."""
        return self.units().num_units(None)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...

    @overload
    def __getitem__(self, index: slice | Positions) -> Any: ...

    def __getitem__(self, index: Any) -> Any:
        """Return one block as a dict, or a batch of blocks for a slice or several positions.

        Args:
            index: A position, which may be negative; a slice; or a sequence or array of positions.

        Raises:
            IndexError: If a position is out of range.
            TypeError: If ``index`` is none of these.

        Example:
            >>> import pyarrow as pa
            >>> documents = pa.table({"tokens": [[1, 2], [3, 4], [5]]})
            >>> packed = ll.open(documents).pack(3)
            >>> len(packed), packed[1]["input_ids"]
            (2, [4, 5, 0])
        """
        number = len(self)
        if isinstance(index, slice):
            return self._batch(range(number)[index])
        if isinstance(index, str):
            message = (
                f"blocks are indexed by position, not by {index!r}: index the block, as in "
                f"packed[0][{index!r}]"
            )
            raise TypeError(message)
        if not hasattr(index, "__len__") or getattr(index, "ndim", 1) == 0:
            return self._rows([self._position(index, number)])[0]
        if hasattr(index, "tolist"):
            index = index.tolist()
        return self._batch([self._position(one, number) for one in index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the blocks at some positions; torch's ``DataLoader`` calls this for each batch."""
        number = len(self)
        return self._rows([self._position(index, number) for index in indices])

    def __iter__(self) -> Iterator[Any]:
        """Iterate over single blocks, in order; ``loader`` yields batches, which is faster."""
        units = self.units()
        share = share_of(
            len(self), 0, BLOCKS_AT_ONCE, World(), tail="uneven", drop_last=False
        )
        start = 0
        for raw in units.load(None, share, None):
            stop = start + raw.num_rows
            yield from self._rows_of(
                self._converted(raw, range(start, stop)), raw.num_rows
            )
            start = stop

    def _position(self, index: Any, number: int) -> int:
        """Return a position that counts from the start.

        Raises:
            IndexError: If there is no such block.
            TypeError: If it is not an integer.
        """
        if isinstance(index, bool):
            message = f"blocks are indexed by position, not by a mask or by {index!r}"
            raise TypeError(message)
        position = operator.index(index)
        if position < 0:
            position += number
        if not 0 <= position < number:
            message = f"block {index} is out of range for {number} blocks"
            raise IndexError(message)
        return position

    def _rows(self, positions: Sequence[int]) -> list[Any]:
        return self._rows_of(self._batch(positions), len(positions))

    def _rows_of(self, batch: Any, num_blocks: int) -> list[Any]:
        return rows_of(batch, num_blocks, whole_of(self.units().view.transform_fn))

    def _batch(self, positions: Sequence[int]) -> Any:
        """Return blocks as one batch in the format, in the order of the positions."""
        return self._converted(self._arrow(positions), positions)

    def _converted(self, raw: Any, positions: Sequence[int]) -> Any:
        """Return the batch of the blocks at some positions in the format."""
        units = self.units()
        if not draws(units.view.transform_fn):
            return units.convert(raw)

        def find() -> Any:
            import numpy as np

            return *units.view.randomness, np.asarray(positions, np.uint64)

        return units.convert(raw, RowKeys(find))

    def _arrow(self, positions: Sequence[int]) -> pa.RecordBatch:
        """Return blocks as Arrow data."""
        import numpy as np
        import pyarrow as pa

        if len(positions):
            picked = self.units().pick(positions)
            if picked is not None:
                return picked
        # Runs of neighbours are read together, each block once.
        wanted = sorted(set(positions))
        starts = [
            at for at, one in enumerate(wanted) if not at or wanted[at - 1] != one - 1
        ]
        batches = [
            pa.record_batch(self._run(wanted[start], stop - start))
            for start, stop in pairwise([*starts, len(wanted)])
        ]
        if not batches:
            return pa.record_batch(self._run(0, 0))
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        if wanted == list(positions):
            return whole
        return whole.take(pa.array(np.searchsorted(wanted, positions)))

    def _run(self, start: int, length: int) -> Any:
        """Return the raw batch of neighbouring blocks."""
        units = self.units()
        share = Share(start, max(1, length), max(1, length), 1, 0, None, len(self))
        if length == 0:
            share = Share(0, 1, 1, 0, 0, 0, len(self))
        (batch,) = units.load(None, share, None)
        return batch
