"""``materialize(engine="ray")`` of short rows in two passes over tasks."""

from __future__ import annotations

import gc

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import ray_driver
import tables
from process_state import anonymous, soon

driver = ray_driver.driver
cluster = ray_driver.cluster
pytestmark = pytest.mark.timeout(600)

TASKS = 20
"""More than would each scan the table."""

LIMIT = "1MiB"


def passes_of(perm, num_tasks=TASKS):
    from lanceloader.ray.passes import Passes
    from lanceloader.ray.recipe import Recipe
    from lanceloader.ray.stopping import Stop

    return Passes.of(perm, Recipe.of(perm), num_tasks, Stop())


def materialized(view, uri, **options):
    """Write with Ray, and return what was planned and what ``progress`` was called with."""
    import lanceloader.ray

    said = []
    options = {"num_tasks": TASKS, "progress": lambda *now: said.append(now)} | options
    plan = passes_of(view, options["num_tasks"])
    lanceloader.ray.materialize(view, uri, **options)
    return plan and (len(plan.buckets), len(plan.sources)), said


def ragged(rows):
    """Lists and texts of any length, the long ones side by side."""
    lengths = np.where(np.arange(rows) // 1000 % 5 == 1, 200, np.arange(rows) % 7)
    return pa.table(
        {
            "id": np.arange(rows),
            "tokens": pa.array([list(range(length)) for length in lengths]),
            "text": [None if k % 5 == 0 else "é" * (k % 50) for k in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """20,000 rows in four fragments, some deleted."""
    path = tmp_path_factory.mktemp("passes") / "t.lance"
    data = ragged(20_000).append_column("label", pa.array(np.arange(20_000) % 4))
    lance.write_dataset(data, path, max_rows_per_file=6000).delete("id % 7 = 3")
    return path


@pytest.fixture
def perm(path):
    return ll.open(path).with_read("external", memory_limit=LIMIT)


VIEWS = {
    "shuffled": lambda perm: perm.shuffle(3, epoch=2),
    "filtered": lambda perm: perm.filter("label = 2").shuffle(1),
    "a part": lambda perm: perm.shuffle(1).with_skip(900).with_take(3000),
    "renamed": lambda perm: perm.rename_column("id", "key").shuffle(1),
}


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(view, marks=[pytest.mark.slow] if view == "renamed" else [])
        for view in VIEWS
    ],
)
def test_equal_rows_in_equal_order(driver, perm, tmp_path, view):
    view = VIEWS[view](perm)
    wanted = view.materialize(tmp_path / "local.lance")
    planned, said = driver(materialized, view, str(tmp_path / "ray.lance"))
    assert planned[0] >= TASKS
    found = ll.open(tmp_path / "ray.lance")
    assert found.to_arrow().equals(wanted.to_arrow())
    assert found.schema.equals(wanted.schema, check_metadata=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "local.lance",
        "ray.lance",
    ]
    data = lance.dataset(tmp_path / "ray.lance")
    assert len(data.get_fragments()) == planned[0]
    assert len(list((tmp_path / "ray.lance" / "data").iterdir())) == planned[0]
    assert said[0] == (0, len(view))
    assert said[-1] == (len(view), len(view))
    assert [done for done, _ in said] == sorted(done for done, _ in said)


def test_every_type(driver, tmp_path):
    # Rows with dictionaries cannot be written out, and are read directly.
    data = tables.every_type(500, nulls=True).drop_columns(["dictionary"])
    lance.write_dataset(data, tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    view = view.with_read("external", memory_limit="4MiB")
    planned, _ = driver(materialized, view, str(tmp_path / "copy.lance"))
    assert planned == (TASKS, 2)
    copy = ll.open(tmp_path / "copy.lance")
    assert copy.to_arrow().equals(view.with_read("direct").to_arrow())


def test_when_rows_take_two_passes(driver, path):
    """Where tasks would scan the table again and again, and rows tell their positions."""

    def planned(views):
        return [passes_of(view) is not None for view in views]

    perm = ll.open(path)
    little = perm.with_read("external", memory_limit=LIMIT)
    views = {
        "short rows in little memory": (little.shuffle(1), True),
        "a shuffle in windows": (little.shuffle(1, block_size=64), True),
        "of a split": (little.split({"a": 0.5, "b": 0.5}, seed=1)["a"], True),
        "rows that fit into memory": (perm.with_read("resident").shuffle(1), False),
        "from the files of the table": (perm.with_read("direct").shuffle(1), False),
        "rows that come twice": (little.shuffle(1).with_repeat(2), False),
        "rows that are drawn": (
            little.sample(9999, seed=1, weights="label", replacement=True),
            False,
        ),
        "rows of functions": (little.shuffle(1).map(lambda row: row), False),
        "no rows": (little.with_take(0), False),
    }
    found = driver(planned, [view for view, _ in views.values()])
    assert dict(zip(views, found, strict=True)) == {
        name: wanted for name, (_, wanted) in views.items()
    }
    few, more = driver(
        lambda view: [passes_of(view, 6), passes_of(view, 7)], little.shuffle(1)
    )
    assert few is None
    assert more is not None


@pytest.mark.parametrize("view", VIEWS)
def test_positions_are_those_of_each_row(perm, view):
    from lanceloader.ray.passes import positions_of

    order, rows = VIEWS[view](perm).order, range(1234, 9876)
    each = map(order.position_of, rows)
    wanted = [-1 if position is None else position for position in each]
    assert positions_of(order, rows).tolist() == wanted


def test_tasks_hold_what_their_memory_allows(driver, perm):
    def plan(view):
        found = passes_of(view)
        return found.buckets, found.sources, found.held_bytes, found.chunk_rows

    view = perm.shuffle(1)
    buckets, sources, held_bytes, chunk_rows = driver(plan, view)
    assert held_bytes == (1 << 20) // 2
    for parts, rows in ((buckets, len(view)), (sources, len(view))):
        assert [row for part in parts for row in part] == list(range(rows))
    row_bytes = view.open_reader().choice().row_bytes
    for part in (*buckets, *sources):
        assert (len(part) - 1) * row_bytes <= held_bytes
    assert chunk_rows * row_bytes <= held_bytes / 4


def test_memory_is_bounded(driver, tmp_path):
    """Of tasks of both passes, over rows that take many times as much."""

    def peaks(view, num_rows, folder):
        import os
        from dataclasses import replace
        from pathlib import Path

        from lanceloader.ray.batches import ranges
        from lanceloader.ray.passes import in_order

        plan = passes_of(view)
        # One task reads the whole table, which is thirty times as much as it may hold.
        plan = replace(plan, buckets=ranges(num_rows, 2), sources=[range(num_rows)])
        gc.collect()

        def own():
            return anonymous(os.getpid())

        before, first, sizes = own(), 0, []
        for number, (places, stream) in enumerate(plan.dealt(plan.sources[0])):
            first = max(first, own() - before)
            sizes.append(places.nbytes + stream.size)
            # Where the object store has them, they are memory of no process.
            for what, data in (("places", places), ("rows", stream)):
                Path(folder, f"{number}.{what}").write_bytes(memoryview(data))

        def piece(number):
            stored = (Path(folder, f"{number}.{what}") for what in ("places", "rows"))
            places, stream = (pa.memory_map(str(path)).read_buffer() for path in stored)
            return np.frombuffer(places, np.uint32), stream

        before, second, count = own(), 0, 0
        for batch in in_order(tuple(map(piece, range(0, len(sizes), 2)))):
            second = max(second, own() - before)
            count += batch.num_rows
        return len(sizes) // 2, first, second, count, sum(sizes)

    rows = 4_000_000
    data = {"x": np.arange(rows), "y": np.random.default_rng(0).random(rows)}
    lance.write_dataset(pa.table(data), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    view = view.with_read("external", memory_limit="4MiB")
    rounds, first, second, count, together = driver(peaks, view, rows, str(tmp_path))
    assert rounds >= 25
    assert count == rows // 2
    assert together >= 64 << 20
    # What is read ahead, and what a process keeps for its next allocations, is a part of it.
    assert max(first, second) < 40 << 20


def dying(view, uri, mark, where):
    """Write with workers that are killed once: when they read, or when they write."""
    import os
    import signal
    from pathlib import Path

    import lanceloader.ray
    from lanceloader.ray import materializing, passes

    def die():
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    class Reading(passes.Passes):
        def pieces(self, held):
            for number, piece in enumerate(super().pieces(held)):
                if number == 7:
                    die()
                yield piece

    class Writing(materializing.Writing):
        def fragments(self, uri, positions, *pieces):
            if pieces and positions.start:
                data = Path(uri, "data")
                data.mkdir(parents=True, exist_ok=True)
                (data / "stray.lance").touch()
                die()
            return super().fragments(uri, positions, *pieces)

    name, kind = {"pass 1": ("Passes", Reading), "pass 2": ("Writing", Writing)}[where]
    before = getattr(materializing, name)
    setattr(materializing, name, kind)
    try:
        lanceloader.ray.materialize(view, uri, num_tasks=TASKS)
    finally:
        setattr(materializing, name, before)


@pytest.mark.parametrize("where", ["pass 1", "pass 2"])
def test_a_task_that_dies_is_started_again(driver, perm, tmp_path, where):
    view, target = perm.shuffle(5), tmp_path / "copy.lance"
    driver(dying, view, str(target), str(tmp_path / "mark"), where)
    assert (tmp_path / "mark").exists()
    found = lance.dataset(target)
    assert found.to_table().equals(view.with_read("direct").to_arrow())
    assert len(list((target / "data").iterdir())) == len(found.get_fragments())
    assert not (tmp_path / ".copy.lance.partial").exists()


def test_errors_of_pass_1_are_raised_and_nothing_is_left(driver, tmp_path):
    def failed(view, uri):
        try:
            materialized(view, uri)
        except Exception as error:
            return [kind.__name__ for kind in type(error).__mro__], str(error)
        return None

    dataset = lance.write_dataset(
        tables.narrow(9000), tmp_path / "t.lance", max_rows_per_file=3000
    )
    view = ll.open(tmp_path / "t.lance").select_columns(["id", "x"]).shuffle(1)
    view = view.with_read("external", memory_limit=LIMIT)
    file = dataset.get_fragments()[-1].data_files()[0].path
    with (tmp_path / "t.lance" / "data" / file).open("r+b") as opened:
        opened.truncate(300)
    kinds, message = driver(failed, view, str(tmp_path / "new" / "copy.lance"))
    assert "CorruptFileError" in kinds
    assert file in message
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_more_rows_than_the_object_store_holds(tmp_path):
    """They are spilled to disk by Ray, and nothing of them stays."""
    ray_driver.need_ray()

    def stored(view, uri):
        import os
        from pathlib import Path

        import lanceloader.ray

        def spilled():
            folder = Path(os.environ["RAY_TMPDIR"], "ray")
            files = folder.glob("**/ray_spilled_objects*/*")
            return sum(file.stat().st_size for file in files if file.is_file())

        before = spilled()
        most = 0

        def progress(done, total):
            nonlocal most
            most = max(most, spilled() - before)

        lanceloader.ray.materialize(view, uri, num_tasks=TASKS, progress=progress)
        return most, soon(lambda: spilled() <= before, 120)

    rows = 8_000_000
    data = {"x": np.arange(rows), "y": np.random.default_rng(0).random(rows)}
    lance.write_dataset(pa.table(data), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    little = view.with_read("external", memory_limit="16MiB")
    # Ray writes several objects to a file, those of other jobs too, which then stays with them.
    with ray_driver.driving() as driver:
        most, is_gone = driver(stored, little, str(tmp_path / "copy.lance"))
    assert most > 0
    assert is_gone
    copy = lance.dataset(tmp_path / "copy.lance")
    positions = np.random.default_rng(1).integers(0, rows, 1000)
    wanted = view.with_read("direct").__getitems__(positions.tolist())
    assert copy.count_rows() == rows
    assert copy.take(positions.tolist()).to_pylist() == wanted
    x = copy.to_table(columns=["x"])["x"].to_numpy()
    assert np.array_equal(np.sort(x), np.arange(rows))


@pytest.mark.slow
def test_pieces_of_a_node_that_is_killed_are_made_again(cluster, tmp_path):
    """After pass 1, when some of the pieces are there only."""

    def killing(view, uri, folder):
        import os
        import signal
        import time
        import uuid
        from pathlib import Path

        import lanceloader.ray
        import ray
        from lanceloader.ray import materializing, passes

        (node,) = [
            node["NodeID"] for node in ray.nodes() if "node2" in node["Resources"]
        ]

        def wait_for(condition):
            end = time.monotonic() + 240
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.01)

        class Reading(passes.Passes):
            def pieces(self, held):
                here = ray.get_runtime_context().get_node_id()
                # A worker's parent is the raylet of its node.
                raylet = os.getppid() if here == node else 0
                Path(folder, f"{uuid.uuid4()}.read").write_text(str(raylet))
                # One on each node, which has one CPU.
                wait_for(lambda: len(list(Path(folder).glob("*.read"))) >= 3)
                return super().pieces(held)

            def deal(self, progress):
                dealt = super().deal(progress)
                pids = [int(path.read_text()) for path in Path(folder).glob("*.read")]
                os.kill(max(pids), signal.SIGKILL)
                return dealt

        materializing.Passes = Reading
        lanceloader.ray.materialize(view, uri, num_tasks=TASKS)

    rows = 1_000_000
    # Pieces of less than 100 kB would be in the memory of the driver.
    data = {"x": np.arange(rows), "y": np.random.default_rng(0).random(rows)}
    lance.write_dataset(pa.table(data), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    little, target = view.with_read("external", memory_limit="64MiB"), tmp_path / "copy"
    cluster(killing, little, str(target), str(tmp_path))
    # Three tasks read the table, and what one of them had read was lost.
    assert len(list(tmp_path.glob("*.read"))) > 3
    found = lance.dataset(target)
    assert found.to_table().equals(view.with_read("direct").to_arrow())
    assert len(list((target / "data").iterdir())) == len(found.get_fragments())
