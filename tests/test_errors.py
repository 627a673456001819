"""Errors name the value that caused them; nothing panics, hangs or returns wrong rows."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from lanceloader import errors


def outcome_of(call, kinds):
    """The result of a call and None, or None and its error of these kinds; others are raised."""
    try:
        return call(), None
    except kinds as error:
        return None, error


def test_a_missing_table_is_not_found(tmp_path):
    for path in (
        tmp_path / "none.lance",
        str(tmp_path / "none.lance"),
        "/no/such/place",
    ):
        with pytest.raises(FileNotFoundError, match=Path(path).name):
            ll.open(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        ll.open(tmp_path / "empty")
    (tmp_path / "file").write_text("no table")
    with pytest.raises(FileNotFoundError, match="file"):
        ll.open(tmp_path / "file")


def test_the_error_describes_a_path_that_is_not_a_table(db, tmp_path):
    for name in ("songs", "artists"):
        db.create_table(name, pa.table({"x": [1]}))
    folder = str(tmp_path / "db")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no table")
    for path, said in {
        folder: rf"a database, with the tables `artists`, `songs`; .*{folder}/artists\.lance",
        f"{folder}/": r"a database, with the tables `artists`, `songs`",
        f"file://{folder}": r"a database, with the tables `artists`, `songs`",
        f"{folder}/songs": rf"there is a table at {folder}/songs\.lance; pass that",
        f"{folder}/song.lance": "does not exist; its folder has the tables `artists`, `songs`",
        str(tmp_path / "none"): "none: it does not exist$",
        "/no/such/place.lance": "does not exist$",
        str(tmp_path / "empty"): "has no manifest, so it is not a table",
        str(tmp_path / "file"): "is a file, and a Lance table is a folder",
    }.items():
        with pytest.raises(FileNotFoundError, match=said):
            ll.open(path)


def test_a_missing_version_tag_or_branch_is_named(table):
    with pytest.raises(errors.TableChangedError, match="version 99"):
        ll.open(table.uri, version=99)
    with pytest.raises((FileNotFoundError, ValueError), match="v1"):
        ll.open(table.uri, tag="v1")
    with pytest.raises((FileNotFoundError, ValueError), match="exp"):
        ll.open(table.uri, branch="exp")


def test_options_that_only_a_path_takes(table):
    with pytest.raises(TypeError, match=r"`version` .*not with a LanceTable"):
        ll.open(table, version=1)
    with pytest.raises(TypeError, match=r"`storage_options` .*not with a Table"):
        ll.open(pa.table({"x": [1]}), storage_options={})


def test_schemes_that_are_not_known(tmp_path):
    with pytest.raises((ValueError, OSError, NotImplementedError), match="ftp"):
        ll.open("ftp://host/table.lance")


def data_files(uri: str) -> list[Path]:
    return sorted((Path(uri) / "data").glob("*.lance"))


@pytest.mark.parametrize("keep", [0, 1, 50, 0.5, 0.9, -1])
def test_a_truncated_file_is_named(table, keep):
    file = data_files(table.uri)[0]
    content = file.read_bytes()
    length = keep if isinstance(keep, int) else int(len(content) * keep)
    file.write_bytes(content[:length])
    perm = ll.open(table.uri)
    with pytest.raises(errors.CorruptFileError, match=file.name):
        perm.to_arrow()
    with pytest.raises(errors.CorruptFileError, match=file.name):
        perm.take_offsets(list(range(len(perm))))


def test_a_file_truncated_while_it_is_open_is_named(db):
    table = db.create_table("t", tables.narrow(200_000))
    perm = ll.Permutation.identity(table).with_format("arrow")
    perm.take_offsets([0, 199_999])
    (file,) = data_files(table.uri)
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)
    with pytest.raises(errors.CorruptFileError, match=file.name):
        perm.take_offsets([5, 100_000])


def test_a_missing_file_is_a_changed_table(table):
    perm = ll.Permutation.identity(table)
    file = data_files(table.uri)[1]
    file.unlink()
    with pytest.raises(errors.TableChangedError, match=file.name):
        perm.to_arrow()


@pytest.mark.parametrize("where", ["head", "middle", "tail"])
@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_never_panic(tmp_path, where, seed):
    """Bits flipped anywhere: rows or an error, never a crash. Lance's pages have no checksums."""
    dataset = lance.write_dataset(
        tables.every_type(500, nulls=True), tmp_path / "t.lance"
    )
    (file,) = data_files(dataset.uri)
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    span = {
        "head": (0, len(content) // 3),
        "middle": (len(content) // 3, 2 * len(content) // 3),
        "tail": (len(content) - 400, len(content)),
    }[where]
    for at in rng.integers(*span, 20):
        content[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(bytes(content))
    perm = ll.open(str(tmp_path / "t.lance"))
    columns = [perm.select_columns([name]) for name in perm.column_names]
    for view in (perm, *columns):
        for num_rows, read in (
            (3, lambda view=view: view.with_format("arrow").take_offsets([3, 499, 0])),
            (500, view.to_arrow),
        ):
            found, error = outcome_of(
                read, (errors.CorruptFileError, errors.StorageError)
            )
            if error is None:
                assert (found.num_rows, found.schema) == (num_rows, view.schema)
            else:
                assert file.name in str(error), error


@pytest.mark.parametrize("damage", ["empty", "cut", "junk"])
def test_a_damaged_manifest_is_an_error(table, damage):
    uri = Path(table.uri)
    manifest = max(
        (uri / "_versions").glob("*.manifest"), key=lambda file: file.stat().st_mtime_ns
    )
    content = manifest.read_bytes()
    manifest.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "junk": b"\xff" * 200}[
            damage
        ]
    )
    with pytest.raises((errors.LanceloaderError, OSError)):
        ll.open(str(uri)).to_arrow()


def test_damaged_deletions_are_an_error(table):
    for file in (Path(table.uri) / "_deletions").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises((errors.LanceloaderError, OSError), match=r"deletion"):
        ll.open(table.uri).to_arrow()


def clean(table):
    import datetime as dt

    table.optimize(cleanup_older_than=dt.timedelta(0), delete_unverified=True)


@pytest.mark.filterwarnings("ignore:.*cleanup_older_than:UserWarning")
def test_a_version_cleaned_away_is_a_changed_table(table):
    perm = ll.Permutation.identity(table)
    before = perm.take_offsets([0])
    pickled = pickle.dumps(perm)
    plan = ll.permutation_builder(table).execute()
    version = table.version
    table.update(values={"y": 0.0})
    clean(table)
    for attempt in (
        lambda: pickle.loads(pickled).head(),
        lambda: ll.open(table.uri, version=version),
        lambda: ll.Permutation.from_tables(table, plan).head(),
    ):
        with pytest.raises(
            (errors.TableChangedError, RuntimeError), match=r"not found|version"
        ):
            attempt()
    # What was open may go on with what it has open, or refuse; it never returns other rows.
    found, error = outcome_of(lambda: perm.take_offsets([0]), errors.TableChangedError)
    if error is None:
        assert found == before
    else:
        assert Path(table.uri).name in str(error)


def test_a_table_dropped_and_made_again_is_a_changed_table(db):
    table = db.create_table("t", tables.narrow(100))
    perm = ll.Permutation.identity(table)
    rows = perm.to_arrow()
    shutil.rmtree(table.uri)
    again = db.create_table("t", tables.narrow(100, seed=9))
    assert ll.Permutation.identity(again).to_arrow() != rows
    found, error = outcome_of(perm.to_arrow, errors.TableChangedError)
    if error is None:
        assert found.equals(rows)
    else:
        assert Path(table.uri).name in str(error)


def test_an_empty_table_and_zero_matches(db):
    table = db.create_table("t", schema=tables.narrow(0).schema)
    perm = ll.Permutation.identity(table)
    assert len(perm) == 0
    assert list(perm) == []
    assert perm.take_offsets([]) == []
    assert perm.to_arrow().schema.names == ["id", "x", "y", "label", "name"]
    assert len(perm.filter("id > 3").shuffle(seed=1).shard(0, 2)) == 0
    with pytest.raises(IndexError, match="row 0 is out of range for 0 rows"):
        perm[0]
    assert ll.permutation_builder(table).shuffle(seed=1).execute().count_rows() == 0


def test_exceptions_pickle_and_are_where_they_say(table):
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert cls.__module__ == "lanceloader.errors"
        again = pickle.loads(pickle.dumps(cls("text")))
        assert type(again) is cls
        assert str(again) == "text"
    with pytest.raises(errors.ColumnNotFoundError) as caught:
        ll.Permutation.identity(table).select_columns(["idd"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_storage_that_cannot_be_read_is_an_os_error(table):
    """A folder where a file should be."""
    file = data_files(table.uri)[0]
    file.unlink()
    file.mkdir()
    with pytest.raises((OSError, errors.LanceloaderError), match=file.name):
        ll.open(table.uri).to_arrow()


def test_a_lancedb_table_whose_folder_is_gone(db):
    table = db.create_table("t", tables.narrow(10))
    perm = ll.Permutation.identity(table)
    shutil.rmtree(table.uri)
    with pytest.raises((errors.TableChangedError, FileNotFoundError)):
        pickle.loads(pickle.dumps(perm)).head()


def test_no_filter_without_the_table_s_library(monkeypatch, tmp_path):
    lance.write_dataset(tables.narrow(10), tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        errors.UnsupportedError, match=r"pip install .lanceloader\[lance\]"
    ):
        perm.filter("id > 3")
    assert len(perm.to_arrow()) == 10


@pytest.mark.parametrize(
    "opened", [lambda t: t, lambda t: t.uri, lambda t: t.to_lance()]
)
@pytest.mark.parametrize("predicate", ["labl = 1", "id > 3 AND `labl` IS NOT NULL"])
def test_a_misspelt_column_of_a_filter_is_compared_with_the_table(
    table, opened, predicate
):
    with pytest.raises(errors.ColumnNotFoundError) as caught:
        ll.open(opened(table)).filter(predicate)
    assert str(caught.value).startswith(
        f"Invalid input, filter {predicate!r}: column `labl` does not exist; did you mean "
        "`label`"
    )


def test_a_wrong_filter_shows_no_source_of_lance(table):
    for opened in (table, table.to_lance()):
        with pytest.raises(ValueError, match=r"filter .id > 'x'.: .*Int64") as caught:
            ll.open(opened).filter("id > 'x'")
        assert ".rs" not in str(caught.value)


def test_masks_are_no_positions():
    perm = ll.open(pa.table({"x": range(3)}))
    for mask in (
        [True, False, True],
        np.array([True, False, True]),
        torch.tensor([True, False, True]),
    ):
        with pytest.raises(TypeError, match="mask"):
            perm[mask]
        assert perm.filter(mask).to_arrow()["x"].to_pylist() == [0, 2]
    with pytest.raises(TypeError, match="bytes"):
        perm[b"\x00\x01"]
    for index in ([], [2, 3]):
        with pytest.raises(TypeError):
            perm.row(index)


def test_columns_of_one_name_are_refused():
    data = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(ValueError, match="several columns `a`"):
        ll.open(data)


def test_a_permutation_is_no_table(table):
    perm = ll.open(table)
    for make in (ll.open, ll.Permutation.identity):
        with pytest.raises(TypeError, match="a permutation already"):
            make(perm)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"split_names": "5"}, "split_names"),
        ({"split_names": "[x"}, "split_names"),
        ({"base_version": "-1"}, "base_version"),
        ({"base_version": "soon"}, "base_version"),
    ],
)
def test_invalid_metadata_of_a_permutation_table_is_named(table, metadata, match):
    plan = ll.permutation_builder(table).execute().to_arrow()
    plan = plan.replace_schema_metadata(metadata)
    split = "a" if "split_names" in metadata else None
    with pytest.raises(ValueError, match=match):
        ll.Permutation.from_tables(table, plan, split)


def test_storage_options_are_strings(table):
    with pytest.raises(TypeError, match="'retries' has a value of type int"):
        ll.open(table.uri, storage_options={"retries": 1})


def test_a_tag_that_cannot_be_read_is_not_called_missing(table):
    tags = Path(table.uri) / "_refs" / "tags"
    (tags / "v1.json").mkdir(parents=True)
    with pytest.raises(OSError, match="v1") as caught:
        ll.open(table.uri, tag="v1")
    assert not isinstance(caught.value, FileNotFoundError)


def test_more_rows_than_len_can_say(table):
    perm = ll.open(table).with_repeat(2**57)
    assert perm.num_rows == 100 * 2**57
    assert "rows" in repr(perm)
    with pytest.raises(OverflowError, match="index-sized"):
        len(perm)


@pytest.mark.parametrize("length", [1 << 36, 1 << 46, 50_000 | 1 << 46])
@pytest.mark.parametrize("is_in_frame", [True, False])
def test_a_length_that_no_memory_suffices_for(tmp_path, length, is_in_frame):
    """A process that asks for such memory is aborted by the system."""
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 200, 50_000, np.uint8).tobytes() for _ in range(8)]
    field = pa.field(
        "x", pa.large_binary(), metadata={"lance-encoding:compression": "zstd"}
    )
    rows = pa.table([pa.array(values, field.type)], schema=pa.schema([field]))
    dataset = lance.write_dataset(rows, tmp_path / "t.lance")
    (file,) = data_files(dataset.uri)
    content = bytearray(file.read_bytes())
    at = content.find(b"\x28\xb5\x2f\xfd")
    assert int.from_bytes(content[at - 8 : at], "little") == 50_000
    content[at - 8 : at] = length.to_bytes(8, "little")
    if is_in_frame:
        # A frame of one segment, whose content size has eight bytes.
        content[at + 4 : at + 13] = b"\xe0" + length.to_bytes(8, "little")
    file.write_bytes(content)
    with pytest.raises(errors.CorruptFileError, match=file.name):
        ll.open(tmp_path / "t.lance").with_format("arrow").take_offsets([0, 1])
