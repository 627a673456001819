"""The data source of Ray Data, whose read tasks are ranges of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from lanceloader.ray.batches import arrow_batches, cut, has_functions, row_bytes_of
from lanceloader.ray.recipe import credentials_hint, reduce_for_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lanceloader._permutation import Permutation
    from lanceloader.ray.recipe import Recipe

__all__ = ["PermutationDatasource"]


@dataclass(frozen=True)
class ReadRange:
    """The function of a read task.

    Attributes:
        recipe: The permutation.
        columns: The columns to read, or ``None`` for all.
        start: The first position.
        stop: The position after the last one.
    """

    recipe: Recipe
    columns: tuple[str, ...] | None
    start: int
    stop: int

    def __call__(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        with credentials_hint():
            perm = self.recipe.open(self.columns)
            for batch in arrow_batches(perm, range(self.start, self.stop)):
                yield pa.Table.from_batches([batch])

    def __reduce__(self) -> Any:
        arguments = self.recipe, self.columns, self.start, self.stop
        return reduce_for_nodes(type(self), *arguments)

    @property
    def __name__(self) -> str:
        return f"rows {self.start:,} to {self.stop:,}"


class PermutationDatasource(Datasource):  # type: ignore[misc]
    """The rows of a permutation, in its order."""

    def __init__(self, perm: Permutation, recipe: Recipe) -> None:
        """Create a data source.

        Args:
            perm: The permutation, as this process reads it.
            recipe: The same permutation, as tasks and other processes read it.
        """
        super().__init__()
        self._perm: Permutation | None = perm
        self._recipe = recipe
        self._is_projectable = not has_functions(perm)
        self._projection_map: dict[str, str] | None = None

    def get_name(self) -> str:
        """Return the name of the operator in Ray's progress bars and statistics."""
        return "Permutation"

    def supports_projection_pushdown(self) -> bool:
        """Return whether tasks read only the columns that are used later."""
        return self._is_projectable

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the number of bytes of all rows, or ``None`` if it is unknown."""
        return self._bytes_of(self._columns())

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """Return tasks that together read every row once, in order.

        Args:
            parallelism: The number of tasks, if there are at least as many rows.
            per_task_row_limit: The maximum number of rows that a task has to read.
            data_context: Unused.
        """
        del data_context
        columns = self._columns()
        perm = self._view(columns)
        if not perm.num_rows:
            return []
        schema = perm.schema if self._is_projectable else None
        row_bytes = row_bytes_of(perm)
        return [
            ReadTask(
                ReadRange(self._recipe, columns, rows.start, rows.stop),
                BlockMetadata(
                    num_rows=len(rows),
                    size_bytes=row_bytes and row_bytes * len(rows),
                    input_files=None,
                    exec_stats=None,
                ),
                schema=schema,
                per_task_row_limit=per_task_row_limit,
            )
            for rows in cut(perm, parallelism)
        ]

    def _columns(self) -> tuple[str, ...] | None:
        names = self._get_data_columns()
        return None if names is None else tuple(names)

    def _view(self, columns: tuple[str, ...] | None) -> Permutation:
        if self._perm is None:
            return self._recipe.open(columns)
        return self._perm if columns is None else self._perm.select_columns([*columns])

    def _bytes_of(self, columns: tuple[str, ...] | None) -> int | None:
        perm = self._view(columns)
        row_bytes = row_bytes_of(perm)
        return None if row_bytes is None else row_bytes * perm.num_rows

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_perm": None}
