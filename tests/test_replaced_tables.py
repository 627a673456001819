"""Tables that are dropped and created again at the same address: an error, never rows of another table."""

from __future__ import annotations

import pickle
import shutil

import lance
import lancedb
import lanceloader as ll
import pyarrow as pa
import pytest
from lanceloader.errors import CorruptFileError, TableChangedError

BEFORE = pa.table({"id": range(100), "g": [0] * 50 + [1] * 50})
AFTER = pa.table({"id": range(1000, 1100), "g": [1] * 50 + [0] * 50})


@pytest.fixture
def db(tmp_path):
    database = lancedb.connect(tmp_path / "db")
    database.create_table("t", BEFORE)
    return database


@pytest.fixture
def path(db, tmp_path):
    return tmp_path / "db" / "t.lance"


def replace(db, data=AFTER):
    db.drop_table("t")
    db.create_table("t", data)


@pytest.mark.parametrize("kind", ["path", "table"])
@pytest.mark.parametrize("rows", [100, 10])
def test_a_filter_is_not_evaluated_on_another_table(db, path, kind, rows):
    perm = ll.open(path if kind == "path" else db.open_table("t"))
    whole = perm.to_arrow()
    replace(db, AFTER.slice(0, rows))
    with pytest.raises(TableChangedError, match="another table"):
        perm.filter("g = 1")
    assert whole["id"].to_pylist() == list(range(100))


def test_a_pickle_does_not_open_another_table(db, path):
    saved = pickle.dumps(ll.open(path).filter("g = 1"))
    assert set(pickle.loads(saved).to_arrow()["g"].to_pylist()) == {1}
    replace(db)
    with pytest.raises(TableChangedError, match="another table"):
        pickle.loads(saved).to_arrow()


@pytest.mark.slow
def test_a_helper_process_does_not_open_another_table(db, path):
    loader = ll.open(path).filter("g = 1").loader(10, format="arrow", in_process=False)
    replace(db)
    with pytest.raises(TableChangedError):
        list(loader)


def test_a_pickle_opens_a_table_that_was_moved(db, path, tmp_path, monkeypatch):
    """Files say which table it is, and not where it lies."""
    monkeypatch.chdir(tmp_path)
    perm = ll.open(path).filter("g = 1")
    saved = pickle.dumps(perm)
    shutil.copytree(path, tmp_path / "copy.lance")
    shutil.rmtree(path)
    (tmp_path / "copy.lance").rename(path)
    assert pickle.loads(saved).head(3) == perm.head(3)


def test_a_filter_on_a_table_that_is_gone(db, path):
    perm = ll.open(path)
    db.drop_table("t")
    with pytest.raises(TableChangedError, match="gone"):
        perm.filter("id > 3")


def data_file(path):
    (file,) = (path / "data").iterdir()
    return file


def test_a_filter_on_a_table_without_its_data(path):
    perm = ll.open(path)
    data_file(path).unlink()
    with pytest.raises(TableChangedError, match="id > 3"):
        perm.filter("id > 3")


def test_a_filter_on_a_damaged_table(path):
    perm = ll.open(path)
    file = data_file(path)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CorruptFileError, match="id > 3"):
        perm.filter("id > 3")


def test_a_wrong_filter_is_a_wrong_filter(path):
    with pytest.raises(ValueError, match="nothing > 3"):
        ll.open(path).filter("nothing > 3")
    table = lance.write_dataset(BEFORE, path, mode="overwrite")
    with pytest.raises(ValueError, match="g >> 'a'"):
        ll.open(table).filter("g >> 'a'")
