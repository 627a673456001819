"""``Permutation.materialize``: rows as a new table, all of them or none."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time

import lance
import lancedb
import lanceloader as ll
import pyarrow as pa
import pytest
import s3_buckets
import tables
from lanceloader import errors, materialize
from missing_packages import hide
from programs import PRELUDE, finish, run, start
from reader_programs import INTERRUPTED, WRITING
from vector_tables import STRATEGIES, large, vectors

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """3,000 rows in three fragments, some deleted."""
    return tables.with_gaps(tmp_path_factory.mktemp("materialize") / "t.lance")


@pytest.fixture
def perm(path):
    return ll.open(path)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "copy.lance"


def left_in(folder):
    """All that is in a folder, also what is hidden."""
    return sorted(path.name for path in folder.glob("*"))


def check(copy, view, uri):
    """Equal in rows and their order, names, types, nullability; and so says pylance."""
    wanted = view.to_arrow()
    found = copy.to_arrow()
    assert found.equals(wanted)
    assert found.schema.equals(wanted.schema, check_metadata=True)
    assert lance.dataset(str(uri)).to_table().equals(wanted)
    assert copy.num_rows == view.num_rows


VIEWS = {
    "all": lambda perm: perm,
    "shuffled": lambda perm: perm.shuffle(3),
    "filtered": lambda perm: perm.filter("label = 2 and id > 50"),
    "projected": lambda perm: perm.select_columns(["name", "id"]),
    "renamed": lambda perm: perm.rename_column("id", "key").remove_columns(["x"]),
    "repeated": lambda perm: perm.shuffle(1).with_repeat(3),
    "a split": lambda perm: perm.split([0.3, 0.7], seed=1)[1],
    "weighted": lambda perm: perm.sample(
        5000, seed=1, weights="label", replacement=True
    ),
    "a part": lambda perm: perm.shuffle(1).with_skip(100).with_take(50),
    "one row": lambda perm: perm.with_take(1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_rows_in_order(perm, view, target):
    view = VIEWS[view](perm)
    check(view.materialize(target), view, target)
    assert left_in(target.parent) == ["copy.lance"]


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("limit", ["1MiB", "1GiB"])
def test_whichever_way_rows_are_read(tmp_path, read, limit):
    path = large(tmp_path / "t.lance", 20_000, max_rows_per_file=7000).uri
    view = ll.open(path).shuffle(2).with_read(read, memory_limit=limit)
    if (read, limit) == ("resident", "1MiB"):
        with pytest.raises(ValueError, match="a memory_limit of 1048576 bytes to keep"):
            view.materialize(tmp_path / "copy.lance")
        assert left_in(tmp_path) == ["t.lance"]
        return
    copy = view.materialize(tmp_path / "copy.lance")
    check(copy.with_read("direct"), view.with_read("direct"), tmp_path / "copy.lance")
    assert left_in(tmp_path) == ["copy.lance", "t.lance"]


@pytest.mark.parametrize("nulls", [False, True])
def test_every_type(tmp_path, nulls):
    lance.write_dataset(tables.every_type(300, nulls=nulls), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    copy = view.select_columns(["dictionary"]).materialize(tmp_path / "words.lance")
    assert copy.schema.equals(view.select_columns(["dictionary"]).schema)
    words = view.to_arrow()["dictionary"].to_pylist()
    assert copy.to_arrow()["dictionary"].to_pylist() == words
    view = view.remove_columns(["dictionary"])
    check(view.materialize(tmp_path / "copy.lance"), view, tmp_path / "copy.lance")


def test_nullability_and_metadata(tmp_path):
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False, metadata={"unit": "m"}),
            pa.field("text", pa.string(), nullable=True),
            pa.field(
                "s",
                pa.struct([pa.field("x", pa.int8(), nullable=False)]),
                nullable=False,
            ),
        ],
        metadata={"of": "table"},
    )
    rows = [
        {"id": 1, "text": None, "s": {"x": 1}},
        {"id": 2, "text": "", "s": {"x": 2}},
    ]
    lance.write_dataset(pa.Table.from_pylist(rows, schema), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance")
    assert view.schema.equals(schema, check_metadata=True)
    check(view.materialize(tmp_path / "copy.lance"), view, tmp_path / "copy.lance")


def test_formats_and_options_are_kept(perm, target):
    view = perm.with_format("numpy_dict").with_batch_size(70).with_read(threads=3)
    copy = view.shuffle(1).materialize(target)
    batches = list(copy)
    assert len(batches) == -(-2571 // 70)
    assert batches[0]["id"].tolist() == next(iter(view.shuffle(1)))["id"].tolist()
    assert copy.read_options == view.read_options
    assert copy.with_transform(len).materialize(target.with_name("2.lance"))[:9] == 9


def test_the_source_may_be_anything(perm, tmp_path, folder):
    table = lancedb.connect(folder / "db").open_table("t")
    memory = tables.narrow(100)
    plan = ll.permutation_builder(table).split_random(fixed=2, seed=1).execute()
    views = [
        ll.open(table).shuffle(1),
        ll.open(memory).shuffle(1),
        ll.open(lance.dataset(str(folder / "t.lance"))),
        ll.Permutation.from_tables(table, plan, 1),
        ll.open(lancedb.connect("memory://").create_table("m", memory)).shuffle(2),
    ]
    for at, view in enumerate(views):
        uri = tmp_path / f"{at}.lance"
        check(view.materialize(uri), view, uri)


@pytest.mark.parametrize("name", ["plain", "with.dots.lance", "sp ace", ".hidden", "é"])
def test_names(perm, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(perm.materialize(name), perm, name)
    assert left_in(tmp_path) == [name]
    copy = ll.open(name).shuffle(1).materialize(f"{tmp_path}/deep/er/{name}/")
    assert copy.num_rows == perm.num_rows


def test_a_copy_of_a_copy(perm, tmp_path):
    first = perm.shuffle(1).materialize(tmp_path / "1.lance")
    second = first.filter("label = 1").materialize(tmp_path / "2.lance")
    shutil.rmtree(tmp_path / "1.lance")
    assert second.to_arrow().equals(perm.shuffle(1).filter("label = 1").to_arrow())


def test_as_a_table_of_lancedb(perm, tmp_path):
    view = perm.shuffle(1)
    db = lancedb.connect(tmp_path / "db")
    db.create_table("other", tables.narrow(3))
    copy = view.materialize(tmp_path / "db" / "shuffled.lance")
    table = db.open_table("shuffled")
    assert table.to_arrow().equals(view.to_arrow())
    table.add(tables.narrow(3))
    assert copy.num_rows == view.num_rows
    assert ll.open(table).num_rows == view.num_rows + 3


@pytest.mark.parametrize("empty", ["take", "filter", "table"])
def test_an_empty_permutation(perm, tmp_path, empty):
    if empty == "table":
        lance.write_dataset(tables.narrow(0), tmp_path / "t.lance")
        perm = ll.open(tmp_path / "t.lance")
    view = perm.with_take(0) if empty == "take" else perm.filter("id < 0")
    copy = view.materialize(tmp_path / "copy.lance")
    check(copy, view, tmp_path / "copy.lance")
    assert len(copy) == 0
    assert copy.column_names == perm.column_names


@pytest.mark.usefixtures("bars_at_once")
def test_a_bar(perm, target, capsys):
    perm.materialize(target, progress=True)
    shown = capsys.readouterr().err
    assert "writing: 100%" in shown
    assert "2.57k/2.57k" in shown
    perm.materialize(target.with_name("quiet.lance"))
    assert capsys.readouterr().err == ""


# Something is there already.


@pytest.mark.parametrize("what", ["table", "empty folder", "file", "dangling link"])
def test_an_existing_target_is_kept(perm, tmp_path, what):
    target = tmp_path / "copy.lance"
    if what == "table":
        lance.write_dataset(tables.narrow(3), target)
    elif what == "file":
        target.write_text("mine")
    elif what == "dangling link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
    wanted = OSError if what == "dangling link" else FileExistsError
    with pytest.raises(wanted, match=r"copy\.lance"):
        perm.materialize(target)
    assert left_in(tmp_path) == ["copy.lance"]
    if what == "table":
        assert lance.dataset(target).count_rows() == 3
    if what == "file":
        assert target.read_text() == "mine"


def test_a_uri_of_a_file(perm, tmp_path):
    uri = f"file://{tmp_path}/copy.lance"
    check(perm.shuffle(1).materialize(uri), perm.shuffle(1), tmp_path / "copy.lance")
    with pytest.raises(FileExistsError, match=r"copy\.lance"):
        perm.materialize(uri)


def test_a_table_made_meanwhile(perm, target, monkeypatch):
    """Somebody who knows nothing of ours writes a table of the same name."""
    write = materialize.write

    def late(*arguments):
        write(*arguments)
        lance.write_dataset(tables.narrow(3), target)

    monkeypatch.setattr(materialize, "write", late)
    with pytest.raises(FileExistsError, match=r"copy\.lance"):
        perm.materialize(target)
    assert left_in(target.parent) == ["copy.lance"]
    assert lance.dataset(target).count_rows() == 3


def test_another_writer_ends_between_opening_and_locking(perm, target, monkeypatch):
    """The folder that is locked must be the one that is there."""
    flock = fcntl.flock
    folder = target.with_name(".copy.lance.partial")

    def late(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(folder)
        return flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    check(perm.materialize(target), perm, target)
    assert left_in(target.parent) == ["copy.lance"]


# In the middle.


@pytest.fixture
def damaged(tmp_path):
    """The last of its files is cut short."""
    dataset = large(tmp_path / "t.lance", 30_000, max_rows_per_file=10_000)
    (file, *_) = [f.data_files()[0].path for f in dataset.get_fragments()][::-1]
    file = tmp_path / "t.lance" / "data" / file
    with file.open("r+b") as opened:
        opened.truncate(3000)
    return file


@pytest.mark.parametrize("is_shuffled", [False, True])
@pytest.mark.parametrize("read", ["direct", "external", "resident"])
def test_a_damaged_file(damaged, target, is_shuffled, read):
    view = ll.open(damaged.parents[1]).with_read(read)
    view = view.shuffle(1) if is_shuffled else view
    with pytest.raises((OSError, errors.CorruptFileError), match=damaged.name):
        view.materialize(target)
    assert left_in(target.parent) == []


def test_errors_of_reading_are_what_they_are(damaged, target):
    """Not what a library makes of them on the way through its own code."""
    view = ll.open(damaged.parents[1])
    with pytest.raises(errors.CorruptFileError, match=damaged.name):
        view.materialize(target)
    damaged.unlink()
    with pytest.raises(errors.TableChangedError, match=damaged.name):
        view.materialize(target)
    assert left_in(target.parent) == []


def test_a_folder_that_cannot_be_made(perm, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        perm.materialize(tmp_path / "file" / "copy.lance")


@pytest.mark.slow
@pytest.mark.parametrize("written", [0, 1, 2**20, 2**26])
def test_an_interruption(folder, written):
    """Once so many bytes are there, of many more."""
    assert run(PRELUDE + INTERRUPTED, folder, str(written)) == {"left": []}


@pytest.mark.slow
def test_leftovers_of_a_killed_process_are_removed_by_the_next(folder):
    target = folder / "new" / "copy.lance"
    for delay in (0.05, 0.2, 0.5):
        process = start(PRELUDE + WRITING, folder, "10000")
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert set(left_in(target.parent)) <= {".copy.lance.partial"}
    assert left_in(target.parent)
    perm = ll.open(folder / "t.lance")
    check(perm.materialize(target), perm, target)
    assert left_in(target.parent) == ["copy.lance"]


@pytest.mark.slow
def test_two_processes_of_one_target(folder):
    for _ in range(5):
        processes = [start(PRELUDE + WRITING, folder, "200") for _ in range(3)]
        found = [finish(process)["error"] for process in processes]
        assert found.count(None) == 1, found
        assert all("copy.lance" in error for error in found if error), found
        assert left_in(folder / "new") == ["copy.lance"]
        copy = ll.open(folder / "new" / "copy.lance")
        assert copy.num_rows == 200 * ll.open(folder / "t.lance").num_rows
        shutil.rmtree(folder / "new")


# Libraries.


def test_with_lancedb_only(perm, target, monkeypatch):
    hide(monkeypatch, "lance")
    written = []
    monkeypatch.setattr(lance, "write_dataset", lambda *_, **__: written.append(1))
    for view in (perm.shuffle(1), perm.with_take(0)):
        copy = view.materialize(target)
        check(copy, view, target)
        assert left_in(target.parent) == ["copy.lance"]
        table = lancedb.connect(target.parent).open_table("copy")
        assert table.count_rows() == view.num_rows
        with pytest.raises(FileExistsError, match=r"copy\.lance"):
            view.materialize(target)
        shutil.rmtree(target)
    perm.materialize(target.with_name("plain"))
    assert written == []


def test_without_lance_and_lancedb(perm, target, monkeypatch):
    hide(monkeypatch, "lance", "lancedb")
    with pytest.raises(errors.UnsupportedError, match="pip install"):
        perm.materialize(target)
    assert left_in(target.parent) == []


# Object storage.


s3, bucket, options = s3_buckets.s3, s3_buckets.bucket, s3_buckets.options


@pytest.mark.parametrize("library", ["lance", "lancedb"])
def test_object_storage(perm, bucket, options, library, monkeypatch):
    if library == "lancedb":
        hide(monkeypatch, "lance")
    view = perm.shuffle(1).with_format("arrow")
    uri = f"s3://{bucket}/deep/copy.lance"
    copy = view.materialize(uri, storage_options=options)
    assert copy.to_arrow().equals(view.to_arrow())
    assert copy.take_offsets([5, 3, 5]).equals(view.take_offsets([5, 3, 5]))
    again = ll.open(uri, storage_options=options)
    assert again.to_arrow().equals(view.to_arrow())
    with pytest.raises(FileExistsError, match=r"copy\.lance"):
        view.materialize(uri, storage_options=options)
    assert again.to_arrow().equals(view.to_arrow())


def test_object_storage_shows_no_half_table(damaged, bucket, options):
    uri = f"s3://{bucket}/half.lance"
    with pytest.raises((OSError, errors.CorruptFileError), match=damaged.name):
        ll.open(damaged.parents[1]).materialize(uri, storage_options=options)
    with pytest.raises(FileNotFoundError, match=r"half\.lance"):
        ll.open(uri, storage_options=options)
    view = ll.open(vectors(10))
    copy = view.materialize(uri, storage_options=options)
    assert copy.to_arrow().equals(view.to_arrow())
