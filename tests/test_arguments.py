"""Arguments are checked where they are passed, and the message names the argument and its value."""

from __future__ import annotations

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.streaming import StreamingDataset

DATA = pa.table({"x": list(range(10)), "s": [{"a": n} for n in range(10)]})


@pytest.fixture(scope="module")
def perm():
    return ll.open(DATA)


NUMBERS = [
    (lambda p, n: p.loader(n), "batch_size"),
    (lambda p, n: p.loader(global_batch_size=n), "global_batch_size"),
    (lambda p, n: p.loader(4, epochs=n), "epochs"),
    (lambda p, n: p.loader(4, rank=n, world_size=2), "rank"),
    (lambda p, n: p.loader(4, rank=0, world_size=n), "world_size"),
    (lambda p, n: p.loader(4, shuffle=True, seed=n), "seed"),
    (lambda p, n: p.loader(4, transform=len, transform_threads=n), "transform_threads"),
    (lambda p, n: p.loader(4, threads=n), "threads"),
    (lambda p, n: p.loader(4).set_epoch(n), "epoch"),
    (lambda p, n: p.loader(4).skip_batches(n), "num_batches"),
    (lambda p, n: p.loader(4).headspace(n), "after"),
    (lambda p, n: p.shuffle(n), "seed"),
    (lambda p, n: p.shuffle(1, epoch=n), "epoch"),
    (lambda p, n: p.shuffle(1, clump_size=n), "clump_size"),
    (lambda p, n: p.shuffle(1, block_size=n), "block_size"),
    (lambda p, n: p.shuffle(1, block_size=2, window_blocks=n), "window_blocks"),
    (lambda p, n: p.shard(n, 2), "rank"),
    (lambda p, n: p.shard(0, n), "world_size"),
    (lambda p, n: p.split([0.5], seed=n), "seed"),
    (lambda p, n: p.split([0.5], seed=1, clump_size=n), "clump_size"),
    (lambda p, n: p.sample(n, seed=1), "size"),
    (lambda p, n: p.sample(2, seed=n), "seed"),
    (lambda p, n: p.sample(2, seed=1, epoch=n), "epoch"),
    (lambda p, n: p.with_skip(n), "skip"),
    (lambda p, n: p.with_take(n), "limit"),
    (lambda p, n: p.with_repeat(n), "times"),
    (lambda p, n: p.with_batch_size(n), "batch_size"),
    (lambda p, n: p.head(n), "n"),
    (lambda p, n: next(p.iter(n)), "batch_size"),
    (lambda p, n: ll.mix({"a": p}, stop=n), "stop"),
    (lambda p, n: ll.mix({"a": p}).shuffle(n), "seed"),
    (lambda p, n: ll.mix({"a": p}).counts(n), "position"),
    (lambda p, n: ll.permutation_builder(DATA).shuffle(seed=n), "seed"),
    (lambda p, n: ll.permutation_builder(DATA).split_random(fixed=n), "fixed"),
    (lambda p, n: ll.permutation_builder(DATA).split_random(counts=[n]), "counts"),
    (
        lambda p, n: ll.permutation_builder(DATA).split_hash(["x"], [n]),
        "split_weights",
    ),
]


@pytest.mark.parametrize(("call", "name"), NUMBERS)
def test_errors_name_the_whole_number(perm, call, name):
    with pytest.raises(
        ValueError, match=f"`{name}` must not be negative, got -1"
    ) as found:
        call(perm, -1)
    # LanceDB's class for the same.
    assert isinstance(found.value, OverflowError)
    with pytest.raises(ValueError, match=f"`{name}` is too big: .* {2**64}"):
        call(perm, 2**64)
    if name != "size":
        with pytest.raises(
            TypeError, match=f"`{name}` must be a whole number, not 1.5"
        ):
            call(perm, 1.5)
    if name != "stop":
        # `memory_limit` and `stop` alone take text.
        with pytest.raises(TypeError, match=rf"`{name}` must be|.*'abc'"):
            call(perm, "abc")


ZEROS = ["loader", "global_batch_size", "epochs", "threads", "world_size"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"global_batch_size": 0}, "global_batch_size"),
        ({"batch_size": 4, "epochs": 0}, "epochs"),
        ({"batch_size": 4, "threads": 0}, "threads"),
        ({"batch_size": 4, "rank": 0, "world_size": 0}, "world_size"),
    ],
)
def test_errors_name_arguments_that_are_zero(perm, options, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        perm.loader(**options)


def test_ranks(perm):
    with pytest.raises(
        ValueError, match="`rank` must be below `world_size`, got rank 4"
    ):
        perm.loader(4, rank=4, world_size=4)
    with pytest.raises(ValueError, match=r"rank.*18446744073709551615"):
        perm.loader(4, rank=2**64 - 1, world_size=4)


def test_a_world_of_any_size_is_arithmetic(perm):
    """Nothing is done for each rank: two thousand million of them are no work."""
    world_size = 2**31
    sizes = {}
    for rank in (0, 9, 10, world_size - 1):
        loader = perm.loader(1, rank=rank, world_size=world_size, format="arrow")
        sizes[rank] = [batch.num_rows for batch in loader]
    assert sizes == {0: [1], 9: [1], 10: [1], world_size - 1: [1]}


STREAMING = [
    ({"rank": 4, "world_size": 4}, ValueError, "rank 4: `rank` must be from 0 to 3"),
    ({"rank": 2**64 - 1}, ValueError, "`rank` must be from 0 to 0"),
    ({"rank": -1}, ValueError, "rank -1: `rank` must be from 0 to 0"),
    ({"rank": "0"}, TypeError, "`rank` must be a whole number, not '0'"),
    ({"num_splits": 2**31}, ValueError, r"`num_splits` must be from 1 to 1,048,576"),
    ({"num_splits": 1.5}, TypeError, "`num_splits` must be a whole number, not 1.5"),
    ({"io_queue_depth": float("nan")}, TypeError, "`io_queue_depth` must be .* nan"),
    ({"read_batch_size": 2.5}, TypeError, "`read_batch_size` must be .* 2.5"),
    ({"transform_queue_depth": "4"}, TypeError, "`transform_queue_depth` must be"),
    ({"shuffle_seed": -1}, ValueError, "shuffle_seed .* must not be negative, got -1"),
]


@pytest.mark.parametrize(("options", "error", "words"), STREAMING)
def test_streaming_arguments_are_checked_at_once(table, options, error, words):
    with pytest.raises(error, match=words):
        StreamingDataset(table, **options)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (b"\x01\x02", "not bytes"),
        (bytearray(b"\x01"), "not bytes"),
        ([True, False], "booleans; for a mask use `filter"),
        ([0, True], "booleans"),
        (np.array([True, False]), "ndarray"),
        ("12", "str"),
    ],
)
def test_positions_are_whole_numbers(perm, positions, words):
    for take in (perm.take_offsets, perm.__getitems__):
        with pytest.raises(TypeError, match=words):
            take(positions)
    assert [row["x"] for row in perm.take_offsets([0, 1, 1])] == [0, 1, 1]


@pytest.mark.parametrize("sizes", [b"1", bytearray(b"12"), memoryview(b"1"), "1"])
def test_text_is_no_list_of_sizes(perm, sizes):
    with pytest.raises(TypeError, match="sizes"):
        perm.split(sizes, seed=1)


@pytest.mark.parametrize("weight", ["7", b"7", None])
def test_text_is_no_weight(perm, weight):
    with pytest.raises(TypeError, match="`weights` must be numbers, got"):
        ll.mix({"a": perm, "b": perm}, weights={"a": 1, "b": weight})


def test_fill_values_are_for_columns_that_exist(perm):
    for fill in ({"typo": 0}, {"x": 0, "s.b": 1}):
        with pytest.raises(
            ll.errors.ColumnNotFoundError, match=r"fill_value.*`(x|s.a)`"
        ):
            perm.with_format("numpy_dict", nulls="fill", fill_value=fill)
        with pytest.raises(ll.errors.ColumnNotFoundError, match="fill_value"):
            perm.loader(4, format="numpy_dict", nulls="fill", fill_value=fill)
    filled = perm.with_format("numpy_dict", nulls="fill", fill_value={"s.a": 1})
    assert filled.head(2)["x"].tolist() == [0, 1]


def test_functions_are_functions(perm):
    with pytest.raises(TypeError, match=r"`connection_factory` must be .*3"):
        perm.with_connection_factory(3)
    with pytest.raises(TypeError, match=r"`transform` must be .*arrow"):
        perm.with_transform("arrow")
    for name in ("transform", "collate", "repair"):
        policy = {"on_error": "fill", "transform": len} if name == "repair" else {}
        with pytest.raises(TypeError, match=f"`{name}` must be a function.*3"):
            perm.loader(4, **policy | {name: 3})


def test_what_stands_in_for_failed_rows_is_named_as_it_is_passed(perm):
    with pytest.raises(ValueError, match="`error_value` and `repair`"):
        perm.loader(4, transform=len, on_error="fill")
    with pytest.raises(ValueError, match="`error_value` has 2 rows"):
        perm.loader(4, transform=len, on_error="fill", error_value=[1, 2])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "nope"}, ValueError, "`device`.*'nope'"),
        ({"device": "cpu:x"}, ValueError, "`device`.*'cpu:x'"),
        ({"cache_dir": 1}, TypeError, "`cache_dir`.*1"),
        ({"memory_limit": "99999999TiB"}, ValueError, "`memory_limit`.*99999999TiB"),
        ({"shuffle": 7}, TypeError, "`shuffle`.*7; a seed is `seed`"),
        ({"shuffle": "no"}, TypeError, "`shuffle`.*'no'"),
        ({"drop_last": "False"}, TypeError, "`drop_last`.*'False'"),
        ({"padded": "no", "batch_tokens": 9}, TypeError, "`padded`.*'no'"),
        ({"in_process": 0}, TypeError, "`in_process`.*0"),
    ],
)
def test_options_of_a_loader_are_checked_at_the_call(options, error, words):
    perm = ll.open(pa.table({"x": range(9), "tokens": [[1]] * 9}))
    with pytest.raises(error, match=words):
        perm.loader(**options)


def test_numpy_flags_are_flags():
    perm = ll.open(pa.table({"x": range(9)}))
    assert len(perm.loader(2, drop_last=np.bool_(True))) == 4


@pytest.mark.parametrize("columns", [3, 1.5, True])
def test_columns_that_are_no_list(columns):
    data = pa.table({"x": range(9)})
    for call in (
        lambda: ll.open(data, columns=columns),
        lambda: ll.open(data).select_columns(columns),
    ):
        with pytest.raises(TypeError, match=f"`columns`.*{columns}"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"collate_fn": 3}, "`collate_fn`.*3"),
        ({"num_workers": "2"}, "`num_workers`.*'2'"),
    ],
)
def test_arguments_of_the_torch_loader(options, words):
    pytest.importorskip("torch")
    from lanceloader.torch import DataLoader

    with pytest.raises(TypeError, match=words):
        DataLoader(ll.open(pa.table({"x": range(9)})), 2, **options)
