"""The permutation of an epoch: how it is built, and what determines it."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import Any

import pyarrow as pa

from lanceloader.compat_lancedb.builder import built_rows
from lanceloader.compat_lancedb.plan_table import PlanTable, arrow_of
from lanceloader.engine import memory_table
from lanceloader.numbers import count, numpy_of
from lanceloader.sources import pinned_source
from lanceloader.sources.opening import is_a
from lanceloader.streaming.attributes import DatasetAttributes
from lanceloader.streaming.packing import estimated_blocks
from lanceloader.streaming.replaceable import namespace
from lanceloader.streaming.validation import _EPOCH_PRIME

SYNC_TABLES = "LanceTable", "RemoteTable"
LANCEDB_TABLES = *SYNC_TABLES, "AsyncTable"


class DatasetOrder(DatasetAttributes):
    """Builds the permutation of the epoch."""

    @property
    def _perm_rows(self) -> Any:
        """The permutation table, or the rows of one that nobody has asked for."""
        return self.__dict__["_perm_table"]

    @property
    def _perm_table(self) -> Any:
        """The permutation table: a table of LanceDB, if the table with the rows is one."""
        table = self._perm_rows
        is_unmade = table is self._built_table and isinstance(table, pa.Table)
        if is_unmade and is_of_lancedb(self._table):
            # Not before somebody asks for it: that takes longer than to read small tables.
            table = memory_table("permutation", table)
            self._opened = table, *self._opened[1:]
            self._perm_table = self._built_table = table
        return table

    @_perm_table.setter
    def _perm_table(self, table: Any) -> None:
        self.__dict__["_perm_table"] = table

    def _build_permutation(self, table: Any) -> Any:
        """Return the rows of the permutation table of this epoch, built from the settings."""
        builder = namespace.permutation_builder(table)
        if self._filter is not None:
            builder = builder.filter(self._filter)
        # With a tail, all rows are in one split, which the readers share.
        fixed = self._num_splits if self._tail is None else 1
        if not self._shuffle:
            return built_rows(builder.split_sequential(fixed=fixed))
        seed = count(
            self._shuffle_seed + self._epoch * _EPOCH_PRIME,
            f"shuffle_seed + epoch * {_EPOCH_PRIME}",
        )
        builder = builder.split_random(
            fixed=fixed, seed=seed, clump_size=self._shuffle_clump_size
        )
        return built_rows(builder)

    def _use_permutation(self, perm_table: Any) -> None:
        """Read the rows of a permutation table that was just built."""
        self._perm_table = self._built_table = perm_table
        source = pinned_source(self._table, *self._pin)
        self._opened = perm_table, source, PlanTable.of(perm_table)
        self._known_order = None
        if self._requested_blocks == "auto":
            self._blocks_per_epoch = self._estimate_blocks_per_epoch()

    def _estimate_blocks_per_epoch(self) -> int:
        """Return the estimated number of blocks in the epoch.

        Raises:
            RuntimeError: If the dataset does not pack.
        """
        if self._pack_sequences is None or not self._columns:
            raise RuntimeError(
                "packing must be configured before estimating its budget: pass pack_sequences "
                "and columns"
            )
        return estimated_blocks(
            self._table,
            self._perm_rows,
            column=self._columns[0],
            length=self._pack_sequences,
            num_splits=self._num_splits,
            seed=self._shuffle_seed,
            batch_size=self._read_batch_size,
        )

    def _order_fingerprint(self) -> dict[str, Any]:
        """Return what determines which row is at which position.

        The first call hashes all row ids.
        """
        if self._known_order is None:
            plan = PlanTable.of(self._perm_rows)
            digest = hashlib.blake2b(digest_size=16)
            for rows in arrow_of(self._perm_rows)["row_id"].chunks:
                digest.update(numpy_of(rows).data)
            self._known_order = {
                "shuffle": self._shuffle,
                "shuffle_clump_size": self._shuffle_clump_size,
                "filter": self._filter,
                "table_version": plan.base_version,
                "table_branch": plan.base_branch,
                "rows": digest.hexdigest(),
            }
        return deepcopy(self._known_order)


def is_of_lancedb(table: Any) -> bool:
    """Return whether this is a table of LanceDB."""
    return any(is_a(table, "lancedb", name) for name in LANCEDB_TABLES)
