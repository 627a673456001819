"""Each row with rows around it in its episode: as a plain loop finds them, on all paths."""

from __future__ import annotations

import itertools
import pickle

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from episodes import edge_window, episodes, window_of
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.errors import (
    ColumnNotFoundError,
    FormatError,
    UnsupportedError,
)
from torch.utils.data import DataLoader

LENGTHS = (7, 1, 12, 4, 9)
STEPS = {"id": [-2, 0, 3], "state": range(4)}
EPISODE = {"by": "episode", "order": "frame"}


@pytest.fixture(scope="module")
def table():
    return episodes(LENGTHS)


@pytest.fixture(scope="module")
def path(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "t.lance"
    lance.write_dataset(table, path, max_rows_per_file=10)
    return str(path)


@pytest.fixture(scope="module")
def perm(path):
    return ll.open(path)


@pytest.fixture(scope="module")
def windows(perm):
    return perm.windows(STEPS, **EPISODE).with_format("numpy_dict")


def joined(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def by_loop(table, ids, steps):
    rows = table.select(["id", "episode", "frame"]).to_pylist()
    return [edge_window(rows, at, steps) for at in ids]


step_lists = st.lists(st.integers(-6, 6), min_size=1, max_size=5)


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    step_lists,
    step_lists,
    st.sampled_from(["edge", "fill", "clip", "drop"]),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_windows_are_those_of_a_plain_loop(
    lengths, first, second, ends, stride, seed, shuffled
):
    table = episodes(lengths, seed, shuffled=shuffled)
    rng = np.random.default_rng(seed)
    mask = rng.random(len(table)) < 0.8
    rows = [row for row, kept in zip(table.to_pylist(), mask, strict=True) if kept]
    perm = ll.open(table).filter(mask).shuffle(seed=seed % 1000)
    found = perm.windows(
        {"id": first, "state": second, "text": second},
        **EPISODE,
        ends=ends,
        stride=stride,
        fill_value={"id": -1, "state": 0.5, "text": "-"} if ends == "fill" else None,
    )
    keys = {(row["episode"], row["frame"]): row["id"] for row in rows}
    batches = list(found.with_format("python").iter(5, progress=False))
    all_rows = list(itertools.chain.from_iterable(batches))
    wanted_starts = starts(rows, [*first, *second], ends, stride)
    owns = [keys[row["episode"], row["frame"]] for row in all_rows]
    in_order = [row["id"] for row in perm.with_format("python")[:]] if rows else []
    assert owns == [at for at in in_order if at in wanted_starts]
    state = table["state"].to_pylist()
    for own, row in zip(owns, all_rows, strict=True):
        ids, others = window_of(rows, own, first), window_of(rows, own, second)
        if ends == "clip":
            assert row["id"] == [at for at in ids if at is not None]
            assert row["text"] == [f"row {at}" for at in others if at is not None]
            continue
        if ends in ("edge", "fill"):
            assert row["id_is_pad"] == [at is None for at in ids]
            assert row["state_is_pad"] == [at is None for at in others]
        if ends == "fill":
            assert row["id"] == [-1 if at is None else at for at in ids]
            assert row["text"] == ["-" if at is None else f"row {at}" for at in others]
            assert row["state"] == [
                [0.5] * 3 if at is None else state[at] for at in others
            ]
            continue
        assert row["id"] == edge_window(rows, own, first)
        edges = edge_window(rows, own, second)
        assert row["text"] == [f"row {at}" for at in edges]
        assert row["state"] == [state[at] for at in edges]
        if ends == "drop":
            assert None not in ids + others


def starts(rows, steps, ends, stride):
    """The ids of the rows at which a window starts."""
    found = set()
    for episode in {row["episode"] for row in rows}:
        same = [row for row in rows if row["episode"] == episode]
        same.sort(key=lambda row: row["frame"])
        ids = [row["id"] for row in same]
        if ends == "drop":
            ids = [at for at in ids if None not in window_of(rows, at, steps)]
        found.update(ids[::stride])
    return found


@pytest.mark.parametrize("read", ["direct", "resident", "external", "auto"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_windows_are_the_same_by_all_strategies(perm, table, read, shuffle):
    windows = perm.windows(STEPS, **EPISODE).with_read(read)
    loader = windows.loader(
        6, shuffle=shuffle, seed=3 if shuffle else None, format="numpy_dict"
    )
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [6, 6, 6, 6, 6, 3]
    own = joined(batches, "id")[:, 1]
    assert sorted(own) == list(range(len(table)))
    assert joined(batches, "id").tolist() == by_loop(table, own, STEPS["id"])
    state = np.array(table["state"].to_pylist(), np.float32)
    places = by_loop(table, own, STEPS["state"])
    np.testing.assert_array_equal(joined(batches, "state"), state[places])
    assert joined(batches, "frame").tolist() == (
        table["frame"].to_numpy()[own].tolist()
    )


def test_deleted_rows_are_no_neighbours(tmp_path, table):
    dataset = lance.write_dataset(table, tmp_path / "t.lance", max_rows_per_file=9)
    dataset.delete("id % 4 = 1")
    windows = ll.open(tmp_path / "t.lance").windows({"id": [-1, 0, 1]}, **EPISODE)
    kept = table.filter(pa.array(np.arange(len(table)) % 4 != 1))
    found = windows.with_format("numpy_dict")[:]["id"]
    assert found.tolist() == by_loop(kept, found[:, 1], [-1, 0, 1])


def test_every_format_has_the_shape_of_rows_and_steps(windows, table):
    numpy = windows[:5]
    assert numpy["id"].shape == (5, 3)
    assert numpy["state"].shape == (*numpy["state_is_pad"].shape, 3) == (5, 4, 3)
    assert numpy["id_is_pad"].dtype == bool
    tensors = windows.with_format("torch_dict")[:5]
    assert tensors["state"].dtype == torch.float32
    assert tensors["id_is_pad"].dtype == torch.bool
    for name in ("id", "state", "id_is_pad", "state_is_pad", "frame"):
        np.testing.assert_array_equal(tensors[name].numpy(), numpy[name])
    rows = windows.with_format("torch")[:5]
    assert rows[4]["state"].shape == (4, 3)
    arrow = windows.with_format("arrow")[:5]
    assert arrow.schema.equals(windows.schema, check_metadata=True)
    assert arrow["state"].to_pylist() == numpy["state"].tolist()
    python = windows.with_format("python")[:5]
    assert [row["id"] for row in python] == numpy["id"].tolist()
    frame = windows.with_format("polars")[:5]
    assert frame["id"].to_list() == numpy["id"].tolist()
    frame = windows.with_format("pandas")[:5]
    assert list(frame["id"][4]) == numpy["id"][4].tolist()
    assert windows.with_format("python").row(3)["id"] == numpy["id"][3].tolist()
    assert windows.to_arrow().num_rows == len(table)


@pytest.mark.parametrize("ends", ["edge", "fill", "clip", "drop"])
def test_schemas_are_those_of_batches(perm, ends):
    windows = perm.windows({"state": [-1, 0], "text": [1]}, **EPISODE, ends=ends)
    batch = windows.with_format("arrow")[:3]
    assert batch.schema.equals(windows.schema, check_metadata=True)
    assert batch.num_rows == 3
    empty = windows.with_format("arrow")[:0]
    assert empty.num_rows == 0
    assert empty.schema.equals(windows.schema)


def test_clipped_windows_are_ragged(perm, table):
    windows = perm.windows(
        {"id": [-1, 0, 1], "state": range(3)}, **EPISODE, ends="clip"
    )
    assert not [name for name in windows.column_names if name.endswith("_is_pad")]
    batch = windows.with_format("torch_dict")[:]
    lengths = batch["id"].offsets.diff()
    assert set(lengths.tolist()) == {1, 2, 3}
    assert batch["state"].values.shape[1:] == (3,)
    padded = windows.with_format("torch_dict", pad=-1)[:]
    assert padded["id"].shape == (len(table), 3)


def test_columns_come_with_their_masks(windows):
    assert windows.column_names == [
        *("id", "id_is_pad", "episode", "frame"),
        *("state", "state_is_pad", "text"),
    ]
    only = windows.select_columns(["id_is_pad"])
    np.testing.assert_array_equal(only[:]["id_is_pad"], windows[:]["id_is_pad"])
    renamed = windows.rename_column("state_is_pad", "padding")
    assert renamed[:2]["padding"].shape == (2, 4)
    left = windows.remove_columns(["id", "id_is_pad", "state_is_pad"])
    assert left[:2].keys() == {"episode", "frame", "state", "text"}


def test_columns_of_episodes_need_not_be_selected(perm, windows):
    few = perm.select_columns(["id"]).windows({"id": STEPS["id"]}, **EPISODE)
    found = few.with_format("numpy_dict")[:]
    assert found.keys() == {"id", "id_is_pad"}
    np.testing.assert_array_equal(found["id"], windows[:]["id"])


def test_a_column_has_several_windows_by_several_names(perm, table):
    both = perm.select_columns({"past": "id", "future": "id"}).windows(
        {"past": range(-3, 0), "future": range(2)}, **EPISODE, ends="drop"
    )
    batch = both.with_format("numpy_dict")[:]
    own = batch["future"][:, 0]
    assert len(own) == sum(max(0, length - 4) for length in LENGTHS)
    assert batch["past"].tolist() == by_loop(table, own, [-3, -2, -1])


def test_one_series_needs_no_columns():
    perm = ll.open(pa.table({"x": range(5)}))
    windows = perm.windows({"x": [0, 1]}, by=None, ends="drop")
    assert windows[:] == [{"x": [at, at + 1]} for at in range(4)]


def test_several_columns_tell_episodes_apart():
    data = {"a": [0, 0, 1, 1, 0], "b": [0, 1, 0, 1, 0], "x": [1, 2, 3, 4, 5]}
    windows = ll.open(pa.table(data)).windows({"x": [-1, 1]}, by=["a", "b"])
    assert [row["x"] for row in windows[:]] == [[1, 5], [2, 2], [3, 3], [4, 4], [1, 5]]


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([3, 1, 2], pa.uint8()),
        pa.array([0.5, -1.0, 0.25], pa.float32()),
        pa.array(["c", "a", "b"]),
        pa.array(["c", "a", "b"]).dictionary_encode(),
        pa.array([30, 10, 20], pa.timestamp("ms")),
        pa.array([3, 1, 2], pa.date32()),
    ],
    ids=lambda keys: str(keys.type),
)
def test_rows_are_ordered_by_any_values(keys):
    perm = ll.open(pa.table({"x": [2, 0, 1], "key": keys}))
    windows = perm.windows({"x": [0, 1]}, by=None, order="key")
    assert [row["x"] for row in windows[:]] == [[2, 2], [0, 1], [1, 2]]


def test_splits_by_episode_share_no_rows(perm, table):
    episode = np.array(table["episode"].to_pylist())
    windows = perm.windows({"id": range(-3, 4)}, **EPISODE)
    train, val = windows.split([0.5, 0.5], seed=3, group_by="episode")
    seen = [
        set(part.with_format("numpy_dict")[:]["id"].ravel()) for part in (train, val)
    ]
    assert len(train) + len(val) == len(table)
    assert seen[0] | seen[1] == set(range(len(table)))
    assert not seen[0] & seen[1]
    assert not {*episode[list(seen[0])]} & {*episode[list(seen[1])]}


def test_windows_of_a_split_stay_within_it(perm):
    seen = []
    for part in perm.split([0.5, 0.5], seed=3):
        windows = part.windows({"id": range(-3, 4)}, **EPISODE)
        own = set(part.with_format("numpy_dict")[:]["id"].tolist())
        assert set(windows.with_format("numpy_dict")[:]["id"].ravel()) == own
        seen.append(own)
    assert not seen[0] & seen[1]


def test_rows_left_out_afterwards_stay_neighbours(windows, table):
    few = windows.filter("id % 5 = 0").skip(1)
    found = few[:]["id"]
    assert found[:, 1].tolist() == list(range(5, len(table), 5))
    assert found.tolist() == by_loop(table, found[:, 1], STEPS["id"])


def test_rows_that_were_skipped_before_do_not_come_back(perm, table):
    windows = perm.with_skip(5).with_take(20).windows(STEPS, **EPISODE)
    assert len(windows) == len(windows.with_skip(0)) == 20
    kept = table.slice(5, 20)
    found = windows.with_skip(3).with_format("numpy_dict")[:]["id"]
    assert found[:, 1].tolist() == list(range(8, 25))
    assert found.tolist() == by_loop(kept, found[:, 1], STEPS["id"])


def test_repeated_rows_have_the_same_windows(windows, perm):
    twice = perm.repeat(2).windows(STEPS, **EPISODE).with_format("numpy_dict")
    once = windows[:]["id"]
    np.testing.assert_array_equal(twice[:]["id"], np.concatenate([once, once]))
    drawn = windows.sample(50, seed=1, replacement=True)[:]["id"]
    np.testing.assert_array_equal(drawn, once[drawn[:, 1]])


# The shuffle of seed 7, and for each row the ids one step before and two after.
GOLDEN = [
    *([0, 1, 2], [4, 5, 6], [0, 0, 2], [1, 2, 2], [7, 8, 8]),
    *([3, 3, 5], [7, 7, 8], [5, 6, 6], [3, 4, 6]),
]


def test_the_sequence_is_pinned():
    table = episodes((3, 4, 2), shuffled=False)
    windows = ll.open(table).windows({"id": [-1, 0, 2]}, **EPISODE)
    loader = windows.loader(4, shuffle=True, seed=7, format="numpy_dict")
    assert joined(list(loader), "id").tolist() == GOLDEN


def tensors_of(loader):
    return {
        name: torch.cat([batch[name] for batch in loader])
        for name in ("id", "state", "id_is_pad")
    }


@pytest.mark.parametrize(
    "start",
    [
        None,
        "fork",
        pytest.param("spawn", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_torch_read_the_same(windows, start):
    windows = windows.with_format("torch_dict").select_columns(
        ["id", "state", "id_is_pad"]
    )
    plain = tensors_of(windows.loader(6, format="torch_dict"))
    options = {"multiprocessing_context": start} if start else {}
    found = tensors_of(
        DataLoader(windows, batch_size=6, num_workers=2 if start else 0, **options)
    )
    for name, values in plain.items():
        assert torch.equal(found[name], values)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_over_a_loader_make_its_batches(windows):
    from lanceloader.torch import DataLoader as Workers

    loader = windows.loader(6, shuffle=True, seed=4, format="torch_dict")
    wanted = [batch["id"] for batch in loader]
    workers = Workers(loader, num_workers=2, multiprocessing_context="fork")
    found = [batch["id"] for batch in workers]
    assert torch.equal(torch.cat(found), torch.cat(wanted))


def test_ranks_share_the_batches_of_one(windows):
    options = {"shuffle": True, "seed": 5, "format": "numpy_dict"}
    whole = [batch["id"].tolist() for batch in windows.loader(6, **options)]
    ranks = [
        [
            b["id"].tolist()
            for b in windows.loader(3, rank=rank, world_size=2, **options)
        ]
        for rank in range(2)
    ]
    assert len(whole) == len(ranks[0]) == len(ranks[1])
    for one, *parts in zip(whole, *ranks, strict=True):
        both = list(itertools.chain.from_iterable(parts))
        # The last batch is padded to the same number of rows on each rank.
        assert both[: len(one)] == one


def test_training_goes_on_at_another_world_size(windows):
    options = {"shuffle": True, "seed": 5, "format": "numpy_dict"}
    whole = [batch["id"].tolist() for batch in windows.loader(6, **options)]
    loader = windows.loader(3, rank=1, world_size=2, **options)
    batches = iter(loader)
    next(batches), next(batches)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    alone = windows.loader(6, **options)
    alone.load_state_dict(state)
    assert [batch["id"].tolist() for batch in alone] == whole[2:]


def test_states_do_not_depend_on_steps(windows, perm):
    options = {"shuffle": True, "seed": 5, "format": "numpy_dict"}
    loader = windows.loader(6, **options)
    next(iter(loader))
    other = perm.windows({"id": [0]}, **EPISODE).loader(6, **options)
    other.load_state_dict(loader.state_dict())
    wanted = [batch["id"][:, 1].tolist() for batch in windows.loader(6, **options)]
    assert [batch["id"][:, 0].tolist() for batch in other] == wanted[1:]


def test_pickles_hold_no_rows(windows, table):
    large = episodes((500, 700))
    memory = ll.open(table).windows(STEPS, **EPISODE).with_format("numpy_dict")
    for perm in (windows, memory, windows.shuffle(seed=1).take(20)):
        again = pickle.loads(pickle.dumps(perm))
        assert again.schema.equals(perm.schema)
        np.testing.assert_array_equal(again[:]["id"], perm[:]["id"])
    assert len(pickle.dumps(windows)) < 4000
    assert len(large) == 1200


def opened(name, path=None):
    return path


def test_a_connection_factory_opens_the_table_again(windows, path):
    import functools

    perm = windows.with_connection_factory(functools.partial(opened, path=path))
    again = pickle.loads(pickle.dumps(perm))
    np.testing.assert_array_equal(again[:]["id"], windows[:]["id"])


def test_places_cost_what_the_documentation_says():
    lengths = (40, 25, 35)
    stored = ll.open(episodes(lengths, shuffled=False))
    windows = stored.windows({"id": [0]}, **EPISODE)
    assert windows.source.episodes.num_bytes == 8 * (len(lengths) + 1)
    anywhere = ll.open(episodes(lengths)).windows({"id": [0]}, **EPISODE)
    assert anywhere.source.episodes.num_bytes == 8 * (len(lengths) + 1) + 8 * 100


def test_columns_are_only_read_at_their_own_steps(windows):
    (rows, ids, state) = sorted(windows.reader.parts, key=lambda part: part.width)
    assert rows.width == 1
    assert set(rows.names) == {"episode", "frame", "text"}
    assert (ids.width, ids.names) == (3, ("id",))
    assert (state.width, state.names) == (4, ("state",))
    assert "state: 4 rows for each row" in windows.explain()


def test_features_and_names_of_classes_are_those_of_the_column():
    features = '{"info": {"features": {"y": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    data = pa.table({"y": [1, 0]}).replace_schema_metadata({"huggingface": features})
    windows = ll.open(data).windows({"y": [0, 1]}, by=None)
    assert windows.class_names("y") == ["cat", "dog"]
    assert windows.features.keys() == {"y"}


def test_windows_are_mixed_and_written_like_other_columns(windows, tmp_path):
    mixture = ll.mix([windows, windows.shuffle(seed=1)], columns=["id", "state"])
    batch = next(iter(mixture.loader(8, format="numpy_dict")))
    assert batch["state"].shape == (8, 4, 3)
    written = windows.select_columns(["id", "id_is_pad"]).materialize(
        tmp_path / "w.lance"
    )
    np.testing.assert_array_equal(written[:]["id"], windows[:]["id"])


def test_functions_get_windows(windows):
    mapped = windows.map(lambda row: {"sum": int(sum(row["id"]))})
    assert mapped[:3]["sum"].tolist() == windows[:3]["id"].sum(1).tolist()


def test_computed_columns_have_windows(perm):
    doubled = perm.select_columns({"id": "id", "twice": "id * 2"})
    windows = doubled.windows({"twice": [-1, 1]}, **EPISODE).with_format("numpy_dict")
    plain = perm.windows({"id": [-1, 1]}, **EPISODE).with_format("numpy_dict")
    np.testing.assert_array_equal(windows[:]["twice"], 2 * plain[:]["id"])


def test_nulls_within_windows_are_treated_as_nulls():
    data = pa.table({"x": pa.array([1, None, 3])})
    windows = ll.open(data).windows({"x": [0, 1]}, by=None)
    with pytest.raises(FormatError, match="nulls"):
        windows.with_format("numpy_dict")[:]
    filled = windows.with_format("numpy_dict", nulls="fill", fill_value=0)[:]
    assert filled["x"].tolist() == [[1, 0], [0, 3], [3, 3]]


def test_no_rows_have_no_windows(perm):
    none = perm.filter("id < 0").windows(STEPS, **EPISODE)
    assert len(none) == 0
    assert list(none.loader(4)) == []
    longer = perm.windows({"id": range(100)}, **EPISODE, ends="drop")
    assert len(longer) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"steps": ["id"]}, TypeError, "`steps` must be a dict"),
        ({"steps": {}}, ValueError, "at least one column"),
        ({"steps": {"id": 16}}, TypeError, "range(0, 16)"),
        ({"steps": {"id": []}}, ValueError, "is empty"),
        ({"steps": {"id": [0.5]}}, TypeError, "frames per second"),
        ({"steps": {"id": [2**31]}}, ValueError, "2**31"),
        ({"steps": {"ids": [0]}}, ColumnNotFoundError, "`id`"),
        ({"by": "episodes"}, ColumnNotFoundError, "`episode`"),
        ({"order": "frames"}, ColumnNotFoundError, "`frame`"),
        ({"by": 3}, TypeError, "not 3"),
        ({"by": [3]}, TypeError, "not 3"),
        ({"by": []}, ValueError, "pass None"),
        ({"order": 3}, TypeError, "not 3"),
        ({"order": "episode"}, ValueError, "`order`='episode'"),
        ({"by": ["episode", "episode"]}, ValueError, "twice"),
        ({"order": "parity"}, ValueError, "same value in rows"),
        ({"by": "gap"}, ValueError, "IS NOT NULL"),
        ({"order": "gap"}, ValueError, "IS NOT NULL"),
        ({"order": "nan"}, ValueError, "NaN"),
        ({"order": "list"}, FormatError, "numbers, times or text"),
        ({"stride": 0}, ValueError, "`stride`"),
        ({"ends": "wrap"}, ValueError, '"edge", "fill", "clip", "drop"'),
        ({"fill_value": 0}, ValueError, 'ends="fill"'),
        ({"ends": "fill", "fill_value": "x"}, FormatError, "`fill_value`='x'"),
        ({"ends": "fill", "fill_value": {"x": 0}}, ValueError, "no entry"),
        ({"delta_timestamps": {}}, TypeError, "fps"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_to_pass(arguments, error, words):
    table = episodes((4, 3))
    rows = len(table)
    table = table.append_column("parity", pa.array([0, 1] * rows)[:rows])
    table = table.append_column("gap", pa.array([None, *range(1, rows)]))
    table = table.append_column("nan", pa.array([np.nan, *range(1, rows)]))
    table = table.append_column("list", pa.array([[0]] * rows))
    options = {"steps": {"id": [0, 1]}, **EPISODE} | arguments
    with pytest.raises(error) as caught:
        ll.open(table).windows(options.pop("steps"), **options)
    assert words in str(caught.value)


def test_windows_come_before_functions_and_only_once(perm, windows):
    with pytest.raises(ValueError, match="in one call"):
        windows.windows({"frame": [0]}, by=None)
    with pytest.raises(ValueError, match="cannot follow map"):
        perm.map(lambda row: row).windows({"id": [0]}, by=None)
    with pytest.raises(UnsupportedError, match="before windows"):
        windows.select_columns({"twice": "id * 2"})
    masked = perm.rename_column("frame", "id_is_pad")
    with pytest.raises(ValueError, match="rename_column"):
        masked.windows({"id": [0]}, by=None)


def test_packed_rows_of_all_columns_are_made_by_warm(windows, path, tmp_path):
    perm = windows.with_read(cache_dir=tmp_path / "rows")
    assert perm.warm().rows == len(windows)
    np.testing.assert_array_equal(perm[:]["id"], windows[:]["id"])


def test_loaders_count_what_they_read(windows):
    loader = windows.loader(6, format="numpy_dict")
    num_batches = len(list(loader))
    stats = loader.stats()
    assert (stats.batches, stats.rows) == (num_batches, len(windows))
    assert stats.bytes > 0


def test_notebooks_show_windows(windows):
    page = windows._repr_html_()
    assert "id_is_pad" in page
