"""``Permutation.warm``: packing rows before training."""

from __future__ import annotations

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
from lanceloader import cache, errors
from vector_tables import ROWS_OF_FIVE_BLOCKS, ROWS_WORTH_A_FILE, large


@pytest.fixture
def uri(tmp_path):
    return large(tmp_path / "t.lance").uri


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "rows")


def test_rows_are_in_the_cache_for_a_later_run(uri, folder):
    first = ll.open(uri).warm(cache_dir=folder)
    assert first.rows == ROWS_WORTH_A_FILE
    assert first.columns == ("id", "square", "vector")
    assert first.blocks_packed > 0
    assert first.blocks_found == 0
    assert first.is_shared
    assert first.cache_dir == folder
    (entry,) = cache.entries(folder)
    assert entry.is_complete
    assert entry.bytes >= first.bytes > 0

    again = ll.open(uri).warm(cache_dir=folder)
    assert (again.blocks_packed, again.blocks_found) == (0, first.blocks_packed)

    loader = ll.open(uri).loader(
        1000, shuffle=True, seed=1, read="resident", cache_dir=folder
    )
    assert sum(map(len, loader)) == ROWS_WORTH_A_FILE
    assert loader.stats().blocks_filled == 0
    assert loader.stats().rows_direct == 0


def test_filters_and_orders_make_no_difference(uri, folder):
    perm = ll.open(uri).filter("id < 3").shuffle(seed=1).select_columns(["id"])
    report = perm.warm(cache_dir=folder)
    assert report.rows == ROWS_WORTH_A_FILE
    assert report.columns == ("id",)
    assert ll.open(uri).filter("false").warm(cache_dir=folder).rows == report.rows


def test_progress_is_called_with_bytes_up_to_the_end(tmp_path, folder):
    uri = large(tmp_path / "t.lance", ROWS_OF_FIVE_BLOCKS).uri
    seen = []
    report = ll.open(uri).warm(
        cache_dir=folder, progress=lambda *call: seen.append(call)
    )
    done = [call[0] for call in seen]
    assert done == sorted(done)
    assert all(number <= total for number, total in seen)
    assert seen[-1] == (report.bytes, report.bytes)


@pytest.mark.usefixtures("bars_at_once")
def test_a_bar_shows_bytes(uri, folder, capsys):
    ll.open(uri).warm(cache_dir=folder, progress=True)
    shown = capsys.readouterr().err
    assert "packing" in shown
    assert "100%" in shown


def test_few_warmed_rows_stay_in_memory(tmp_path, folder):
    uri = large(tmp_path / "t.lance", 1000).uri
    perm = ll.open(uri).with_read("resident", cache_dir=folder)
    report = perm.warm()
    assert (report.is_shared, report.cache_dir) == (False, None)
    assert cache.entries(folder) == []
    loader = perm.shuffle(seed=1).loader(100)
    batches = iter(loader)
    next(batches)
    # Without it, packing only begins once the first batch was read from the files.
    assert loader.stats().fill_seconds > 0
    assert sum(map(len, batches)) == 900
    assert loader.stats().rows_packed >= 1000


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_tables_with_hardly_any_rows(tmp_path, rows):
    lance.write_dataset(pa.table({"x": range(rows)}), tmp_path / "t.lance")
    assert ll.open(tmp_path / "t.lance").warm().rows == rows


def test_arrow_data_is_packed_in_memory():
    assert not ll.open(pa.table({"x": range(100)})).warm().is_shared


def test_a_limit_that_is_too_low(uri):
    with pytest.raises(ValueError, match="memory_limit"):
        ll.open(uri).warm(memory_limit="1MiB", cache_dir="")


def test_a_folder_that_cannot_be_written_to(uri, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="could not write"):
        ll.open(uri).warm(cache_dir=tmp_path / "file" / "rows")


def test_materialize_calls_progress_with_rows(tmp_path, uri):
    seen = []
    perm = ll.open(uri).with_take(20_000)
    perm.materialize(tmp_path / "copy.lance", progress=lambda *call: seen.append(call))
    assert seen[0] == (0, 20_000)
    assert seen[-1] == (20_000, 20_000)
