"""Bad luck with Ray: credentials, packages, tables that change, and nodes and drivers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import lance
import lanceloader as ll
import pytest
import ray_driver
import s3_buckets
import tables

driver = ray_driver.driver
cluster = ray_driver.cluster
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


@pytest.mark.slow
def test_a_node_that_is_killed(cluster, perm, tmp_path):
    """While its tasks read and write: they run again on the nodes that are left."""

    def killing(perm, uri, mark):
        import os
        import signal
        from pathlib import Path

        import lanceloader.ray
        import ray

        (node,) = [
            node["NodeID"] for node in ray.nodes() if "node2" in node["Resources"]
        ]

        def once(row):
            here = ray.get_runtime_context().get_node_id()
            if here == node and not Path(mark).exists():
                Path(mark).touch()
                # A worker's parent is the raylet of its node.
                os.kill(os.getppid(), signal.SIGKILL)
            return {"id": row["id"]}

        lanceloader.ray.materialize(perm.map(once), uri, num_tasks=9)
        dataset = lanceloader.ray.read(perm, preserve_order=True)
        return [row["id"] for row in dataset.take_all()]

    mark, target = tmp_path / "mark", tmp_path / "copy.lance"
    wanted = perm.to_arrow()["id"].to_pylist()
    assert cluster(killing, perm, str(target), str(mark)) == wanted
    assert mark.exists()
    found = lance.dataset(target)
    assert found.to_table()["id"].to_pylist() == wanted
    assert len(list((target / "data").iterdir())) == len(found.get_fragments()) == 9
    assert not (tmp_path / ".copy.lance.partial").exists()


DRIVER = """
import os, signal, sys
import lanceloader as ll
import lanceloader.ray
import ray

ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)


def progress(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)


perm = ll.open(sys.argv[1]).shuffle(4)
lanceloader.ray.materialize(perm, sys.argv[2], num_tasks=6, progress=progress)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_what_can_be_cleaned(perm, tmp_path):
    import lanceloader.ray

    ray_driver.need_ray()
    target = tmp_path / "new" / "copy.lance"
    arguments = [tmp_path / "t.lance", target]
    with ray_driver.settings() as folder:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(DRIVER), *arguments],
            check=False,
            capture_output=True,
            env=os.environ | {"RAY_TMPDIR": folder},
        )
    assert result.returncode == -signal.SIGKILL, result.stderr
    left = sorted(path.name for path in target.parent.iterdir())
    assert left == [".copy.lance.partial"]
    assert lanceloader.ray.clean(target) > 0
    assert list(target.parent.iterdir()) == []


def test_nothing_imports_ray_until_it_is_asked_for():
    code = "import sys, lanceloader.ray; print('ray' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout == "False\n"
