"""Windows of columns of every type, by readers of every kind, and of images."""

from __future__ import annotations

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
import torch
from episodes import episodes
from lanceloader.engine import ROW_OFFSET
from lanceloader.engine_reader import EngineReader
from lanceloader.errors import FormatError, ImageError, UnsupportedError
from pictures import file_of, pattern

EPISODE = {"by": "episode", "order": "frame"}
STEPS = (-2, 0, 1)
NUM_ROWS = 24


def every_type(*, nulls: bool) -> pa.Table:
    return tables.every_type(NUM_ROWS, nulls=nulls)


def places(num_rows: int) -> np.ndarray:
    """The rows at the steps from each row of one series, and -1 beyond its ends."""
    found = np.arange(num_rows)[:, None] + STEPS
    return np.where((found >= 0) & (found < num_rows), found, -1)


@pytest.fixture(params=["memory", "table"])
def opened(request, tmp_path):
    def opened(data):
        if request.param == "memory":
            return ll.open(data)
        lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=10)
        return ll.open(tmp_path / "t.lance")

    return opened


@pytest.mark.parametrize("nulls", [False, True])
def test_windows_of_every_type_hold_its_values(opened, nulls):
    data = every_type(nulls=nulls)
    perm = opened(data)
    names = perm.column_names
    windows = perm.windows(dict.fromkeys(names, STEPS), by=None).to_arrow()
    clipped = perm.windows(dict.fromkeys(names, STEPS), by=None, ends="clip").to_arrow()
    at = places(len(data))
    for name in names:
        values = data[name].to_pylist()
        edges = at.copy()
        edges[:2][edges[:2] < 0] = 0
        edges[edges < 0] = len(data) - 1
        wanted = [[values[place] for place in row] for row in edges]
        assert windows[name].to_pylist() == wanted, name
        wanted = [[values[place] for place in row if place >= 0] for row in at]
        assert clipped[name].to_pylist() == wanted, name
        assert windows[f"{name}_is_pad"].to_pylist() == (at < 0).tolist()


def test_windows_of_every_type_are_filled(opened):
    data = every_type(nulls=False)
    perm = opened(data)
    at = places(len(data))
    refused = []
    for name in perm.column_names:
        try:
            windows = perm.windows({name: STEPS}, by=None, ends="fill")
        except FormatError:
            refused.append(name)
            continue
        found = windows.select_columns([name]).to_arrow()[name].to_pylist()
        values = data[name].to_pylist()
        blanks = {str(value) for row in found for value in row} - set(map(str, values))
        assert len(blanks) <= 1, name
        for row, wanted in zip(found, at, strict=True):
            for value, place in zip(row, wanted, strict=True):
                assert place < 0 or value == values[place], name
    # It has no zero.
    assert refused == ["struct"]
    structs = perm.windows(
        {"struct": STEPS},
        by=None,
        ends="fill",
        fill_value={"struct": {"x": 7, "s": ""}},
    )
    assert structs[0][0]["struct"][0] == {"x": 7, "s": ""}


def test_fields_of_structs_have_windows_by_names_of_their_own(opened):
    perm = opened(every_type(nulls=False))
    fields = perm.select_columns({"x": "struct.x"}).windows({"x": [-1, 0]}, by=None)
    assert fields[:2] == [
        {"x": [0, 0], "x_is_pad": [True, False]},
        {"x": [0, 1], "x_is_pad": [False, False]},
    ]
    with pytest.raises(ValueError, match="select it by a name"):
        perm.windows({"struct.x": [0]}, by=None)


def test_columns_that_another_library_reads_have_windows(tmp_path, monkeypatch):
    table = episodes((5, 8, 3))
    lance.write_dataset(table, tmp_path / "t.lance")
    perm = ll.open(tmp_path / "t.lance")
    steps = {"id": [-1, 0], "state": range(3)}
    wanted = perm.windows(steps, **EPISODE).with_format("numpy_dict")
    source, native = perm.source, perm.source.reader
    monkeypatch.setattr(
        source,
        "reader",
        lambda columns, options=None: (
            EngineReader(source.engine(), columns, ROW_OFFSET)
            if ("id", "id") in columns
            else native(columns, options)
        ),
    )
    windows = perm.windows(steps, **EPISODE).with_format("numpy_dict")
    assert "id: 2 rows for each row, by the table's own library" in windows.explain()
    for name in ("id", "state", "id_is_pad"):
        np.testing.assert_array_equal(windows[:][name], wanted[:][name])
    batches = list(windows.loader(5, format="numpy_dict"))
    found = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(found, wanted[:]["id"])
    with pytest.raises(UnsupportedError, match="materialize"):
        windows.warm()


def test_tables_that_another_library_reads_say_what_to_do(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(episodes((4,)), path, data_storage_version="legacy")
    with pytest.raises(UnsupportedError, match="materialize"):
        ll.open(path).windows({"id": [0]}, **EPISODE)


def test_windows_larger_than_memory_are_read_directly(tmp_path):
    table = episodes((300,) * 10)
    lance.write_dataset(table, tmp_path / "t.lance", max_rows_per_file=1000)
    perm = ll.open(tmp_path / "t.lance").select_columns(["id", "state"])
    windows = perm.windows({"state": range(8)}, **EPISODE)
    options = {"shuffle": True, "seed": 3, "format": "numpy_dict"}
    wanted = list(windows.loader(64, **options))
    small = windows.with_read(memory_limit="16KiB")
    found = list(small.loader(64, **options))
    assert [part.reader.choice().strategy for part in small.reader.parts] == [
        *("external", "direct")
    ]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one["state"], other["state"])


@pytest.fixture(scope="module")
def frames():
    """Two episodes of four frames each, whose files are those of different patterns."""
    files = [file_of(pattern(40, 40 + at % 3, at)) for at in range(8)]
    data = {"episode": [0, 1] * 4, "frame": range(8), "image": files}
    return ll.open(pa.table(data))


def test_images_of_windows_are_decoded_to_a_further_dimension(frames):
    decode = {"image": ll.image(24)}
    single = frames.with_decode(decode).with_format("numpy_dict")[:]["image"]
    windows = frames.windows({"image": [-1, 0]}, **EPISODE).with_decode(decode)
    places = [max(at - 2, at % 2) for at in range(8)]
    wanted = np.stack([single[places], single], 1)
    for name in ("numpy_dict", "torch_dict", "python_col"):
        found = windows.with_format(name)[:]["image"]
        np.testing.assert_array_equal(np.stack(list(found)), wanted)
    structs = frames.map(lambda row: {"image": {"bytes": row["image"]}}).to_arrow()
    again = ll.open(structs).windows({"image": [-1, 0]}, **EPISODE).with_decode(decode)
    found = again.with_format("numpy_dict")[:]["image"]
    np.testing.assert_array_equal(found, wanted)


def images_of(batches):
    return np.concatenate([batch["image"] for batch in batches])


def test_images_of_a_window_are_cropped_alike():
    same = pa.table({"episode": [0] * 8, "image": [file_of(pattern(40, 40))] * 8})
    decode = {"image": ll.image(16, crop="random", flip=True)}
    windows = ll.open(same).windows({"image": range(3)}, by="episode")
    options = {"shuffle": True, "seed": 2, "decode": decode, "format": "numpy_dict"}
    batches = list(windows.loader(3, **options))
    found = images_of(batches)
    assert found.shape == (8, 3, 3, 16, 16)
    for row in found:
        np.testing.assert_array_equal(row[0], row[1])
        np.testing.assert_array_equal(row[0], row[2])
    assert len({row.tobytes() for row in found}) > 4
    np.testing.assert_array_equal(images_of(windows.loader(5, **options)), found)
    plain = ll.open(same).loader(3, **options)
    np.testing.assert_array_equal(found[:, 0], images_of(plain))


def test_images_that_are_broken_name_their_row(frames):
    data = frames.to_arrow()
    files = data["image"].to_pylist()
    files[5] = b"no image"
    data = data.set_column(2, "image", pa.array(files, pa.binary()))
    windows = ll.open(data).windows({"image": [-1, 0]}, **EPISODE)
    decoded = windows.with_decode({"image": ll.image(8)}).with_format("numpy_dict")
    with pytest.raises(ImageError) as caught:
        decoded[:]
    assert caught.value.row_in_batch == 5
    with pytest.raises(FormatError, match="pass `size`"):
        frames.windows({"image": [0]}, by=None).with_decode({"image": ll.image()})[:]


def test_fill_values_of_bfloat16_images(tmp_path):
    pixels = file_of(pattern(2, 2))
    table = pa.table({"episode": [0, 0], "image": [pixels, pixels]})
    decode = {"image": ll.image(2, dtype="bfloat16")}
    perm = ll.open(table).with_decode(decode).materialize(tmp_path / "t.lance")
    options = {"by": "episode", "ends": "fill", "fill_value": 1.0}
    windows = perm.windows({"image": [0, 1]}, **options).with_format("torch_dict")
    assert (windows[:]["image"][1, 1] == 1).all()
    assert windows[:]["image"].dtype == torch.bfloat16
    with pytest.raises(FormatError, match="must be a number for bfloat16"):
        perm.windows({"image": [0, 1]}, **options | {"fill_value": "black"})


@pytest.mark.parametrize("ends", ["fill", "clip"])
def test_views_cannot_be_filled_or_clipped(ends):
    table = pa.table({"e": [0, 1], "s": pa.array(["a", "b"], pa.string_view())})
    with pytest.raises(
        UnsupportedError, match=r"`s` of type string_view .*materialize"
    ):
        ll.open(table).windows({"s": [-1, 0]}, by="e", ends=ends)
    assert ll.open(table).windows({"s": [-1, 0]}, by="e")[:][1]["s"] == ["b", "b"]


@pytest.mark.parametrize("value", [-0.9, 1.5, 1e300])
def test_fill_values_are_not_cut_off(value):
    kind = pa.float32() if value == 1e300 else pa.int64()
    perm = ll.open(pa.table({"x": pa.array([1, 2], kind)}))
    with pytest.raises(FormatError, match=r"`fill_value`=.* cannot be stored as"):
        perm.windows({"x": [0, 1]}, by=None, ends="fill", fill_value=value)
    perm.windows({"x": [0, 1]}, by=None, ends="fill", fill_value=3.0)


def test_a_type_without_a_default_fill_value():
    perm = ll.open(pa.table({"x": [{"a": 1}]}))
    with pytest.raises(FormatError, match="no default `fill_value` for struct"):
        perm.windows({"x": [1]}, by=None, ends="fill")


def test_long_fill_values_that_differ_in_the_middle():
    perm = ll.open(pa.table({"v": [[0.0]]})).select_columns({"a": "v", "b": "v"})
    other = np.r_[np.zeros(1000), 9.0, np.zeros(999)]
    fills = {"a": np.zeros(2000), "b": other}
    options = {"by": None, "ends": "fill", "fill_value": fills}
    row = perm.windows({"a": [1], "b": [1]}, **options)[:][0]
    assert (max(row["a"][0]), max(row["b"][0])) == (0, 9)


@pytest.mark.parametrize("values", [["a", "bc"], [b"a", b""], [[1], []]])
@pytest.mark.parametrize("ends", ["edge", "clip"])
def test_windows_of_values_of_any_size_are_written(tmp_path, values, ends):
    windows = ll.open(pa.table({"s": values})).windows(
        {"s": [0, 1]}, by=None, ends=ends
    )
    copy = windows.materialize(tmp_path / "t.lance")
    assert [row["s"] for row in copy[:]] == [row["s"] for row in windows[:]]
