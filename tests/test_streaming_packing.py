"""Packing in ``StreamingDataset``: the blocks are LanceDB's, for any lists of tokens."""

from __future__ import annotations

import warnings

import lancedb
import lanceloader.streaming as streaming
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.streaming import StreamingDataset
from streaming_datasets import (
    LIBRARIES,
    as_lists,
    few_examples,
    ours,
    outcome,
    readers,
    theirs,
    tokens_table,
)

SPECIAL = {"eos_id": 9, "pad_id": 0, "columns": ["tokens"]}


def packed(table, blocks, length=6, library=ours, **options):
    return library.StreamingDataset(
        table, pack_sequences=length, blocks_per_epoch=blocks, **SPECIAL, **options
    )


def blocks_of(dataset):
    return list(map(as_lists, dataset))


def oracle(documents, length, blocks):
    """Return the blocks of one split, computed token by token."""
    stream = [
        (token, k == 0)
        for tokens in documents
        for k, token in enumerate([*tokens, SPECIAL["eos_id"]])
    ]
    made = []
    for b in range(blocks):
        part = stream[b * length : (b + 1) * length]
        ids, number = [], 0
        for k, (_, is_start) in enumerate(part):
            number += is_start and k > 0
            ids.append(number)
        missing = length - len(part)
        tokens = [token for token, _ in part] + [SPECIAL["pad_id"]] * missing
        made.append({"input_ids": tokens, "doc_ids": ids + [number] * missing})
    return made


def test_the_example_of_the_specification(db):
    table = tokens_table(db, [[1, 2], [3, 4], [5]])
    assert blocks_of(packed(table, 2, shuffle=False)) == [
        {"input_ids": [1, 2, 9, 3, 4, 9], "doc_ids": [0, 0, 0, 1, 1, 1]},
        {"input_ids": [5, 9, 0, 0, 0, 0], "doc_ids": [0, 0, 0, 0, 0, 0]},
    ]


DOCUMENTS = st.lists(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9), min_size=4, max_size=12
)


@given(DOCUMENTS, st.integers(1, 11), st.integers(1, 8), st.integers(1, 7))
@few_examples
def test_blocks_are_those_of_the_oracle(documents, length, blocks, batch_size):
    """Including empty documents, and documents longer than a block."""
    table = tokens_table(lancedb.connect("memory://"), documents)
    options = {"shuffle": False, "read_batch_size": batch_size}
    dataset = packed(table, blocks, length, **options)
    assert blocks_of(dataset) == oracle(documents, length, blocks)


@given(DOCUMENTS, st.integers(1, 11), st.integers(1, 4), st.sampled_from([1, 2, 4]))
@few_examples
def test_blocks_are_those_of_lancedb(documents, length, cycles, world_size):
    table = tokens_table(lancedb.connect("memory://"), documents)
    found, wanted = (
        [
            blocks_of(dataset)
            for dataset in readers(
                library,
                table,
                world_size=world_size,
                num_splits=4,
                pack_sequences=length,
                blocks_per_epoch=4 * cycles,
                **SPECIAL,
            )
        ]
        for library in (ours, theirs)
    )
    assert found == wanted


KINDS = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("make", [pa.list_, pa.large_list], ids=["list", "large"])
def test_every_integer_type(db, kind, make):
    documents = [[1, 2, 100], [], [7], [3] * 20]
    table = tokens_table(db, documents, make(kind))
    assert blocks_of(packed(table, 5, shuffle=False)) == oracle(documents, 6, 5)


def test_fixed_size_lists(db):
    documents = [[k, k + 1, k + 2] for k in range(8)]
    table = tokens_table(db, documents, pa.list_(pa.int32(), 3))
    assert blocks_of(packed(table, 6, shuffle=False)) == oracle(documents, 6, 6)


def test_blocks_are_tensors_of_their_own(db):
    table = tokens_table(db, [[1, 2, 3] * 10] * 4)
    blocks = list(packed(table, 20, shuffle=False))
    before = [as_lists(block) for block in blocks]
    for tensor in blocks[3].values():
        tensor.fill_(-5)
    assert [as_lists(block) for block in blocks[:3] + blocks[4:]] == before[
        :3
    ] + before[4:]
    assert (
        len({tensor.data_ptr() for block in blocks for tensor in block.values()}) == 40
    )
    assert blocks[0]["input_ids"].dtype == torch.int64


WRONG = [
    {"pack_sequences": 0},
    {"pack_sequences": -1},
    {"eos_id": None},
    {"pad_id": None},
    {"blocks_per_epoch": None},
    {"blocks_per_epoch": True},
    {"blocks_per_epoch": 2.0},
    {"blocks_per_epoch": "all"},
    {"blocks_per_epoch": 0},
    {"blocks_per_epoch": 5},
    {"transform": print},
    {"columns": None},
    {"columns": []},
    {"columns": ["tokens", "id"]},
    {"columns": ["id"]},
    {"columns": ["words"]},
    {"columns": ["nothing"]},
    {"pack_sequences": None},
]
FRAGMENTS = [
    *("pack_sequences must be greater than 0", "eos_id is required"),
    *("pad_id is required", "blocks_per_epoch is required"),
    *("positive integer or 'auto'", "must be greater than 0", "must be divisible"),
    *("transform cannot be combined", "exactly one list-typed column"),
    *("list-typed token column", "token column with integer values"),
    "blocks_per_epoch requires pack_sequences",
]


def test_errors_are_those_of_lancedb(db):
    data = {"id": [1, 2], "tokens": [[1], [2]], "words": [["a"], ["b"]]}
    table = db.create_table("t", pa.table(data))
    seen = set()
    for change in WRONG:
        options = {"pack_sequences": 6, "blocks_per_epoch": 4, **SPECIAL, **change}

        def make(library, options=options):
            return library.StreamingDataset(table, num_splits=2, **options)

        (kind, text), (wanted, their_text) = (
            outcome(lambda m=library: make(m)) for library in LIBRARIES.values()
        )
        assert kind is wanted, change
        in_text = {part for part in FRAGMENTS if part in their_text}
        assert all(part in text for part in in_text), text
        seen |= in_text
    assert seen == set(FRAGMENTS)


@pytest.mark.parametrize("name", ["eos_id", "pad_id"])
def test_special_tokens_must_fit(db, name):
    table = tokens_table(db, [[1]])
    options = {**SPECIAL, name: 2**63}
    with pytest.raises(ValueError, match=name):
        StreamingDataset(table, pack_sequences=2, blocks_per_epoch=1, **options)


@pytest.mark.parametrize("bad", [None, [1, None]], ids=["list", "value"])
def test_nulls(db, bad):
    documents = [[1, 2], bad, [3]]
    table = tokens_table(db, documents)
    for library in (ours, theirs):
        with pytest.raises(ValueError, match="does not support null token lists"):
            list(packed(table, 2, library=library))
        dataset = packed(
            table, 2, library=library, shuffle=False, on_transform_error="skip"
        )
        assert blocks_of(dataset) == oracle([[1, 2], [3]], 6, 2)
        assert dataset.rows_skipped == 1
    filled = packed(
        table, 2, shuffle=False, on_transform_error="fill", fill_value=[8, 8]
    )
    assert blocks_of(filled) == oracle([[1, 2], [8, 8], [3]], 6, 2)
    assert filled.rows_filled == 1


def test_tokens_beyond_signed_64_bits_are_refused(db):
    """The error names the token, where LanceDB raises one of torch; the rows can be skipped."""
    table = tokens_table(db, [[1], [2**63], [3]], pa.list_(pa.uint64()))
    with pytest.raises(ValueError, match="token 9223372036854775808 of type uint64"):
        list(packed(table, 1))
    dataset = packed(table, 1, shuffle=False, on_transform_error="skip")
    assert blocks_of(dataset) == oracle([[1], [3]], 6, 1)


def test_documents_are_counted(db):
    table = tokens_table(db, [[1, 2]] * 10)
    for library in (ours, theirs):
        dataset = packed(table, 4, library=library, num_splits=2)
        assert len(list(dataset)) == 4
        assert dataset.consumed_rows == 8
        assert dataset.state_dict()["samples_consumed_per_split"] == [4, 4]
        assert dataset.prefetch_queue_depth == 0


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("num_documents", [3, 250])
def test_an_estimate_is_that_of_lancedb(db, num_splits, num_documents):
    table = tokens_table(db, [[5] * (k % 17) for k in range(num_documents)])
    made = []
    for library in (ours, theirs):
        with pytest.warns(UserWarning, match="approximate token-count sample"):
            dataset = packed(
                table, "auto", library=library, num_splits=num_splits, shuffle_seed=4
            )
        made.append(dataset)
    assert made[0]._blocks_per_epoch == made[1]._blocks_per_epoch
    assert blocks_of(made[0]) == blocks_of(made[1])
    assert made[0].state_dict() == made[1].state_dict()


def test_an_estimate_refuses_nulls(db):
    table = tokens_table(db, [None, [1]])
    with (
        pytest.warns(UserWarning, match="approximate"),
        pytest.raises(ValueError, match="null token lists"),
    ):
        packed(table, "auto", shuffle=False, num_splits=2)


def test_an_epoch_is_estimated_as_that_of_a_new_dataset(db):
    table = tokens_table(db, [[5] * (k * k % 31) for k in range(90)])
    with pytest.warns(UserWarning, match="approximate"):
        dataset = packed(table, "auto", num_splits=3)
    with pytest.warns(UserWarning, match="approximate"):
        dataset.set_epoch(4)
    with pytest.warns(UserWarning, match="approximate"):
        other = packed(table, "auto", num_splits=3, epoch=4)
    assert dataset._blocks_per_epoch == other._blocks_per_epoch
    assert blocks_of(dataset) == blocks_of(other)


def test_the_warning_of_an_estimate_points_to_the_caller(db):
    table = tokens_table(db, [[5]] * 9)
    with pytest.warns(UserWarning, match="approximate") as made:
        dataset = packed(table, "auto")
    with pytest.warns(UserWarning, match="approximate") as started:
        dataset.set_epoch(1)
    for warned in (made, started):
        assert [warning.filename for warning in warned] == [__file__]


def test_a_replaced_warnings_module_is_used(db, monkeypatch):
    """Programs may replace ``warnings`` in the package."""
    seen = []

    class Warnings:
        @staticmethod
        def warn(message, **options):
            seen.append(message)

    monkeypatch.setattr(streaming, "warnings", Warnings)
    packed(tokens_table(db, [[1]]), "auto")
    assert len(seen) == 1
    assert warnings.warn is not Warnings.warn
