"""Random transforms draw the same for a row, wherever and whenever it is read."""

from __future__ import annotations

import functools
import itertools
import pickle
import statistics

import determinism_page
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader import randomness
from lanceloader.drawing.normal import inverse_normal
from lanceloader.drawing.rng import BatchGenerator
from lanceloader.torch import DataLoader
from producers import drawn_by_row

PAGE = determinism_page.load()
ROWS = 200
SEED = 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "t.lance"
    data = pa.table(
        {"x": range(ROWS), "tokens": [[at] * (at % 7 + 1) for at in range(ROWS)]}
    )
    lance.write_dataset(data, path, max_rows_per_file=70)
    return ll.open(path, format="numpy_dict")


@pytest.fixture(scope="module")
def perm(whole):
    return whole.select_columns(["x"])


def oracle(row, *, seed=SEED, epoch=0, name="transform"):
    """What ``drawn_by_row`` draws for a row, one number at a time."""
    key = PAGE.row_key(seed, epoch, name, row)
    other = PAGE.row_key(seed, epoch, "other", row)
    return (
        row,
        PAGE.random_of(PAGE.word(key, 0)),
        PAGE.integer_of(PAGE.word(key, 1), 3, 1003),
        PAGE.integer_of(PAGE.word(key, 2), 3, 1003),
        PAGE.random_of(PAGE.word(other, 0)),
        np.random.Generator(np.random.Philox(key=key)).random(),
    )


def wanted(rows=range(ROWS), **options):
    return sorted(oracle(row, **options) for row in rows)


def rows_of(loader):
    return [row for batch in loader for row in batch]


def test_an_oracle_in_plain_python(perm):
    for size, threads in itertools.product([1, 7, 64], [0, 1, 3]):
        loader = perm.loader(
            size, seed=SEED, transform=drawn_by_row, transform_threads=threads
        )
        assert rows_of(loader) == wanted()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks(perm, ranks):
    shuffled = perm.shuffle(SEED)
    for epoch in (None, 0, 4):
        found = []
        for rank in range(ranks):
            loader = shuffled.loader(
                8,
                rank=rank,
                world_size=ranks,
                tail="uneven",
                transform=drawn_by_row,
            )
            if epoch is not None:
                loader.set_epoch(epoch)
            found += rows_of(loader)
        assert sorted(found) == wanted(epoch=epoch or 0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_resuming_with_another_number_of_ranks(perm, ranks):
    options = {"shuffle": True, "seed": SEED, "transform": drawn_by_row, "epochs": 2}
    first = [
        perm.loader(global_batch_size=12, rank=rank, world_size=2, **options)
        for rank in range(2)
    ]
    before, state = [], None
    for loader in first:
        batches = iter(loader)
        before += [row for batch in itertools.islice(batches, 21) for row in batch]
        state = loader.state_dict()
        batches.close()
    for rank in range(ranks):
        loader = perm.loader(
            global_batch_size=18,
            rank=rank,
            world_size=ranks,
            tail="uneven",
            **options,
        )
        loader.load_state_dict(state)
        before += rows_of(loader)
    # Of the first epoch, a batch may have been filled up.
    assert set(before) == {*wanted(epoch=0), *wanted(epoch=1)}


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", ["ours", "torch", "sampler", "helper"])
def test_any_process(perm, num_workers, kind):
    options = {"seed": SEED, "transform": drawn_by_row}
    if kind == "ours":
        loader = DataLoader(perm, 8, shuffle=True, num_workers=num_workers, **options)
    elif kind == "torch":
        inner = perm.loader(8, shuffle=True, **options)
        loader = torch.utils.data.DataLoader(
            inner, batch_size=None, num_workers=num_workers
        )
    elif kind == "sampler":
        loader = DataLoader(
            perm, 8, sampler=range(ROWS)[::-1], num_workers=num_workers, **options
        )
    else:
        loader = perm.loader(8, shuffle=True, in_process=False, **options)
    assert sorted(map(tuple, rows_of(loader))) == wanted()


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_samplers(perm, name):
    picked = [5, 3, 199, 3, 0, 7, 8]
    given = picked if name == "sampler" else [picked[:3], picked[3:]]
    loader = perm.loader(
        **{name: given, "batch_size": 4 if name == "sampler" else None},
        seed=SEED,
        transform=drawn_by_row,
    )
    assert rows_of(loader) == [oracle(row) for row in picked]


def test_the_place_is_that_in_the_table_in_any_view(perm):
    view = perm.filter("x % 3 = 1").shuffle(SEED, epoch=2).with_skip(5)
    found = rows_of(view.loader(9, transform=drawn_by_row))
    assert len(found) == view.num_rows
    assert found == [oracle(row, epoch=2) for row in view.to_arrow()["x"].to_pylist()]
    again = pickle.loads(pickle.dumps(view))
    assert rows_of(again.loader(9, transform=drawn_by_row)) == found


def test_deleted_rows_have_no_place(tmp_path):
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"x": range(50)}), path, max_rows_per_file=20)
    lance.dataset(path).delete("x < 30 and x > 9")
    found = rows_of(
        ll.open(path, format="numpy_dict").loader(
            8, seed=SEED, transform=lambda batch, rng: rng.places.tolist()
        )
    )
    assert found == list(range(30))


def test_the_last_batch_that_is_filled_up(perm):
    loader = perm.loader(
        150, seed=SEED, rank=1, world_size=3, tail="pad", transform=drawn_by_row
    )
    positions = [row for row, *_ in rows_of(loader)]
    assert rows_of(loader) == [oracle(row) for row in positions]


def test_an_empty_batch(perm):
    few = perm.with_take(3)
    sizes = [
        [
            len(batch)
            for batch in few.loader(
                1,
                rank=rank,
                world_size=2,
                tail="uneven",
                transform=lambda batch, rng: rng.per_row.normal(size=2) + rng.random(),
            )
        ]
        for rank in range(2)
    ]
    assert sizes == [[1, 1], [1, 0]]


def test_batches_of_a_token_budget(whole):
    loader = whole.loader(batch_tokens=30, seed=SEED, transform=drawn_by_row)
    assert sorted(rows_of(loader)) == wanted()
    ranks = [
        rows_of(
            whole.loader(
                batch_tokens=30,
                seed=SEED,
                transform=drawn_by_row,
                rank=rank,
                world_size=2,
                tail="uneven",
            )
        )
        for rank in range(2)
    ]
    assert sorted(ranks[0] + ranks[1]) == wanted()


def test_blocks_are_numbered(whole):
    packed = whole.pack(16, column="tokens")

    def numbers(batch, rng):
        return rng.per_row.words().tolist()

    blocks = packed.num_blocks()
    keys = [PAGE.row_key(SEED, 0, "transform", block) for block in range(blocks)]
    for options in ({}, {"batch_size": 3}, {"shuffle": True}):
        loader = packed.loader(
            seed=SEED, transform=numbers, format="numpy_dict", **options
        )
        assert rows_of(loader) == [PAGE.word(key, 0) for key in keys]


@pytest.mark.parametrize("tables", [1, 2])
def test_mixtures(perm, tables, tmp_path):
    """Each pass over a source draws anew."""
    small = perm.select(range(20))
    if tables == 2:
        lance.write_dataset(small.to_arrow(), tmp_path / "small.lance")
        small = ll.open(tmp_path / "small.lance", format="numpy_dict")
    mixture = ll.mix({"big": perm, "small": small}, weights=[1, 1], stop="all")
    mixture = mixture.shuffle(SEED, epoch=1)
    found = rows_of(mixture.loader(16, transform=drawn_by_row))
    for options in ({"global_batch_size": 9}, {"transform_threads": 2}):
        loader = mixture.loader(transform=drawn_by_row, **options)
        assert rows_of(loader) == found
    seeds = {name: PAGE.seed_of(SEED, name) for name in ("big", "small")}
    expected = wanted(seed=seeds["big"], epoch=1)
    for number in range(10):
        expected += wanted(range(20), seed=seeds["small"], epoch=1 + number * 2**32)
    missing = set(expected) - set(found)
    assert set(found) <= set(expected)
    assert len(found) + len(missing) == len(expected)
    assert len(missing) <= 1

    numbered = mixture.loader(16, seed=5, transform=drawn_by_row).set_epoch(3)
    seed = PAGE.seed_of(5, "big")
    assert set(wanted(seed=seed, epoch=3)) <= set(rows_of(numbered))


def test_rows_that_are_tried_one_by_one(perm):
    def fussy(batch, rng):
        if len(batch["x"]) > 1 or batch["x"][0] == 4:
            raise ValueError
        return drawn_by_row(batch, rng)

    loader = perm.loader(8, seed=SEED, transform=fussy, on_error="skip")
    assert rows_of(loader) == wanted(row for row in range(ROWS) if row != 4)


def test_the_seed_without_a_seed_is_that_of_the_order(perm):
    def rows(view, **options):
        return rows_of(view.loader(8, transform=drawn_by_row, **options))

    assert rows(perm) == wanted(seed=0)
    assert sorted(rows(perm.shuffle(3).shuffle(4))) == wanted(seed=4)
    assert sorted(rows(perm.sample(ROWS, seed=5))) == wanted(seed=5)
    assert sorted(rows(perm.shuffle(3), seed=6)) == wanted(seed=6)
    assert sorted(rows(perm, shuffle=True, seed=6)) == wanted(seed=6)
    assert sorted(rows(perm.shuffle(3).with_epoch(2))) == wanted(seed=3, epoch=2)
    assert sorted(rows(perm.shuffle(3).filter("x < 9"))) == wanted(range(9), seed=3)
    # A shuffle without a seed has a random one, which a copy of the permutation keeps.
    chance = perm.shuffle()
    assert rows(chance) == rows(pickle.loads(pickle.dumps(chance)))
    assert rows(chance) != rows(perm.shuffle())


def test_a_seed_needs_something_that_draws(perm):
    with pytest.raises(ValueError, match="transform that takes `rng`"):
        perm.loader(8, seed=3, transform=dict)
    with pytest.raises(ValueError, match="mutually exclusive"):
        perm.loader(8, seed=3, sampler=[1], transform=dict)


def test_the_generator_of_a_batch(perm):
    def both(batch, rng):
        again = torch.rand(2, generator=rng.torch).tolist()
        return rng.random(2).tolist(), again, rng.num_rows, repr(rng)

    batches = list(perm.loader(8, seed=SEED, transform=both))
    assert batches == list(
        perm.loader(8, shuffle=False, seed=SEED, transform=both, transform_threads=0)
    )
    drawn, tensor, rows, text = batches[1]
    key = PAGE.row_key(SEED, 0, "transform", 8)
    expected = np.random.Generator(np.random.Philox(key=key + 2**64))
    assert drawn == expected.random(2).tolist()
    assert (
        tensor == torch.rand(2, generator=torch.Generator().manual_seed(key)).tolist()
    )
    assert (rows, text) == (8, "<BatchGenerator of 8 rows for 'transform'>")
    assert len({first for first, *_ in map(tuple, (b[0] for b in batches))}) == 25


def fixed_keys(count=3):
    places = np.arange(count, dtype=np.uint64)
    return randomness.RowKeys(lambda: (1, 2, places))


def test_draws_of_rows_continue():
    rng = BatchGenerator(fixed_keys())
    twice = rng.per_row.random(), rng.per_row.random()
    once = BatchGenerator(fixed_keys()).per_row.random(2)
    assert np.array_equal(np.stack(twice, axis=1), once)
    assert rng.per_row.normal(size=(2, 3)).shape == (3, 2, 3)
    assert rng.named("x").per_row.random().tolist() != twice[0].tolist()
    assert rng.rows[-1] is rng.rows[2]
    assert len(rng.rows[:2]) == 2
    with pytest.raises(IndexError):
        rng.rows[3]


def test_ranges_of_draws():
    rng = BatchGenerator(fixed_keys(50_000)).per_row
    numbers = rng.integers(5)
    assert numbers.dtype == np.int64
    assert sorted(set(numbers.tolist())) == [0, 1, 2, 3, 4]
    assert 0.19 < (numbers == 3).mean() < 0.21
    assert rng.integers(-3, -2).tolist() == [-3] * 50_000
    assert rng.integers(0, 2**32).max() > 2**32 * 0.999
    low = np.arange(50_000)
    spread = rng.uniform(low, low + 2.0)
    assert ((spread >= low) & (spread < low + 2)).all()
    normal = rng.normal(3, 2, size=2)
    assert abs(normal.mean() - 3) < 0.03
    assert abs(normal.std() - 2) < 0.03
    assert abs(np.corrcoef(normal.T)[0, 1]) < 0.02
    for bounds in ((0,), (3, 3), (5, 2), (0, 2**32 + 1)):
        with pytest.raises(ValueError, match=r"2\*\*32"):
            rng.integers(*bounds)


def test_the_inverse_of_the_normal_distribution():
    near_ends = 2.0 ** -np.arange(2, 53)
    uniform = np.concatenate([np.random.default_rng(0).random(5000), near_ends])
    uniform = np.concatenate([uniform, 1 - uniform])
    found = inverse_normal(uniform)
    expected = [statistics.NormalDist().inv_cdf(u) for u in uniform]
    np.testing.assert_allclose(found, expected, rtol=2e-14, atol=1e-15)
    # A number is the same in any array.
    assert [inverse_normal(uniform[[at]])[0] for at in range(100)] == found[
        :100
    ].tolist()


def test_arrays_of_seeds_and_epochs():
    seeds, epochs = (
        np.array([0, 5, 2**64 - 1], np.uint64),
        np.array([1, 1, 2], np.uint64),
    )
    found = randomness.keys(seeds, epochs, "flip")
    pairs = zip(seeds.tolist(), epochs.tolist(), strict=True)
    assert found.tolist() == [randomness.key(*pair, "flip") for pair in pairs]
    assert randomness.keys(3, epochs, "é").tolist() == [
        PAGE.operation_key(3, epoch, "é") for epoch in epochs.tolist()
    ]


class Callable:
    def __call__(self, batch, *, rng):
        return rng

    def method(self, batch, rng=None):
        return rng

    @staticmethod
    def static(batch, rng):
        return rng

    def without(self, batch):
        return batch


class Module(torch.nn.Module):
    def forward(self, batch, rng):
        return rng


def wrapped(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def plain(batch, rng):
    return rng


def third(batch, other, rng):
    return rng


def positional(batch, rng, /):
    return rng


def rest(batch, **rng):
    return batch


@pytest.mark.parametrize(
    "function",
    [
        plain,
        lambda batch, rng: rng,
        lambda batch, *, rng: rng,
        Callable(),
        Callable().method,
        Callable.static,
        Module(),
        wrapped(plain),
        functools.partial(third, other=1),
        functools.partial(functools.partial(third, other=1), other=2),
    ],
)
def test_functions_that_take_rng(perm, function):
    assert randomness.takes_rng(function)
    (found,) = perm.with_take(4).loader(4, transform=function)
    assert isinstance(found, BatchGenerator)


@pytest.mark.parametrize(
    "function",
    [
        None,
        dict,
        len,
        positional,
        rest,
        lambda batch: batch,
        lambda *args, **kwargs: args,
        Callable().without,
        functools.partial(plain, rng=1),
        functools.partial(functools.partial(plain, rng=1)),
        torch.nn.Identity(),
    ],
)
def test_functions_that_do_not_take_rng(function):
    assert not randomness.takes_rng(function)
