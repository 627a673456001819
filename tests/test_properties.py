"""Any table, any chain of verbs, any way to read: what plain lists and pyarrow say.

A case is a table of random columns, with nulls, in pieces; a chain of verbs over it; and the
list of rows that the chain must give, worked out with Python lists, pyarrow and the algorithms
of ``docs/determinism.md``.
"""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verb_chains import (
    NOT_IN_2_0,
    PAGE,
    SEEDS,
    VALUES,
    case_over,
    cases,
    chained,
    equal,
    share_of_examples,
    tables,
)

pytestmark = pytest.mark.timeout(600)


@given(cases())
def test_any_chain_of_verbs_gives_the_rows_of_lists(case):
    wanted = case.wanted()
    assert len(case.perm) == len(case.rows)
    assert case.perm.column_names == list(case.columns)
    assert equal(case.perm.to_arrow(), wanted)
    assert case.perm.schema.equals(wanted.schema)


@given(cases(), st.data())
def test_takes_are_pyarrow_s(case, data):
    size = len(case.rows)
    wanted = case.wanted()
    positions = []
    if size:
        positions = data.draw(st.lists(st.integers(0, size - 1), max_size=60))
    as_array = data.draw(st.sampled_from([list, tuple, np.array, np.uint32]))
    given_as = as_array(positions) if positions else positions
    taken = pa.Table.from_batches([case.perm.take_offsets(given_as)])
    assert equal(taken, wanted.take(pa.array(positions, pa.int64())))
    start, stop = (data.draw(st.none() | st.integers(-60, 60)) for _ in range(2))
    step = data.draw(st.none() | st.integers(-3, 3).filter(bool))
    chosen = range(size)[start:stop:step]
    sliced = pa.Table.from_batches([case.perm[start:stop:step]])
    assert equal(sliced, wanted.take(pa.array(chosen, pa.int64())))
    if size:
        with pytest.raises(IndexError):
            case.perm.take_offsets([*positions, size])


@given(cases(), st.integers(1, 60), st.booleans())
def test_batches_laid_end_to_end_are_everything(case, batch_size, skip_last):
    wanted = case.wanted()
    batches = list(case.perm.iter(batch_size, skip_last))
    full, rest = divmod(len(case.rows), batch_size)
    sizes = [batch_size] * full + ([rest] if rest and not skip_last else [])
    assert [batch.num_rows for batch in batches] == sizes
    found = pa.Table.from_batches(batches, schema=wanted.schema)
    assert equal(found, wanted.slice(0, sum(sizes)))
    own = [batch.num_rows for batch in case.perm]
    full, rest = divmod(len(case.rows), case.perm.batch_size)
    assert own == [case.perm.batch_size] * full + ([rest] if rest else [])


@given(cases(), st.integers(1, 7), st.sampled_from(["uneven", "drop", "pad"]))
def test_shards_share_the_rows_out(case, world_size, tail):
    names = case.perm.rename_columns({})
    parts = [names.shard(rank, world_size, tail=tail) for rank in range(world_size)]
    tables_of = [part.to_arrow() for part in parts]
    wanted = case.wanted()
    for rank, found in enumerate(tables_of):
        places = PAGE.shard(list(range(len(case.rows))), rank, world_size, tail)
        assert equal(found, wanted.take(pa.array(places, pa.int64())))
    sizes = [found.num_rows for found in tables_of]
    if tail == "uneven":
        assert sum(sizes) == len(case.rows)
        assert max(sizes) - min(sizes) <= 1
    else:
        assert len(set(sizes)) == 1


def ids(perm) -> list[int]:
    return perm.select_columns(["id"]).to_arrow()["id"].to_pylist()


@given(
    tables(min_rows=1, max_rows=60),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    SEEDS,
    st.sampled_from(["random", "sequential", "stratified", "grouped", "hashed"]),
    st.data(),
)
def test_parts_of_a_split_share_no_row(table, shares, seed, how, data):
    shares = [share / sum(shares) for share in shares]
    perm = ll.open(table)
    names = [
        field.name
        for field in table.schema
        if not pa.types.is_nested(field.type)
        and not pa.types.is_floating(field.type)
        and not pa.types.is_decimal(field.type)
    ]
    by = data.draw(st.sampled_from(names))
    options = {
        "random": {"seed": seed},
        "sequential": {"how": "sequential"},
        "stratified": {"seed": seed, "stratify_by": by},
        "grouped": {"seed": seed, "group_by": by},
        "hashed": {"seed": seed, "hash_by": by},
    }[how]
    try:
        parts = perm.split(shares, **options)
    except ValueError as error:
        # A share of no row at all.
        assert "rounds to 0 rows" in str(error)  # noqa: PT017
        return
    found = [ids(part) for part in parts]
    together = [row for part in found for row in part]
    assert len(set(together)) == len(together)
    assert sorted(together) == table["id"].to_pylist()
    if how not in ("grouped", "hashed"):
        assert [len(part) for part in found] == PAGE.counts(shares, table.num_rows)
    if how in ("grouped", "hashed"):
        values = dict(zip(table["id"].to_pylist(), table[by].to_pylist(), strict=True))
        seen = [{values[row] for row in part} for part in found]
        for at, part in enumerate(seen):
            for other in seen[:at]:
                assert not part & other


@given(cases())
def test_a_round_trip_by_pickle_changes_nothing(case):
    again = pickle.loads(pickle.dumps(case.perm))
    assert equal(again.to_arrow(), case.wanted())
    assert again.schema.equals(case.perm.schema, check_metadata=True)
    for name in ("selection", "batch_size", "offset", "limit", "num_rows"):
        assert getattr(again, name) == getattr(case.perm, name)
    assert pickle.dumps(pickle.loads(pickle.dumps(again))) == pickle.dumps(again)


@given(cases(max_rows=20))
def test_python_rows_are_pyarrow_s(case):
    wanted = case.wanted().to_pylist()
    view = case.perm.with_format("python")
    assert [row for batch in view.iter(7) for row in batch] == wanted
    assert list(view.__getitems__(range(len(wanted)))) == wanted
    if wanted:
        assert view.row(-1) == wanted[-1]
        assert view[0] == wanted[:1]


# On disk: fragments, deletions, file versions, and SQL.


def holds(version, kind) -> bool:
    """Whether data files of a version can hold a type, with nulls."""
    if version != "2.0":
        return True
    return not any(refuses(kind) for refuses in NOT_IN_2_0) and not (
        pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    )


@st.composite
def written(draw, folder, min_rows=1, kinds=None):
    """A dataset in fragments, with deletions, and the rows that are left of it."""
    version = draw(st.sampled_from(["2.0", "2.1", "2.2"]))
    allowed = tuple(kind for kind in kinds or VALUES if holds(version, kind))
    table = draw(tables(min_rows=min_rows, kinds=allowed))
    path = Path(tempfile.mkdtemp(dir=folder)) / "t.lance"
    dataset = lance.write_dataset(
        table,
        path,
        data_storage_version=version,
        max_rows_per_file=max(draw(st.integers(3, 50)), table.num_rows // 20),
        enable_stable_row_ids=draw(st.booleans()),
    )
    gone = draw(st.lists(st.sampled_from(table["id"].to_pylist() or [0]), max_size=15))
    if gone:
        dataset.delete(f"id IN ({', '.join(map(str, gone))})")
    if draw(st.integers(0, 5)) == 0:
        dataset.optimize.compact_files()
    left = table.filter(pc.invert(pc.is_in(table["id"], pa.array(gone, pa.int64()))))
    return path, left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


@share_of_examples(2)
@given(data=st.data())
def test_any_dataset_and_any_chain(folder, data):
    path, table = data.draw(written(folder))
    draw = data.draw
    perm = ll.open(path)
    assert equal(perm.to_arrow(), table)
    case = chained(draw, case_over(perm, table), max_verbs=4)
    wanted = case.wanted()
    assert equal(case.perm.to_arrow(), wanted)
    size = draw(st.integers(1, 50))
    found = pa.Table.from_batches(case.perm.iter(size), schema=wanted.schema)
    assert equal(found, wanted)
    if case.rows:
        places = draw(st.lists(st.integers(0, len(case.rows) - 1), max_size=40))
        taken = pa.Table.from_batches([case.perm.take_offsets(places)])
        assert equal(taken, wanted.take(pa.array(places, pa.int64())))


@share_of_examples(2)
@given(data=st.data())
def test_row_ids_lead_back_to_their_rows(folder, data):
    path, table = data.draw(written(folder))
    case = chained(data.draw, case_over(ll.open(path), table), max_verbs=3)
    if "id" not in case.columns.values():
        return
    names = ["_rowid", *(n for n, source in case.columns.items() if source == "id")]
    found = case.perm.select_columns(names).to_arrow()
    dataset = lance.dataset(path)
    ids_of = dataset.to_table(columns=["id"], with_row_id=True).to_pydict()
    known = dict(zip(ids_of["_rowid"], ids_of["id"], strict=True))
    assert [known[row] for row in found["_rowid"].to_pylist()] == [
        table["id"][row].as_py() for row in case.rows
    ]


# SQL, and the rows that Python's own comparison keeps; null keeps none.
CONDITIONS = {
    "n > {0}": lambda n, a, b: n > a,
    "n <= {0}": lambda n, a, b: n <= a,
    "n = {0}": lambda n, a, b: n == a,
    "n != {0}": lambda n, a, b: n != a,
    "n IN ({0}, {1})": lambda n, a, b: n in (a, b),
    "n BETWEEN {0} AND {1}": lambda n, a, b: a <= n <= b,
    "NOT (n < {0})": lambda n, a, b: not n < a,
    "n % 3 = {2}": lambda n, a, b: n % 3 == abs(a) % 3,
    "n > {0} OR n < {1}": lambda n, a, b: n > a or n < b,
    "n > {0} AND n < {1}": lambda n, a, b: a < n < b,
    "n IS NOT NULL": lambda n, a, b: True,
}


@share_of_examples(4)
@given(
    st.lists(st.none() | st.integers(0, 20), min_size=1, max_size=40),
    st.sampled_from(list(CONDITIONS)),
    st.integers(0, 20),
    st.integers(0, 20),
    st.data(),
)
def test_a_filter_by_sql_is_the_mask_of_lists(folder, numbers, condition, a, b, data):
    table = pa.table({"id": range(len(numbers)), "n": pa.array(numbers, pa.int32())})
    where = data.draw(st.sampled_from(["disk", "memory", "pickled"]))
    if where == "memory":
        perm = ll.open(table)
    else:
        path = Path(tempfile.mkdtemp(dir=folder)) / "t.lance"
        rows = data.draw(st.integers(5, 50))
        lance.write_dataset(table, path, max_rows_per_file=rows)
        perm = ll.open(path)
    case = chained(data.draw, case_over(perm, table), max_verbs=3)
    if where == "pickled":
        case.perm = pickle.loads(pickle.dumps(case.perm))
    keeps = CONDITIONS[condition]
    predicate = condition.format(a, b, a % 3)
    kept = [
        row
        for row in case.rows
        if numbers[row] is not None and keeps(numbers[row], a, b)
    ]
    case.become(case.perm.filter(predicate), kept)
    assert equal(case.perm.to_arrow(), case.wanted())


@share_of_examples(2)
@given(data=st.data())
def test_plans_give_the_rows_that_they_name(data):
    """Any permutation table: rows in any order, some twice, some not at all."""
    table = data.draw(tables(min_rows=1))
    num_rows = table.num_rows
    named = st.tuples(st.integers(0, num_rows - 1), st.integers(0, 2))
    rows = data.draw(st.lists(named, min_size=1, max_size=60))
    plan = pa.table(
        {
            "row_id": pa.array([row for row, _ in rows], pa.uint64()),
            "split_id": pa.array([split for _, split in rows], pa.uint64()),
        }
    )
    for split in {split for _, split in rows}:
        perm = ll.Permutation.from_tables(table, plan, split)
        case = case_over(perm, table)
        case.become(perm, [row for row, other in rows if other == split])
        chained(data.draw, case, max_verbs=2)
        assert equal(case.perm.to_arrow(), case.wanted())
