"""Three nodes of Ray on this machine, with a cache folder each: they are filled once, and nodes leave."""

from __future__ import annotations

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import ray_driver
import tables
from process_state import soon

cluster = ray_driver.cluster
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKED = 800_000


def whole():
    """Start nodes anew that a test has killed, and return the ids of all."""
    import ray
    import ray_driver

    def alive():
        return [node["NodeID"] for node in ray.nodes() if node["Alive"]]

    ray_driver.replace_dead_nodes()
    # Those that were killed are found dead after some seconds.
    soon(lambda: len(alive()) == 3, 120)
    return alive()


@pytest.fixture
def nodes(cluster):
    """The driver of three nodes."""
    assert len(cluster(whole)) == 3
    return cluster


@pytest.fixture
def perm(tmp_path):
    lance.write_dataset(
        tables.narrow(3000), tmp_path / "t.lance", max_rows_per_file=700
    )
    return ll.open(tmp_path / "t.lance").shuffle(4)


def warmed(perm, *, kills=None, dies=True, **options):
    """Fill the caches, and return the reports by the number of the node, and the progress.

    Args:
        perm: The permutation.
        kills: The number of a node that is killed by its task.
        dies: Whether the task dies with its node.
        **options: Those of ``warm``.
    """
    import os
    import signal
    import threading

    import lanceloader.ray
    import ray
    from lanceloader.ray import warming

    def number_of(node):
        (name,) = [each for each in node["Resources"] if each in NODES]
        return NODES.index(name)

    NODES = [f"node{number}" for number in range(3)]  # noqa: N806
    numbers = {node["NodeID"]: number_of(node) for node in ray.nodes() if node["Alive"]}
    warm_this_node = warming.warm_this_node

    def killing(recipe):
        if numbers[ray.get_runtime_context().get_node_id()] == kills:
            # A worker's parent is the raylet of its node.
            os.kill(os.getppid(), signal.SIGKILL)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            # As on a machine that cannot be reached any more.
            threading.Event().wait()
        return warm_this_node(recipe)

    said = []
    warming.warm_this_node = killing if kills is not None else warm_this_node
    try:
        found = lanceloader.ray.warm(
            perm, progress=lambda *now: said.append(now), **options
        )
    finally:
        warming.warm_this_node = warm_this_node
    return {numbers[node]: report for node, report in found.items()}, said


def rows_read(perm, **options):
    """The number of rows that Ray Data reads, and a sum of their numbers."""
    import lanceloader.ray

    dataset = lanceloader.ray.read(perm, override_num_blocks=9, **options)
    rows = [batch["x"] for batch in dataset.iter_batches(batch_size=None)]
    return sum(map(len, rows)), int(sum(part.sum() for part in rows))


def packed(folders):
    """The files of packed rows in cache folders, and when they were written."""
    from pathlib import Path

    return [
        {path.name: path.stat().st_mtime_ns for path in Path(each).glob("**/*.rows")}
        for each in folders
    ]


def test_the_cache_of_each_node_is_filled_once(nodes, tmp_path):
    data = {"x": np.arange(PACKED), "y": np.arange(float(PACKED))}
    lance.write_dataset(pa.table(data), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1).with_read(memory_limit="64MiB")
    reports, said = nodes(warmed, view)
    assert said == [(done, 3) for done in range(4)]
    assert sorted(reports) == [0, 1, 2]
    folders = [reports[number].cache_dir for number in range(3)]
    assert [folder[-6:] for folder in folders] == ["cache0", "cache1", "cache2"]
    for report in reports.values():
        assert (report.rows, report.is_shared) == (PACKED, True)
        assert report.blocks_packed > 0
        assert report.blocks_found == 0
    files = packed(folders)
    assert [len(each) for each in files] == [
        reports[number].blocks_packed for number in range(3)
    ]
    # Neither is anything packed again, nor do tasks of any node pack what they read.
    nodes(warmed, view)
    assert nodes(rows_read, view) == (PACKED, sum(range(PACKED)))
    assert packed(folders) == files


def test_each_node_fetches_a_table_from_object_storage_once(nodes, tmp_path):
    """Long rows, of which files are kept as they are."""
    rng = np.random.default_rng(0)
    values = pa.array([rng.bytes(30_000) for _ in range(600)], pa.large_binary())
    data = pa.table({"x": np.arange(600), "value": values})
    lance.write_dataset(data, tmp_path / "bucket" / "t.lance")

    def called(function, uri, options):
        """A permutation that is sent to the driver has no credentials, so it is opened there."""
        view = ll.open(uri, storage_options=options).shuffle(1)
        return function(view, send_credentials=True)

    with counting_s3.serving(tmp_path / "bucket") as server:
        given = "s3://bucket/t.lance", server.options
        nodes(called, warmed, *given)
        fetched = server.bytes
        server.reset()
        assert nodes(called, rows_read, *given) == (600, sum(range(600)))
    size = 600 * 30_000
    assert 3 * size < fetched < 3 * size * 1.1
    assert server.bytes < size / 100


@pytest.mark.parametrize("dies", [True, False])
def test_a_node_that_leaves_while_caches_are_filled(nodes, perm, dies):
    """Those that are left are filled."""

    reports, said = nodes(lambda perm: warmed(perm, kills=2, dies=dies), perm)
    assert sorted(reports) == [0, 1]
    assert said[0] == (0, 3)
    assert said[-1] == (3, 3)


def test_heads_without_cpus_are_not_filled(nodes):
    def alive(resources):
        import ray
        from lanceloader.ray.warming import nodes_with_tasks

        before = ray.nodes
        ray.nodes = lambda: [
            {"NodeID": str(at), "Alive": True, "Resources": each}
            for at, each in enumerate(resources)
        ]
        try:
            return nodes_with_tasks()
        finally:
            ray.nodes = before

    given = [{"memory": 1.0}, {"CPU": 2.0, "memory": 1.0}, {"GPU": 1.0}]
    assert nodes(alive, given) == ["1", "2"]


@pytest.mark.parametrize("what", ["read", "written"])
def test_a_node_that_is_killed(nodes, perm, tmp_path, what):
    """While its tasks read or write: they run again on the nodes that are left."""

    def killing(perm, uri, mark, what):
        import os
        import signal
        from pathlib import Path

        import lanceloader as ll
        import lanceloader.ray
        import ray
        from process_state import soon

        (node,) = [
            node["NodeID"]
            for node in ray.nodes()
            if node["Alive"] and "node2" in node["Resources"]
        ]

        def once(row):
            here = ray.get_runtime_context()
            # The driver calls functions, too.
            if here.get_task_id() is None or Path(mark).exists():
                return {"id": row["id"]}
            if here.get_node_id() == node:
                Path(mark).touch()
                # A worker's parent is the raylet of its node.
                os.kill(os.getppid(), signal.SIGKILL)
            # Other nodes leave some tasks to this one.
            soon(Path(mark).exists, 240)
            return {"id": row["id"]}

        view = perm.map(once)
        if what == "read":
            dataset = lanceloader.ray.read(
                view, preserve_order=True, override_num_blocks=9
            )
            return [row["id"] for row in dataset.take_all()]
        lanceloader.ray.materialize(view, uri, num_tasks=9)
        return ll.open(uri).to_arrow()["id"].to_pylist()

    mark, target = tmp_path / "mark", tmp_path / "copy.lance"
    found = nodes(killing, perm, str(target), str(mark), what)
    assert found == perm.to_arrow()["id"].to_pylist()
    assert mark.exists()
    if what == "written":
        count = len(lance.dataset(target).get_fragments())
        assert len(list((target / "data").iterdir())) == count == 9
    assert not (tmp_path / ".copy.lance.partial").exists()
