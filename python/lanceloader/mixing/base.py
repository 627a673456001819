"""The sources of a mixture, grouped by the table they are read from."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from lanceloader.mixing.budget import with_options, with_shared_memory
from lanceloader.mixing.epochs import Epochs
from lanceloader.mixing.sources import grouped
from lanceloader.options import ReadOptions
from lanceloader.verbs.base import DEFAULT_BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lanceloader._native import Order
    from lanceloader._permutation import Permutation
    from lanceloader._typing import Transform
    from lanceloader.images import ImageOptions
    from lanceloader.mixing.weights import Stages
    from lanceloader.units.share import Share

__all__ = ["MixedSources"]


class MixedSources:
    """The sources of a mixture, the readers of their tables, and their rows in each epoch.

    Attributes:
        names: The names of the sources.
        stop: The end of an epoch: ``"first"``, ``"all"`` or a number of rows.
        source_column: The name of the column with the source of each row, or ``None``.
        batch_size: The default number of rows in a batch.
    """

    def __init__(
        self,
        views: Mapping[Any, Permutation],
        stages: Stages,
        stop: int | str,
        *,
        is_linear: bool,
        source_column: str | None,
    ) -> None:
        """Internal: use ``lanceloader.mix``."""
        self.names = list(views)
        self.stop = stop
        self.source_column = source_column
        self._views, self._groups = grouped(views.values())
        self._orders = [view.order for view in views.values()]
        self._randomness = [view.randomness for view in views.values()]
        self.is_shard = any(view.is_shard for view in views.values())
        self._stages = stages
        self._is_linear = is_linear
        sizes = [order.num_rows for order in self._orders]
        self._epochs = Epochs(sizes, self._groups, stages, stop, is_linear=is_linear)
        self._options = ReadOptions()
        self._epoch: int | None = None
        first = self._views[0]
        self.batch_size = first.batch_size or DEFAULT_BATCH_SIZE
        self._opened: tuple[int, list[Permutation]] | None = None

    _randomness: Sequence[tuple[int, int]] | None = None
    """The seed and the epoch of random transforms, of each source; pickles of version 0.1.0 have none."""

    @property
    def read_options(self) -> ReadOptions:
        """How the rows of all tables are read; tables read at the same time share its memory."""
        return self._options

    @property
    def transform_fn(self) -> Transform:
        """The function that converts a batch to its format."""
        return self._views[0].transform_fn

    @property
    def sources(self) -> dict[Any, Permutation]:
        """The permutations, by name."""
        return {
            name: self._views[group].with_rows(order)
            for name, group, order in zip(
                self.names, self._groups, self._orders, strict=True
            )
        }

    def _replace(self, **changes: Any) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__ | changes)
        new._opened = None
        return new

    def with_decode(self, decode: Mapping[str, ImageOptions]) -> Self:
        """Return the mixture with decoded columns; see ``Permutation.with_decode``.

        Random crops and flips of a row depend on the seed, the epoch, the name of its source, the number
        of times that the source was read in the epoch, and the row's place in its table.

        Args:
            decode: The options of each column to decode, which ``lanceloader.image`` returns.

        Raises:
            TypeError: If the options of a column are of another type.
            ColumnNotFoundError: If a column does not exist.
            FormatError: If a column holds no files.
        """
        return self._replace(_views=[view.with_decode(decode) for view in self._views])

    def open_reader(self) -> None:
        """Open the readers of all tables."""
        for view in self._readers():
            view.open_reader()

    def _readers(self) -> list[Permutation]:
        """Return a view for each table, which reads with its share of the memory."""
        pid = os.getpid()
        if self._opened is None or self._opened[0] != pid:
            options = replace(self._options, memory_limit=None)
            views = [with_options(view, options) for view in self._views]
            self._opened = pid, with_shared_memory(views, self._options.memory_limit)
        return self._opened[1]

    def _order(
        self, group: int, epoch: int | None, share: Share | None = None
    ) -> Order:
        """Return the rows of one table in a mixture, or in a share of it."""
        orders = [
            order
            for order, other in zip(self._orders, self._groups, strict=True)
            if other == group
        ]
        return self._epochs.of(epoch).order(group, orders, epoch, share)
