"""The methods that read rows by position."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.formats import is_format, whole_of
from lanceloader.formats._rows import is_stack_dataset, rows_of
from lanceloader.formats.python import LazyRows
from lanceloader.numbers import count, whole_number
from lanceloader.verbs.converting import ConvertVerbs

if TYPE_CHECKING:
    from lanceloader._typing import Positions

__all__ = ["TakeVerbs", "check_not_mask"]


class TakeVerbs(ConvertVerbs):
    """Methods that read rows by position."""

    def take_offsets(self, offsets: Positions) -> Any:
        """Return the rows at some positions as one batch.

        Args:
            offsets: Positions in ``range(len(self))``, as a sequence, a 1-d array or a 1-d tensor.
                They may repeat.

        Returns:
            A batch of the rows in the order of ``offsets``, in the format of the permutation.

        Raises:
            IndexError: If a position is too large.
            OverflowError: If a position is negative.
            TypeError: If a position is not an integer.

        Example:
            >>> perm.take_offsets([3, 1, 3])
            [{'x': 3}, {'x': 1}, {'x': 3}]
        """
        taken = self._take_native(offsets)
        return self._converted(taken, offsets)

    def __getitems__(self, indices: Positions) -> Any:
        """Return the rows at some positions; torch's ``DataLoader`` calls this for each batch.

        Like ``take_offsets``, except that lists of dicts keep their columns, from which torch's
        ``default_collate`` makes a batch without converting single rows.
        """
        register_batches()
        taken = self._take_native(indices)
        transform = self.transform_fn
        if self.has_files:
            return self._converted(taken, indices)
        if transform is Transforms.arrow2python or is_format(transform, "torch"):
            return LazyRows(self._record_batch(taken), transform)
        batch = self._converted(taken, indices)
        if is_stack_dataset(sys._getframe(1)):
            return rows_of(batch, taken.num_rows, whole_of(transform))
        return batch

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...

    @overload
    def __getitem__(self, index: slice | Positions) -> Any: ...

    def __getitem__(self, index: Any) -> Any:
        """Return a batch of one row, as in LanceDB, of a slice, or of any positions.

        Use ``row`` for a single row as a dict.

        Args:
            index: A position, which may be negative; a slice; or positions as for
                ``take_offsets``.

        Raises:
            IndexError: If a position is out of range.
            TypeError: If ``index`` is a mask or the name of a column.

        Example:
            >>> perm[2:4], perm[-1]
            ([{'x': 2}, {'x': 3}], [{'x': 9}])
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self.num_rows)
            length = len(range(start, stop, step))
            picked = self.order.slice(start if length else 0, length, step)
            reader = self.open_format_reader()
            return self._converted(
                reader.read(picked, 0, length), range(start, stop, step)
            )
        if isinstance(index, str):
            message = (
                f"permutations are indexed by position, not by {index!r}: pass positions, or "
                f"call select_columns([{index!r}]) for a column"
            )
            raise TypeError(message)
        try:
            position = operator.index(index)
        except TypeError:
            check_not_mask(index)
            return self.take_offsets(index)
        if position < 0:
            position += self.num_rows
        if not 0 <= position < self.num_rows:
            message = f"row {index} is out of range for {self.num_rows} rows"
            raise IndexError(message)
        return self.take_offsets([position])

    def row(self, index: SupportsIndex) -> dict[str, Any]:
        """Return one row as a dict of Python objects, in any format of the permutation.

        Args:
            index: A position, which may be negative.

        Raises:
            IndexError: If ``index`` is out of range.
            TypeError: If ``index`` is not a whole number.

        Example:
            >>> perm.with_format("arrow").row(3)
            {'x': 3}
        """
        position = whole_number(index, "index")
        rows: list[dict[str, Any]] = self.with_transform(Transforms.arrow2python)[
            position
        ]
        return rows[0]

    def head(self, n: int = 5) -> Any:
        """Return the first ``n`` rows as one batch, or all rows if there are fewer."""
        return self[: count(n, "n")]

    def _take_native(self, positions: Any) -> Any:
        reader = self.open_format_reader()
        if not isinstance(positions, list | range) and hasattr(positions, "tolist"):
            # The core reads numpy arrays by the buffer protocol, which tensors lack.
            positions = (
                positions
                if hasattr(positions, "__array_interface__")
                else positions.tolist()
            )
        try:
            return reader.take(self.order, positions)
        except OverflowError as error:
            outside = next((p for p in positions if not 0 <= p < self.num_rows), None)
            if outside is None:
                raise
            message = (
                f"`offsets` holds {outside}, but the positions of this permutation are 0 to "
                f"{self.num_rows - 1}; only single positions in brackets, as in perm[-1], may be "
                "negative"
            )
            raise OverflowError(message) from error


def check_not_mask(positions: Any) -> None:
    """Check that ``positions`` is neither a mask nor bytes, which would be read as integers.

    Raises:
        TypeError: If it is.
    """
    kind = str(getattr(positions, "dtype", "")).rpartition(".")[2]
    first = next(iter(positions), None) if isinstance(positions, list | tuple) else None
    if kind == "bool" or isinstance(first, bool):
        raise TypeError(
            "permutations are indexed by position, not by a mask: call perm.filter(mask) instead"
        )
    if isinstance(positions, bytes | bytearray):
        message = f"permutations are indexed by position, not by bytes ({bytes(positions[:8])!r})"
        raise TypeError(message)


_is_registered = False


def register_batches() -> None:
    """Register the classes of batches with torch's ``default_collate``, if torch was imported."""
    global _is_registered
    if not _is_registered and "torch.utils.data" in sys.modules:
        from lanceloader.formats.torch import register

        register()
        _is_registered = True
