"""Bad luck with Ray: credentials, packages, tables that change, and nodes and drivers that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import lance
import lanceloader as ll
import pytest
import ray_driver
import s3_buckets
import tables
from process_state import soon

driver = ray_driver.driver
s3, bucket, options = s3_buckets.s3, s3_buckets.bucket, s3_buckets.options
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def perm(tmp_path):
    lance.write_dataset(
        tables.narrow(3000), tmp_path / "t.lance", max_rows_per_file=700
    )
    return ll.open(tmp_path / "t.lance").shuffle(4)


def ids(perm, **options):
    """The ids of all rows in the order in which Ray Data reads them, or the error."""
    import lanceloader.ray

    try:
        dataset = lanceloader.ray.read(perm, preserve_order=True, **options)
        return [row["id"] for row in dataset.take_all()]
    except Exception as error:
        return str(error)


def recipe_of(perm, **options):
    from lanceloader.ray.recipe import Recipe

    return Recipe.of(perm, **options).pickled


def test_credentials_are_sent_only_if_asked_for(driver, bucket, options):
    uri = f"s3://{bucket}/t.lance"
    lance.write_dataset(tables.narrow(100), uri, storage_options=options)
    view = ll.open(uri, storage_options=options).shuffle(1)

    def both(uri, options):
        """A permutation that is sent to the driver has none, so it is opened there."""
        view = ll.open(uri, storage_options=options).shuffle(1)
        return (
            ids(view),
            ids(view, send_credentials=True),
            recipe_of(view),
            recipe_of(view, send_credentials=True),
        )

    without, found, recipe, recipe_with_credentials = driver(both, uri, options)
    assert "StorageDeniedError" in without
    assert "send_credentials=True" in without
    assert s3_buckets.SECRET not in without
    assert found == view.to_arrow()["id"].to_pylist()
    assert s3_buckets.SECRET.encode() not in recipe
    assert s3_buckets.SECRET.encode() in recipe_with_credentials


def test_a_node_without_the_package(driver, perm, tmp_path):
    """The error names the node, its Python, and what to do."""
    fake = tmp_path / "fake" / "lanceloader"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    runtime = {"env_vars": {"PYTHONPATH": str(fake.parent)}}
    said = driver(lambda *given: ids(*given, runtime_env=runtime), perm)
    assert "cannot import lanceloader.ray.recipe" in said
    assert f"the driver has lanceloader {ll.__version__}" in said
    assert "install this release on all nodes" in said


def test_a_node_with_another_release(driver):
    """Which cannot load what the driver's has written."""

    def error():
        from lanceloader.ray.recipe import Recipe

        try:
            Recipe("99.0", b"of the future").open()
        except RuntimeError as error:
            return str(error)

    said = driver(error)
    assert f"this node has lanceloader {ll.__version__}" in said
    assert "of the driver's 99.0: install the same release on all nodes" in said


def test_a_task_gets_what_another_release_has_written(driver, perm):
    """The error of a task reaches the user."""

    def error(perm):
        import ray
        from lanceloader.ray.datasource import PermutationDatasource
        from lanceloader.ray.recipe import Recipe

        source = PermutationDatasource(perm, Recipe("99.0", b"of the future"))
        try:
            ray.data.read_datasource(source).take_all()
        except Exception as error:
            return str(error)

    said = driver(error, perm)
    assert "which cannot load a permutation of the driver's 99.0" in said


def test_a_version_that_is_cleaned_away_meanwhile(driver, perm, tmp_path):
    """Never other rows: an error that says what happened."""
    dataset = lance.dataset(tmp_path / "t.lance")
    dataset.delete("id < 1500")
    dataset.optimize.compact_files()
    dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)
    said = driver(ids, perm)
    assert "cleaned away" in said


def test_a_task_that_dies_is_read_again(driver, perm, tmp_path):
    def dying(perm, mark):
        import os
        import signal
        from pathlib import Path

        def once(batch):
            if 2000 in batch["id"] and not Path(mark).exists():
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return batch

        import lanceloader.ray

        dataset = lanceloader.ray.read(perm, preserve_order=True, override_num_blocks=6)
        return [row["id"] for row in dataset.map_batches(once).take_all()]

    mark = tmp_path / "mark"
    assert driver(dying, perm, str(mark)) == perm.to_arrow()["id"].to_pylist()
    assert mark.exists()


@pytest.mark.slow
def test_every_row_comes_once_over_thirty_kills(driver, perm, tmp_path):
    """Of tasks that read, at any row, and of tasks that write."""

    def trials(perm, folder):
        import os
        import random
        import signal
        from pathlib import Path

        import lanceloader as ll
        import lanceloader.ray

        def dying_at(row_id, mark):
            def once(row):
                if row["id"] == row_id and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"id": row["id"]}

            return once

        found = []
        order = [row["id"] for row in perm.to_arrow().to_pylist()]
        for seed in range(30):
            # The driver calls functions for the first thousand rows, to learn their types.
            at = random.Random(seed).choice(order[1000:])
            mark = Path(folder, f"mark{seed}")
            view = perm.map(dying_at(at, mark))
            tasks = 3 + seed % 5
            if seed % 3:
                dataset = lanceloader.ray.read(
                    view, preserve_order=True, override_num_blocks=tasks
                )
                rows = [row["id"] for row in dataset.take_all()]
            else:
                uri = f"{folder}/copy{seed}.lance"
                lanceloader.ray.materialize(view, uri, num_tasks=tasks)
                rows = ll.open(uri).to_arrow()["id"].to_pylist()
            found.append((mark.exists(), rows == order))
        return found

    assert driver(trials, perm, str(tmp_path)) == [(True, True)] * 30


DRIVER = """
import json, os, signal, sys
import lanceloader as ll
import lanceloader.ray
import ray
from lanceloader.ray import tables
from process_state import soon

address, source, target, what = sys.argv[1:]
environment = json.loads(os.environ.get("OF_WORKERS", "{}"))
ray.init(address, log_to_driver=False, runtime_env={"env_vars": environment})


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Place(tables.Place):
    def commit(self, *arguments):
        if what == "before":
            die()
        super().commit(*arguments)
        if what == "after":
            die()


lanceloader.ray.materializing.Place = Place
perm = ll.open(source).shuffle(4)


def progress(done, total):
    if done and what == "written":
        die()


options = json.loads(os.environ.get("OF_STORE", "{}"))
lanceloader.ray.materialize(
    perm,
    target,
    num_tasks=6,
    progress=progress,
    storage_options=options,
    send_credentials=bool(options),
)
"""


def drive(driver, *arguments, **environment):
    """Run a driver of its own on the nodes of another one."""

    def address():
        import ray

        return ray.get_runtime_context().gcs_address

    with ray_driver.variables():
        return subprocess.run(
            [sys.executable, "-c", DRIVER, driver(address), *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=ray_driver.SECONDS,
        )


@pytest.mark.slow
@pytest.mark.parametrize("when", ["written", "before", "after"])
def test_a_driver_that_is_killed_leaves_what_can_be_cleaned(
    driver, perm, tmp_path, when
):
    """When a task is done, before the table is committed, and before it has its name."""
    import lanceloader.ray

    target = tmp_path / "new" / "copy.lance"
    result = drive(driver, tmp_path / "t.lance", target, when)
    assert result.returncode == -signal.SIGKILL, result.stderr
    left = sorted(path.name for path in target.parent.iterdir())
    assert left == [".copy.lance.partial"]
    assert lanceloader.ray.clean(target) > 0
    assert list(target.parent.iterdir()) == []
    # Nothing hinders the next one.
    perm.materialize(target)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["written", "before", "after"])
def test_a_driver_that_is_killed_while_it_writes_to_object_storage(
    driver, perm, tmp_path, bucket, options, when
):
    """There is no table, or a whole one."""
    import lanceloader.ray

    uri = f"s3://{bucket}/copy.lance"
    result = drive(
        driver, tmp_path / "t.lance", uri, when, OF_STORE=json.dumps(options)
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    if when == "after":
        assert lanceloader.ray.clean(uri, storage_options=options) == 0
        copy = ll.open(uri, storage_options=options)
        assert copy.to_arrow().equals(perm.to_arrow())
        return
    with pytest.raises(FileNotFoundError):
        ll.open(uri, storage_options=options)
    # Tasks end with their driver, but not at once.
    assert soon(lambda: driver(is_idle), 120)
    assert lanceloader.ray.clean(uri, storage_options=options) > 0
    perm.materialize(uri, storage_options=options)


def is_idle():
    """Whether no task has a CPU."""
    import ray

    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


@pytest.mark.slow
def test_nodes_without_the_package_do_not_write(driver, perm, tmp_path):
    fake = tmp_path / "fake" / "lanceloader"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    target = tmp_path / "new" / "copy.lance"
    environment = json.dumps({"PYTHONPATH": str(fake.parent)})
    result = drive(
        driver, tmp_path / "t.lance", target, "nothing", OF_WORKERS=environment
    )
    assert result.returncode == 1
    assert "No module named 'lanceloader.ray" in result.stderr
    assert f"The driver has lanceloader {ll.__version__}" in result.stderr
    assert "install this release on all nodes" in result.stderr
    assert list(target.parent.iterdir()) == []


def written(perm, uri, **options):
    """Write with Ray, and return the error."""
    import lanceloader.ray

    try:
        lanceloader.ray.materialize(perm, uri, num_tasks=4, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_tasks_that_write_need_credentials_too(driver, bucket, options, tmp_path):
    def both(uri, options, folder):
        view = ll.open(uri, storage_options=options).shuffle(1)
        return [
            written(view, f"{folder}/{sent}.lance", send_credentials=sent)
            for sent in (False, True)
        ]

    uri = f"s3://{bucket}/t.lance"
    lance.write_dataset(tables.narrow(100), uri, storage_options=options)
    without, found = driver(both, uri, options, str(tmp_path / "new"))
    assert "StorageDeniedError" in without
    assert "send_credentials=True" in without
    assert s3_buckets.SECRET not in without
    assert found is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["True.lance"]


def test_a_table_that_changes_while_another_is_written(driver, perm, tmp_path):
    """The rows of its version are written; if they are cleaned away, an error says so."""
    wanted = perm.to_arrow()
    dataset = lance.dataset(tmp_path / "t.lance")
    dataset.delete("id < 1500")
    lance.write_dataset(tables.narrow(50), tmp_path / "t.lance", mode="append")
    dataset = lance.dataset(tmp_path / "t.lance")
    dataset.optimize.compact_files()
    new = tmp_path / "new"
    assert driver(written, perm, str(new / "copy.lance")) is None
    assert ll.open(new / "copy.lance").to_arrow().equals(wanted)
    dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)
    assert "cleaned away" in driver(written, perm, str(new / "another.lance"))
    assert [path.name for path in new.iterdir()] == ["copy.lance"]


@pytest.mark.parametrize("what", ["read", "written"])
def test_a_version_that_is_cleaned_away_while_tasks_run(driver, perm, tmp_path, what):
    """A task does it, and dies: the one that is started again finds no version."""

    def cleaning(perm, path, uri, mark, what):
        import os
        import signal
        from pathlib import Path

        import lance

        def once(row):
            if row["id"] == 2000 and not Path(mark).exists():
                Path(mark).touch()
                dataset = lance.dataset(path)
                dataset.delete("id < 1500")
                dataset.optimize.compact_files()
                dataset.cleanup_old_versions(retain_versions=1, delete_unverified=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return {"id": row["id"]}

        view = perm.map(once)
        if what == "read":
            return ids(view, override_num_blocks=6)
        return written(view, uri)

    given = str(tmp_path / "t.lance"), str(tmp_path / "new" / "copy.lance")
    said = driver(cleaning, perm, *given, str(tmp_path / "mark"), what)
    assert (tmp_path / "mark").exists()
    assert "cleaned away" in said
    assert [*tmp_path.glob("new/*")] == []


@pytest.mark.slow
def test_tasks_that_the_memory_monitor_kills_are_started_again(perm, tmp_path):
    """It kills a task every few seconds, as if all memory were in use."""

    def waiting(perm, uri, mark):
        import os
        import time
        from pathlib import Path

        import lanceloader.ray

        def once(row):
            if row["id"] == 2000 and not Path(mark).exists():
                Path(mark).touch()
                time.sleep(400)
            return {"id": row["id"]}

        lanceloader.ray.materialize(perm.map(once), uri, num_tasks=3)
        logs = Path(os.environ["RAY_TMPDIR"], "ray", "session_latest", "logs")
        return "".join(path.read_text() for path in logs.glob("raylet*"))

    ray_driver.need_ray()
    monitor = {
        "RAY_memory_monitor_refresh_ms": "10000",
        "RAY_memory_usage_threshold": "0.001",
    }
    mark, target = tmp_path / "mark", tmp_path / "copy.lance"
    with ray_driver.driving(**monitor) as driver:
        said = driver(waiting, perm, str(target), str(mark))
    assert mark.exists()
    assert "OOM kill reason" in said
    assert "task name=fragments" in said
    assert ll.open(target).to_arrow()["id"].equals(perm.to_arrow()["id"])
    assert len(list((target / "data").iterdir())) == 3


def test_nothing_imports_ray_until_it_is_asked_for():
    code = "import sys, lanceloader.ray; print('ray' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout == "False\n"
