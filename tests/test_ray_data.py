"""``lanceloader.ray.read``: a permutation as a dataset of Ray Data, every row once."""

from __future__ import annotations

import itertools
import pickle
import shutil

import lance
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import ray_driver
import tables

driver = ray_driver.driver
pytestmark = pytest.mark.timeout(600)

ROWS = 3000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """3,000 rows in three fragments, some deleted."""
    path = tmp_path_factory.mktemp("ray") / "t.lance"
    dataset = lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=1100)
    dataset.delete("id % 7 = 3")
    return str(path)


@pytest.fixture
def perm(path):
    return ll.open(path)


def rows_of(perm, **options):
    """All rows as Ray Data reads them."""
    import lanceloader.ray

    dataset = lanceloader.ray.read(perm, **options)
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    return pa.concat_tables(blocks)


def in_order(perm, tasks=5):
    return rows_of(perm, preserve_order=True, override_num_blocks=tasks)


def error_of(perm):
    """The message of the error of reading all rows."""
    try:
        rows_of(perm)
    except Exception as error:
        return str(error)
    return None


VIEWS = {
    "all": lambda perm: perm,
    "shuffled": lambda perm: perm.shuffle(3, epoch=2),
    "filtered": lambda perm: perm.filter("label = 2 and id > 50").shuffle(1),
    "renamed": lambda perm: perm.rename_column("id", "key").remove_columns(["x"]),
    "computed": lambda perm: perm.select_columns({"id": "id", "double": "id * 2"}),
    "repeated": lambda perm: perm.shuffle(1).with_repeat(2),
    "weighted": lambda perm: perm.sample(
        500, seed=1, weights="label", replacement=True
    ),
    "a part": lambda perm: perm.shuffle(1).with_skip(100).with_take(50),
    "mapped": lambda perm: perm.shuffle(1).map(lambda row: {"y": row["id"] * 2}),
    "in another format": lambda perm: perm.shuffle(1).with_format("torch_dict"),
    "one row": lambda perm: perm.with_take(1),
}


SLOW = {"in another format", "computed", "repeated"}


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(view, marks=[pytest.mark.slow] if view in SLOW else [])
        for view in VIEWS
    ],
)
def test_the_rows_are_those_of_this_process_in_their_order(driver, perm, view):
    view = VIEWS[view](perm)
    wanted = view.to_arrow()
    found = driver(in_order, view)
    assert found.to_pydict() == wanted.to_pydict()
    assert found.schema.types == wanted.schema.types


def test_every_source(driver, path, tmp_path):
    memory = tables.narrow(9000)
    table = lancedb.connect(tmp_path / "db").create_table("t", memory)
    # Only the table's own library reads this one.
    lance.write_dataset(memory, tmp_path / "legacy", data_storage_version="legacy")
    sources = [memory, table, lance.dataset(path), tmp_path / "legacy"]
    for view in map(ll.open, sources):
        view = view.shuffle(5).select_columns(["id", "name"])
        assert driver(in_order, view).to_pydict() == view.to_arrow().to_pydict()


def test_without_an_order_every_row_comes_once(driver, perm):
    view = perm.shuffle(2)
    found = driver(rows_of, view)
    assert sorted(found["id"].to_pylist()) == perm.to_arrow()["id"].to_pylist()


def test_no_rows(driver, perm):
    def count(perm):
        import lanceloader.ray

        dataset = lanceloader.ray.read(perm)
        return dataset.count(), dataset.take(3)

    assert driver(count, perm.with_take(0)) == (0, [])


def test_a_task_is_a_recipe_of_some_hundred_bytes(driver, path):
    """However many rows there are: what stands where is computed by the task."""

    def sizes(perm):
        from lanceloader.ray.datasource import PermutationDatasource
        from lanceloader.ray.recipe import Recipe
        from ray import cloudpickle

        recipe = Recipe.of(perm)
        tasks = PermutationDatasource(perm, recipe).get_read_tasks(16)
        ranges = [(task.read_fn.start, task.read_fn.stop) for task in tasks]
        return (
            len(recipe.pickled) if isinstance(recipe.pickled, bytes) else None,
            max(len(cloudpickle.dumps(task)) for task in tasks),
            [first[1] == second[0] for first, second in itertools.pairwise(ranges)],
            [task.metadata.num_rows for task in tasks],
        )

    perm = ll.open(path).shuffle(seed=7)
    recipe, task, adjacent, rows = driver(sizes, perm)
    assert recipe < 1000
    assert task < 6000
    assert all(adjacent)
    assert sum(rows) == len(perm)
    assert max(rows) - min(rows) <= 1
    # Of a pickle that is long, each task has a reference.
    data = ll.open(pa.table({"x": np.arange(100_000)}))
    assert len(pickle.dumps(data)) > 800_000
    recipe, task, *_ = driver(sizes, data)
    assert recipe is None
    assert task < 6000


def test_sizes_are_known_without_reading(driver, tmp_path):
    """Of a table whose data files are gone."""

    def known(perm):
        import lanceloader.ray

        dataset = lanceloader.ray.read(perm)
        return dataset.count(), dataset.schema().names, dataset.size_bytes()

    lance.write_dataset(tables.narrow(1000), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").select_columns(["id", "x"]).shuffle(1)
    shutil.rmtree(tmp_path / "t.lance" / "data")
    rows, names, size = driver(known, view)
    assert (rows, names) == (1000, ["id", "x"])
    assert 12 * rows <= size < 32 * rows


def test_only_columns_that_are_used_are_read(driver, tmp_path):
    """The files of others are gone."""

    def ids(perm):
        import lanceloader.ray

        dataset = lanceloader.ray.read(perm, preserve_order=True)
        return [row["id"] for row in dataset.select_columns(["id"]).take_all()]

    dataset = lance.write_dataset(pa.table({"id": range(1000)}), tmp_path / "t.lance")
    before = set((tmp_path / "t.lance" / "data").iterdir())
    dataset.add_columns({"double": "id * 2"})
    view = ll.open(tmp_path / "t.lance").shuffle(4)
    wanted = view.to_arrow()["id"].to_pylist()
    (added,) = set((tmp_path / "t.lance" / "data").iterdir()) - before
    added.unlink()
    assert driver(ids, view) == wanted
    assert added.name in driver(error_of, view)


def test_the_dataset_is_one_of_ray_data(driver, path):
    def used(perm):
        import lanceloader.ray
        import ray

        def twice(batch):
            return {"id": batch["id"] * 2}

        dataset = lanceloader.ray.read(perm, override_num_blocks=4)
        mapped = dataset.map_batches(twice, batch_size=100)
        shapes = {
            name: (tuple(value.shape), str(value.dtype))
            for name, value in next(
                iter(dataset.iter_torch_batches(batch_size=64))
            ).items()
        }

        @ray.remote(num_cpus=0)
        def consume(part):
            return [
                row for batch in part.iter_batches() for row in batch["id"].tolist()
            ]

        parts = dataset.streaming_split(2, equal=False)
        return (
            sorted(row["id"] for row in mapped.take_all()),
            shapes,
            ray.get([consume.remote(part) for part in parts]),
            [row["id"] for row in dataset.limit(5).take_all()],
            dataset.context.execution_options.preserve_order,
        )

    view = ll.open(path).shuffle(9).select_columns(["id", "x"])
    ids = view.to_arrow()["id"].to_pylist()
    mapped, shapes, parts, first, is_in_order = driver(used, view)
    assert mapped == sorted(2 * row for row in ids)
    assert shapes == {"id": ((64,), "torch.int64"), "x": ((64,), "torch.float32")}
    assert sorted(parts[0] + parts[1]) == sorted(ids)
    assert all(parts)
    assert len(first) == 5
    assert not is_in_order


def test_vectors_are_tensors(driver, tmp_path):
    values = np.arange(800, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 8)
    lance.write_dataset(pa.table({"vector": vectors}), tmp_path / "v.lance")

    def tensors(perm):
        import lanceloader.ray

        dataset = lanceloader.ray.read(perm, preserve_order=True)
        (batch,) = dataset.iter_torch_batches(batch_size=100)
        return batch["vector"].numpy()

    view = ll.open(tmp_path / "v.lance").shuffle(1)
    wanted = view.with_format("numpy_dict").head(100)["vector"]
    assert np.array_equal(driver(tensors, view), wanted)


def test_processes_of_a_node_share_its_cache(driver, tmp_path):
    """Rows are packed once, and by whichever task comes first."""
    table = pa.table({"x": np.arange(800_000), "y": np.arange(800_000.0)})
    lance.write_dataset(table, tmp_path / "t.lance", max_rows_per_file=200_000)

    def twice(perm):
        import numpy as np
        from lanceloader import cache

        found = []
        for epoch in range(2):
            rows = rows_of(perm.shuffle(1, epoch=epoch), override_num_blocks=6)
            found.append(int(np.sum(rows["x"].to_numpy())))
            found.append(sum(entry.bytes for entry in cache.entries(folder)))
        return found

    folder = str(tmp_path / "cache")
    view = ll.open(tmp_path / "t.lance").with_read(
        "resident", memory_limit="64MiB", cache_dir=folder
    )
    first, packed, second, again = driver(twice, view)
    assert first == second == sum(range(800_000))
    assert packed == again >= 16 * 800_000


def test_the_version_is_pinned(driver, tmp_path):
    """Whatever others write, delete and compact meanwhile."""
    dataset = lance.write_dataset(tables.narrow(500), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1).select_columns(["id"])
    wanted = view.to_arrow().to_pydict()
    dataset.delete("id < 100")
    lance.write_dataset(tables.narrow(50), tmp_path / "t.lance", mode="append")
    lance.dataset(str(tmp_path / "t.lance")).optimize.compact_files()
    assert driver(in_order, view).to_pydict() == wanted


def test_what_is_no_permutation_is_refused(path):
    import lanceloader.ray

    with pytest.raises(TypeError, match=r"must be a Permutation, not of type str"):
        lanceloader.ray.read(path)


def test_the_cache_of_a_node_is_filled_once(driver, tmp_path):
    """What is read later finds all rows packed."""

    def warm(perm):
        import lanceloader.ray

        said = []
        reports = lanceloader.ray.warm(perm, progress=lambda *now: said.append(now))
        return [*reports.values()], said

    def packed():
        found = (tmp_path / "cache").glob("**/*.rows")
        return {(path.name, path.stat().st_mtime_ns) for path in found}

    table = pa.table({"x": np.arange(800_000), "y": np.arange(800_000.0)})
    lance.write_dataset(table, tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1)
    view = view.with_read(memory_limit="64MiB", cache_dir=tmp_path / "cache")
    [report], said = driver(warm, view)
    assert (report.rows, report.is_shared) == (800_000, True)
    assert report.cache_dir == str(tmp_path / "cache")
    assert said == [(0, 1), (1, 1)]
    files = packed()
    assert len(files) == report.blocks_packed > 0
    driver(warm, view)
    # This process is one of the node, too.
    assert view.warm().is_shared
    assert packed() == files


def test_parts_are_read_as_all_rows_together_would_be(tmp_path):
    """By itself, a hundredth of the rows is not worth packed rows."""
    from lanceloader.ray.batches import cut, for_parts

    lance.write_dataset(pa.table({"x": range(1_000_000)}), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").with_read(cache_dir=tmp_path / "cache")
    chosen = {
        limit: for_parts(view.shuffle(1).with_read(memory_limit=limit)).read_options
        for limit in ("1GiB", "1MiB")
    }
    assert chosen["1GiB"].read == "resident"
    assert (chosen["1MiB"].read, chosen["1MiB"].memory_limit) == ("external", 1 << 20)
    # In order, there is nothing to choose; and what a user chose stays.
    assert for_parts(view).read_options == view.read_options
    direct = view.shuffle(1).with_read("direct")
    assert for_parts(direct).read_options == direct.read_options
    # Where each task scans the table, there are few.
    assert len(cut(view.shuffle(1), 200)) == 200
    few = cut(view.shuffle(1).with_read(memory_limit="1MiB"), 200)
    assert len(few) == 30
    assert [row for rows in few for row in (rows[0], rows[-1])] == [
        row for k in range(30) for row in (k * 10**6 // 30, (k + 1) * 10**6 // 30 - 1)
    ]


def test_an_order_that_is_written_out_is_the_same(driver, tmp_path):
    """Through the scratch files of each task."""
    lance.write_dataset(pa.table({"x": range(300_000)}), tmp_path / "t.lance")
    view = ll.open(tmp_path / "t.lance").shuffle(1).with_read(memory_limit="1MiB")
    assert driver(in_order, view).equals(view.with_read("direct").to_arrow())
