"""Batches under a token budget, compared with an oracle, and equal on all ranks."""

from __future__ import annotations

import itertools
import json
import pickle

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
import sequences
from hypothesis import given
from hypothesis import strategies as st
from sequences import bucketed


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return sequences.written(tmp_path_factory.mktemp("documents"), 400)


@pytest.fixture(scope="module")
def perm(uri):
    return ll.open(uri).shuffle(seed=5)


def ids_of(loader):
    """The ids of each batch."""
    return [batch["id"].to_pylist() for batch in loader]


def wanted(perm, tokens, *, window=8192, padded=True, most_rows=None):
    table = perm.to_arrow()
    batches = bucketed(
        table["n"].to_pylist(),
        tokens,
        window=window,
        padded=padded,
        most_rows=most_rows,
    )
    ids = table["id"].to_pylist()
    return [[ids[at] for at in batch] for batch in batches]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("length", ["n", "tokens", None])
@pytest.mark.parametrize("options", [{}, {"bucket_rows": 50}, {"batch_size": 7}])
def test_batches_are_those_of_the_oracle(perm, padded, length, options):
    loader = perm.loader(
        batch_tokens=120, length=length, padded=padded, format="arrow", **options
    )
    expected = wanted(
        perm,
        120,
        padded=padded,
        window=options.get("bucket_rows", 8192),
        most_rows=options.get("batch_size"),
    )
    found = ids_of(loader)
    assert found == expected
    assert len(loader) == len(found)
    assert sorted(at for batch in found for at in batch) == sorted(
        perm.to_arrow()["id"].to_pylist()
    )


def test_lengths_need_not_be_selected(perm):
    loader = perm.select_columns(["id"]).loader(
        batch_tokens=120, length="n", format="arrow"
    )
    assert ids_of(loader) == wanted(perm, 120)
    assert next(iter(loader)).schema.names == ["id"]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
def test_ranks_take_turns(perm, world_size, tail):
    alone = wanted(perm, 120)
    options = {"batch_tokens": 120, "tail": tail, "format": "arrow"}
    ranks = [
        ids_of(perm.loader(rank=rank, world_size=world_size, **options))
        for rank in range(world_size)
    ]
    steps = {len(batches) for batches in ranks}
    assert len(steps) == 1
    served = [batch for step in zip(*ranks, strict=True) for batch in step]
    left = len(alone) % world_size
    if tail == "drop":
        assert served == alone[: len(alone) - left]
    elif tail == "pad":
        assert served == alone + alone[: -len(alone) % world_size]
    else:
        assert served == alone + [[]] * (-len(alone) % world_size)


@given(data=st.data())
def test_a_state_resumes_in_any_world(uri, data):
    perm = ll.open(uri)
    options = {
        "batch_tokens": 90,
        "length": "n",
        "shuffle": True,
        "seed": 4,
        "bucket_rows": 64,
    }
    loader = perm.loader(rank=0, world_size=1, format="arrow", **options).set_epoch(1)
    whole = ids_of(loader)
    stop = data.draw(st.integers(0, len(whole)))
    loader = perm.loader(rank=0, world_size=1, format="arrow", **options).set_epoch(1)
    for _, _batch in zip(range(stop), loader, strict=False):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    world_size = data.draw(st.integers(1, 4))
    ranks = []
    for rank in range(world_size):
        other = perm.loader(
            rank=rank, world_size=world_size, tail="uneven", format="arrow", **options
        )
        other.load_state_dict(state)
        ranks.append(ids_of(other))
    served = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert [batch for batch in served if batch] == whole[stop:]
    other = perm.loader(
        batch_tokens=91, length="n", shuffle=True, seed=4, bucket_rows=64
    )
    with pytest.raises(ValueError, match="this checkpoint is for another"):
        other.load_state_dict(state)


def test_epochs_differ(uri):
    perm = ll.open(uri)
    loader = perm.loader(batch_tokens=120, shuffle=True, seed=1, format="arrow")
    epochs = [ids_of(loader.set_epoch(epoch)) for epoch in range(3)]
    for epoch, found in enumerate(epochs):
        assert found == wanted(perm.shuffle(seed=1, epoch=epoch), 120)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_every_way_to_read(perm, read):
    loader = perm.loader(batch_tokens=120, read=read, format="arrow")
    assert ids_of(loader) == wanted(perm, 120)


def test_tables_that_their_own_library_reads(tmp_path):
    data = sequences.documents(50)
    old = lance.write_dataset(data, tmp_path / "t.lance", data_storage_version="legacy")
    perm = ll.open(old).shuffle(seed=2)
    assert ids_of(perm.loader(batch_tokens=120, format="arrow")) == wanted(perm, 120)


def test_formats(perm):
    rows = perm.select_columns(["id"])
    loader = rows.loader(batch_tokens=120, length="n", format="torch_matrix")
    assert [batch[:, 0].tolist() for batch in loader] == wanted(perm, 120)
    loader = perm.loader(batch_tokens=120, format="torch_dict")
    assert [batch["id"].tolist() for batch in loader] == wanted(perm, 120)


def test_transforms_and_workers(perm):
    torch_data = pytest.importorskip("torch.utils.data")

    def some(batch):
        if any(row["id"] == 7 for row in batch):
            raise ValueError("seven")
        return [row["id"] for row in batch]

    loader = perm.loader(batch_tokens=120, transform=some, on_error="skip")
    expected = [[at for at in batch if at != 7] for batch in wanted(perm, 120)]
    assert list(loader) == [batch for batch in expected if batch]
    feeder = torch_data.DataLoader(
        perm.loader(batch_tokens=120, format="torch_dict"),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
    )
    assert [batch["id"].tolist() for batch in feeder] == wanted(perm, 120)


def test_units_pickle_and_explain_themselves(perm):
    served = perm.loader(batch_tokens=120).units
    count = served.num_units(1)
    assert pickle.loads(pickle.dumps(served)).num_units(1) == count
    assert (
        f"{served.num_units(None):,} of at most 120 padded tokens" in served.explain()
    )


def test_rows_that_are_too_long():
    perm = ll.open(pa.table({"id": range(4), "n": [3, 50, 4, 60]}))
    loader = perm.loader(batch_tokens=10, length="n", format="arrow")
    assert ids_of(loader) == [[0, 2], [1], [3]]
    assert "too long  2 rows" in loader.units.explain()
    with pytest.raises(ValueError, match="50 tokens in row 1: wanted at most 10"):
        list(perm.loader(batch_tokens=10, length="n", long="error"))


def test_rows_without_tokens():
    perm = ll.open(pa.table({"id": range(5), "n": [0, 0, 0, 2, 0]}))
    loader = perm.loader(batch_tokens=2, length="n", format="arrow")
    assert ids_of(loader) == [[0, 1, 2, 4], [3]]
    loader = perm.loader(batch_tokens=2, batch_size=3, length="n", format="arrow")
    assert ids_of(loader) == [[0, 1, 2], [3], [4]]
    assert list(perm.with_take(0).loader(batch_tokens=2, length="n")) == []


@pytest.mark.parametrize(
    ("lengths", "kind", "message"),
    [
        ([1, None], pa.int64(), "null as the tokens of row 1"),
        ([1, -1], pa.int16(), "-1 tokens in row 1"),
        ([1, 2**40], pa.int64(), f"{2**40} tokens in row 1"),
        ([["a"], None], pa.list_(pa.string()), "null as the tokens of row 1"),
    ],
)
def test_invalid_lengths_are_named(lengths, kind, message):
    perm = ll.open(pa.table({"n": pa.array(lengths, kind)}))
    with pytest.raises(ValueError, match=message):
        list(perm.loader(batch_tokens=10, length="n"))
    assert len(list(perm.with_take(1).loader(batch_tokens=10, length="n"))) == 1


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"drop_last": True}])
def test_the_number_of_rows_of_a_rank(perm, options):
    """Its units are batches, what is counted are rows."""
    for rank, epoch in itertools.product(range(3), (0, 1)):
        loader = perm.shuffle(4).loader(
            batch_tokens=120, length="n", rank=rank, world_size=3, **options
        )
        loader.set_epoch(epoch)
        rows = sum(len(batch) for batch in loader)
        assert loader.num_rows == loader.stats().rows == rows


def test_arguments_are_checked(perm):
    cases = [
        ({"batch_tokens": 0}, "`batch_tokens` must be .* got 0"),
        ({"batch_tokens": 9, "batch_size": 0}, "`batch_size` must be .* got 0"),
        ({"batch_tokens": 9, "bucket_rows": 0}, "`bucket_rows` must be .* got 0"),
        ({"batch_tokens": 9, "bucket_rows": 2**32}, "`bucket_rows` .* got 4294967296"),
        ({"batch_tokens": 9, "long": "drop"}, "drop"),
        ({"batch_tokens": 9, "length": "x"}, "`x`"),
        ({"batch_tokens": 9, "global_batch_size": 4}, "pass one of them"),
        ({"length": "n"}, "`length`='n' .* pass `batch_tokens`"),
        ({"padded": False}, "`padded`=False .* pass `batch_tokens`"),
        ({"bucket_rows": 9}, "`bucket_rows`=9 .* pass `batch_tokens`"),
        ({"long": "error", "batch_size": 2}, "`long`='error' .* pass `batch_tokens`"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            perm.loader(**options)
    with pytest.raises(ValueError, match="the permutation has none"):
        perm.select_columns(["id"]).loader(batch_tokens=9)
    words = ll.open(pa.table({"s": ["a"]}))
    with pytest.raises(ValueError, match="`s` of type string"):
        words.loader(batch_tokens=9, length="s")


@given(
    lengths=st.lists(st.integers(0, 12), max_size=60),
    tokens=st.integers(1, 40),
    window=st.integers(1, 70),
    padded=st.booleans(),
    most_rows=st.none() | st.integers(1, 9),
)
def test_any_lengths(lengths, tokens, window, padded, most_rows):
    table = pa.table({"id": range(len(lengths)), "n": pa.array(lengths, pa.int64())})
    loader = ll.open(table).loader(
        most_rows,
        batch_tokens=tokens,
        length="n",
        padded=padded,
        bucket_rows=window,
        format="arrow",
    )
    expected = bucketed(
        lengths, tokens, window=window, padded=padded, most_rows=most_rows
    )
    assert ids_of(loader) == expected
