"""``sample``: rows drawn at random, uniformly or by weight.

Values are only read for weights and classes that are passed as the name of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader import _native
from lanceloader.monitor.progress import check_bar, waiting
from lanceloader.numbers import array_of, count, numpy_of
from lanceloader.splits import codes_of
from lanceloader.values import by_value, listed
from lanceloader.verbs.reading import ReadVerbs
from lanceloader.verbs.rows import count_nulls

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from lanceloader._typing import ArrayLike

__all__ = ["SampleVerbs"]


class SampleVerbs(ReadVerbs):
    """Methods that draw rows at random."""

    def sample(
        self,
        size: float,
        *,
        seed: SupportsIndex,
        epoch: SupportsIndex = 0,
        weights: str | Sequence[float] | ArrayLike | Mapping[Any, float] | None = None,
        balance_by: str | None = None,
        replacement: bool = False,
        progress: bool | None = None,
    ) -> Self:
        """Return a permutation of ``size`` rows drawn at random, in random order.

        Args:
            size: The number of rows as an int, or their fraction of all rows as a float in
                [0, 1]. With replacement, both may exceed the number of rows.
            seed: The seed, in ``range(2**64)``.
            epoch: The epoch; the same seed draws other rows in each epoch.
            weights: The relative probability of each row: the name of a column of numbers,
                selected or not, or an array of shape (num_rows,). With ``balance_by``, a dict of
                the relative probability of each class. A row or class of weight 0 is never drawn.
            balance_by: The name of a column whose distinct values, including null, are classes. A
                class is drawn first, uniformly or by ``weights``, and then one of its rows,
                uniformly. Without replacement these are the probabilities of the first row; later
                rows are drawn from the remaining ones.
            replacement: Whether rows may be drawn more than once. Draws are then computed on
                demand instead of stored, at any ``size``.
            progress: Whether to show a progress bar while a column is read; by default as
                ``LANCELOADER_PROGRESS`` says.

        Returns:
            A new permutation. With replacement it stores 12 bytes for each row of this permutation
            for ``weights``, or 4 bytes for ``balance_by``; without, the rows that were drawn.

        Raises:
            ValueError: If there are too few rows; or if weights are negative, null, not finite,
                all 0, or not one for each row or class.
            ColumnNotFoundError: If a column does not exist.

        Example:
            >>> often = perm.sample(1000, seed=7, weights="x", replacement=True)
            >>> rows = often.to_arrow()["x"].to_pylist()
            >>> rows.count(0), rows.count(9) > rows.count(1)
            (0, True)
        """
        check_bar(progress)
        rows = self._rows_of(size, replacement=replacement)
        chosen = {"seed": count(seed, "seed"), "epoch": count(epoch, "epoch")}
        if rows == 0:
            return self.with_rows(self.order.slice(0, 0))
        if self.num_rows == 0:
            message = (
                f"`size`={rows} rows cannot be drawn, as there are none to draw from"
            )
            raise ValueError(message)
        if weights is None and balance_by is None and not replacement:
            shuffled = self.order.shuffled_for_sample(**chosen)
            return self.with_rows(shuffled.slice(0, rows)).with_seed(**chosen)
        probabilities: dict[str, Any] = {}
        if balance_by is not None:
            table = self._columns(balance_by, "balance_by", progress=progress)
            with waiting("grouping rows", progress):
                classes = probabilities["classes"] = codes_of(table)
            if weights is not None:
                probabilities["weights"] = class_weights(weights, table, classes)
        elif isinstance(weights, str):
            column = self._columns(weights, "weights", progress=progress).column(0)
            probabilities["weights"] = row_weights(
                column, self.num_rows, f"of column `{weights}`"
            )
        elif weights is not None:
            probabilities["weights"] = row_weights(
                weights, self.num_rows, "of an array"
            )
        with waiting("drawing rows", progress):
            if replacement:
                drawn = _native.draws(self.num_rows, rows, **chosen, **probabilities)
            else:
                drawn = _native.choose(weights_by_row(**probabilities), rows, **chosen)
        return self.with_rows(self.order.pick(drawn)).with_seed(**chosen)

    def _rows_of(self, size: float, *, replacement: bool) -> int:
        rows = size
        if isinstance(size, float):
            largest = float("inf") if replacement else 1
            if not 0 <= size <= largest or size == float("inf"):
                bounds = "finite and not negative" if replacement else "between 0 and 1"
                message = (
                    f"`size` must be {bounds} as a fraction of the rows, got {size}"
                )
                raise ValueError(message)
            rows = round(size * self.num_rows)
        rows = count(rows, "size")
        if rows > self.num_rows and not replacement:
            message = (
                f"`size`={rows} exceeds the number of rows, {self.num_rows}: pass a smaller size, "
                "or replacement=True"
            )
            raise ValueError(message)
        return rows


def row_weights(weights: Any, num_rows: int, what: str) -> np.ndarray[Any, Any]:
    """Return weights as an array of float64 with one number for each row.

    The core checks that they are finite and not negative.

    Raises:
        ValueError: If there is not one number for each row.
    """
    import numpy as np

    if isinstance(weights, Mapping):
        raise ValueError(
            "`weights` is a dict, which has a weight for each class: pass `balance_by`, too, the "
            "column of the classes"
        )
    nulls = count_nulls(weights)
    if nulls:
        message = f"the weights {what} have {nulls} nulls: pass a number for each row"
        raise ValueError(message)
    numbers = numpy_of(weights)
    if numbers.dtype.kind not in "biuf" or numbers.shape != (num_rows,):
        message = (
            f"the weights {what} have dtype {numbers.dtype} and shape {numbers.shape}: pass "
            f"numbers of shape ({num_rows},)"
        )
        raise ValueError(message)
    return np.ascontiguousarray(numbers, dtype=np.float64)


def class_weights(
    weights: Any, classes: pa.Table, codes: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the weight of each class, in the order of the codes.

    Raises:
        ValueError: If a class has no weight, or an invalid one.
    """
    import numpy as np

    name = classes.column_names[0]
    if not isinstance(weights, Mapping):
        message = (
            f"`weights` must be a dict of a number for each class with balance_by={name!r}, not "
            f"{type(weights).__name__}"
        )
        raise ValueError(message)
    _, first = np.unique(codes, return_index=True)
    values = listed(classes.column(0).take(array_of(first)))
    weights = by_value(weights)
    missing = [value for value in values if value not in weights]
    if missing:
        message = (
            f"`weights` has no weight for class {missing[0]!r} of column `{name}`: pass one for "
            f"each of the {len(values)} classes"
        )
        raise ValueError(message)
    numbers = np.array([float(weights[value]) for value in values])
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers < 0))
    if len(wrong):
        message = (
            f"the weight of class {values[wrong[0]]!r} of column `{name}` must be finite and not "
            f"negative, got {numbers[wrong[0]]}"
        )
        raise ValueError(message)
    return numbers


def weights_by_row(
    *,
    weights: np.ndarray[Any, Any] | None = None,
    classes: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """Return the weight of each row; the weight of a class is divided evenly among its rows."""
    import numpy as np

    if classes is None:
        assert weights is not None
        return weights
    sizes = np.bincount(classes)
    of_class = np.ones(len(sizes)) if weights is None else weights
    of_row: np.ndarray[Any, Any] = (of_class / sizes)[classes]
    return of_row
