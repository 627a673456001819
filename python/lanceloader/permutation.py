"""LanceDB's names: what ``lancedb.permutation`` has, with its behaviour.

The classes are those of ``lanceloader``, whose verbs (``filter``, ``shuffle``, ``split``,
``shard``, ``sample``, ``to_arrow`` and so on) they have too. One habit of LanceDB's is kept here
and nowhere else: ``for batch in perm`` leaves a short last batch out.
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
    """LanceDB's ``Permutation``: ``for batch in perm`` leaves a short last batch out.

    So does ``list(perm)``. ``perm.iter(batch_size)`` and ``perm.loader(batch_size)`` return every
    row, as do the loops of ``lanceloader.Permutation``, which is the same in everything else.
    """

    def __iter__(self) -> Iterator[Any]:
        """Iterate over batches of ``batch_size`` rows; a short last one is left out, as in LanceDB.

        ``perm.iter(perm.batch_size)`` does not leave it out.
        """
        return self.iter(self.batch_size, skip_last_batch=True)


class Permutations(_permutation.Permutations):
    """LanceDB's ``Permutations``: the splits of a permutation table, by name or number.

    Each split is a ``lanceloader.permutation.Permutation``; see ``lanceloader.Permutations``.
    """

    _permutation: ClassVar[type[_permutation.Permutation]] = Permutation
