"""Long values, as of images, which are read from a file without Lance's decoder."""

import shutil

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.errors import CorruptFileError

pytestmark = pytest.mark.usefixtures("no_credentials")
server = counting_s3.server

# Lance keeps values of up to 32 KiB as they are, and compresses longer ones, each for itself.
SIZES = {
    "kept": (9 << 10, 31 << 10),
    "compressed": (1, 90 << 10),
    "mixed": (0, 40 << 10),
}
TYPES = [pa.binary(), pa.large_binary(), pa.string(), pa.large_string()]


def values(kind, count, *, seed=0, nulls=False, text=False):
    rng = np.random.default_rng(seed)
    low, high = SIZES[kind]
    made = []
    for row in range(count):
        size = int(rng.integers(low, high))
        # Neither all noise, which cannot be compressed, nor all alike.
        value = rng.bytes(size // 2).hex().encode()[: size - size // 3] + b"ab" * (
            size // 6
        )
        made.append(value.decode() if text else value)
        if nulls and row % 5 == 3:
            made[-1] = None
    if not nulls or count > 20:
        made[count // 2] = "" if text else b""
    return made


def write(folder, table, **options):
    lance.write_dataset(table, folder, **options)
    return str(folder)


def take(rows, offsets, *, read="direct"):
    """Return rows by their offsets as a table."""
    rows = rows.with_format("arrow").with_read(read)
    return pa.Table.from_batches([rows.take_offsets([int(at) for at in offsets])])


def is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("nulls", [False, True])
def test_rows_are_those_of_lance(tmp_path, kind, size, nulls):
    count = 160
    columns = {
        "id": pa.array(range(count)),
        "long": pa.array(values(size, count, nulls=nulls, text=is_text(kind)), kind),
        "name": [f"row {row}" for row in range(count)],
        "other": pa.array(values("kept", count, seed=1), pa.large_binary()),
    }
    uri = write(tmp_path / "t.lance", pa.table(columns), max_rows_per_file=70)
    whole = lance.dataset(uri)
    rows = ll.open(uri)
    order = [*np.random.default_rng(2).integers(0, count, 50), 7, 7, 0, count - 1]
    assert take(rows, order) == whole.take(order)
    few = [3, 4, 5, 100]
    assert take(rows.select_columns(["long"]), few) == whole.take(few, columns=["long"])
    for read in ("direct", "auto"):
        found = list(rows.shuffle(3).loader(batch_size=16, read=read, format="arrow"))
        found = pa.Table.from_batches(found)
        assert found == whole.take(found["id"].to_pylist())
        in_order = list(rows.loader(batch_size=48, read=read, format="arrow"))
        assert pa.Table.from_batches(in_order) == whole.to_table()


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4", "fsst"])
def test_rows_are_those_of_lance_however_they_are_compressed(tmp_path, compression):
    field = pa.field(
        "long", pa.binary(), metadata={"lance-encoding:compression": compression}
    )
    table = pa.table([values("compressed", 60, nulls=True)], schema=pa.schema([field]))
    uri = write(tmp_path / "t.lance", table)
    rows = ll.open(uri)
    order = np.random.default_rng(0).permutation(60)
    assert (
        take(rows, order)["long"].to_pylist() == table.take(order)["long"].to_pylist()
    )
    found = pa.Table.from_batches(
        list(rows.shuffle(1).loader(batch_size=7, read="direct", format="arrow"))
    )
    assert sorted(map(repr, found["long"].to_pylist())) == sorted(
        map(repr, table["long"].to_pylist())
    )


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_rows_are_those_of_lance_in_files_of_every_version(tmp_path, version):
    table = pa.table({"id": range(90), "long": values("compressed", 90)})
    uri = write(tmp_path / "t.lance", table, data_storage_version=version)
    dataset = lance.dataset(uri)
    dataset.delete("id % 7 = 2")
    rows = ll.open(uri)
    order = [int(row) for row in np.random.default_rng(0).permutation(len(rows))[:40]]
    assert take(rows, order) == dataset.take(order)


@pytest.mark.parametrize("num_fragments", [3, 40])
def test_values_that_are_long_in_some_fragments(tmp_path, num_fragments):
    """Batches have rows of all of them; those of many files are not left in their files."""
    uri = str(tmp_path / "t.lance")
    for part in range(num_fragments):
        ids = range(20 * part, 20 * part + 20)
        made = values(
            ["compressed", "kept"][part % 2], 20, seed=part, nulls=part % 4 > 1
        )
        columns = {"id": pa.array(ids), "long": pa.array(made, pa.binary())}
        if part % 3 == 1:
            columns["long"] = pa.array([b"%d" % row for row in ids], pa.binary())
        if part % 3 != 2:
            columns["later"] = pa.array(values("kept", 20, seed=9), pa.binary())
        table = pa.table(columns)
        if part == 0:
            lance.write_dataset(table, uri)
        else:
            # A column that a fragment lacks is null there.
            lance.write_dataset(table, uri, mode="append")
    whole = lance.dataset(uri)
    assert len(whole.get_fragments()) == num_fragments
    rows = ll.open(uri)
    order = np.random.default_rng(3).permutation(len(rows))
    order = [*order[: len(order) // 2], order[0], order[0]]
    assert take(rows, order) == whole.take(order)
    for read in ("direct", "auto"):
        found = list(rows.shuffle(3).loader(batch_size=16, read=read, format="arrow"))
        assert [len(batch) for batch in found[:-1]] == [16] * (len(found) - 1)
        found = pa.Table.from_batches(found)
        assert sorted(found["id"].to_pylist()) == list(range(len(rows)))
        assert found == whole.take(found["id"].to_pylist())


def test_values_inside_of_structs_and_lists_are_left_to_lance(tmp_path):
    made = values("compressed", 40)
    table = pa.table(
        {
            "picture": pa.array([{"bytes": value, "path": "p"} for value in made]),
            "several": pa.array([[value, None] for value in made]),
        }
    )
    uri = write(tmp_path / "t.lance", table)
    order = [5, 39, 0, 17]
    assert take(ll.open(uri), order) == lance.dataset(uri).take(order)


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
@pytest.mark.parametrize("first", [False, True])
def test_long_values_beside_nested_ones(tmp_path, version, first):
    box = {"x": 1, "y": None, "deep": {"a": "b", "c": [1, 2]}}
    nested = {
        "box": [box] * 60,
        "objects": [[{"label": "cat", "at": row}] * (row % 3) for row in range(60)],
    }
    long = {
        "image": pa.array(values("compressed", 60), pa.binary()),
        "sound": pa.array(values("kept", 60, seed=1), pa.large_binary()),
    }
    columns = long | nested if first else nested | long
    uri = write(tmp_path / "t.lance", pa.table(columns), data_storage_version=version)
    order = [5, 59, 0, 17, 18]
    whole = lance.dataset(uri)
    for names in (list(columns), ["sound", "box"], ["objects", "image"]):
        rows = ll.open(uri).select_columns(names)
        found = take(rows, order).to_pylist()
        assert found == whole.take(order, columns=names).to_pylist()
    found = take(ll.open(uri).select_columns(["box.y", "image"]), order)
    assert found["box.y"].to_pylist() == [None] * 5
    assert found["image"].to_pylist() == whole.take(order)["image"].to_pylist()


def test_rows_of_a_file_that_was_removed_are_still_read(tmp_path):
    table = pa.table({"long": values("kept", 50)})
    uri = write(tmp_path / "t.lance", table)
    rows = ll.open(uri)
    order = [9, 2, 44]
    assert take(rows, [0]) == table.take([0])
    shutil.rmtree(tmp_path / "t.lance" / "data")
    assert take(rows, order) == table.take(order)


def test_a_file_that_was_cut_is_an_error(tmp_path):
    uri = write(tmp_path / "t.lance", pa.table({"long": values("kept", 50)}))
    rows = ll.open(uri)
    take(rows, [0])
    (file,) = (tmp_path / "t.lance" / "data").iterdir()
    with file.open("r+b") as opened:
        opened.truncate(5000)
    with pytest.raises(CorruptFileError, match="bytes"):
        take(rows, [40])


@pytest.mark.parametrize("size", ["kept", "compressed"])
def test_a_value_whose_length_is_another_one_is_an_error(tmp_path, size):
    made = values(size, 50, seed=4)
    uri = write(tmp_path / "t.lance", pa.table({"long": pa.array(made, pa.binary())}))
    (file,) = (tmp_path / "t.lance" / "data").iterdir()
    contents = bytearray(file.read_bytes())
    # The first row begins with its length.
    contents[0] ^= 1
    file.write_bytes(contents)
    assert take(ll.open(uri), [1]).num_rows == 1
    with pytest.raises(CorruptFileError, match="does not match the index"):
        take(ll.open(uri), [0])


def test_text_that_is_not_utf_8_is_an_error(tmp_path):
    made = values("kept", 50, text=True)
    field = pa.field(
        "long", pa.string(), metadata={"lance-encoding:compression": "none"}
    )
    uri = write(tmp_path / "t.lance", pa.table([made], schema=pa.schema([field])))
    (file,) = (tmp_path / "t.lance" / "data").iterdir()
    contents = bytearray(file.read_bytes())
    contents[100] = 0xFF
    file.write_bytes(contents)
    with pytest.raises(CorruptFileError, match="utf-8"):
        take(ll.open(uri), [0])


@pytest.fixture
def folder(tmp_path):
    """The bucket: a table whose values are kept as they are, and one where they are compressed."""
    for size in ("kept", "compressed"):
        columns = {
            "id": range(200),
            "long": pa.array(values(size, 200, nulls=True), pa.binary()),
        }
        write(
            tmp_path / "bucket" / f"{size}.lance",
            pa.table(columns),
            max_rows_per_file=70,
        )
    return tmp_path / "bucket"


@pytest.mark.parametrize("size", ["kept", "compressed"])
@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
def test_rows_of_a_bucket_are_those_of_lance(folder, server, tmp_path, size, kept):
    whole = lance.dataset(str(folder / f"{size}.lance"))
    rows = ll.open(f"s3://bucket/{size}.lance", storage_options=server.options)
    rows = rows.with_read("direct", cache_dir=tmp_path / "cache" if kept else "")
    rows = rows.with_format("arrow").select_columns(["long", "id"])
    order = [int(at) for at in np.random.default_rng(5).permutation(200)]
    for _ in range(2):
        server.reset()
        found = pa.Table.from_batches([rows.take_offsets(order)])
        assert found == whole.take(order, columns=["long", "id"])
    assert (server.requests == 0) == kept
    in_order = pa.Table.from_batches(list(rows.loader(batch_size=64)))
    assert in_order == whole.to_table(columns=["long", "id"])


def test_a_row_of_a_bucket_is_one_request_once_its_page_is_known(folder, server):
    rows = ll.open("s3://bucket/compressed.lance", storage_options=server.options)
    rows = (
        rows.with_read("direct", cache_dir="")
        .with_format("arrow")
        .select_columns(["long"])
    )
    rows.take_offsets([0, 100, 199])
    for place in (20, 120, 180):
        server.reset()
        assert rows.take_offsets([place]).num_rows == 1
        assert server.requests == 1


def test_a_fault_of_the_store_is_an_error_of_the_store(folder, server):
    options = server.options | {"client_max_retries": "0"}
    rows = ll.open("s3://bucket/kept.lance", storage_options=options)
    rows = (
        rows.with_read("direct", cache_dir="")
        .with_format("arrow")
        .select_columns(["long"])
    )
    rows.take_offsets([0])
    server.fault = lambda number: 503
    with pytest.raises(OSError, match="SlowDown"):
        rows.take_offsets([30])
    server.fault = None
    assert rows.take_offsets([30]).num_rows == 1
