"""Datasets that travel: to workers, into pickles, and as deep copies.

The table travels as for ``Permutation``. The permutation goes as its recipe (seed, epoch and
version of the table) where that is enough to build it again, otherwise as the rows of the
splits of this rank.
"""

from __future__ import annotations

import ctypes
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from lanceloader import streaming
from lanceloader.compat_lancedb.plan_table import PlanTable
from lanceloader.engine import memory_table
from lanceloader.numbers import array_of, numpy_of, offsets_of
from lanceloader.sources import open_source, pinned_source
from lanceloader.sources.opening import is_a
from lanceloader.sources.secrets import may_travel
from lanceloader.streaming.fields import Fields
from lanceloader.world import is_starting

if TYPE_CHECKING:
    State = dict[str, Any]

# Made anew: they are of one process.
LOCKS = "_consumer_iterator_lock", "_stats_lock"
PIPELINE = (
    "_raw_batches_ref",
    "_cooked_ref",
    "_fetch_head_ref",
    "_split_sizes_ref",
    "_local_consumed_ref",
)
OPEN = "_built_table", "_opened"
SHARED = "_worker_stats", "_untracked_worker_iteration"


class Travelling(Fields):
    """How a dataset is described, and made again of its description."""

    def _built(self, table: Any) -> Any:
        raise NotImplementedError

    def _plan(self) -> State:
        raise NotImplementedError

    def __getstate__(self) -> State:
        """Describe the dataset to a process that this one starts; see ``__reduce_ex__``."""
        if self._strict:
            # Row ids may change on the way.
            self._plan()
        state = self.__dict__ | dict.fromkeys((*LOCKS, *PIPELINE, *OPEN))
        perm_data = None if self._has_recipe() else self._rows_of_rank()
        state["_table_name"] = name_of(self._table)
        if self._connection_factory is not None:
            state["_table"] = None
        elif is_in_memory(self._table):
            state["_table"], perm_data = self._rows_in_memory(perm_data)
        else:
            state["_table"] = self._table_state()
        state["_perm_table"] = "permutation", perm_data
        return state

    def __setstate__(self, state: State) -> None:
        """Open the table again, and build the permutation again if it did not travel."""
        try:
            self._open_again(dict(state))
        except Exception as error:
            if not is_starting():
                raise
            # The trainer is told when it asks for rows.
            self._failure = error

    def _open_again(self, state: State) -> None:
        name, table = state.pop("_table_name"), state.pop("_table")
        perm_name, perm_data = state.pop("_perm_table")
        self._restore(state)
        if self._connection_factory is not None:
            self._table = self._connection_factory(name)
        elif table["kind"] == "source":
            self._table = table["source"]
        else:
            self._table = streaming._table_from_pickle_state(table)
        if perm_data is None:
            perm_table = self._built(pinned_source(self._table, *self._pin))
        else:
            if is_in_memory(self._table):
                # It was made anew, and has versions of its own.
                perm_data = streaming._drop_base_version(perm_data)
            perm_table = memory_table(perm_name, perm_data)
        self._perm_table = perm_table
        self._built_table = perm_table if perm_data is None else None
        plan = PlanTable.of(perm_table)
        source = pinned_source(self._table, plan.base_version, plan.base_branch)
        self._opened = perm_table, source, plan
        self._pin = source.version, source.branch

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Describe the dataset: to a worker with the memory it shares, else with values."""
        reduced: Any = super().__reduce_ex__(protocol)
        if may_travel():
            return reduced
        make, values, state, *rest = reduced
        return (make, values, portable(state), *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the dataset and its progress; the copy reads the same open table."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = portable(self.__dict__ | dict.fromkeys((*LOCKS, *PIPELINE)))
        for name in ("_table", "_perm_table", *OPEN):
            memo[id(state[name])] = state[name]
        new._restore(deepcopy(state, memo))
        return new

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _restore(self, state: State) -> None:
        self.__dict__.update(state)
        for name in LOCKS:
            setattr(self, name, streaming.threading.Lock())
        for name in SHARED:
            value = state[name]
            if isinstance(value, list):
                setattr(self, name, streaming.RawArray(ctypes.c_int64, value))
                self._stats_home = streaming.os.getpid()

    def _has_recipe(self) -> bool:
        """Whether seed, epoch and version are enough to build the permutation quickly."""
        return (
            self._perm_table is self._built_table
            and self._connection_factory is None
            and self._filter is None
            and self._pin[0] is not None
            and is_a(self._table, "lancedb", "LanceTable")
            and not is_in_memory(self._table)
        )

    def _rows_of_rank(self) -> pa.Table:
        import numpy as np

        data = self._perm_table.to_arrow()
        if self._tail is not None:
            return data
        ours = array_of(np.array(self._rank_splits, np.uint64))
        return data.filter(pc.is_in(data["split_id"].cast(pa.uint64()), ours))

    def _rows_in_memory(self, perm_data: pa.Table) -> tuple[State, pa.Table]:
        """Describe a table in memory: its rows at the version of the permutation.

        They get new row ids, which are their offsets.
        """
        source: Any = pinned_source(self._table, *self._pin)
        _, order = source.rows_of_ids(numpy_of(perm_data["row_id"]))
        row_ids = offsets_of(order).cast(pa.uint64())
        perm_data = perm_data.set_column(
            perm_data.schema.get_field_index("row_id"), "row_id", row_ids
        )
        data = source.to_arrow()
        return {"kind": "memory", "name": source.name, "data": data}, perm_data

    def _table_state(self) -> State:
        lancedb = ("LanceTable", "RemoteTable")
        if any(is_a(self._table, "lancedb", name) for name in lancedb):
            return streaming._table_to_pickle_state(self._table)
        return {"kind": "source", "source": pinned_source(self._table, *self._pin)}


def portable(state: State) -> State:
    """Give a state without what only a process that this one starts can take."""
    values = {name: list(state[name]) for name in SHARED}
    return state | values | {"_consumer_iterator_lease": None}


def opened_once(table: Any) -> Any:
    """Give what has the same rows whenever it is opened: LanceDB's tables do, at a version.

    A stream gives its rows once, and a query may give others next time.
    """
    if any(
        is_a(table, "lancedb", name)
        for name in ("LanceTable", "RemoteTable", "AsyncTable")
    ):
        return table
    try:
        return open_source(table)
    except TypeError:
        # The builder refuses it, as LanceDB's.
        return table


def schema_of(table: Any) -> pa.Schema:
    """Give the columns of anything that is a table."""
    schema = getattr(table, "schema", None)
    return schema if isinstance(schema, pa.Schema) else open_source(table).schema


def name_of(table: Any) -> str:
    """Give the name of a table; a connection factory is given it."""
    name = getattr(table, "name", None)
    return name if isinstance(name, str) else open_source(table).name


def is_in_memory(table: Any) -> bool:
    """Whether this is a LanceDB table in memory."""
    return is_a(table, "lancedb", "LanceTable") and table.uri.startswith("memory:")
