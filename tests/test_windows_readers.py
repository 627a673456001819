"""What reads windows: memory shared in mixtures, counters, and bars, as for other rows."""

from __future__ import annotations

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from episodes import episodes
from lanceloader import _native
from lanceloader.sources.core_readers import core_reads

EPISODE = {"by": "episode", "order": "frame"}
STEPS = {"state": [-1, 0, 1]}


@pytest.fixture
def perms(tmp_path):
    """Return permutations of two tables."""
    found = []
    for number, lengths in enumerate([(7, 1, 12, 4, 9), (30, 2, 5)]):
        path = tmp_path / f"{number}.lance"
        lance.write_dataset(episodes(lengths, number), path, max_rows_per_file=10)
        found.append(ll.open(path, format="numpy_dict"))
    return found


def windows(perm):
    return perm.windows(STEPS, **EPISODE)


def rows_of(loader):
    batches = list(loader)
    return {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }


@pytest.mark.parametrize("read", ["auto", "resident", "direct"])
def test_mixtures_of_windows_have_the_memory_of_other_mixtures(perms, read):
    mixture = ll.mix({"a": windows(perms[0]), "b": windows(perms[1])})
    assert "at most 0 bytes" not in mixture.explain()
    found = rows_of(mixture.loader(8, shuffle=True, seed=1, read=read))
    plain = rows_of(mixture.loader(5, shuffle=True, seed=1, read="direct"))
    assert found.keys() == plain.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, plain[name])


def test_windows_in_mixtures_are_those_of_their_tables(perms):
    mixture = ll.mix([windows(perm) for perm in perms], source_column="from")
    found = rows_of(mixture.loader(8, format="numpy_dict"))
    for number, perm in enumerate(perms):
        own = rows_of(windows(perm).loader(1000))
        at = {key: row for row, key in enumerate(own["id"].tolist())}
        is_of = found["from"] == str(number)
        rows = [at[key] for key in found["id"][is_of].tolist()]
        np.testing.assert_array_equal(found["state"][is_of], own["state"][rows])


def test_counters_are_those_of_what_is_read(perms):
    perm = windows(perms[0].with_read("resident"))
    perm.warm()
    for _ in range(2):
        # The first batch of all may come from the files.
        loader = perm.loader(8, shuffle=True, seed=1)
        num_rows = sum(len(batch["id"]) for batch in loader)
    stats = loader.stats()
    assert stats.rows == num_rows
    assert stats.rows_direct == 0
    # Each row once, and its neighbours.
    assert stats.rows_packed == num_rows * (1 + len(STEPS["state"]))
    assert stats.bytes_kept > 0
    assert stats.stage_seconds["gather"] > 0
    loader = perm.with_read("direct").loader(8, shuffle=True, seed=1)
    num_rows = sum(len(batch["id"]) for batch in loader)
    assert loader.stats().rows_direct == num_rows * (1 + len(STEPS["state"]))


def test_each_set_of_steps_is_read_by_the_core(perms):
    perm = windows(perms[0])
    reads = list(core_reads(perm.open_reader(), perm.order))
    assert [type(reader) for reader, _ in reads] == [_native.Reader] * 2
    rows = [order.num_rows for _, order in reads]
    assert rows == [perm.num_rows, perm.num_rows * len(STEPS["state"])]


def test_bars_show_that_rows_of_windows_are_packed(perms, bars_at_once, capfd):
    perm = windows(perms[0].with_read("resident"))
    for _ in perm.loader(8, shuffle=True, seed=1, progress=True):
        pass
    assert "packing" in capfd.readouterr().err


def test_a_broken_image_of_a_window_says_which_it_is():
    rows = pa.table({"id": [0, 1], "image": [b"broken", None], "place": [0, 1]})
    perm = ll.open(rows.filter(pa.array([True, False])))
    found = perm.windows({"image": [-1, 0]}, by=None, order="place").with_decode(
        {"image": ll.image(8)}
    )
    with pytest.raises(ll.errors.ImageError, match="it is image 1 of 2 in the window"):
        found[0]
