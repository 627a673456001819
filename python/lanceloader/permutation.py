"""The names of ``lancedb.permutation``, with LanceDB's behaviour.

The classes are those of ``lanceloader`` with all of their methods, such as ``filter``, ``shuffle``,
``split``, ``shard``, ``sample`` and ``to_arrow``. They differ in two respects: as in LanceDB,
``for batch in perm`` drops a shorter last batch; and ``skip``, ``take`` and ``repeat``, which LanceDB
deprecates, are ``with_skip``, ``with_take`` and ``with_repeat``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from lanceloader import _permutation
from lanceloader._deprecation import warn_deprecated
from lanceloader.compat_lancedb.builder import PermutationBuilder, permutation_builder
from lanceloader.compat_lancedb.table_state import (
    state_of_table as _table_to_pickle_state,
)
from lanceloader.compat_lancedb.table_state import (
    table_of_state as _table_from_pickle_state,
)
from lanceloader.compat_lancedb.table_state import (
    without_base_version as _drop_base_version,
)
from lanceloader.compat_lancedb.transforms import Transforms
from lanceloader.loader.loader import Loader
from lanceloader.verbs.base import DEFAULT_BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "Loader",
    "Permutation",
    "PermutationBuilder",
    "Permutations",
    "Transforms",
    "_drop_base_version",
    "_table_from_pickle_state",
    "_table_to_pickle_state",
    "permutation_builder",
]


class Permutation(_permutation.Permutation):
    """LanceDB's ``Permutation``, for which ``for batch in perm`` drops a shorter last batch.

    So does ``list(perm)``. ``perm.iter(batch_size)`` and ``perm.loader(batch_size)`` yield all rows, as
    does iteration over ``lanceloader.Permutation``, which is the same in all other respects.
    """

    def __iter__(self) -> Iterator[Any]:
        """Iterate over batches of ``batch_size`` rows; a shorter last one is dropped, as in LanceDB.

        Use ``perm.iter(perm.batch_size)`` to keep it.
        """
        return self.iter(self.batch_size, skip_last_batch=True)

    def skip(self, skip: int) -> Self:
        """Return ``with_skip(skip)``. Deprecated: use ``with_skip``."""
        warn_deprecated("skip", "with_skip")
        return self.with_skip(skip)

    def take(self, limit: int) -> Self:
        """Return ``with_take(limit)``. Deprecated: use ``with_take``."""
        warn_deprecated("take", "with_take")
        return self.with_take(limit)

    def repeat(self, times: int) -> Self:
        """Return ``with_repeat(times)``. Deprecated: use ``with_repeat``."""
        warn_deprecated("repeat", "with_repeat")
        return self.with_repeat(times)


class Permutations(_permutation.Permutations):
    """LanceDB's ``Permutations``: the splits of a permutation table, by name or number.

    Each split is a ``lanceloader.permutation.Permutation``; see ``lanceloader.Permutations``.
    """

    _permutation: ClassVar[type[_permutation.Permutation]] = Permutation
