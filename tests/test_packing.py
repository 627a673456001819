"""Documents packed into blocks, compared with an oracle and LanceDB, and equal on all ranks."""

from __future__ import annotations

import json
import pickle
import warnings

import lance
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import sequences
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.errors import FormatError
from sequences import EOS, PAD, TYPES, docs_of, flat, rows_of, wanted

STRATEGIES = ["concat", "first_fit", "best_fit"]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return sequences.written(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def perm(uri):
    return ll.open(uri).shuffle(seed=5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("window", [7, 16_384])
def test_blocks_are_those_of_the_oracle(perm, strategy, eos, window):
    view = perm.pack(
        24, strategy=strategy, eos_id=EOS if eos else None, pad_id=PAD, window=window
    )
    loader = view.loader(5, format="arrow")
    batches = rows_of(loader)
    expected = wanted(docs_of(perm), 24, strategy=strategy, eos=eos, window=window)
    assert flat(batches) == expected
    assert [len(batch) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert view.num_blocks() == len(expected)
    assert len(loader) == len(batches)


def test_statistics_count_blocks(perm):
    loader = perm.pack(24).loader(5, format="arrow")
    batches = list(loader)
    stats = loader.stats()
    assert stats.rows == sum(batch.num_rows for batch in batches) == loader.num_rows
    assert stats.bytes == sum(batch.nbytes for batch in batches)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_every_type_of_token(kind, where, tmp_path):
    data = sequences.documents(60, kind=TYPES[kind])
    perm = ll.open(data)
    if where == "disk":
        perm = ll.open(lance.write_dataset(data, tmp_path / "t.lance"))
    batches = rows_of(perm.pack(16, pad_id=PAD).loader(4, format="arrow"))
    assert flat(batches) == wanted(data["tokens"].to_pylist(), 16)


def test_vectors_are_documents_of_one_length(tmp_path):
    data = pa.table(
        {
            "tokens": pa.array(
                np.arange(60).reshape(20, 3).tolist(), pa.list_(pa.int16(), 3)
            )
        }
    )
    perm = ll.open(lance.write_dataset(data, tmp_path / "t.lance")).shuffle(seed=1)
    batches = rows_of(perm.pack(7, pad_id=PAD).loader(2, format="arrow"))
    assert flat(batches) == wanted(docs_of(perm), 7)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
def test_global_batches_are_the_same_in_every_world(perm, strategy, world_size, tail):
    view = perm.pack(24, strategy=strategy, pad_id=PAD, window=50)
    alone = rows_of(view.loader(world_size=1, rank=0, batch_size=12, format="arrow"))
    ranks = [
        rows_of(
            view.loader(
                global_batch_size=12,
                rank=rank,
                world_size=world_size,
                tail=tail,
                format="arrow",
            )
        )
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    together = [flat(parts) for parts in zip(*ranks, strict=True)]
    assert together[:-1] == alone[: len(together) - 1]
    last, whole = together[-1], alone[len(together) - 1]
    if tail == "uneven":
        assert last == whole
    elif tail == "drop":
        assert last == whole[: len(whole) // world_size * world_size]
    else:
        # Filled up with blocks from the start.
        assert last[: len(whole)] == whole
        assert last[len(whole) :] == alone[0][: len(last) - len(whole)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(data=st.data())
def test_a_state_resumes_in_any_world(uri, strategy, data):
    perm = ll.open(uri)
    view = perm.pack(24, strategy=strategy, pad_id=PAD, window=64)
    options = {"shuffle": True, "seed": 3, "global_batch_size": 6, "format": "arrow"}
    loader = view.loader(world_size=1, rank=0, **options).set_epoch(2)
    whole = rows_of(loader)
    stop = data.draw(st.integers(0, len(whole)))
    loader = view.loader(world_size=1, rank=0, **options).set_epoch(2)
    for _, _batch in zip(range(stop), loader, strict=False):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    world_size = data.draw(st.integers(1, 4))
    ranks = []
    for rank in range(world_size):
        other = view.loader(world_size=world_size, rank=rank, tail="uneven", **options)
        other.load_state_dict(state)
        ranks.append(rows_of(other))
    assert [flat(parts) for parts in zip(*ranks, strict=True)] == whole[stop:]
    skipped = (
        view.loader(world_size=1, rank=0, **options).set_epoch(2).skip_batches(stop)
    )
    assert rows_of(skipped) == whole[stop:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_epoch_has_every_token(uri, strategy):
    perm = ll.open(uri)
    view = perm.pack(24, strategy=strategy, pad_id=PAD)
    loader = view.loader(8, shuffle=True, seed=9, epochs=2, format="arrow")
    blocks = flat(rows_of(loader))
    first = loader.set_epoch(0)
    assert len(loader) * 8 >= len(blocks)
    sizes = [view.loader(8, shuffle=True, seed=9).units.num_units(at) for at in (0, 1)]
    assert len(blocks) == sum(sizes)
    tokens = sorted(token for document in docs_of(perm) for token in document)
    epochs = [blocks[: sizes[0]], blocks[sizes[0] :]]
    for epoch in epochs:
        found = [token for row in epoch for token in row["input_ids"]]
        assert sorted(token for token in found if token != PAD) == tokens
    assert epochs[0] != epochs[1]
    assert first.epoch == 0


@pytest.mark.parametrize("read", ["direct", "resident", "external"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_way_to_read(perm, read, strategy):
    view = perm.pack(24, strategy=strategy, pad_id=PAD)
    loader = view.loader(8, read=read, format="arrow")
    assert flat(rows_of(loader)) == wanted(docs_of(perm), 24, strategy=strategy)


def test_concatenated_blocks_are_those_of_lancedb(tmp_path):
    from lancedb.streaming import StreamingDataset

    data = sequences.documents(80).select(["tokens"])
    table = lancedb.connect(tmp_path / "db").create_table("t", data)
    view = ll.Permutation.identity(table).pack(32, eos_id=EOS, pad_id=PAD)
    blocks = view.num_blocks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = StreamingDataset(
            table,
            num_splits=1,
            shuffle=False,
            columns=["tokens"],
            pack_sequences=32,
            eos_id=EOS,
            pad_id=PAD,
            blocks_per_epoch=blocks,
        )
        found = list(theirs)
    ours = flat(rows_of(view.loader(blocks, format="arrow")))
    assert len(found) == len(ours) == blocks
    for mine, their in zip(ours, found, strict=True):
        filled = mine["num_tokens"]
        assert mine["input_ids"] == their["input_ids"].tolist()
        # LanceDB gives padding the number of the last document, we give it -1.
        assert mine["doc_ids"][:filled] == their["doc_ids"].tolist()[:filled]


def test_formats(perm):
    import torch

    view = perm.pack(24, strategy="best_fit", pad_id=PAD)
    rows = wanted(docs_of(perm), 24, strategy="best_fit")[:6]
    batch = next(iter(view.loader(6, format="torch_dict")))
    for name in ("input_ids", "doc_ids", "position_ids", "num_tokens"):
        assert batch[name].dtype == torch.int64
        assert batch[name].tolist() == [row[name] for row in rows]
    ends = batch["cu_seqlens"]
    assert ends.values.dtype == torch.int32
    # All blocks end to end, as for flash attention.
    block = torch.arange(6).repeat_interleave(ends.offsets.diff())
    flat_ends = torch.unique_consecutive(ends.values + 24 * block)
    lengths = [
        b - a
        for row in rows
        for a, b in zip(row["cu_seqlens"], row["cu_seqlens"][1:], strict=False)
    ]
    assert flat_ends.diff().tolist() == lengths
    batch = next(iter(view.loader(6, format="numpy_dict")))
    assert batch["input_ids"].tolist() == [row["input_ids"] for row in rows]
    assert next(iter(view.loader(6))) == rows
    with pytest.raises(FormatError, match="torch_matrix"):
        view.loader(6, format="torch_matrix")


def test_transforms_see_blocks(perm):
    view = perm.pack(24, pad_id=PAD)
    expected = wanted(docs_of(perm), 24)

    def last(batch):
        if any(row["num_tokens"] < 24 for row in batch):
            raise ValueError("not full")
        return [row["input_ids"] for row in batch]

    loader = view.loader(7, transform=last, on_error="skip", format="python")
    full = [row["input_ids"] for row in expected if row["num_tokens"] == 24]
    assert flat(loader) == full
    assert loader.stats().rows_skipped == len(expected) - len(full)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_share_the_batches(perm, num_workers):
    torch_data = pytest.importorskip("torch.utils.data")
    view = perm.pack(24, strategy="best_fit", pad_id=PAD)
    loader = view.loader(4, format="torch_dict")
    alone = [batch["input_ids"].tolist() for batch in loader]
    feeder = torch_data.DataLoader(
        view.loader(4, format="torch_dict"),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="fork",
    )
    assert [batch["input_ids"].tolist() for batch in feeder] == alone


def test_units_pickle(perm):
    served = perm.pack(24, strategy="first_fit").loader(4).units
    other = pickle.loads(pickle.dumps(served))
    assert other.num_units(3) == served.num_units(3)
    again = pickle.loads(pickle.dumps(other))
    assert again._lengths is not None
    assert again.num_units(1) == served.num_units(1)


def test_tables_that_their_own_library_reads(tmp_path):
    data = sequences.documents(50)
    old = lance.write_dataset(data, tmp_path / "t.lance", data_storage_version="legacy")
    perm = ll.open(old).shuffle(seed=2)
    for strategy in STRATEGIES:
        view = perm.pack(24, strategy=strategy, pad_id=PAD)
        rows = flat(rows_of(view.loader(4, format="arrow")))
        assert rows == wanted(docs_of(perm), 24, strategy=strategy)


def test_packing_views_with_filters_repeats_and_shards(perm):
    some = perm.filter("n > 12 AND id < 200").shuffle(seed=2)
    view = some.pack(24, column="tokens", pad_id=PAD)
    assert flat(rows_of(view.loader(8, format="arrow"))) == wanted(docs_of(some), 24)
    # Rows that are served twice are packed twice.
    twice = some.with_repeat(2)
    rows = flat(rows_of(twice.pack(24, pad_id=PAD).loader(8, format="arrow")))
    assert rows == wanted(docs_of(some) * 2, 24)
    parts = [
        some.shard(rank, 2).pack(24, pad_id=PAD).loader(8, format="arrow")
        for rank in (0, 1)
    ]
    for rank, loader in enumerate(parts):
        assert flat(rows_of(loader)) == wanted(docs_of(some)[rank::2], 24)


def test_a_column_of_lengths_packs_the_same_blocks(perm):
    view = perm.pack(24, lengths="n", strategy="best_fit", pad_id=PAD)
    expected = wanted(docs_of(perm), 24, strategy="best_fit")
    assert flat(rows_of(view.loader(8, format="arrow"))) == expected


@given(
    docs=st.lists(st.lists(st.integers(0, 99), max_size=12), max_size=30),
    length=st.integers(1, 10),
    strategy=st.sampled_from(STRATEGIES),
    window=st.integers(1, 12),
    eos=st.booleans(),
    batch_size=st.integers(1, 5),
)
def test_any_documents(docs, length, strategy, window, eos, batch_size):
    perm = ll.open(pa.table({"tokens": pa.array(docs, pa.list_(pa.int16()))}))
    view = perm.pack(
        length,
        strategy=strategy,
        window=window,
        eos_id=EOS if eos else None,
        pad_id=PAD,
    )
    rows = flat(rows_of(view.loader(batch_size, format="arrow")))
    assert rows == wanted(docs, length, strategy=strategy, window=window, eos=eos)
