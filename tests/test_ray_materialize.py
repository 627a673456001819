"""``materialize(engine="ray")``: the table that one process would write, by many."""

from __future__ import annotations

import sys

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import ray_driver
import s3_buckets
import tables
from lanceloader import errors
from missing_packages import hide
from process_state import anonymous

driver = ray_driver.driver
s3, bucket, options = s3_buckets.s3, s3_buckets.bucket, s3_buckets.options
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """3,000 rows in three fragments, some deleted."""
    return tables.with_gaps(tmp_path_factory.mktemp("ray") / "t.lance")


@pytest.fixture
def perm(path):
    return ll.open(path)


def write(perm, uri, **options):
    """Write with Ray, and return what ``progress`` was called with."""
    import lanceloader.ray

    said = []
    options = {"num_tasks": 5, "progress": lambda *now: said.append(now)} | options
    lanceloader.ray.materialize(perm, uri, **options)
    return said


def failed(perm, uri, **options):
    try:
        write(perm, uri, **options)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__], str(error)
    return None


def left_in(folder):
    return sorted(path.name for path in folder.glob("*"))


def ragged(rows):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 300, rows)
    return pa.table(
        {
            "id": np.arange(rows),
            "tokens": pa.array([list(range(length)) for length in lengths]),
            "text": [None if k % 5 == 0 else "é" * (k % 50) for k in range(rows)],
        }
    )


VIEWS = {
    "all": lambda perm: perm,
    "shuffled": lambda perm: perm.shuffle(3),
    "filtered": lambda perm: perm.filter("label = 2 and id > 50").shuffle(1),
    "renamed": lambda perm: perm.rename_column("id", "key").remove_columns(["x"]),
    "mapped": lambda perm: perm.shuffle(1).map(lambda row: {"y": row["id"] * 2}),
    "one row": lambda perm: perm.with_take(1),
    "no rows": lambda perm: perm.with_take(0),
}


@pytest.mark.parametrize("view", VIEWS)
def test_the_same_table_as_this_process_writes(driver, perm, tmp_path, view):
    view = VIEWS[view](perm)
    wanted = view.materialize(tmp_path / "local.lance")
    said = driver(write, view, str(tmp_path / "ray.lance"))
    found = ll.open(tmp_path / "ray.lance")
    assert found.to_arrow().equals(wanted.to_arrow())
    assert found.schema.equals(wanted.schema, check_metadata=True)
    assert found.version == 1
    assert left_in(tmp_path) == ["local.lance", "ray.lance"]
    assert said[0] == (0, len(view))
    assert said[-1] == (len(view), len(view))
    assert len(lance.dataset(tmp_path / "ray.lance").get_fragments()) == min(
        5, len(view)
    )


@pytest.mark.parametrize("what", ["ragged", "wide", "every type"])
def test_other_rows(driver, tmp_path, what):
    if what == "wide":
        data = pa.table({f"c{k}": np.arange(200.0) for k in range(300)})
    else:
        data = ragged(800) if what == "ragged" else tables.every_type(300, nulls=True)
    lance.write_dataset(data, tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    driver(write, view, str(tmp_path / "copy.lance"))
    assert ll.open(tmp_path / "copy.lance").to_arrow().equals(view.to_arrow())


@pytest.mark.parametrize("what", ["long", "ragged"])
def test_memory_of_a_task_is_bounded(driver, tmp_path, what):
    """Over rows that take many times as much."""

    def peak(view, uri):
        import os

        from lanceloader.ray import materializing

        batches_of, most, size = materializing.arrow_batches, 0, 0
        before = anonymous(os.getpid())

        def watched(*given):
            nonlocal most, size
            for batch in batches_of(*given):
                size += batch.nbytes
                yield batch
                most = max(most, anonymous(os.getpid()) - before)

        writing = materializing.Writing(view, None, send_credentials=False)
        materializing.arrow_batches = watched
        try:
            fragments = writing.fragments(uri, range(view.num_rows))
        finally:
            materializing.arrow_batches = batches_of
        return most, size, sum(each.num_rows for each in fragments)

    rng = np.random.default_rng(0)
    if what == "long":
        values = [rng.bytes(1 << 20) for _ in range(300)]
        data = pa.table({"value": pa.array(values, pa.large_binary())})
    else:
        lengths = np.where(np.arange(9000) % 300 < 10, 100_000, 100)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        data = pa.table({"value": pa.ListArray.from_arrays(ends, rng.random(ends[-1]))})
    lance.write_dataset(data, tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    view = view.with_read("direct", memory_limit="16MiB")
    most, size, rows = driver(peak, view, str(tmp_path / "copy.lance"))
    assert rows == data.num_rows
    assert size > 200 << 20
    # The limit, a buffer of one column, and what a process keeps for its next allocations.
    assert most < 100 << 20


def test_the_verb_returns_a_permutation_of_the_new_table(driver, perm, tmp_path):
    def through_the_verb(perm, uri):
        copy = perm.materialize(uri, engine="ray")
        return type(copy).__name__, copy.head(3)["id"].tolist(), copy.version

    view = perm.shuffle(2).with_format("numpy_dict")
    found = driver(through_the_verb, view, str(tmp_path / "copy.lance"))
    assert found == ("Permutation", view.head(3)["id"].tolist(), 1)


def test_tasks_have_some_work(driver, tmp_path):
    """Small tables are not cut into crumbs."""
    lance.write_dataset(pa.table({"x": range(900_000)}), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    driver(lambda *given: write(*given, num_tasks=None), view, str(tmp_path / "c"))
    assert len(lance.dataset(tmp_path / "c").get_fragments()) == 1


def test_an_existing_table_is_kept(driver, perm, tmp_path):
    target = tmp_path / "copy.lance"
    lance.write_dataset(tables.narrow(3), target)
    kinds, message = driver(failed, perm, str(target))
    assert "FileExistsError" in kinds
    assert "exists already" in message
    assert lance.dataset(target).count_rows() == 3
    assert left_in(tmp_path) == ["copy.lance"]


def test_errors_of_tasks_are_raised_and_nothing_is_left(driver, tmp_path):
    dataset = lance.write_dataset(
        tables.narrow(3000), tmp_path / "t.lance", max_rows_per_file=1000
    )
    file = dataset.get_fragments()[-1].data_files()[0].path
    with (tmp_path / "t.lance" / "data" / file).open("r+b") as opened:
        opened.truncate(300)
    view = ll.open(tmp_path / "t.lance")
    kinds, message = driver(failed, view, str(tmp_path / "new" / "copy.lance"))
    assert "CorruptFileError" in kinds
    assert file in message
    assert left_in(tmp_path / "new") == []


def test_a_job_that_fails_leaves_the_driver_alive(driver, perm, tmp_path):
    """Thirty times: Ray ends the driver if it cancels a task that is just done."""

    def failures(perm, uri):
        def fail(row):
            if row["id"] == 2500:
                raise ValueError("a row that cannot be")
            return row

        return [failed(perm.map(fail), uri, num_tasks=9) for _ in range(30)]

    for kinds, message in driver(failures, perm, str(tmp_path / "copy.lance")):
        assert "ValueError" in kinds
        assert "a row that cannot be" in message
    assert left_in(tmp_path) == []


def test_tasks_of_a_job_that_has_failed_end(driver):
    def ended():
        import ray
        from lanceloader.ray.stopping import Stop

        stop = Stop()

        @ray.remote(num_cpus=0.5)
        def count(stop, items):
            return sum(1 for _ in stop.before_each(items))

        before = ray.get(count.remote(stop, range(5)))
        running = count.remote(stop, range(10**15))
        stop.set()
        said = []
        for task in (running, count.remote(stop, range(5))):
            try:
                ray.get(task, timeout=300)
            except ray.exceptions.RayTaskError as error:
                said.append("another task of the job has failed" in str(error))
        return before, said

    assert driver(ended) == (5, [True, True])


def test_a_task_that_dies_is_started_again(driver, perm, tmp_path):
    """What it wrote before is not in the table."""

    def dying(perm, uri, mark):
        import os
        import signal
        from pathlib import Path

        import lanceloader.ray

        def once(row):
            if row["id"] == 2000 and not Path(mark).exists():
                Path(mark).touch()
                data = (
                    Path(uri).with_name(".copy.lance.partial") / "copy.lance" / "data"
                )
                data.mkdir(parents=True, exist_ok=True)
                (data / "stray.lance").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"id": row["id"]}

        lanceloader.ray.materialize(perm.map(once), uri, num_tasks=3)

    mark, target = tmp_path / "mark", tmp_path / "copy.lance"
    driver(dying, perm, str(target), str(mark))
    assert mark.exists()
    found = lance.dataset(target)
    assert found.to_table()["id"].equals(perm.to_arrow()["id"])
    assert len(left_in(target / "data")) == len(found.get_fragments()) == 3
    assert left_in(tmp_path) == ["copy.lance", "mark"]


def test_nodes_that_do_not_share_the_folder(driver, perm, tmp_path):
    """Files that were written elsewhere are missed before there is a table."""

    def apart(perm, uri):
        from lanceloader.ray.tables import Place

        there = Place.files
        Place.files = lambda place: there(place)[:2]
        try:
            return failed(perm, uri)
        finally:
            Place.files = there

    kinds, message = driver(apart, perm, str(tmp_path / "copy.lance"))
    assert "StorageError" in kinds
    assert "nodes must share this folder" in message
    assert left_in(tmp_path) == []


def test_object_storage(driver, perm, bucket, options):
    view, uri = perm.shuffle(1), f"s3://{bucket}/deep/copy.lance"
    sent = {"storage_options": options, "send_credentials": True}
    driver(lambda *given: write(*given, **sent), view, uri)
    copy = ll.open(uri, storage_options=options)
    assert copy.to_arrow().equals(view.to_arrow())
    kinds, _ = driver(lambda *given: failed(*given, **sent), view, uri)
    assert "FileExistsError" in kinds


def test_clean_removes_what_no_version_uses(tmp_path):
    import lanceloader.ray

    target = tmp_path / "t.lance"
    lance.write_dataset(tables.narrow(100), target)
    lance.write_dataset(tables.narrow(50), target, mode="append")
    (target / "data" / f"{'01' * 24}.lance").write_bytes(b"half")
    assert lanceloader.ray.clean(target) == 1
    assert lanceloader.ray.clean(target) == 0
    assert lance.dataset(target, version=1).count_rows() == 100
    assert lance.dataset(target).to_table().num_rows == 150


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_clean_removes_files_without_a_table(tmp_path, scheme):
    import lanceloader.ray

    target = tmp_path / "t.lance"
    staged = tmp_path / ".t.lance.partial" / "t.lance" / "data"
    for folder in (target / "data", staged):
        folder.mkdir(parents=True)
        (folder / "a.lance").write_bytes(b"half")
    assert lanceloader.ray.clean(f"{scheme}{target}") == 2
    assert left_in(tmp_path) == []
    target.mkdir()
    (target / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"mine\.txt, which is no part of a table"):
        lanceloader.ray.clean(target)
    assert left_in(target) == ["mine.txt"]


def test_clean_in_object_storage(bucket, options):
    import lanceloader.ray
    from lance.file import LanceFileSession

    uri = f"s3://{bucket}/half.lance"
    lance.write_dataset(tables.narrow(10), f"{uri}/data/x", storage_options=options)
    assert lanceloader.ray.clean(uri, storage_options=options) >= 2
    assert LanceFileSession(uri, storage_options=options).list() == []


def test_what_is_missing_or_misspelt_is_said(perm, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`engine`"):
        perm.materialize(tmp_path / "copy.lance", engine="spark")
    hide(monkeypatch, "ray")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(ImportError, match=r"lanceloader\[ray\]"):
        perm.materialize(tmp_path / "copy.lance", engine="ray")
    assert left_in(tmp_path) == []
    assert issubclass(errors.StorageError, OSError)
