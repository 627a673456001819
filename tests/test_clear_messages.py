"""Errors that name what was passed, and say what it is: of arguments, states, files and workers."""

from __future__ import annotations

import errno
import threading

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
from lanceloader.errors import CorruptFileError
from lanceloader.materialize import StoppableBatches
from lanceloader.transport.outbox import or_error
from process_state import soon


@pytest.fixture
def path(tmp_path):
    lance.write_dataset(pa.table({"id": range(100)}), tmp_path / "t.lance")
    return tmp_path / "t.lance"


@pytest.mark.parametrize("name", ["branch", "tag"])
def test_names_of_versions_are_strings(path, name):
    with pytest.raises(TypeError, match=f"`{name}` must be a string, not 5"):
        ll.open(path, **{name: 5})


@pytest.mark.parametrize("index", [5.0, "3", None])
def test_a_row_is_named_by_a_whole_number(path, index):
    with pytest.raises(TypeError, match="`index` must be a whole number"):
        ll.open(path).row(index)


def test_an_empty_manifest_is_a_damaged_file_with_a_name(path):
    (manifest,) = (path / "_versions").glob("*.manifest")
    manifest.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="it is empty") as caught:
        ll.open(path)
    assert manifest.name in str(caught.value)


def test_orders_that_read_alike_are_not_set_side_by_side(path):
    state = ll.open(path).loader(3, shuffle=True, seed=3).state_dict()
    lance.dataset(path).delete("id = 1")
    loader = ll.open(path).loader(3, shuffle=True, seed=3)
    with pytest.raises(ValueError, match="version 1 there, version 2 here") as caught:
        loader.load_state_dict(state)
    assert "another order" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EMFILE, "ulimit -n"), (errno.ENOSPC, "No space left")],
)
def test_what_a_worker_lacks_is_not_called_unpicklable(number, words):
    message = (7, threading.Lock())
    index, wrapped = or_error(message, OSError(number, "No space left"))
    assert index == 7
    with pytest.raises(OSError, match=words) as caught:
        wrapped.reraise()
    assert "pickled" not in str(caught.value)


def test_what_cannot_be_pickled_is_called_so():
    _, wrapped = or_error((7, threading.Lock()), TypeError("a lock"))
    with pytest.raises(TypeError, match="cannot be pickled"):
        wrapped.reraise()


def test_batches_that_are_stopped_end_once_nobody_reads_one(monkeypatch):
    monkeypatch.setattr("lanceloader.materialize.STOPPING_S", 60)
    is_reading, goes_on = threading.Event(), threading.Event()

    def batches():
        is_reading.set()
        assert goes_on.wait(60)
        yield 1
        yield 2

    found = []
    source = StoppableBatches(batches(), [])
    reader = threading.Thread(target=lambda: found.extend(source))
    reader.start()
    assert is_reading.wait(60)
    stopper = threading.Thread(target=source.stop)
    stopper.start()
    assert soon(lambda: source._is_stopped)
    assert stopper.is_alive()
    goes_on.set()
    reader.join(60)
    stopper.join(60)
    assert found == [1]
    assert list(source) == []
