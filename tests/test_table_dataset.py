"""LanceDB's own ``Table`` in a ``DataLoader``, after ``install``."""

from __future__ import annotations

import copyreg
import datetime as dt
import pickle
import subprocess
import sys

import lancedb
import lanceloader as ll
import lanceloader.torch as ll_torch
import pyarrow as pa
import pytest
import tables
import torch
from lancedb.util import tbl_to_tensor
from lanceloader.compat_lancedb import table_dataset
from lanceloader.compat_lancedb.collate import collate_batch
from lanceloader.compat_lancedb.open_tables import tables_in
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate

CONTEXTS = [None, "fork", "forkserver", "spawn"]


@pytest.fixture
def installed():
    ll.install()
    yield
    ll_torch.uninstall()


pytestmark = pytest.mark.usefixtures("installed")


def ids(batches) -> list[int]:
    return [row for batch in batches for row in batch["id"].to_pylist()]


def test_the_first_sample_of_the_documentation(any_db):
    table = any_db.create_table("t", tables.narrow(1000))
    (batch,) = DataLoader(table, batch_size=1024, shuffle=True)
    assert isinstance(batch, pa.Table)
    assert batch.num_rows == 1000
    assert sorted(batch["id"].to_pylist()) == list(range(1000))
    assert batch.schema == table.schema


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:lancedb fork support")
@pytest.mark.parametrize("context", CONTEXTS[1:])
def test_in_workers(any_table, context):
    wanted = any_table.to_arrow()["id"].to_pylist()
    options = {"num_workers": 2, "multiprocessing_context": context, "timeout": 50}
    assert ids(DataLoader(any_table, batch_size=30, **options)) == wanted
    loader = DataLoader(Subset(any_table, [3, 4, 50]), batch_size=2, **options)
    assert ids(loader) == [wanted[k] for k in (3, 4, 50)]


def test_batches_are_those_of_lancedb(any_table):
    positions = [5, 3, 99, 3]
    ours = any_table.__getitems__(positions)
    ll_torch.uninstall()
    theirs = any_table.__getitems__(positions)
    assert ours.equals(theirs)
    assert [column.num_chunks for column in ours.columns] == [1] * 5


def test_no_rows_are_an_empty_batch(any_table):
    """BUG-1."""
    empty = any_table.__getitems__([])
    assert empty.num_rows == 0
    assert empty.schema == any_table.schema


@pytest.mark.parametrize(
    ("positions", "error"),
    [([100], IndexError), ([-1], OverflowError), (["a"], TypeError)],
)
def test_invalid_positions_are_refused(any_table, positions, error):
    with pytest.raises(error):
        any_table.__getitems__(positions)


def test_it_follows_the_table(any_table):
    first = any_table.__getitems__([0])
    any_table.delete("id = 0")
    assert any_table.__getitems__([0])["id"].to_pylist() == [1]
    any_table.add(tables.narrow(3))
    assert len(any_table) == 102
    assert any_table.__getitems__([101])["id"].to_pylist() == [2]
    any_table.checkout(1)
    assert any_table.__getitems__([0]).equals(first)


class Written:
    """A table that follows what another handle writes, and what it held at every version."""

    def __init__(self, uri):
        rows = pa.table({"id": range(100)})
        lancedb.connect(uri).create_table("t", rows)
        interval = dt.timedelta(0)
        database = lancedb.connect(uri, read_consistency_interval=interval)
        self.table = database.open_table("t")
        self.writer = lancedb.connect(uri).open_table("t")
        self.next = 100
        self.versions = [sorted(rows["id"].to_pylist())]

    def write(self):
        """Delete some rows in the middle of the order, and add fewer or more."""
        self.writer.delete(f"id % 7 = {self.next % 7} AND id < {self.next}")
        self.note()
        more = range(self.next, self.next + 5 + self.next % 9)
        self.writer.add(pa.table({"id": more}))
        self.next = more.stop
        self.note()

    def note(self):
        self.versions.append(sorted(self.writer.to_arrow()["id"].to_pylist()))

    def epoch(self, loader):
        found = []
        for batch in loader:
            found += batch["id"].to_pylist()
            self.write()
        return sorted(found)


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_of_one_version_whatever_is_written_meanwhile(tmp_path, shuffle):
    written = Written(tmp_path / "db")
    loader = DataLoader(written.table, batch_size=16, shuffle=shuffle)
    for _ in range(4):
        latest = written.versions[-1]
        assert written.epoch(loader) == latest
    assert len(written.table) == len(written.versions[-1])
    assert written.table.__getitems__([0])["id"].to_pylist() == [
        written.versions[-1][0]
    ]


def test_epochs_that_overlap_are_of_one_version(tmp_path):
    """The handle is one, so the epoch that began first decides."""
    written = Written(tmp_path / "db")
    loader = DataLoader(written.table, batch_size=16)
    first = iter(loader)
    rows = next(first)["id"].to_pylist()
    assert written.epoch(loader) == written.versions[0]
    assert len(written.table) == 100
    assert rows + ids(first) == written.versions[0]
    del first
    assert ids(loader) == written.versions[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:lancedb fork support")
@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("context", CONTEXTS[1:])
def test_an_epoch_of_workers_is_of_one_version(tmp_path, context, stay):
    written = Written(tmp_path / "db")
    loader = DataLoader(
        written.table,
        batch_size=16,
        shuffle=True,
        num_workers=2,
        multiprocessing_context=context,
        persistent_workers=stay,
        timeout=50,
    )
    for _ in range(3):
        latest = written.versions[-1]
        assert written.epoch(loader) == latest
    if stay:
        # Workers are started anew for another version only.
        assert sorted(ids(loader)) == written.versions[-1]
        workers = [worker.pid for worker in loader._iterator._workers]
        assert sorted(ids(loader)) == written.versions[-1]
        assert [worker.pid for worker in loader._iterator._workers] == workers


def test_a_table_that_only_its_library_reads_is_pinned_too(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise ll.errors.UnsupportedError

    monkeypatch.setattr("lanceloader.sources.opening.LanceSource", refused)
    written = Written(tmp_path / "db")
    loader = DataLoader(written.table, batch_size=40, shuffle=True)
    for _ in range(2):
        latest = written.versions[-1]
        assert written.epoch(loader) == latest


def test_batches_are_one_s_own_to_write_to(any_table):
    collated = tbl_to_tensor(any_table.__getitems__([0, 1]).select(["id", "label"]))
    collated.fill_(-1)
    assert any_table.__getitems__([0])["id"].to_pylist() == [0]


def test_lancedb_s_own_collate_works(any_db):
    table = any_db.create_table("t", pa.table({"a": range(10), "b": range(10)}))
    (batch,) = DataLoader(table, batch_size=10, collate_fn=tbl_to_tensor)
    assert batch.shape == (2, 10)


def test_collate_as_every_format(any_table):
    # A dict of columns has the length of its columns.
    lengths = dict.fromkeys(("python", "pandas", "polars", "arrow"), 100)
    for kind, length in (lengths | {"python_col": 5}).items():
        collate = pickle.loads(pickle.dumps(ll_torch.collate_as(kind)))
        (batch,) = DataLoader(any_table, batch_size=100, collate_fn=collate)
        assert len(batch) == length
    collate = ll_torch.collate_as("torch_dict")
    (batch,) = DataLoader(any_table, batch_size=100, collate_fn=collate)
    assert batch["x"].dtype == torch.float32
    assert collate(any_table.to_arrow().to_batches()[0])["id"][0] == 0
    assert collate(any_table.__getitems__([]))["id"].shape == (0,)
    filled = ll_torch.collate_as("torch_dict", nulls="fill", fill_value=7)
    assert filled(pa.table({"x": [1, None]}))["x"].tolist() == [1, 7]
    with pytest.raises(ValueError, match="Invalid format"):
        ll_torch.collate_as("tensor")


def test_a_pickled_table_is_a_light_dataset(db):
    table = db.create_table("t", tables.narrow(50))
    pickled = pickle.dumps(table)
    table.delete("id < 10")
    dataset = pickle.loads(pickled)
    assert isinstance(dataset, ll_torch.TableDataset)
    assert len(dataset) == 50
    assert dataset.__getitems__([3, 49])["id"].to_pylist() == [3, 49]
    assert dataset.name == "t"
    assert dataset.count_rows() == 50
    assert len(pickle.loads(pickle.dumps(dataset))) == 50
    assert "version 1" in repr(dataset)
    with pytest.raises(AttributeError):
        dataset.no_such_attribute  # noqa: B018


def test_a_pickled_table_in_memory_carries_its_rows():
    import lancedb

    table = lancedb.connect("memory://").create_table("t", tables.narrow(50))
    table.delete("id < 10")
    dataset = pickle.loads(pickle.dumps(table))
    assert dataset.__getitems__([0])["id"].to_pylist() == [10]
    assert dataset.table.count_rows() == 40


def test_a_pickled_branch_stays_on_it(db):
    table = db.create_table("t", tables.narrow(50))
    branch = table.branches.create("exp")
    branch.add(tables.narrow(5))
    dataset = pickle.loads(pickle.dumps(branch))
    assert len(dataset) == 55
    assert dataset.table.current_branch() == "exp"
    assert dataset.count_rows() == 55


def test_concatenated_tables_are_found(db):
    a = db.create_table("a", tables.narrow(5))
    b = db.create_table("b", tables.narrow(5))
    found = list(tables_in(ConcatDataset([Subset(a, [0, 1]), b])))
    assert found == [a, b]


def test_uninstall_leaves_everything_as_it_was(table):
    import lancedb.table

    ll.install()
    ll_torch.uninstall()
    assert lancedb.table.LanceTable not in copyreg.dispatch_table
    with pytest.raises(TypeError, match="ChunkedArray"):
        next(iter(DataLoader(table, batch_size=4)))
    assert not hasattr(DataLoader.__iter__, "_original")
    assert not hasattr(lancedb.table.Table.__getitems__, "_original")
    assert not hasattr(lancedb.table.Table.__len__, "_original")
    ll.install()
    assert next(iter(DataLoader(table, batch_size=4))).num_rows == 4


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("TableDataset", table_dataset.TableDataset),
        ("_collate", collate_batch),
        ("rebuild_remote", table_dataset.rebuild_remote),
    ],
)
def test_names_in_pickles_of_earlier_versions_resolve(name, found):
    assert pickle.loads(f"clanceloader.torch\n{name}\n.".encode()) is found


def test_lists_of_columns_are_still_refused():
    with pytest.raises(TypeError, match="accepts a pyarrow Table"):
        default_collate([pa.array([1]), pa.array([2])])
    (row,) = default_collate([{"x": 1}])["x"]
    assert row == 1


def printed(program, *args) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["lanceloader.torch", "lanceloader"])
def test_one_line_is_enough_whichever_is_imported_first(tmp_path, how, when):
    program = """
import importlib, sys
folder, how, when = sys.argv[1:]
if when == "before":
    import lancedb
importlib.import_module(how).install()
import lancedb, pyarrow as pa
from torch.utils.data import DataLoader
table = lancedb.connect(folder).create_table("t", pa.table({"x": range(10)}))
print([batch.num_rows for batch in DataLoader(table, batch_size=7)])
"""
    assert printed(program, tmp_path / "db", how, when) == "[7, 3]"


def test_importing_patches_neither_torch_nor_lancedb(tmp_path):
    program = """
import copyreg, sys
import lancedb.table
from torch.utils.data import DataLoader
from torch.utils.data._utils.collate import default_collate_fn_map

def patchable():
    table = lancedb.table.Table
    return [
        DataLoader.__iter__, table.__getitems__, table.__len__,
        dict(copyreg.dispatch_table), dict(default_collate_fn_map),
    ]

before = patchable()
import lanceloader.torch
from lanceloader.torch import DataLoader as Ours, TableDataset, collate_as
import lanceloader.streaming
import lanceloader as ll
import pyarrow as pa
perm = ll.open(pa.table({"x": range(10)}))
loader = Ours(perm, 4, format="torch_dict")
assert sum(len(batch["x"]) for batch in loader) == 10
assert patchable()[:4] == before[:4]
assert patchable()[4].keys() - before[4].keys() == set()
lanceloader.torch.install()
assert all(now != then for now, then in zip(patchable(), before))
lanceloader.torch.uninstall()
assert patchable()[:4] == before[:4]
print("unpatched")
"""
    assert printed(program) == "unpatched"


UNPICKLE = """
import pickle, sys
dataset = pickle.loads(bytes.fromhex(sys.argv[1]))
from torch.utils.data import DataLoader
batches = list(DataLoader(dataset, batch_size=7))
print([batch.num_rows for batch in batches], hasattr(DataLoader.__iter__, "_original"))
"""


def test_a_table_that_is_unpickled_elsewhere_needs_no_call(db):
    table = db.create_table("t", tables.narrow(10))
    pickled = pickle.dumps(table)
    assert printed(UNPICKLE, pickled.hex()) == "[7, 3] True"
    # Also when it is passed on.
    again = pickle.dumps(pickle.loads(pickled))
    assert printed(UNPICKLE, again.hex()) == "[7, 3] True"


def test_a_dataset_of_version_0_1_0_is_collated_without_patches(db):
    """Its pickles name the class, whose import patched everything."""
    table = db.create_table("t", tables.narrow(10))
    dataset = pickle.loads(pickle.dumps(table))
    ll_torch.uninstall()
    pickled = pickle.dumps(dataset)
    assert b"rebuild" not in pickled
    assert printed(UNPICKLE, pickled.hex()) == "[7, 3] False"
