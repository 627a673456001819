"""The methods that Hugging Face datasets have by the same names, with the same meaning."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

from lanceloader import _native
from lanceloader.choices import check_flag, check_function
from lanceloader.drawing.functions import drawing
from lanceloader.formats import inputs_of
from lanceloader.formats.functions import Step, mapped_transform, name_of_step
from lanceloader.numbers import count, numpy_of
from lanceloader.verbs.absent import INSTEAD
from lanceloader.verbs.columns import check_names
from lanceloader.verbs.reading import FUNCTION_ROWS
from lanceloader.verbs.splitting import SplitVerbs
from lanceloader.verbs.taking import check_not_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lanceloader._typing import Positions
    from lanceloader.splits import Splits

__all__ = ["DatasetVerbs"]


class DatasetVerbs(SplitVerbs):
    """Methods with the names of Hugging Face datasets."""

    def select(self, indices: Positions) -> Self:
        """Return a permutation of the rows at some positions, in their order.

        Args:
            indices: Positions in ``range(len(self))``, as a range, a sequence, or a 1-d array or
                tensor. They may repeat. A range takes no memory, other positions 4 or 8 bytes each.

        Raises:
            IndexError: If a position is out of range.
            TypeError: If a position is not an integer, or ``indices`` is a mask or has names of
                columns.

        Example:
            >>> perm.select(range(2, 10, 3)).head()
            [{'x': 2}, {'x': 5}, {'x': 8}]
            >>> perm.shuffle(seed=7).select([3, 0]).head()
            [{'x': 1}, {'x': 6}]
        """
        if isinstance(indices, range):
            if len(indices) == 0:
                return self.with_rows(self.order.slice(0, 0))
            self._check_positions(min(indices[0], indices[-1]))
            self._check_positions(max(indices[0], indices[-1]))
            if indices.step > 0:
                start, step = indices.start, indices.step
                return self.with_rows(self.order.slice(start, len(indices), step))
        positions = positions_of(indices)
        if len(positions):
            self._check_positions(int(positions.min()))
            self._check_positions(int(positions.max()))
        return self.with_rows(self.order.pick(_native.Order.listed(positions)))

    def _check_positions(self, position: int) -> None:
        """Check a position.

        Raises:
            IndexError: If there is no such row.
        """
        if not 0 <= position < self.num_rows:
            message = (
                f"row {position} is out of range for {self.num_rows} rows: positions are numbered "
                "from 0 and must not be negative"
            )
            raise IndexError(message)

    def map(
        self,
        function: Callable[[Any], Any],
        *,
        batched: bool = False,
        remove_columns: Sequence[str] | None = None,
    ) -> Self:
        """Return a permutation whose rows have columns that a function computes when they are read.

        Nothing is computed or stored now, unlike in Hugging Face datasets: the function is called
        each time that rows are read, for each batch, in threads of a ``loader``. ``materialize``
        writes the results as a table, if computing them once is better.

        Functions are called one after the other, before batches are converted to the format, which
        ``with_format`` may change afterwards. ``column_names``, ``schema`` and SQL filters refer to
        the columns that are read, which are the input of the first function; choose them first.

        Args:
            function: A function of a row, as a dict of its values, that returns a dict of the
                columns to add or to replace, or ``None`` for none. Values are those of the format at
                this call: Python objects, or arrays or tensors for the formats of NumPy and torch.
                To be read in worker processes, it must be picklable. If it has a parameter ``rng``, it
                is passed a ``BatchGenerator`` of the row, or of the batch, as in
                ``loader(transform=...)``.
            batched: Whether the function takes and returns columns: a dict of lists, or of arrays or
                tensors; or a batch or data frame in the formats ``"arrow"``, ``"pandas"`` and
                ``"polars"``, in whose place the result is used. This is faster. The number of rows
                must stay the same.
            remove_columns: Columns that are removed after the call.

        Returns:
            A new permutation. Results are converted to Arrow data: lists and one-dimensional arrays
            in rows become lists, arrays of more dimensions fixed-size lists.

        Raises:
            TypeError: If ``function`` is not callable.
            ValueError: If the format is one of ``with_transform``, or has no rows as dicts.

        Example:
            >>> doubled = perm.map(lambda row: {"double": 2 * row["x"]})
            >>> doubled.head(2)
            [{'x': 0, 'double': 0}, {'x': 1, 'double': 2}]
            >>> arrays = perm.with_format("numpy_dict")
            >>> halves = arrays.map(lambda batch: {"x": batch["x"] / 2}, batched=True)
            >>> halves[:3]["x"]
            array([0. , 0.5, 1. ])
        """
        check_function("function", function)
        if function is None:
            raise TypeError("`function` must be a function, not None")
        check_flag("batched", batched)
        removed: tuple[str, ...] = ()
        if remove_columns is not None:
            check_names(remove_columns)
            removed = tuple(remove_columns)
        inputs = inputs_of(self.transform_fn, by_row=not batched)
        function = drawing(function, name_of_step(self.transform_fn))
        step = Step(function, inputs, not batched, removed)
        return self._replace(
            transform_fn=mapped_transform(self.transform_fn, step=step)
        )

    def train_test_split(
        self,
        test_size: float | None = None,
        train_size: float | None = None,
        *,
        shuffle: bool = True,
        seed: int | None = None,
        stratify_by_column: str | None = None,
        progress: bool = False,
    ) -> Splits[Self]:
        """Split the rows into ``"train"`` and ``"test"``; ``split`` makes other parts.

        Args:
            test_size: The rows of ``"test"``: their fraction as a float between 0 and 1, rounded up,
                or their number as an int. Defaults to the rows that are not in ``"train"``, or to
                0.25 if both sizes are left out.
            train_size: The rows of ``"train"``, likewise, but rounded down. Defaults to the rows
                that are not in ``"test"``.
            shuffle: Whether to split at random. If false, ``"train"`` has the first rows.
            seed: The seed of the random split, in ``range(2**64)``.
            stratify_by_column: A column whose distinct values are distributed over both parts in
                proportion.
            progress: Whether to show a progress bar while that column is read.

        Returns:
            The parts, as ``splits["train"]`` and ``splits["test"]``, or unpacked: ``train, test =
            perm.train_test_split(0.2, seed=7)``.

        Raises:
            ValueError: If a part would have no rows or too many, options are mutually exclusive, or a
                random split has no seed, without which processes would not agree on the parts.
            ColumnNotFoundError: If the column does not exist.

        Example:
            >>> splits = perm.train_test_split(test_size=0.2, seed=7)
            >>> len(splits["train"]), len(splits["test"])
            (8, 2)
        """
        check_flag("shuffle", shuffle)
        train, test = train_test_sizes(self.num_rows, train_size, test_size)
        options: dict[str, Any] = {"seed": seed, "progress": progress}
        if not shuffle:
            options["how"] = "sequential"
        if stratify_by_column is not None:
            options["stratify_by"] = stratify_by_column
        return self.split({"train": train, "test": test}, **options)

    def iter_rows(self) -> Iterator[Any]:
        """Iterate over single rows, each as a dict in the format of the permutation.

        ``for batch in perm`` yields batches, which is faster.

        Raises:
            ValueError: If the format has no rows as dicts, as that of ``with_transform``.

        Example:
            >>> [row["x"] for row in perm.iter_rows()]
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        step = Step(identity, inputs_of(self.transform_fn, by_row=True), by_row=True)
        view = self.with_transform(step.results)
        batches = view._batches(FUNCTION_ROWS, skip_last_batch=False, progress=False)
        return (row for rows in batches for row in rows)

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError(
            '`in` would read all rows: call len(perm.filter("x = 3")) to count rows with a value, or '
            "use `name in perm.column_names` for a column"
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in INSTEAD:
                message = f"permutations have no {name!r}: {INSTEAD[name]}"
            raise AttributeError(message, name=name, obj=self)


def identity(row: Any) -> Any:
    """Return a row as it is."""
    return row


def positions_of(indices: Any) -> Any:
    """Return positions as an array of unsigned integers.

    Raises:
        IndexError: If one is negative.
        TypeError: If one is not an integer, or they are a mask or names of columns.
    """
    import numpy as np

    if isinstance(indices, str) or any(
        isinstance(index, str) for index in first_of(indices)
    ):
        raise TypeError(
            "`indices` of select() must be positions of rows: call select_columns() for columns, "
            "filter() for SQL"
        )
    check_not_mask(indices)
    positions = numpy_of(indices if hasattr(indices, "__array__") else list(indices))
    if positions.size == 0 and positions.ndim == 1:
        return np.zeros(0, np.uint64)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        message = (
            f"`indices` must be whole numbers of shape (n,), not of dtype {positions.dtype} and "
            f"shape {positions.shape}"
        )
        raise TypeError(message)
    if positions.dtype.kind == "i" and int(positions.min()) < 0:
        message = (
            f"row {int(positions.min())} is out of range: positions are numbered from 0 and must "
            "not be negative"
        )
        raise IndexError(message)
    return positions.astype(np.uint64)


def first_of(indices: Any) -> list[Any]:
    """Return the first item of a sequence, if it has one."""
    return list(indices[:1]) if isinstance(indices, list | tuple) else []


def train_test_sizes(num_rows: int, train_size: Any, test_size: Any) -> tuple[int, int]:
    """Return the numbers of rows of both parts, rounded as scikit-learn rounds them.

    Raises:
        ValueError: If a part would have no rows or too many.
        TypeError: If a size is not a number.
    """
    if train_size is None and test_size is None:
        test_size = 0.25
    test = part_size(num_rows, test_size, "test_size", math.ceil)
    train = part_size(num_rows, train_size, "train_size", math.floor)
    if test is None:
        test = num_rows - (train or 0)
    if train is None:
        train = num_rows - test
    if train < 1 or test < 1 or train + test > num_rows:
        message = (
            f"`train_size`={train_size!r} and `test_size`={test_size!r} make parts of {train} and "
            f"{test} of {num_rows} rows: pass sizes such that both have rows and fit together"
        )
        raise ValueError(message)
    return train, test


def part_size(
    num_rows: int, size: Any, name: str, rounded: Callable[[float], int]
) -> int | None:
    """Return the number of rows of a part, or ``None`` if its size was not passed."""
    if size is None:
        return None
    if isinstance(size, Real) and not isinstance(size, SupportsIndex):
        if not 0 < float(size) < 1:
            message = f"`{name}` must be between 0 and 1 as a fraction, or a whole number, got {size}"
            raise ValueError(message)
        return rounded(float(size) * num_rows)
    return count(size, name)
