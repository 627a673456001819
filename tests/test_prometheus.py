"""``Stats.to_prometheus``: the text format, names and numbers."""

from __future__ import annotations

import math
import re

import lanceloader as ll
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.monitor.prometheus import BOUNDS
from lanceloader.monitor.stats import Stats

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\S+)")

STATS = Stats(
    batches=101,
    rows=1010,
    bytes=5000,
    seconds=10.5,
    first_batch_seconds=2.0,
    wait_seconds=4.0,
    waits=((0.0009, 70), (0.02, 29), (70.0, 1)),
    stage_seconds={"read": 3.0, "gather": 0.5},
    rows_packed=1000,
    rows_direct=10,
)


def unescaped(text):
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def parsed(text):
    """The types of metrics, and the samples; every rule of the format is checked."""
    assert text.endswith("\n")
    types, samples, current = {}, {}, None
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            _, _, current, words = line.split(" ", 3)
            assert re.fullmatch(NAME, current)
            assert words
            assert current not in types
            # The type follows the help, before any sample.
            _, what, name, kind = lines[number + 1].split(" ")
            assert (what, name) == ("TYPE", current)
            types[current] = kind
        elif line.startswith("# TYPE "):
            assert lines[number - 1].startswith(f"# HELP {current} ")
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            if types[current] == "histogram":
                assert name.removeprefix(current) in ("_bucket", "_sum", "_count")
            else:
                assert name == current
            pairs = [pair.split("=", 1) for pair in re.findall(LABEL, labels)]
            keys = [key for key, _ in pairs]
            assert len(set(keys)) == len(keys)
            key = name, tuple((k, unescaped(v[1:-1])) for k, v in pairs)
            assert key not in samples
            samples[key] = float(value)
    return types, samples


def test_the_numbers_are_those_of_the_statistics():
    types, samples = parsed(STATS.to_prometheus())
    own = (("rank", "0"),)
    assert samples["lanceloader_batches_total", own] == 101
    assert samples["lanceloader_seconds_total", own] == 10.5
    assert samples["lanceloader_bytes_total", own] == 5000
    read = (*own, ("stage", "read"))
    assert samples["lanceloader_stage_seconds_total", read] == 3.0
    by_source = {
        labels[1][1]: value
        for (name, labels), value in samples.items()
        if name == "lanceloader_rows_read_total"
    }
    assert by_source == {"packed": 1000, "table": 10, "scratch": 0}
    assert samples["lanceloader_first_batch_seconds", own] == 2.0
    assert samples["lanceloader_wait_ratio", own] == STATS.wait_share
    assert samples["lanceloader_fallback", own] == 0
    for name, kind in types.items():
        assert name.startswith("lanceloader_")
        assert name.endswith("_total") == (kind == "counter")


def test_what_was_fetched_is_counted():
    fetched = {"requests": 7, "retries": 2, "throttled": 1}
    stats = Stats(**fetched, bytes_fetched=4096, bytes_copied=512)
    _, samples = parsed(stats.to_prometheus())
    wanted = {**fetched, "fetched_bytes": 4096, "copied_bytes": 512}
    for name, value in wanted.items():
        assert samples[f"lanceloader_{name}_total", (("rank", "0"),)] == value


def test_the_histogram_of_waits():
    _, samples = parsed(STATS.to_prometheus())
    name = "lanceloader_batch_wait_seconds"
    buckets = {
        labels[1][1]: value
        for (found, labels), value in samples.items()
        if found == f"{name}_bucket"
    }
    assert list(map(float, buckets)) == [*BOUNDS, math.inf]
    counts = list(buckets.values())
    assert counts == sorted(counts)
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.025"]) == (0, 70, 99)
    assert (buckets["50"], buckets["+Inf"]) == (99, 100)
    own = (("rank", "0"),)
    assert samples[f"{name}_count", own] == 100
    assert samples[f"{name}_sum", own] == 2.0


def test_the_same_samples_each_time():
    """Series that come and go would leave gaps."""
    _, empty = parsed(Stats().to_prometheus())
    _, full = parsed(STATS.to_prometheus())
    assert empty.keys() == full.keys()


def test_a_sample_for_each_rank():
    other = Stats(rank=1, world_size=2, batches=5, failure="no room")
    _, samples = parsed(Stats.merged([STATS, other]).to_prometheus())
    of_rank = [samples["lanceloader_batches_total", (("rank", rank),)] for rank in "01"]
    assert of_rank == [101, 5]
    assert samples["lanceloader_fallback", (("rank", "1"),)] == 1
    assert len(samples) == 2 * len(parsed(STATS.to_prometheus())[1])


@given(st.text())
def test_values_of_labels_are_escaped(value):
    _, samples = parsed(STATS.to_prometheus({"job": value}))
    assert all(dict(labels)["job"] == value for _, labels in samples)


@pytest.mark.parametrize("name", ["", "1st", "a-b", "__own", "ä", "a b", 3])
def test_labels_with_invalid_names(name):
    with pytest.raises(ValueError, match="must have letters, digits and underscores"):
        STATS.to_prometheus({name: "x"})


@pytest.mark.parametrize("name", ["rank", "stage", "source", "le"])
def test_labels_that_samples_have_already(name):
    with pytest.raises(ValueError, match=f"label '{name}' is one that samples have"):
        STATS.to_prometheus({name: "x"})


def test_a_loader():
    perm = ll.open(pa.table({"x": range(100)}))
    loader = perm.loader(7, shuffle=True, seed=1)
    assert len(list(loader)) == 15
    _, samples = parsed(loader.stats().to_prometheus({"run": 3}))
    assert samples["lanceloader_rows_total", (("run", "3"), ("rank", "0"))] == 100
