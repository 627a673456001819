"""The names of ``lancedb.permutation``, with LanceDB's behaviour.

The classes are those of ``lanceloader`` with all of their methods, such as ``filter``, ``shuffle``,
``split``, ``shard``, ``sample`` and ``to_arrow``. They differ in one respect: as in LanceDB,
``for batch in perm`` drops a shorter last batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lanceloader import _permutation
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


class Permutations(_permutation.Permutations):
    """LanceDB's ``Permutations``: the splits of a permutation table, by name or number.

    Each split is a ``lanceloader.permutation.Permutation``; see ``lanceloader.Permutations``.
    """

    _permutation: ClassVar[type[_permutation.Permutation]] = Permutation
