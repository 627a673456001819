"""``Loader.trace``: the file has the format, its slices nest, and their sums are the statistics."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import defaultdict

import lance
import lanceloader as ll
import pytest
import tables
from lanceloader.monitor import metrics
from lanceloader.monitor.stats import STAGES

READING = ("order", "plan", "read", "gather")


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    """5,000 rows."""
    path = tmp_path_factory.mktemp("trace") / "t.lance"
    return ll.open(
        lance.write_dataset(tables.narrow(5000), path, max_rows_per_file=1500)
    )


def traced(loader, path):
    with loader.trace(path):
        num_batches = len(list(loader))
    return num_batches, json.loads(path.read_text())["traceEvents"]


def slices(events, name=None):
    return [
        each for each in events if each["ph"] == "X" and name in (None, each["name"])
    ]


def rows_of(events):
    """The names of the rows."""
    return {
        each["tid"]: each["args"]["name"]
        for each in events
        if each["name"] == "thread_name"
    }


def check_format(events):
    """As https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU says."""
    for each in events:
        assert each["ph"] in ("X", "M")
        assert isinstance(each["name"], str)
        assert isinstance(each["pid"], int)
        assert isinstance(each["tid"], int)
        assert isinstance(each["args"], dict)
        if each["ph"] == "X":
            assert each["ts"] >= 0
            assert each["dur"] >= 0
    assert min(each["ts"] for each in slices(events)) == 0
    assert {each["tid"] for each in slices(events)} == rows_of(events).keys()
    # One name each, and each row another.
    assert len(set(rows_of(events).values())) == len(rows_of(events))
    sorts = [each["tid"] for each in events if each["name"] == "thread_sort_index"]
    assert set(sorts) == rows_of(events).keys()


def check_nesting(events):
    """Two slices of a row are one after the other, or one is within the other."""
    rows = defaultdict(list)
    for each in slices(events):
        rows[each["tid"]].append(each)
    rounding = 1e-3
    for row in rows.values():
        within = []
        for each in sorted(row, key=lambda one: (one["ts"], -one["dur"])):
            end = each["ts"] + each["dur"]
            while within and within[-1] <= each["ts"] + rounding:
                within.pop()
            assert not within or end <= within[-1] + rounding, each
            within.append(end)
    stages = sorted(
        (each for name in READING for each in slices(events, name)),
        key=lambda one: (one["tid"], one["ts"]),
    )
    for before, after in itertools.pairwise(stages):
        end = before["ts"] + before["dur"]
        assert before["tid"] != after["tid"] or end <= after["ts"] + rounding


def seconds(found):
    return sum(each["dur"] for each in found) / 1e6


WAYS = {
    "plain": {},
    "epochs": {"epochs": 3, "shuffle": True, "seed": 1},
    "collated": {
        "collate": lambda batch: batch,
        "transform": len,
        "transform_threads": 0,
    },
    "threads": {"transform": lambda batch: batch, "transform_threads": 3, "epochs": 2},
    "moved": {"device": "cpu"},
    "moved in threads": {"device": "cpu", "transform_threads": 2},
    "external": {"read": "external", "shuffle": True, "seed": 2},
    "resident": {"read": "resident", "shuffle": True, "seed": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_traces_agree_with_the_statistics(perm, tmp_path, way):
    view = perm.select_columns(["id", "x"])
    loader = view.loader(250, format="torch_dict", **WAYS[way])
    num_batches, events = traced(loader, tmp_path / "t.json")
    check_format(events)
    check_nesting(events)
    found = loader.stats()
    waits = slices(events, "wait")
    assert [each["args"]["batch"] for each in waits] == list(range(num_batches))
    assert [each["args"]["rows"] for each in waits] == [250] * num_batches
    assert seconds(waits) == pytest.approx(found.wait_seconds)
    assert waits[0]["dur"] / 1e6 == pytest.approx(found.first_batch_seconds)
    taken = slices(events, "take")
    for unit in ("rows", "bytes"):
        assert sum(each["args"][unit] for each in taken) == getattr(found, unit)
    windows = slices(events, "window")
    assert sum(each["args"]["rows"] for each in windows) == found.rows
    # What a thread of the core does outside of stages is not one.
    for stage in READING:
        spent = found.stage_seconds.get(stage, 0.0)
        assert seconds(slices(events, stage)) == pytest.approx(spent, abs=1e-6)
    assert len(slices(events, "format")) == num_batches
    names = {"format": ("format", "collate")}
    for stage in STAGES[4:]:
        of = [
            each for name in names.get(stage, (stage,)) for each in slices(events, name)
        ]
        assert seconds(of) == pytest.approx(found.stage_seconds.get(stage, 0.0))
    assert len(slices(events, "train")) == num_batches


def test_rows_are_threads(perm, tmp_path):
    loader = perm.loader(
        100, threads=2, transform=lambda batch: batch, transform_threads=2, epochs=3
    )
    _, events = traced(loader, tmp_path / "t.json")
    names = rows_of(events)
    assert names[0] == "training loop"
    assert set(names.values()) <= {
        *("training loop", "reading 1", "reading 2", "transform-0", "transform-1")
    }
    where = {name: {names[each["tid"]] for each in slices(events, name)} for name in (
        *("wait", "train", "transform", "window", "take"),
    )}  # fmt: skip
    assert where["wait"] == where["train"] == {"training loop"}
    assert where["transform"] == where["take"] <= {"transform-0", "transform-1"}
    assert where["window"] <= {"reading 1", "reading 2"}


def test_training_is_the_time_between_batches(perm, tmp_path):
    loader = perm.loader(500)
    _, events = traced(loader, tmp_path / "t.json")
    loop = sorted(
        slices(events, "wait") + slices(events, "train"), key=lambda each: each["ts"]
    )
    for before, after in itertools.pairwise(loop):
        assert before["ts"] + before["dur"] <= after["ts"] + 1e-3
    assert seconds(loop) <= loader.stats().seconds + 1e-6
    kinds = [each["name"] for each in loop]
    assert kinds == ["wait", "train"] * 10


def test_what_another_library_reads(tmp_path):
    data = tables.narrow(50)
    path = tmp_path / "old.lance"
    loader = ll.open(
        lance.write_dataset(data, path, data_storage_version="legacy")
    ).loader(20)
    num_batches, events = traced(loader, tmp_path / "t.json")
    check_format(events)
    check_nesting(events)
    assert len(slices(events, "read")) == num_batches == 3
    assert seconds(slices(events, "read")) == pytest.approx(
        loader.stats().stage_seconds["read"]
    )


def test_iterations_have_rows_of_their_own(perm, tmp_path):
    loader = perm.loader(500)
    before = iter(loader)
    next(before)
    with loader.trace(tmp_path / "t.json"):
        next(before)
        one, other = iter(loader), iter(loader)
        for _ in range(3):
            next(one)
            next(other)
        for _ in loader:
            break
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    check_format(events)
    check_nesting(events)
    loops = [row for row, name in rows_of(events).items() if "training" in name]
    counts = {
        row: len([each for each in slices(events, "wait") if each["tid"] == row])
        for row in loops
    }
    # The one that began before the block is not in it.
    assert sorted(counts.values()) == [1, 3, 3]


def test_ranks_are_processes(perm, tmp_path):
    loader = perm.loader(500, rank=1, world_size=2)
    _, events = traced(loader, tmp_path / "t.json")
    assert {each["pid"] for each in events} == {1}
    (name,) = [each for each in events if each["name"] == "process_name"]
    assert "rank 1 of 2" in name["args"]["name"]


def test_nothing_is_kept_without_a_trace(perm, tmp_path):
    loader = perm.loader(500)
    with loader.trace(tmp_path / "t.json"):
        pass
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"] == []
    list(loader)
    assert loader._metrics.events is None
    assert all(watch.events() == [] for watch, _ in loader._metrics.watches)


def test_events_are_bounded(perm, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_EVENTS", 7)
    _, events = traced(perm.loader(500), tmp_path / "t.json")
    check_nesting(events)
    python = [
        each for each in slices(events) if each["name"] not in ("window", *READING)
    ]
    assert len(python) == 7


def test_a_trace_is_written_when_its_block_raises(perm, tmp_path):
    loader, path = perm.loader(500, format="arrow"), tmp_path / "t.json"
    with pytest.raises(ZeroDivisionError), loader.trace(path):
        1 / next(batch.num_rows - 500 for batch in loader)
    events = json.loads(path.read_text())["traceEvents"]
    check_nesting(events)
    assert len(slices(events, "wait")) == 1
    # It may be traced again.
    assert traced(loader, path)[0] == 10


def test_a_block_within_a_block(perm, tmp_path):
    loader = perm.loader(500)
    with loader.trace(tmp_path / "t.json") as trace:
        with (
            pytest.raises(RuntimeError, match="already being traced"),
            loader.trace(tmp_path / "u.json"),
        ):
            pass
        assert not (tmp_path / "u.json").exists()
        list(loader)
        assert len(slices(trace.to_dict()["traceEvents"], "wait")) == 10


def test_a_place_that_cannot_be_written_to_is_known_at_once(perm, tmp_path):
    loader = perm.loader(500)
    with pytest.raises(FileNotFoundError), loader.trace(tmp_path / "no" / "t.json"):
        raise AssertionError("begun")
    assert traced(loader, tmp_path / "t.json")[0] == 10


def test_a_place_that_is_none(perm):
    with pytest.raises(TypeError, match="`path` must be a string or a path, not 3"):
        perm.loader(500).trace(3)


def test_a_trace_stays_where_it_is(perm, tmp_path):
    loader = perm.loader(500)
    with loader.trace(tmp_path / "t.json"):
        other = pickle.loads(pickle.dumps(loader))
        list(other)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"] == []
