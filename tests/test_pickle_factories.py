"""Connection factories open the table of a permutation that was pickled."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path

import cloudpickle
import importable
import lancedb
import lanceloader as ll
import lanceloader.torch
import pytest
import tables
from source_kinds import ids, travelled


def factories(folder):
    return [
        importable.open_from_environment,
        functools.partial(importable.open_in, folder),
        importable.Opener(folder),
    ]


@pytest.mark.parametrize("which", range(3))
def test_a_factory_opens_the_table_elsewhere(table, opened, which):
    factory = factories(table._conn.uri)[which]
    perm = ll.Permutation.identity(table).shuffle(seed=1).with_skip(3)
    view = perm.with_connection_factory(factory)
    pickled = pickle.dumps(view)
    assert opened == []
    again = pickle.loads(pickled)
    assert opened == ["t"]
    assert ids(again) == ids(perm)
    assert again.base_table.name == "t"
    assert type(again.connection_factory) is type(factory)
    twice = travelled(again)
    assert opened == ["t", "t"]
    assert ids(twice) == ids(perm)


def test_a_factory_is_not_asked_where_the_table_is_open(table, opened):
    view = ll.open(table).with_connection_factory(importable.open_from_environment)
    view = view.with_batch_size(4).shuffle(seed=1).select_columns(["id"])
    view.filter("id > 3").split([0.5, 0.5], seed=1)[0].take_offsets([0])
    copy.copy(view).head()
    assert opened == []


def test_no_address_is_pickled_with_a_factory(table, opened):
    view = ll.open(table).with_connection_factory(importable.open_from_environment)
    for perm in (view, view.shuffle(seed=1), travelled(view)):
        pickled = pickle.dumps(perm)
        assert table._conn.uri.encode() not in pickled
        assert str(Path(table.uri).parent.name).encode() not in pickled


def test_a_factory_s_table_is_read_at_the_pinned_version(table, opened):
    perm = ll.open(table).shuffle(seed=1)
    view = perm.with_connection_factory(importable.open_from_environment)
    pickled = pickle.dumps(view)
    wanted = ids(perm)
    table.delete("id < 50")
    table.add(tables.narrow(7))
    again = pickle.loads(pickled)
    assert ids(again) == wanted
    assert again.version == perm.version
    assert again.filter("id < 5").num_rows == 5


def test_a_factory_for_a_plan(table, opened):
    plan = ll.permutation_builder(table).split_random(fixed=4, seed=1).execute()
    part = ll.Permutation.from_tables(table, plan, 2)
    again = travelled(part.with_connection_factory(importable.open_from_environment))
    table.delete("id < 50")
    assert ids(again) == ids(part)


def memory_of_environment(name):
    return lancedb.connect("memory://").create_table(name, tables.narrow(50))


def test_a_factory_that_makes_a_table_in_memory():
    perm = ll.open(memory_of_environment("made")).shuffle(seed=1)
    wanted = ids(perm)
    factory = cloudpickle.dumps(perm.with_connection_factory(memory_of_environment))
    assert ids(pickle.loads(factory)) == wanted
    assert len(factory) < 4096


def test_a_factory_that_fails_or_gives_nothing(table):
    view = ll.open(table)
    missing = functools.partial(importable.open_in, "/nowhere")
    pickled = pickle.dumps(view.with_connection_factory(missing))
    with pytest.raises((ValueError, FileNotFoundError, OSError), match="t"):
        pickle.loads(pickled)
    nothing = pickle.dumps(view.with_connection_factory(print))
    with pytest.raises(TypeError, match="NoneType"):
        pickle.loads(nothing)
    unnamed = view.with_connection_factory(lambda name: table)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(unnamed)
