"""The same rows, order, types and errors as ``lancedb.permutation``, run side by side."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from equality import same
from lancedb import permutation as theirs
from lanceloader import permutation as ours
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.slow,
    # LanceDB's own tensors come with warnings that ours must not have.
    pytest.mark.filterwarnings("ignore:Exporting an unversioned DLPack"),
]

FORMATS = [
    "python",
    "python_col",
    "numpy",
    "pandas",
    "arrow",
    "polars",
    "torch",
    "torch_row",
    "torch_col",
]
# What LanceDB's tensor formats refuse and ours support.
PLAIN = {"string", "large_string", "binary", "large_binary", "fixed_binary"}
PLAIN |= {"dictionary"}
TENSORS = {
    "bool": torch.bool,
    "list": torch.int32,
    "large_list": torch.float32,
    "point": torch.float32,
}
GAINS = {"torch": PLAIN | set(TENSORS), "torch_col": {"bool"}}

BUILDS = {
    "nothing": lambda b: b,
    "shuffle": lambda b: b.shuffle(seed=42),
    "shuffle by clumps": lambda b: b.shuffle(seed=1, clump_size=7),
    "ratios": lambda b: b.split_random(
        ratios=[0.5, 0.3], seed=3, split_names=["a", "b"]
    ),
    "ratios that sum to one": lambda b: b.split_random(ratios=[1 / 3] * 3, seed=0),
    "counts": lambda b: b.split_random(counts=[5, 6], seed=3),
    "fixed by clumps": lambda b: b.split_random(fixed=7, seed=3, clump_size=4),
    "sequential ratios": lambda b: b.split_sequential(ratios=[0.2, 0.3]),
    "sequential counts": lambda b: b.split_sequential(counts=[20, 3]),
    "sequential fixed": lambda b: b.split_sequential(fixed=3, split_names=["x"]),
    "hash": lambda b: b.split_hash(["label", "name"], [1, 2], discard_weight=1),
    "hash with all kept": lambda b: b.split_hash(["name"], [3, 1], discard_weight=0),
    "calculated": lambda b: b.split_calculated("label % 2", split_names=["e", "o"]),
    "filter": lambda b: b.filter("id > 50"),
    "filter and shuffle": lambda b: b.filter("id > 50").shuffle(seed=5),
    "filter and split": lambda b: b.filter("label = 1").split_random(fixed=2, seed=9),
    "filter and hash": lambda b: b.filter("id > 50").split_hash(
        ["label"], [1, 2], discard_weight=0
    ),
    "filter and calculated": lambda b: b.filter("id > 50").split_calculated("label"),
    "filter that matches nothing": lambda b: b.filter("id > 5000"),
    "last split counts": lambda b: b.split_random(fixed=2).split_sequential(fixed=3),
    "last filter counts": lambda b: b.filter("id > 50").filter("id < 30"),
}

BAD_BUILDS = {
    "no size": lambda b: b.split_random(),
    "two sizes": lambda b: b.split_sequential(ratios=[0.5], fixed=3),
    "ratio above one": lambda b: b.split_random(ratios=[1.5]),
    "ratios above one": lambda b: b.split_random(ratios=[0.6, 0.6]),
    "ratio of nothing": lambda b: b.split_random(ratios=[0.0, 0.5]),
    "counts too large": lambda b: b.split_random(counts=[1000]),
    "count of zero": lambda b: b.split_random(counts=[0, 1]),
    "more splits than rows": lambda b: b.split_random(fixed=1000),
    "negative seed": lambda b: b.shuffle(seed=-1),
    "seed beyond 64 bits": lambda b: b.shuffle(seed=2**64),
    "negative clump": lambda b: b.shuffle(seed=1, clump_size=-1),
    "hash of no columns": lambda b: b.split_hash([], [1], discard_weight=0),
    "hash without weights": lambda b: b.split_hash(["id"], [], discard_weight=0),
    "hash weight of zero": lambda b: b.split_hash(["id"], [0], discard_weight=0),
    "hash of a missing column": lambda b: b.split_hash(["zz"], [1], discard_weight=0),
    "filter that does not parse": lambda b: b.filter("id >"),
    "filter of a missing column": lambda b: b.filter("zz > 1"),
    "calculation of a missing column": lambda b: b.split_calculated("zz + 1"),
    "split of nothing": lambda b: b.filter("id > 5000").split_random(fixed=2),
}


@pytest.mark.parametrize("build", BUILDS)
def test_builder(any_table, build):
    make = BUILDS[build]
    wanted = make(theirs.permutation_builder(any_table)).execute()
    got = make(ours.permutation_builder(any_table)).execute()
    assert got.to_arrow().to_pydict() == wanted.to_arrow().to_pydict()
    assert same(got.schema, wanted.schema)
    assert got.name == wanted.name == "permutation"
    assert got._conn.read_consistency_interval is None


@pytest.mark.parametrize("build", BAD_BUILDS)
def test_builder_errors(table, build):
    make = BAD_BUILDS[build]
    with pytest.raises(Exception) as wanted:  # noqa: PT011
        make(theirs.permutation_builder(table)).execute()
    with pytest.raises(wanted.type):
        make(ours.permutation_builder(table)).execute()


SHUFFLED_SPLITS = {
    "random": lambda builder: builder.split_random(ratios=[0.8, 0.2], seed=7),
    "sequential": lambda builder: builder.split_sequential(ratios=[0.3, 0.3, 0.4]),
    "hash": lambda builder: builder.split_hash(["x"], [1, 2], discard_weight=1),
    "32 bits": lambda builder: builder.split_calculated("x % 3"),
    "64 bits": lambda builder: builder.split_calculated("x % 3 - 1"),
    "filtered": lambda builder: builder.filter("x % 2 = 0").split_random(
        fixed=2, seed=7
    ),
}


@pytest.mark.parametrize("num_rows", [15, 50, 1000, 100_000])
@pytest.mark.parametrize("split", SHUFFLED_SPLITS)
def test_orders_of_shuffled_splits(db, num_rows, split):
    """LanceDB's sort by split is not stable, but the same each time."""
    table = db.create_table("t", pa.table({"x": np.arange(num_rows, dtype=np.int32)}))
    for clump_size in (None, 8):
        mine, wanted = (
            SHUFFLED_SPLITS[split](side.permutation_builder(table))
            .shuffle(seed=42, clump_size=clump_size)
            .execute()
            .to_arrow()
            for side in (ours, theirs)
        )
        assert mine.equals(wanted)


def test_a_builder_is_consumed(table):
    for module in (theirs, ours):
        builder = module.permutation_builder(table)
        builder.execute()
        for again in (builder.execute, builder.shuffle):
            with pytest.raises(RuntimeError, match="Builder already consumed"):
                again()


@pytest.fixture(scope="module", params=[False, True], ids=["full", "nulls"])
def types(request, tmp_path_factory):
    """A table of every type, and a permutation table over it."""
    database = lancedb.connect(tmp_path_factory.mktemp("types"))
    data = tables.every_type(60, nulls=request.param)
    table = database.create_table("types", data)
    return table, theirs.permutation_builder(table).shuffle(seed=1).execute()


TYPES = tables.every_type(1, nulls=False).column_names


@pytest.mark.parametrize("column", TYPES)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_formats(types, kind, column):
    table, plan = types
    for make in (
        lambda m: m.Permutation.identity(table),
        lambda m: m.Permutation.from_tables(table, plan),
    ):

        def view(module, make=make):
            return make(module).select_columns([column]).with_format(kind)

        assert same(view(ours).schema, view(theirs).schema)
        compare(kind, column, view, lambda perm: perm.take_offsets([5, 3, 8]))
        compare(kind, column, view, lambda perm: list(perm.iter(25)))
        if kind in ("python", "numpy", "torch", "torch_row"):
            compare(kind, column, view, collated)


def compare(kind, column, view, read):
    wanted, error = outcome(lambda: read(view(theirs)))
    if error is not None and column in GAINS.get(kind, ()):
        expected = Expected(kind, column, view(theirs).with_format("python"))
        wanted, error = outcome(lambda: read(expected))
    if error is None:
        assert same(read(view(ours)), wanted)
    else:
        _, raised = outcome(lambda: read(view(ours)))
        assert raised is not None, f"expected {error!r}"
        built_in = TypeError if isinstance(error, TypeError) else type(error)
        assert isinstance(raised, built_in), (error, raised)


def collated(perm):
    if isinstance(perm, Expected):
        return perm.collated(25)
    return list(DataLoader(perm, 25))


class Expected:
    """A column in a tensor format that LanceDB refuses, made of the values that LanceDB reads."""

    def __init__(self, kind, column, perm):
        self.kind = kind
        self.column = column
        self.perm = perm

    def __len__(self):
        return len(self.perm)

    def __getitems__(self, positions):
        return self.batch(self.perm.take_offsets(positions))

    take_offsets = __getitems__

    def iter(self, batch_size):
        return map(self.batch, self.perm.iter(batch_size))

    def collated(self, batch_size):
        """What a DataLoader returns; torch's own collate refuses nulls among texts."""
        if self.column in TENSORS:
            return list(DataLoader(self, batch_size))
        rows = self.take_offsets(range(len(self)))
        cells = [row[self.column] for row in rows]
        starts = range(0, len(cells), batch_size)
        return [{self.column: cells[at : at + batch_size]} for at in starts]

    def batch(self, rows):
        cells = [row[self.column] for row in rows]
        if self.column in TENSORS:
            if None in cells:
                raise TypeError("a tensor has no nulls")
            cells = [torch.tensor(cell, dtype=TENSORS[self.column]) for cell in cells]
        if self.kind == "torch_col":
            return torch.stack(cells)[None]
        return [{self.column: cell} for cell in cells]


def outcome(call):
    try:
        return call(), None
    except Exception as error:
        return None, error


@pytest.mark.parametrize("kind", FORMATS)
def test_mixed_numbers_row_ids_and_empty_takes(types, kind):
    table, plan = types

    def view(module, *columns):
        perm = module.Permutation.from_tables(table, plan)
        return perm.select_columns(list(columns)).with_format(kind)

    reads = (lambda perm: perm.take_offsets([4, 1]), lambda perm: perm.take_offsets([]))
    for read in reads:
        columns = ["int32", "float64", "float16"]
        compare(kind, columns[0], lambda m, c=columns: view(m, *c), read)
        for columns in (["int8", "_rowid"], ["_rowid"]):
            if kind.startswith("torch"):
                # Ours are signed: torch can neither add unsigned ones nor index with them.
                signed = read(view(ours, *columns))
                assert torch.uint64 not in dtypes_in(signed)
                rows = read(view(theirs, *columns).with_format("python_col"))["_rowid"]
                assert row_ids_in(signed, kind) == rows
                continue
            compare(kind, columns[0], lambda m, c=columns: view(m, *c), read)


def dtypes_in(batch):
    tensors = batch if isinstance(batch, list) else [batch]
    each = (list(row.values()) if isinstance(row, dict) else [row] for row in tensors)
    return {tensor.dtype for row in each for tensor in row}


def row_ids_in(batch, kind):
    if kind == "torch_col":
        return batch[-1].tolist()
    return [int(row["_rowid"] if kind == "torch" else row[-1]) for row in batch]


def test_columns(table):
    def names(module, *verbs):
        perm = module.Permutation.identity(table)
        for verb, *arguments in verbs:
            perm = getattr(perm, verb)(*arguments)
        return perm.column_names, perm.shape, perm.num_columns, perm.selection

    for verbs in (
        [("select_columns", ["y", "id"])],
        [("select_columns", ["y", "y"])],
        [("select_columns", ["y", "id"]), ("select_columns", ["id", "_rowid"])],
        [("remove_columns", ["y", "missing"])],
        [("rename_column", "x", "z")],
        [("rename_columns", {"x": "z", "y": "x"})],
        [("rename_column", "x", "z"), ("select_columns", ["z"])],
    ):
        assert names(ours, *verbs) == names(theirs, *verbs)
    for verbs in (
        [("select_columns", ["zz"])],
        [("select_columns", [])],
        [("select_columns", None)],
        [("remove_columns", ["x"]), ("select_columns", ["x"])],
        [("rename_column", "x", "z"), ("select_columns", ["x"])],
        [("remove_columns", ["id", "x", "y", "label", "name"])],
        [("remove_columns", None)],
        [("rename_column", "zz", "z")],
        [("rename_column", "x", "y")],
        [("rename_column", "x", "x")],
        [("rename_column", None, "x")],
        [("rename_columns", {"x": "y", "y": "x"})],
        [("with_format", None)],
        [("with_format", "zz")],
        [("with_transform", None)],
        [("with_connection_factory", None)],
        [("with_skip", 1000)],
        [("with_take", 1000)],
        [("with_take", -1)],
        [("with_skip", 60), ("with_take", 60)],
    ):
        with pytest.raises((ValueError, AssertionError, OverflowError)) as wanted:
            names(theirs, *verbs)
        with pytest.raises(wanted.type) as got:
            names(ours, *verbs)
        # What tests and users match of LanceDB's messages.
        for fragment in ("does not exist", "at least one column", "Cannot remove all"):
            assert (fragment in str(got.value)) == (fragment in str(wanted.value))


def flat(batches):
    return [row for batch in batches for row in batch]


def test_skip_and_take_count_from_the_split(table):
    plan = ours.permutation_builder(table).shuffle(seed=4).execute()
    for verbs in (
        [("with_skip", 10)],
        [("with_take", 7)],
        [("with_skip", 10), ("with_take", 7)],
        [("with_take", 7), ("with_skip", 10)],
        [("with_skip", 80), ("with_skip", 50)],
    ):

        def rows(module, verbs=verbs):
            perm = module.Permutation.from_tables(table, plan).select_columns(["id"])
            for verb, rows in verbs:
                perm = getattr(perm, verb)(rows)
            # LanceDB's batches are cut where its engine cuts them; the rows are the same.
            return perm.offset, perm.limit, len(perm), flat(perm.iter(9)), perm[3]

        assert rows(ours) == rows(theirs)


def test_permutations(table):
    plan = ours.permutation_builder(table)
    plan = plan.split_random(
        ratios=[0.5, 0.3], seed=3, split_names=["a", "b"]
    ).execute()

    def facts(module):
        all_splits = module.Permutations(table, plan)
        by_name = [flat(all_splits[name].iter(30)) for name in all_splits.split_names]
        by_number = [flat(all_splits[number].iter(30)) for number in range(2)]
        return all_splits.split_names, all_splits.split_dict, by_name, by_number

    assert facts(ours) == facts(theirs)
    for wrong in ("zz", 7, None, 1.5, -1):
        with pytest.raises(Exception) as wanted:  # noqa: PT011
            theirs.Permutations(table, plan)[wrong]
        with pytest.raises(wanted.type):
            ours.Permutations(table, plan)[wrong]


def test_from_tables_errors(table):
    plan = ours.permutation_builder(table).execute()
    named = ours.permutation_builder(table).split_sequential(
        fixed=2, split_names=["a", "b"]
    )
    named = named.execute()
    for arguments in (
        (table, None, "a"),
        (table, None, 0),
        (table, plan, "a"),
        (table, named, "zz"),
        (table, plan, 1.5),
        (table, plan, 9),
        (table, plan, -1),
        (None, None, None),
    ):
        with pytest.raises(Exception) as wanted:  # noqa: PT011
            theirs.Permutation.from_tables(*arguments)
        with pytest.raises(wanted.type):
            ours.Permutation.from_tables(*arguments)


def test_permutation_tables_of_lancedb_are_read(any_table):
    """Also such as were persisted, have other integer types, or record no version."""
    plan = theirs.permutation_builder(any_table)
    plan = plan.split_random(
        ratios=[0.4, 0.6], seed=3, split_names=["a", "b"]
    ).execute()
    wanted = flat(theirs.Permutation.from_tables(any_table, plan, "b").iter(13))
    database = any_table._conn
    data = plan.to_arrow()
    narrow = data.set_column(
        1, pa.field("split_id", pa.uint32()), data["split_id"].cast(pa.uint32())
    )
    extra = data.replace_schema_metadata({**data.schema.metadata, b"more": b"1"})
    unpinned = data.replace_schema_metadata({"split_names": '["a", "b"]'})
    for number, table in enumerate((data, narrow, extra, unpinned)):
        persisted = database.create_table(f"plan{number}", table)
        for readable in (persisted, table):
            got = ours.Permutation.from_tables(any_table, readable, "b")
            assert flat(got.iter(13)) == wanted


def test_positions_of_other_types(table):
    plan = ours.permutation_builder(table).shuffle(seed=4).execute()
    mine = ours.Permutation.from_tables(table, plan)
    wanted = theirs.Permutation.from_tables(table, plan).take_offsets([4, 0, 9])
    for positions in (
        [4, 0, 9],
        (4, 0, 9),
        np.array([4, 0, 9]),
        np.array([4, 0, 9], dtype=np.uint8),
        [np.int64(4), np.int64(0), np.int64(9)],
        torch.tensor([4, 0, 9]),
    ):
        assert mine.take_offsets(positions) == wanted
        assert mine.__getitems__(positions) == wanted
    assert mine.take_offsets(range(3)) == mine[0:3] == mine[[0, 1, 2]]


@pytest.mark.parametrize("clump_size", [None, 16])
def test_orders_of_millions_of_rows(clump_size, db, monkeypatch):
    """With the memory LanceDB needs for them; by default it fails from about 3 million rows."""
    monkeypatch.setenv("LANCEDB_PERM_BUILDER_MEMORY_LIMIT", str(2 << 30))
    rows = pa.table({"x": np.arange(4_000_000, dtype=np.int32)})
    table = db.create_table("t", rows)
    mine, wanted = (
        side.permutation_builder(table).shuffle(seed=42, clump_size=clump_size)
        for side in (ours, theirs)
    )
    wanted = wanted.execute().to_arrow()["row_id"]
    assert mine.execute().to_arrow()["row_id"].equals(wanted)
