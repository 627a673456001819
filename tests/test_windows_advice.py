"""What errors of windows say: what to pass, and by the names and numbers that were passed."""

from __future__ import annotations

import re

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.errors import FormatError
from pictures import file_of, pattern

FILE = file_of(pattern(8, 8))


def rows_of(count=6):
    return pa.table(
        {
            "episode": np.arange(count) // 3,
            "x": pa.array([1.5, None, *range(2, count)], pa.float32()),
            "image": [FILE] * count,
        }
    )


@pytest.fixture
def perm():
    return ll.open(rows_of())


@pytest.mark.parametrize("ends", ["edge", "clip"])
@pytest.mark.parametrize("format", ["numpy_dict", "torch_dict"])
def test_nulls_of_windows_are_left_out_before(perm, ends, format):
    windows = perm.windows({"x": [0, 1]}, by="episode", ends=ends)
    windows = windows.select_columns(["x"])
    with pytest.raises(FormatError, match="nulls inside its lists") as caught:
        windows.with_format(format)[:]
    message = str(caught.value)
    assert 'nulls="mask"' not in message
    assert 'nulls="fill"' in message
    advised = re.search(r'filter\("(.*)"\) before windows', message)
    kept = perm.filter(advised[1]).windows({"x": [0, 1]}, by="episode", ends=ends)
    assert len(kept) == 5
    kept.select_columns(["x"]).with_format(format)[:]
    windows.with_format(format, nulls="fill", fill_value=0)[:]


def test_nulls_of_images_are_left_out_before():
    files = [FILE, None, FILE]
    perm = ll.open(pa.table({"image": pa.array(files, pa.binary())}))
    decode = {"image": ll.image(8)}
    windows = perm.windows({"image": [0, 1]}, by=None).with_decode(decode)
    with pytest.raises(FormatError, match=r'filter\("image IS NOT NULL"\)') as caught:
        windows[:]
    assert "size" not in str(caught.value)
    kept = perm.filter("image IS NOT NULL").windows({"image": [0, 1]}, by=None)
    assert len(kept.with_decode(decode)[:]) == 2


def test_sizes_of_images_are_advised_alone(perm):
    windows = perm.windows({"image": [0]}, by=None).with_decode({"image": ll.image()})
    with pytest.raises(FormatError, match="pass `size`") as caught:
        windows[:]
    assert "null" not in str(caught.value)


@pytest.mark.parametrize("is_struct", [False, True])
def test_images_beyond_the_ends(perm, is_struct):
    decode = {"image": ll.image(8, layout="HWC")}
    black = file_of(pattern(8, 8).point(lambda _: 0))
    if is_struct:
        data = perm.to_arrow()
        structs = [{"bytes": file, "path": ""} for file in data["image"].to_pylist()]
        perm = ll.open(data.set_column(2, "image", pa.array(structs)))
        empty, black = {"bytes": b"", "path": ""}, {"bytes": black, "path": ""}
    else:
        empty = None
    options = {"by": "episode", "ends": "fill"}
    fill = None if empty is None else {"image": empty}
    windows = perm.windows({"image": [0, 1]}, **options, fill_value=fill)
    with pytest.raises(ValueError, match="the bytes of an image file"):
        windows.with_decode(decode)
    with pytest.raises(ValueError, match="the bytes of an image file"):
        windows.loader(2, decode=decode)
    filled = perm.windows({"image": [0, 1]}, **options, fill_value={"image": black})
    filled = filled.select_columns(["image", "image_is_pad"]).with_decode(decode)
    found = filled.with_format("numpy_dict")[:]
    assert (found["image"].any((2, 3, 4)) == ~found["image_is_pad"]).all()


def test_clipped_images_say_what_to_pass(perm):
    windows = perm.windows({"image": [0, 1]}, by="episode", ends="clip")
    with pytest.raises(FormatError, match='pass ends="edge", "fill" or "drop"'):
        windows.with_decode({"image": ll.image(8)})


@pytest.mark.parametrize("ends", ["edge", "drop"])
def test_other_windows_are_decoded(perm, ends):
    windows = perm.windows({"image": [0, 1]}, by="episode", ends=ends)
    windows = windows.select_columns(["image"]).with_decode({"image": ll.image(8)})
    decoded = windows.with_format("numpy_dict")
    assert decoded[:]["image"].shape[1:] == (2, 3, 8, 8)


def test_fill_values_of_columns_without_steps_are_named(perm):
    options = {"by": "episode", "ends": "fill"}
    with pytest.raises(ValueError, match="`fill_value` names 'y', a column without"):
        perm.windows({"x": [1]}, **options, fill_value={"x": 0.0, "y": 1.0})
    with pytest.raises(ValueError, match="names 'image'"):
        perm.windows({"x": [1]}, **options, fill_value={"x": 0.0, "image": FILE})
    perm.windows({"x": [1]}, **options, fill_value={"x": 0.0})


@pytest.mark.parametrize(
    "steps",
    [
        {0, 1},
        frozenset([0]),
        {0: 1},
        {0: 1}.keys(),
        [True, False],
        np.array([True, False]),
        [0, True],
    ],
    ids=str,
)
def test_steps_are_whole_numbers_in_an_order(perm, steps):
    with pytest.raises(TypeError, match=r"`steps` of 'x' must be"):
        perm.windows({"x": steps}, by="episode")


@pytest.mark.parametrize(
    "steps", [(0, 1), range(2), np.arange(2), np.arange(2, dtype="i1")]
)
def test_steps_of_other_kinds(perm, steps):
    windows = perm.windows({"x": steps}, by="episode").with_format("numpy_dict")
    assert windows.select_columns(["x"]).schema.field("x").type.list_size == 2


@pytest.mark.parametrize("read", ["resident", "external"])
def test_a_memory_limit_is_that_of_all_columns(tmp_path, read):
    count = 20_000
    columns = {name: np.random.default_rng(1).random(count) for name in "abc"}
    data = pa.table({"episode": np.arange(count) // 100, **columns})
    lance.write_dataset(data, tmp_path / "t.lance")
    steps = {"a": range(4), "b": [0, 1], "c": [-1]}
    windows = ll.open(tmp_path / "t.lance").windows(steps, by="episode")

    def read_some(limit):
        options = {"read": read, "memory_limit": limit, "cache_dir": ""}
        loader = windows.loader(64, shuffle=True, seed=1, **options)
        return next(iter(loader))

    with pytest.raises(ValueError, match="a memory_limit of 100000 bytes") as caught:
        read_some(100_000)
    message = str(caught.value)
    assert "shared by 4 sets of columns" in message
    least = int(re.search(r"wanted at least (\d+)", message)[1])
    assert least > 100_000
    for _ in range(4):
        # Each of the readers may want more.
        try:
            assert len(read_some(least)) == 64
            break
        except ValueError as error:
            more = int(re.search(r"wanted at least (\d+)", str(error))[1])
            assert more > least
            least = more
    else:
        raise AssertionError(least)
