"""``StreamingDataset`` on tables of other kinds, which are opened once and pinned."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import lance
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import tables
from lanceloader.engine import memory_table
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from streaming_datasets import ids_of, ours, outcome, theirs

IDS = {"num_splits": 2, "transform": ids_of}


@pytest.fixture
def numbers(db):
    return db.create_table("t", tables.narrow(40))


def uri_of(table):
    return f"{table._conn.uri}/t.lance"


KINDS = {
    "path": uri_of,
    "lance": lambda table: lance.dataset(uri_of(table)),
    "arrow": lambda table: table.to_arrow(),
    "stream": lambda table: table.to_arrow().to_reader(7),
    "polars": lambda table: table.to_polars().collect(),
    "pandas": lambda table: table.to_pandas(),
    "query": lambda table: table.search(None).limit(200),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_that_a_permutation_takes(numbers, kind):
    """The rows are those at the start, even if the table changes, in copies and workers too."""
    dataset = StreamingDataset(KINDS[kind](numbers), **IDS)
    epochs = [
        list(theirs.StreamingDataset(numbers, epoch=epoch, **IDS)) for epoch in (0, 1)
    ]
    numbers.delete("id < 10")
    numbers.add(tables.narrow(50).slice(40))
    copies = [pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)]
    for each in (dataset, *copies):
        assert list(each) == epochs[0]
        each.set_epoch(1)
        assert list(each) == epochs[1]
    dataset.reset()
    batches = StreamingDataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        collate_fn=list,
        multiprocessing_context="fork",
    )
    assert [row for batch in batches for row in batch] == epochs[1]


@pytest.mark.parametrize("kind", ["lancedb", "path"])
def test_the_permutation_table_is_made_when_it_is_asked_for(numbers, kind, monkeypatch):
    made = []

    def noted(name, data):
        made.append(name)
        return memory_table(name, data)

    monkeypatch.setattr("lanceloader.streaming.order.memory_table", noted)
    table = numbers if kind == "lancedb" else uri_of(numbers)
    dataset = StreamingDataset(table, **IDS)
    rows = list(dataset)
    assert not made
    plain = theirs.StreamingDataset(numbers, **IDS)
    wanted = plain._perm_table.to_arrow()
    for each in (dataset, copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        made.clear()
        each.reset()
        found = each._perm_table
        assert type(found) is (
            type(plain._perm_table) if kind == "lancedb" else pa.Table
        )
        found = found.to_arrow() if kind == "lancedb" else found
        assert found.equals(wanted)
        assert each._perm_table is each._perm_table
        assert made == ["permutation"] * (kind == "lancedb")
        assert list(each) == rows


class Query:
    """A query that counts its executions."""

    def __init__(self, data):
        self.data = data
        self.num_executions = 0

    def to_arrow(self):
        self.num_executions += 1
        return self.data


@pytest.mark.parametrize("filter", [None, "id >= 0"])
def test_a_query_is_executed_once(filter):
    query = Query(tables.narrow(20))
    dataset = StreamingDataset(query, filter=filter, **IDS)
    assert query.num_executions == 1
    rows = list(dataset)
    dataset.set_epoch(1)
    assert sorted(rows) == sorted(dataset) == list(range(20))
    assert len(list(pickle.loads(pickle.dumps(dataset)))) == 0
    assert query.num_executions == 1


DOCUMENTS = {"tokens": [[1, 2], [3]]}


@pytest.mark.parametrize(
    "make",
    [
        pa.table,
        pl.DataFrame,
        pd.DataFrame,
        lambda data: Query(pa.table(data)),
        lambda data: pa.table(data).to_reader(),
    ],
    ids=["arrow", "polars", "pandas", "query", "stream"],
)
@pytest.mark.parametrize("blocks", [1, "auto"])
@pytest.mark.filterwarnings("ignore:blocks_per_epoch='auto':UserWarning")
def test_tables_of_every_kind_can_be_packed(make, blocks):
    dataset = StreamingDataset(
        make(DOCUMENTS),
        shuffle=False,
        pack_sequences=5,
        eos_id=9,
        pad_id=0,
        blocks_per_epoch=blocks,
        columns=["tokens"],
    )
    (block,) = dataset
    assert block["input_ids"].tolist() == [1, 2, 9, 3, 9]


@pytest.mark.parametrize("table", [None, 3], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_splits": 3, "world_size": 2}], ids=str)
def test_objects_that_are_not_tables_are_refused(table, options):
    found, wanted = (
        outcome(partial(library.StreamingDataset, table, **options))
        for library in (ours, theirs)
    )
    assert found[0] is wanted[0]
