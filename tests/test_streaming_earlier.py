"""Pickles and states of ``StreamingDataset`` of version 0.1.0 still load and resume."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from earlier import data
from lanceloader.streaming import StreamingDataset
from lanceloader.streaming.validation import RowErrorPolicy

FOLDER = Path(__file__).parent / "data" / "earlier"

# The options of each dataset, and how many rows or blocks it had yielded.
DATASETS = {
    "streaming": ({"num_splits": 4, "shuffle_seed": 3, "epoch": 2}, 6),
    "streaming_tail": (
        {"num_splits": 3, "tail": "uneven", "world_size": 2, "rank": 1},
        7,
    ),
    "streaming_packed": (
        {
            "num_splits": 2,
            "columns": ["tokens"],
            "pack_sequences": 6,
            "eos_id": -1,
            "pad_id": -2,
            "blocks_per_epoch": 12,
        },
        4,
    ),
    "streaming_filled": (
        {
            "num_splits": 2,
            "on_transform_error": "fill",
            "fill_value": {"x": -1},
            "strict": True,
        },
        5,
    ),
}


def load(name):
    return pickle.loads((FOLDER / f"{name}.pickle").read_bytes())


def recorded(name):
    """The state and the remaining items, recorded with version 0.1.0."""
    return json.loads((FOLDER / "streaming.json").read_text())[name]


def plain(item):
    return {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in item.items()
    }


@pytest.mark.parametrize("name", DATASETS)
def test_a_pickle_resumes(name):
    dataset = load(name)
    wanted = recorded(name)
    state = json.loads(json.dumps(dataset.state_dict()))
    assert state == wanted["state"]
    assert dataset.bytes_loaded > 0
    assert dataset.consumed_rows >= DATASETS[name][1]
    again = pickle.loads(pickle.dumps(dataset))
    assert list(map(plain, dataset)) == wanted["rest"]
    assert list(map(plain, again)) == wanted["rest"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_pickle_starts_further_epochs(name):
    options, _ = DATASETS[name]
    dataset = load(name)
    dataset.set_epoch(5)
    fresh = StreamingDataset(data(), **{**options, "epoch": 5})
    assert list(map(plain, dataset)) == list(map(plain, fresh))


@pytest.mark.parametrize("name", DATASETS)
def test_a_state_resumes(name):
    options, _ = DATASETS[name]
    dataset = StreamingDataset(data(), **options)
    wanted = recorded(name)
    dataset.load_state_dict(wanted["state"])
    assert list(map(plain, dataset)) == wanted["rest"]


def test_an_error_policy_keeps_its_fill_value():
    policy = load("streaming_filled")._error_policy
    assert isinstance(policy, RowErrorPolicy)
    assert policy.is_filling
    assert policy.filler(ValueError(), None) == {"x": -1}
