"""``Permutation.loader``: batches that threads read ahead."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from equality import same
from lanceloader.formats import FORMATS
from lanceloader.stages.pipeline import BatchPipeline
from process_state import settle, soon, threads
from vector_tables import STRATEGIES, table_of

NUMBERS = ["id", "x", "y", "label"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """5,000 rows in four fragments, 714 of them deleted."""
    path = tmp_path_factory.mktemp("loader") / "t.lance"
    dataset = lance.write_dataset(tables.narrow(5000), path, max_rows_per_file=1500)
    dataset.delete("id % 7 = 3")
    return str(path)


@pytest.fixture
def perm(path):
    return ll.open(path)


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def columns_for(format):
    """The columns of the table that a format can hold."""
    if format == "torch_matrix":
        return ["id"]
    return NUMBERS if format in ("torch", "torch_row", "torch_col") else None


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("format", FORMATS)
def test_batches_are_takes_of_the_same_positions(perm, format, read):
    view = perm.select_columns(columns_for(format) or perm.column_names)
    loader = view.loader(700, shuffle=True, seed=3, format=format, read=read)
    served = view.shuffle(3).with_format(format).with_read("direct")
    batches = list(loader)
    assert len(batches) == len(loader) == 7
    for at, batch in enumerate(batches):
        positions = range(at * 700, min((at + 1) * 700, len(served)))
        assert same(batch, served.take_offsets(positions)), at


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("batch_size", [1, 7, 4285, 4286, 4287, 100_000, 2**40])
def test_how_many_batches(perm, batch_size, read):
    view = perm.select_columns(["id"]).shuffle(1).with_format("numpy_dict")
    view = view.with_read(read)
    sizes = [len(batch["id"]) for batch in view.loader(batch_size)]
    full, rest = divmod(4286, batch_size)
    assert sizes == [batch_size] * full + [rest] * bool(rest)
    loader = view.loader(batch_size, drop_last=True)
    assert [len(batch["id"]) for batch in loader] == [batch_size] * full
    assert (len(loader), loader.num_rows) == (full, full * batch_size)
    assert len(view.loader(batch_size)) == full + bool(rest)


def test_options_default_to_those_of_the_permutation(perm):
    view = perm.with_batch_size(64).with_format("numpy_dict").shuffle(5)
    loader = view.loader()
    assert loader.batch_size == 64
    assert loader.epoch is None
    assert not loader.drop_last
    assert ids(loader) == view.to_arrow()["id"].to_pylist()
    assert ids(view.loader(10)) == ids(loader)
    assert isinstance(next(iter(perm.loader(10))), list)


@pytest.mark.parametrize("read", STRATEGIES)
def test_epochs(perm, read):
    loader = perm.loader(
        100, shuffle=True, seed=9, format="numpy_dict", read=read, memory_limit="1MiB"
    )
    for epoch in (0, 1, 2, 3, 1, 1, 7, 8, 0):
        assert loader.set_epoch(epoch) is loader
        wanted = perm.shuffle(9, epoch=epoch).select_columns(["id"]).to_arrow()
        assert ids(loader) == wanted["id"].to_pylist(), epoch
        assert ids([loader.permutation.with_format("numpy_dict")[:]]) == ids(loader)
    assert loader.epoch == 0


def test_only_the_last_shuffle_changes_with_the_epoch(perm):
    train = perm.shuffle(1).split([0.5, 0.5], seed=2)[0]
    view = train.shuffle(3).shard(1, 3).with_format("numpy_dict")
    loader = view.loader(100)
    first = ids(loader)
    assert ids(loader.set_epoch(0)) == first
    later = ids(loader.set_epoch(4))
    wanted = train.shuffle(3, epoch=4).shard(1, 3).to_arrow()["id"].to_pylist()
    assert later == wanted != first
    split = set(train.to_arrow()["id"].to_pylist())
    assert set(first) <= split
    assert set(later) <= split


def test_without_a_shuffle_all_epochs_are_the_same(perm):
    loader = perm.loader(1000, format="numpy_dict")
    assert ids(loader) == ids(loader.set_epoch(3)) == sorted(ids(loader))


def test_an_iteration_that_has_begun_keeps_its_epoch(perm):
    loader = perm.loader(10, shuffle=True, seed=1, format="numpy_dict")
    begun = iter(loader.set_epoch(0))
    first = next(begun)
    loader.set_epoch(1)
    found = ids([first, *begun])
    assert found == perm.shuffle(1).to_arrow()["id"].to_pylist()


@pytest.mark.parametrize("read", STRATEGIES)
def test_the_same_seed_gives_the_same_rows_on_any_number_of_threads(perm, read):
    wanted = perm.shuffle(8).to_arrow()
    for count in (1, 2, 3, 4, 40):
        loader = perm.loader(
            33, shuffle=True, seed=8, format="arrow", read=read, threads=count
        )
        assert table_of(loader).equals(wanted)


def test_without_a_seed_the_order_is_drawn_once(perm):
    loader = perm.loader(1000, shuffle=True, format="numpy_dict")
    first = ids(loader)
    assert ids(loader) == first
    assert ids(perm.loader(1000, shuffle=True, format="numpy_dict")) != first
    assert sorted(first) == sorted(ids(perm.loader(1000, format="numpy_dict")))


@pytest.mark.parametrize("read", STRATEGIES)
def test_several_at_once(perm, read):
    view = perm.with_format("numpy_dict").with_read(read)
    loader = view.loader(50, shuffle=True, seed=1)
    wanted = ids(loader)
    pairs = list(zip(loader, view.loader(50), loader, strict=True))
    first, second, third = zip(*pairs, strict=True)
    assert ids(first) == ids(third) == wanted
    assert ids(second) == sorted(wanted)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: ids(loader), range(12)))
    assert all(rows == wanted for rows in found)


@pytest.mark.parametrize("read", STRATEGIES)
def test_one_iteration_shared_by_threads_serves_every_row_once(perm, read):
    view = perm.with_format("numpy_dict").with_read(read)
    batches = view.loader(20, shuffle=True, seed=1)
    shared = iter(batches)
    guard = threading.Lock()

    def work(_):
        mine = []
        while True:
            with guard:
                batch = next(shared, None)
            if batch is None:
                return mine
            mine += ids([batch])

    with ThreadPoolExecutor(4) as pool:
        found = [row for rows in pool.map(work, range(4)) for row in rows]
    assert sorted(found) == sorted(ids(batches))
    assert len(found) == 4286


def test_as_many_threads_read_as_were_asked_for():
    settle()
    perm = ll.open(pa.table({"id": range(100_000)})).shuffle(1).with_repeat(10_000)

    def reading():
        return sum(name.startswith("lanceloader-rea") for name in threads())

    batches = iter(perm.loader(10, format="arrow", threads=16))
    next(batches)
    assert soon(lambda: reading() == 16), threads()
    batches.close()
    settle()


@pytest.mark.parametrize("read", STRATEGIES)
def test_breaking_out_ends_the_threads(perm, read):
    settle()
    loader = perm.loader(5, shuffle=True, seed=1, read=read)
    for taken in range(4):
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        del batches
        assert soon(lambda: not threads()), threads()
    for batch in loader:
        assert len(batch) == 5
        break
    del loader
    settle()


@pytest.mark.parametrize("read", STRATEGIES)
def test_an_empty_permutation(perm, read):
    view = perm.with_format("numpy_dict").with_read(read)
    for empty in (view.with_take(0), view.filter("id < 0"), view.with_repeat(0)):
        loader = empty.loader(10, shuffle=True, seed=1)
        assert (len(loader), loader.num_rows, list(loader)) == (0, 0, [])
        assert loader.stats().rows == 0


def test_an_empty_table(tmp_path):
    lance.write_dataset(tables.narrow(0), tmp_path / "t.lance")
    for read in STRATEGIES:
        loader = ll.open(tmp_path / "t.lance").loader(
            10, shuffle=True, seed=1, read=read
        )
        assert list(loader) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": -1}, OverflowError, "negative"),
        ({"batch_size": 1.5}, TypeError, "must be a whole number"),
        ({"seed": 1}, ValueError, "shuffle=True"),
        ({"shuffle": True, "seed": -1}, OverflowError, "negative"),
        ({"shuffle": True, "seed": 2**64}, OverflowError, "too big"),
        ({"shuffle": True, "seed": "1"}, TypeError, "must be a whole number"),
        ({"read": "fast"}, ValueError, '"resident"'),
        ({"memory_limit": "much"}, ValueError, "4GiB.*'much'"),
        ({"memory_limit": "-1GiB"}, ValueError, "-1GiB"),
        ({"memory_limit": -1}, OverflowError, "negative"),
        ({"memory_limit": 1.5}, TypeError, "must be a whole number"),
        ({"threads": 0}, ValueError, "`threads` must be at least 1, got 0"),
        ({"threads": -1}, OverflowError, "negative"),
        ({"cache_dir": 3}, TypeError, "`cache_dir` must be a string or a path"),
        ({"format": "tf"}, ValueError, "Invalid format: tf"),
        ({"format": "torch_dict", "nulls": "none"}, ValueError, "'none'"),
        ({"format": "torch_dict", "nulls": "fill"}, ValueError, "fill_value"),
    ],
)
def test_wrong_arguments(perm, options, error, words):
    with pytest.raises(error, match=words):
        perm.loader(**options)


@pytest.mark.parametrize("epoch", [-1, 2**64, 1.5, None])
def test_wrong_epochs(perm, epoch):
    loader = perm.loader(10, shuffle=True, seed=1)
    with pytest.raises((OverflowError, TypeError)):
        loader.set_epoch(epoch)
    assert loader.epoch is None


@pytest.mark.parametrize("options", [{"nulls": "mask"}, {"fill_value": 1}])
def test_options_of_a_format_need_a_format(perm, options):
    """Rather than being passed over in silence."""
    with pytest.raises(ValueError, match="format"):
        perm.loader(10, **options)


@pytest.mark.parametrize("read", STRATEGIES)
def test_stats_add_up(perm, read):
    loader = perm.loader(500, shuffle=True, seed=1, format="arrow", read=read)
    assert loader.stats() == type(loader.stats())()
    batches = iter(loader)
    assert loader.stats().batches == 0
    first = next(batches)
    found = loader.stats()
    assert (found.batches, found.rows) == (1, 500)
    assert 0 < found.first_batch_seconds <= found.wait_seconds <= found.seconds
    everything = pa.Table.from_batches([first, *batches])
    found = loader.stats()
    assert (found.batches, found.rows) == (9, 4286)
    assert found.bytes >= everything.num_rows * (8 + 4 + 8 + 4)
    assert found.rows_direct + found.rows_packed >= 4286 or read == "external"
    assert found.rows_spilled == (4286 if read == "external" else 0)
    assert found.rows_packed == 0 or read in ("resident", "auto")
    assert found.failure is None
    assert not found.is_shared
    assert found.rows_per_second > 0
    assert "9 batches, 4,286 rows" in str(found)
    # Each iteration counts from its start.
    next(iter(loader))
    assert loader.stats().batches == 1


def test_repr(perm):
    loader = perm.loader(1000, drop_last=True)
    start = "<Loader of 4 steps of 1,000 rows, at step 0; <Permutation of "
    assert repr(loader).startswith(start)


@pytest.mark.usefixtures("bars_at_once")
def test_a_bar_for_each_epoch(perm, capsys):
    loader = perm.loader(1000, shuffle=True, seed=1, progress=True)
    assert sum(len(batch) for batch in loader) == 4286
    shown = capsys.readouterr().err
    assert "loading: 100%" in shown
    assert "5.00/5.00" in shown
    list(loader.set_epoch(3))
    assert "epoch 3: 100%" in capsys.readouterr().err
    list(perm.loader(1000))
    assert capsys.readouterr().err == ""


def test_read_options_are_pickled_with_a_permutation(perm, tmp_path):
    view = perm.with_read(
        "external", memory_limit="3 MiB", cache_dir=tmp_path / "rows", threads=3
    ).shuffle(1)
    again = pickle.loads(pickle.dumps(view))
    assert again.read_options == view.read_options
    assert again.read_options.memory_limit == 3 << 20
    assert again.read_options.cache_dir == str(tmp_path / "rows")
    loader = again.loader(1000, format="arrow")
    assert table_of(loader).equals(view.to_arrow())
    assert loader.stats().rows_spilled == 4286
    assert view.with_read().read_options == perm.read_options
    # What the loader is given takes the place of all of it.
    loader = again.loader(1000, read="direct")
    assert list(loader)
    assert loader.stats().rows_spilled == 0


def test_arrow_data_in_memory(path):
    table = lance.dataset(path).to_table()
    for read in STRATEGIES:
        loader = ll.open(table).loader(
            100, shuffle=True, seed=2, format="arrow", read=read
        )
        wanted = ll.open(path).shuffle(2).to_arrow()
        assert table_of(loader.set_epoch(0)).equals(wanted), read


def test_a_transform(perm):
    view = perm.with_transform(lambda batch: batch.num_rows)
    assert list(view.loader(1000)) == [1000, 1000, 1000, 1000, 286]


def test_row_ids_and_renamed_columns(perm):
    view = perm.select_columns(["_rowid", "id"]).rename_column("id", "key")
    wanted = view.shuffle(1).to_arrow()
    for read in STRATEGIES:
        loader = view.loader(99, shuffle=True, seed=1, format="arrow", read=read)
        assert table_of(loader).equals(wanted)
        assert table_of(loader).schema.equals(wanted.schema, check_metadata=True)


def test_numbers_may_be_numpy_s(perm):
    loader = perm.loader(np.int64(1000), shuffle=True, seed=np.uint64(4))
    assert len(list(loader.set_epoch(np.int32(2)))) == 5


@pytest.mark.parametrize("read", STRATEGIES)
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_what_is_handed_out_may_be_written_to(perm, read, is_shuffled):
    """Also where batches point into mapped files, and one array lies behind another."""
    view = perm.select_columns(NUMBERS).with_read(read).with_format("torch_dict")
    view = view.shuffle(1) if is_shuffled else view
    before = view.to_arrow()
    for _ in range(2):
        kept = []
        for batch in view.loader(100):
            for column in batch.values():
                column.fill_(1)
            kept.append(batch)
        assert all((column == 1).all() for batch in kept for column in batch.values())
        assert view.to_arrow().equals(before)
    for batch in view.with_format("numpy_dict").loader(1000):
        for column in batch.values():
            column[:] = 0
    assert view.to_arrow().equals(before)
    found = [batch["id"] for batch in view.loader(100)]
    assert [row for ids in found for row in ids.tolist()] == before["id"].to_pylist()


def test_a_format_without_a_row_per_row_forgives_nothing(perm):
    view = perm.select_columns(["x"])
    with pytest.raises(
        ValueError, match=r"`on_error`='skip' needs batches .* pass another format"
    ):
        view.loader(4, format="torch_col", transform=len, on_error="skip")


def test_the_state_counts_skipped_batches_although_copies_run_ahead(perm, monkeypatch):
    """The state is that of the batch that is handed out, not of the one copied meanwhile."""

    def ahead(_, values, running):
        before = next(values, None)
        for value in values:
            yield before
            before = value
        yield before

    def refuse(batch):
        if batch["id"][0].item() in bad:
            raise ValueError("no")
        return batch

    monkeypatch.setattr(BatchPipeline, "copied", ahead)
    view = perm.select_columns(["id"]).with_format("numpy_dict")
    every = [row for batch in view.loader(10) for row in batch["id"].tolist()]
    # Two whole batches, and the last.
    bad = {row for at in (2, 3, 428) for row in every[at * 10 : at * 10 + 10]}
    loader = view.loader(10, transform=refuse, on_error="skip", epochs=2)
    positions = []
    for batch in loader:
        first = every.index(batch["id"][0])
        positions.append(loader.state_dict()["position"])
        assert positions[-1] == first + 10
    assert len(positions) == 2 * (429 - 3)
