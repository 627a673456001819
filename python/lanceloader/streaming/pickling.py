"""Pickles and deep copies of datasets, and datasets in workers.

The table is pickled as by ``Permutation``. The permutation is pickled as its recipe (seed, epoch
and version of the table) if it can be built from that again, and as the rows of the splits of
this rank otherwise.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from lanceloader.compat_lancedb.plan_table import PlanTable, arrow_of
from lanceloader.numbers import array_of, numpy_of, offsets_of
from lanceloader.sources import LanceSource, open_source, pinned_source
from lanceloader.sources.opening import is_a
from lanceloader.streaming.counters import Counters
from lanceloader.streaming.iterator_lock import IteratorLock
from lanceloader.streaming.order import SYNC_TABLES, DatasetOrder, is_of_lancedb
from lanceloader.streaming.progress import PackProgress, RowProgress, ShardProgress
from lanceloader.streaming.replaceable import is_replaced, namespace
from lanceloader.world import is_starting

if TYPE_CHECKING:
    from lanceloader.streaming.progress import Progress

    State = dict[str, Any]

# Handles, which are opened again.
OPEN = "_built_table", "_opened"


class UnopenedTable(NamedTuple):
    """A LanceDB table that is opened when it is first used, as importing lancedb takes long."""

    state: State
    """Its state in a pickle."""


class DatasetPickling(DatasetOrder):
    """Reduces a dataset to a description, and opens a dataset from it."""

    @property
    def _table(self) -> Any:
        """The table with the rows."""
        table = self.__dict__["_table"]
        if isinstance(table, UnopenedTable):
            table = self._table = namespace._table_from_pickle_state(table.state)
        return table

    @_table.setter
    def _table(self, table: Any) -> None:
        self.__dict__["_table"] = table

    def __getstate__(self) -> State:
        """Return the description of the dataset.

        In a pickle that does not go straight to a worker there are no credentials, and no memory
        shared with the original.
        """
        if self._strict:
            # Row ids may change when the table is opened again.
            self._order_fingerprint()
        state = self.__dict__ | dict.fromkeys(OPEN)
        perm_data = None if self._has_recipe() else self._rows_of_rank()
        state["_table_name"] = name_of(self._table)
        if self._connection_factory is not None:
            state["_table"] = None
        elif is_in_memory(self._table):
            state["_table"], perm_data = self._rows_in_memory(perm_data)
        else:
            state["_table"] = self._table_state()
            state["_source"] = self._source_of_file()
        state["_perm_table"] = "permutation", perm_data
        return state

    def __setstate__(self, state: State) -> None:
        """Open the table again, and build the permutation if it was pickled as a recipe."""
        try:
            self._open_again(dict(state))
        except Exception as error:
            if not is_starting():
                raise
            # A worker that is starting reports it when it is asked for rows.
            self._failure = error

    def _open_again(self, state: State) -> None:
        if "_worker_stats" in state:
            state = of_version_0_1(state)
        name, table = state.pop("_table_name"), state.pop("_table")
        _, perm_data = state.pop("_perm_table")
        # Pickles of version 0.1 have none.
        source = state.pop("_source", None)
        self.__dict__.update(state)
        if self._connection_factory is not None:
            self._table = self._connection_factory(name)
        elif table["kind"] == "source":
            self._table = table["source"]
        elif source is not None and not is_replaced("_table_from_pickle_state"):
            self._table = UnopenedTable(table)
        else:
            self._table = namespace._table_from_pickle_state(table)
        if perm_data is None:
            built = source or pinned_source(self._table, *self._pin)
            perm_table = self._build_permutation(built)
        else:
            if is_in_memory(self.__dict__["_table"]):
                # The table is a new one, and has versions of its own.
                perm_data = namespace._drop_base_version(perm_data)
            perm_table = perm_data
        self._perm_table = perm_table
        self._built_table = perm_table if perm_data is None else None
        plan = PlanTable.of(perm_table)
        pin = plan.base_version, plan.base_branch
        if source is None or pin != (source.version, source.branch):
            source = pinned_source(self._table, *pin)
        self._opened = perm_table, source, plan
        self._pin = source.version, source.branch

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the dataset and its progress; the copy shares the open table."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = self.__dict__
        for name in ("_table", "_perm_table", *OPEN):
            memo[id(state[name])] = state[name]
        new.__dict__.update(deepcopy(state, memo))
        return new

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _has_recipe(self) -> bool:
        """Return whether the permutation can quickly be built from seed, epoch and version."""
        return (
            self._perm_rows is self._built_table
            and self._connection_factory is None
            and self._filter is None
            and self._pin[0] is not None
            and is_a(self._table, "lancedb", "LanceTable")
            and not is_in_memory(self._table)
        )

    def _rows_of_rank(self) -> pa.Table:
        import numpy as np

        data = arrow_of(self._perm_rows)
        if self._tail is not None:
            return data
        ours = array_of(np.array(self._rank_splits, np.uint64))
        return data.filter(pc.is_in(data["split_id"].cast(pa.uint64()), ours))

    def _rows_in_memory(self, perm_data: pa.Table) -> tuple[State, pa.Table]:
        """Return the rows of a table in memory, and the permutation of these rows.

        In the new table, the row ids are the offsets.
        """
        source: Any = pinned_source(self._table, *self._pin)
        _, order = source.rows_of_ids(numpy_of(perm_data["row_id"]))
        row_ids = offsets_of(order).cast(pa.uint64())
        perm_data = perm_data.set_column(
            perm_data.schema.get_field_index("row_id"), "row_id", row_ids
        )
        data = source.to_arrow()
        return {"kind": "memory", "name": source.name, "data": data}, perm_data

    def _source_of_file(self) -> LanceSource | None:
        """Return what reads the table without lancedb, if it is a table of LanceDB in files."""
        if not is_a(self._table, "lancedb", "LanceTable"):
            return None
        source = pinned_source(self._table, *self._pin)
        return source if isinstance(source, LanceSource) else None

    def _table_state(self) -> State:
        if any(is_a(self._table, "lancedb", name) for name in SYNC_TABLES):
            state: State = namespace._table_to_pickle_state(self._table)
            return state
        return {"kind": "source", "source": pinned_source(self._table, *self._pin)}


def of_version_0_1(state: State) -> State:
    """Return the state of a pickle of version 0.1, which had one attribute for each count."""
    state = dict(state)
    counts = {name: state.pop(name) for name in [*state] if name in COUNTS_0_1}
    policy = state.pop("_filling")
    policy.on_error = state.pop("_on_transform_error")
    return state | {
        "_error_policy": policy,
        "_requested_blocks": state.pop("_blocks_asked_for"),
        "_known_order": state.pop("_known_plan"),
        "_iterator_lock": IteratorLock(),
        "_counters": Counters.of_version_0_1(
            counts["_worker_stats"], *counts["_untracked_worker_iteration"]
        ),
        "_progress": progress_of_version_0_1(
            counts, state["_num_splits"], is_packed=state["_pack_sequences"] is not None
        ),
    }


COUNTS_0_1 = {
    *("_resume_offset", "_resume_samples", "_resume_positions"),
    *("_pack_consumed", "_pack_blocks_emitted", "_packs"),
    *("_interleaving", "_resume_done", "_missed", "_readers", "_worker_rows"),
    *("_worker_stats", "_untracked_worker_iteration"),
    *("_stats_lock", "_stats_slot", "_stats_home", "_bytes_loaded", "_fetch_time"),
    *("_transform_time", "_rows_skipped", "_rows_filled"),
    *("_raw_batches_ref", "_cooked_ref", "_fetch_head_ref", "_split_sizes_ref"),
    *("_local_consumed_ref", "_consumer_iterator_lock"),
    *("_consumer_iterator_generation", "_consumer_iterator_lease"),
}


def progress_of_version_0_1(
    counts: State, num_splits: int, *, is_packed: bool
) -> Progress:
    """Return the progress in a pickle of version 0.1."""
    if is_packed:
        packs = PackProgress(num_splits)
        packs.documents = counts["_pack_consumed"]
        packs.blocks = counts["_pack_blocks_emitted"]
        packs.buffers = counts["_packs"]
        return packs
    if counts["_interleaving"] is not None:
        return ShardProgress(
            counts["_interleaving"],
            counts["_resume_done"],
            counts["_missed"],
            counts["_readers"],
            counts["_worker_rows"],
        )
    rows = RowProgress(num_splits)
    rows.offset = counts["_resume_offset"]
    rows._samples = counts["_resume_samples"]
    rows._positions = counts["_resume_positions"]
    return rows


def opened_once(table: Any) -> Any:
    """Return a table that has the same rows each time it is opened.

    LanceDB's tables have, at a version, and are returned as they are. A stream can be read only
    once, and a query may return other rows the next time, so these are opened here.
    """
    if is_of_lancedb(table):
        return table
    try:
        return open_source(table)
    except TypeError:
        # The builder refuses it with LanceDB's exception.
        return table


def schema_of(table: Any) -> pa.Schema:
    """Return the schema of a table of any kind."""
    schema = getattr(table, "schema", None)
    return schema if isinstance(schema, pa.Schema) else open_source(table).schema


def name_of(table: Any) -> str:
    """Return the name of a table, which a connection factory receives."""
    name = getattr(table, "name", None)
    return name if isinstance(name, str) else open_source(table).name


def is_in_memory(table: Any) -> bool:
    """Return whether this is a LanceDB table in memory."""
    return is_a(table, "lancedb", "LanceTable") and table.uri.startswith("memory:")
