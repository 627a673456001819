"""Hypothesis strategies: tables of random columns, and chains of verbs with the rows they must give."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import pickle
from dataclasses import dataclass

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st

PAGE = determinism_page.load()
SEEDS = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))


def share_of_examples(part: int) -> settings:
    """For properties whose examples are dear: a share of the profile's number."""
    return settings(
        max_examples=max(settings().max_examples // part, 10),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# Columns: Arrow type and the values of a cell.

words = st.text("abé \0", max_size=6)
VALUES = {
    pa.int8(): st.integers(-128, 127),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.integers(-1000, 1000).map(np.float16),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): words,
    pa.large_string(): words,
    pa.binary(): st.binary(max_size=6),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.list_(pa.float32(), 2): st.lists(
        st.integers(-9, 9).map(float), min_size=2, max_size=2
    ),
    pa.list_(pa.int32()): st.lists(st.none() | st.integers(0, 99), max_size=3),
    pa.large_list(pa.string()): st.lists(words, max_size=3),
    pa.struct({"a": pa.int32(), "b": pa.string()}): st.fixed_dictionaries(
        {"a": st.none() | st.integers(0, 9), "b": st.none() | words}
    ),
    pa.list_(pa.struct({"a": pa.int64()})): st.lists(
        st.fixed_dictionaries({"a": st.none() | st.integers(0, 9)}), max_size=2
    ),
    pa.timestamp("us", tz="UTC"): st.datetimes(
        dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)
    ),
    pa.date32(): st.dates(),
    pa.duration("ms"): st.integers(-(10**9), 10**9).map(
        lambda ms: dt.timedelta(milliseconds=ms)
    ),
    pa.time64("us"): st.times(),
    pa.decimal128(9, 2): st.integers(-(10**8), 10**8).map(
        lambda cents: decimal.Decimal(cents) / 100
    ),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["x", "yy", "", "é"]),
}

# What data files of these versions cannot hold, as Lance says when it writes.
NOT_IN_2_0 = (pa.types.is_struct,)


def column(draw, kind, num_rows):
    """A column, often of few distinct values, with nulls or without."""
    values = VALUES[kind]
    pool = draw(st.lists(values, min_size=1, max_size=8))
    pool += [None] if draw(st.booleans()) else []
    picks = draw(
        st.lists(st.integers(0, len(pool) - 1), min_size=num_rows, max_size=num_rows)
    )
    cells = [pool[pick] for pick in picks]
    if pa.types.is_dictionary(kind):
        return pa.array(cells, pa.string()).dictionary_encode()
    return pa.array(cells, kind)


@st.composite
def tables(draw, max_rows=40, kinds=tuple(VALUES), min_rows=0):
    """A table with an ``id`` of its own for every row, and up to four columns of any type.

    A few are large enough for shuffles that are computed and for pages of several chunks.
    """
    num_rows = draw(st.integers(min_rows, max_rows))
    columns = {"id": pa.array(range(100, 100 + num_rows), pa.int64())}
    drawn = draw(st.lists(st.sampled_from(kinds), max_size=4))
    for at, kind in enumerate(drawn):
        name = draw(st.sampled_from(["c", "Column ", "select", "spalte_ü"]))
        columns[f"{name}{at}"] = column(draw, kind, num_rows)
    table = pa.table(columns)
    if num_rows and draw(st.integers(0, 7)) == 0:
        total = num_rows * draw(st.integers(10, 60))
        table = table.take(np.resize(np.arange(num_rows), total)).combine_chunks()
        table = table.set_column(0, "id", pa.array(range(100, 100 + total), pa.int64()))
    return table


@st.composite
def in_pieces(draw, table):
    """The same table, in batches of random sizes, some of them empty."""
    cuts = draw(st.lists(st.integers(0, table.num_rows), max_size=4))
    bounds = [0, *sorted(cuts), table.num_rows]
    # Dictionaries are unified, so that what is compared has one.
    batches = [
        table.slice(start, stop - start).combine_chunks()
        for start, stop in itertools.pairwise(bounds)
    ]
    return pa.concat_tables([table.schema.empty_table(), *batches])


@dataclass
class Case:
    """A permutation, and what it must give."""

    perm: ll.Permutation
    table: pa.Table
    """The whole table."""
    rows: list[int]
    """The rows of the table, in order."""
    columns: dict[str, str]
    """Output name to column."""
    rows_before: list[int]
    """The rows before skip and take."""

    def wanted(self) -> pa.Table:
        """What reading everything must give."""
        taken = self.table.select(list(self.columns.values()))
        taken = taken.take(pa.array(self.rows, pa.int64())).combine_chunks()
        return taken.rename_columns(list(self.columns))

    def become(self, perm, rows):
        self.perm, self.rows, self.rows_before = perm, list(rows), list(rows)


def equal(found: pa.Table, wanted: pa.Table) -> bool:
    """Equal in values, names and types; dictionaries by what they stand for."""
    assert found.schema.names == wanted.schema.names
    for got, want in zip(found.columns, wanted.columns, strict=True):
        assert got.type == want.type
        if pa.types.is_dictionary(want.type):
            got, want = (c.cast(c.type.value_type) for c in (got, want))
        if not got.combine_chunks().equals(want.combine_chunks()):
            return False
    return True


def mask_verb(draw, case):
    size = len(case.rows)
    pattern = draw(st.lists(st.booleans(), min_size=1, max_size=max(size, 1)))
    kept = np.resize(np.array(pattern, dtype=bool), size)
    perm = case.perm.filter(kept)
    case.become(perm, [r for r, keep in zip(case.rows, kept, strict=True) if keep])


def shuffle_verb(draw, case):
    seed, epoch = draw(SEEDS), draw(st.integers(0, 3))
    clump = draw(st.sampled_from([1, 1, 2, 5, 1000]))
    order = PAGE.shuffled(len(case.rows), seed, epoch, clump)
    perm = case.perm.shuffle(seed, epoch=epoch, clump_size=clump)
    case.become(perm, [case.rows[k] for k in order])


def split_verb(draw, case):
    size = len(case.rows)
    first = draw(st.integers(1, max(size, 1)))
    second = draw(st.integers(1, max(size - first, 1)))
    sizes = [first, second] if first + second <= size else [first]
    assume(sum(sizes) <= size)
    seed = draw(st.none() | SEEDS)
    which = draw(st.integers(0, len(sizes) - 1))
    if seed is None:
        parts, order = case.perm.split(sizes, how="sequential"), list(range(size))
    else:
        parts = case.perm.split(sizes, seed=seed)
        order = PAGE.shuffled(size, seed, purpose=b"split!!!")
    start = sum(sizes[:which])
    picked = order[start : start + sizes[which]]
    case.become(parts[which], [case.rows[k] for k in picked])


def fold_verb(draw, case):
    size = len(case.rows)
    folds = draw(st.integers(2, 4))
    assume(folds <= size)
    seed, which = draw(SEEDS), draw(st.integers(0, folds - 1))
    order = PAGE.shuffled(size, seed, purpose=b"split!!!")
    sizes = [size // folds + (fold < size % folds) for fold in range(folds)]
    start = sum(sizes[:which])
    fold = case.perm.kfold(folds, seed=seed)[which]
    if draw(st.booleans()):
        picked, perm = order[start : start + sizes[which]], fold.val
    else:
        picked, perm = order[:start] + order[start + sizes[which] :], fold.train
    case.become(perm, [case.rows[k] for k in picked])


def shard_verb(draw, case):
    world_size = draw(st.integers(1, 5))
    rank = draw(st.integers(0, world_size - 1))
    tail = draw(st.sampled_from(["uneven", "drop", "pad"]))
    rows = PAGE.shard(case.rows, rank, world_size, tail)
    case.become(case.perm.shard(rank, world_size, tail=tail), rows)


def skip_verb(draw, case):
    limit = case.perm.limit or 0
    skip = draw(st.integers(0, max(len(case.rows_before) - limit, 0)))
    case.perm = case.perm.with_skip(skip)
    stop = None if case.perm.limit is None else skip + case.perm.limit
    case.rows = case.rows_before[skip:stop]


def take_verb(draw, case):
    skip = case.perm.offset or 0
    limit = draw(st.integers(0, len(case.rows_before) - skip))
    case.perm = case.perm.with_take(limit)
    case.rows = case.rows_before[skip : skip + limit]


def repeat_verb(draw, case):
    times = draw(st.integers(0, 3)) if len(case.rows) < 1000 else 1
    case.become(case.perm.with_repeat(times), case.rows * times)


def sample_verb(draw, case):
    size = draw(st.integers(0, len(case.rows)))
    seed = draw(SEEDS)
    order = PAGE.shuffled(len(case.rows), seed, purpose=b"sample!!")[:size]
    case.become(case.perm.sample(size, seed=seed), [case.rows[k] for k in order])


def select_verb(draw, case):
    names = draw(st.lists(st.sampled_from(list(case.columns)), min_size=1, unique=True))
    case.perm = case.perm.select_columns(names)
    case.columns = {name: case.columns[name] for name in names}


def remove_verb(draw, case):
    names = draw(st.lists(st.sampled_from([*case.columns, "nothing"]), unique=True))
    assume(set(case.columns) - set(names))
    case.perm = case.perm.remove_columns(names)
    for name in names:
        case.columns.pop(name, None)


def rename_verb(draw, case):
    old = draw(st.sampled_from(list(case.columns)))
    new = draw(st.sampled_from(["id", "new", "a b", "ä"]))
    assume(new not in case.columns)
    case.perm = case.perm.rename_column(old, new)
    case.columns[new] = case.columns.pop(old)


def batch_size_verb(draw, case):
    case.perm = case.perm.with_batch_size(draw(st.integers(1, 50)))


def pickle_verb(draw, case):
    case.perm = pickle.loads(pickle.dumps(case.perm))


VERBS = [
    mask_verb,
    shuffle_verb,
    split_verb,
    fold_verb,
    shard_verb,
    skip_verb,
    take_verb,
    repeat_verb,
    sample_verb,
    select_verb,
    remove_verb,
    rename_verb,
    batch_size_verb,
    pickle_verb,
]


def chained(draw, case, max_verbs=5):
    for verb in draw(st.lists(st.sampled_from(VERBS), max_size=max_verbs)):
        verb(draw, case)
    case.perm = case.perm.with_format("arrow")
    return case


def case_over(perm, table):
    rows = list(range(table.num_rows))
    columns = {name: name for name in table.column_names}
    return Case(perm, table, rows, columns, rows)


@st.composite
def cases(draw, **options):
    """A chain of verbs over a table in memory."""
    table = draw(tables(**options))
    pieces = draw(in_pieces(table))
    return chained(draw, case_over(ll.open(pieces), table))
