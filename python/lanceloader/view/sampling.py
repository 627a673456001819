"""The verb that draws rows at random, evenly or by weight.

Only weights and classes given by the name of a column look at values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from lanceloader import _native
from lanceloader.numbers import array_of, count, numpy_of
from lanceloader.splits import codes_of
from lanceloader.values import by_value, canonical, listed
from lanceloader.view.rows import RowVerbs, nulls_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from lanceloader._typing import ArrayLike

__all__ = ["SampleVerb"]


class SampleVerb(RowVerbs):
    """Draw rows at random."""

    def sample(
        self,
        size: float,
        *,
        seed: SupportsIndex,
        epoch: SupportsIndex = 0,
        weights: str | Sequence[float] | ArrayLike | Mapping[Any, float] | None = None,
        balance_by: str | None = None,
        replacement: bool = False,
    ) -> Self:
        """Keep ``size`` rows drawn at random, in random order.

        Args:
            size: A number of rows, or a share of them as a float between 0 and 1. With
                replacement both may be more than there are.
            seed: Chooses the rows, in ``range(2**64)``.
            epoch: Chooses other rows for the same seed.
            weights: How likely each row is beside the others: the name of a column of numbers,
                selected or not, or a 1-d array with a number for each row of this permutation.
                With ``balance_by`` a dict with a number for each class instead. A row or class
                of weight 0 is never drawn.
            balance_by: A column. Its distinct values, null among them, are classes: one is
                drawn, evenly or by ``weights``, and then any of its rows. Without replacement
                that holds for the first row; later ones are drawn from what is left.
            replacement: Whether rows can be drawn again and again. Draws are then computed,
                not stored, at any ``size``.

        Returns:
            A new permutation. With replacement it keeps 12 bytes a row for ``weights`` and 4
            for ``balance_by``, else the rows drawn.

        Raises:
            ValueError: If there are fewer rows; or weights are negative, null, not finite, not
                one for each row or class, or all 0.
            ColumnNotFoundError: If a column does not exist.

        Example:
            >>> often = perm.sample(1000, seed=7, weights="x", replacement=True)
            >>> rows = often.to_arrow()["x"].to_pylist()
            >>> rows.count(0), rows.count(9) > rows.count(1)
            (0, True)
        """
        rows = self._rows_of(size, replacement=replacement)
        chosen = {"seed": count(seed, "seed"), "epoch": count(epoch, "epoch")}
        if rows == 0:
            return self._with_rows(self._order.slice(0, 0))
        if self.num_rows == 0:
            message = f"a sample of {rows} rows: there are none to draw from"
            raise ValueError(message)
        if weights is None and balance_by is None and not replacement:
            shuffled = self._order.shuffled_for_sample(**chosen)
            return self._with_rows(shuffled.slice(0, rows))
        given: dict[str, Any] = {}
        if balance_by is not None:
            table = self._columns(balance_by, "balance_by", progress=False)
            given["classes"] = codes_of(table)
            if weights is not None:
                given["weights"] = of_classes(weights, table, given["classes"])
        elif isinstance(weights, str):
            column = self._columns(weights, "weights", progress=False).column(0)
            given["weights"] = of_rows(column, self.num_rows, f"column `{weights}`")
        elif weights is not None:
            given["weights"] = of_rows(weights, self.num_rows, "an array")
        if replacement:
            drawn = _native.draws(self.num_rows, rows, **chosen, **given)
        else:
            drawn = _native.choose(for_each_row(**given), rows, **chosen)
        return self._with_rows(self._order.pick(drawn))

    def _rows_of(self, size: float, *, replacement: bool) -> int:
        rows = size
        if isinstance(size, float):
            largest = float("inf") if replacement else 1
            if not 0 <= size <= largest or size == float("inf"):
                wanted = "a finite share" if replacement else "a share between 0 and 1"
                message = f"a sample of {size} of the rows: wanted {wanted}"
                raise ValueError(message)
            rows = round(size * self.num_rows)
        rows = count(rows, "size")
        if rows > self.num_rows and not replacement:
            message = f"a sample of {rows} rows: there are {self.num_rows}"
            raise ValueError(message)
        return rows

    def _columns(
        self, columns: str | Sequence[str], what: str, *, progress: bool
    ) -> pa.Table:
        """Read columns of all rows, also ones that are not selected, as canonical values."""
        names = [columns] if isinstance(columns, str) else list(columns)
        if not names:
            message = f"{what} without columns: wanted at least one"
            raise ValueError(message)
        known = self._source.column_names
        whole = self._replace(selection={name: name for name in known} | self.selection)
        selection = {name: whole._resolve(name) for name in names}
        return canonical(self._with_selection(selection).to_arrow(progress=progress))


def of_rows(weights: Any, num_rows: int, what: str) -> np.ndarray[Any, Any]:
    """Check that there is a number for each row; the core checks the numbers.

    Raises:
        ValueError: If there is not.
    """
    import numpy as np

    if isinstance(weights, Mapping):
        message = (
            "weights by class without balance_by: wanted the column of the classes"
        )
        raise ValueError(message)
    nulls = nulls_in(weights)
    if nulls:
        message = (
            f"weights from {what} with {nulls} nulls: wanted a number for each row"
        )
        raise ValueError(message)
    numbers = numpy_of(weights)
    if numbers.dtype.kind not in "biuf" or numbers.shape != (num_rows,):
        message = (
            f"weights from {what} of dtype {numbers.dtype} and shape {numbers.shape}: wanted "
            f"{num_rows} numbers"
        )
        raise ValueError(message)
    return np.ascontiguousarray(numbers, dtype=np.float64)


def of_classes(
    weights: Any, classes: pa.Table, codes: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Give the weight of each class, in the order of the codes.

    Raises:
        ValueError: If a class has none.
    """
    import numpy as np

    name = classes.column_names[0]
    if not isinstance(weights, Mapping):
        message = (
            f"weights of type {type(weights).__name__} with balance_by={name!r}: wanted a dict "
            "with a number for each class"
        )
        raise ValueError(message)
    _, first = np.unique(codes, return_index=True)
    values = listed(classes.column(0).take(array_of(first)))
    weights = by_value(weights)
    missing = [value for value in values if value not in weights]
    if missing:
        message = (
            f"no weight for class {missing[0]!r} of column `{name}`: wanted one for each of "
            f"{len(values)} classes"
        )
        raise ValueError(message)
    numbers = np.array([float(weights[value]) for value in values])
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers < 0))
    if len(wrong):
        message = (
            f"weight {numbers[wrong[0]]} of class {values[wrong[0]]!r} of column `{name}`: "
            "wanted a finite number, 0 or more"
        )
        raise ValueError(message)
    return numbers


def for_each_row(
    *,
    weights: np.ndarray[Any, Any] | None = None,
    classes: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """Give each row its weight, where a class shares its own evenly among its rows."""
    import numpy as np

    if classes is None:
        assert weights is not None
        return weights
    sizes = np.bincount(classes)
    of_class = np.ones(len(sizes)) if weights is None else weights
    of_row: np.ndarray[Any, Any] = (of_class / sizes)[classes]
    return of_row
