"""Pinned sequences that no release may change. See ``docs/determinism.md``."""

from __future__ import annotations

import ast
import functools
import itertools
import zlib

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader import _native, randomness
from lanceloader.drawing.rng import RowDraws
from lanceloader.permutation import permutation_builder
from lanceloader.units.share import share_of
from lanceloader.world import World

PAGE = determinism_page.load()

(
    SHUFFLES,
    WINDOWS,
    BATCHES,
    PRINTS,
    SEQUENCES,
    HASHES,
    DRAWS,
    ROWS,
    _IMAGES,
    LANCEDB,
) = determinism_page.tables()

TRAIN = [1, 16, 18, 17, 19, 6, 0, 7]
VAL = [12, 14, 10, 2]
SHARD = [6, 5, 8, 17, 4]
SAMPLE = [13, 1, 14, 4, 8]
GROUPED = [[0, 2, 4, 6, 7, 9, 11, 13, 14, 16, 18], [1, 3, 5, 8, 10, 12, 15, 17, 19]]
STRATIFIED = [2, 4, 7, 9, 10, 13, 14, 15, 18, 19]
HASHED = [0, 2, 3, 6, 7, 9, 11, 12, 13, 14, 16, 17, 18]
FOLD = [7, 3, 9, 5, 4, 11, 13]


def rows(order: _native.Order, stop: int | None = None) -> list[int]:
    stop = len(order) if stop is None else stop
    return pa.record_batch(order.offsets(0, stop)).column(0).to_pylist()


@pytest.mark.parametrize("vector", SHUFFLES, ids=str)
def test_shuffles(vector):
    num_rows, seed, epoch, clump = (int(cell.replace(",", "")) for cell in vector[:4])
    wanted = [int(row) for row in vector[4].split()]
    order = _native.Order.all(num_rows).shuffled(seed, epoch, clump)
    assert rows(order, len(wanted)) == wanted
    assert [order.position_of(row) for row in wanted] == list(range(len(wanted)))


@pytest.mark.parametrize("vector", WINDOWS, ids=str)
def test_windowed_shuffles(vector):
    num_rows, *parameters = (int(cell.replace(",", "")) for cell in vector[:5])
    wanted = [int(row) for row in vector[5].split()]
    order = _native.Order.all(num_rows).windowed(*parameters)
    assert rows(order, len(wanted)) == wanted
    assert [order.position_of(row) for row in wanted] == list(range(len(wanted)))


@pytest.mark.parametrize("vector", HASHES, ids=str)
def test_hashes(vector):
    row, seed = ast.literal_eval(vector[0]), int(vector[1])
    columns = {str(at): pa.array([value]) for at, value in enumerate(row)}
    # A column of nulls has no type of its own.
    columns = {
        name: values.cast(pa.int32()) if pa.types.is_null(values.type) else values
        for name, values in columns.items()
    }
    hashes = pa.record_batch(_native.stable_hashes(pa.table(columns), seed))
    assert hashes.column(0).to_pylist() == [int(vector[2])]


def draws(size, seed, epoch=0, *, n=0, weights=None, classes=None):
    if weights is not None:
        n, weights = len(weights), np.array(weights, np.float64)
    order = _native.draws(
        n, size, seed=seed, epoch=epoch, weights=weights, classes=classes
    )
    return rows(order)


def choose(size, seed, epoch=0, *, weights):
    weights = np.array(weights, np.float64)
    return rows(_native.choose(weights, size, seed=seed, epoch=epoch))


@pytest.mark.parametrize("vector", DRAWS, ids=str)
def test_draws(vector):
    call, wanted = vector[0], [int(row) for row in vector[1].split()]
    assert eval(call, {"draws": draws, "choose": choose}) == wanted
    assert eval(call, vars(determinism_page.load())) == wanted


@pytest.mark.parametrize("vector", LANCEDB, ids=str)
def test_lancedb(vector):
    num_rows, seed, clump = map(int, vector[:3])
    wanted = [int(row) for row in vector[3].split()]
    data = pa.table({"x": range(num_rows)})
    builder = permutation_builder(data).shuffle(seed=seed, clump_size=clump)
    assert builder.execute().to_arrow()["row_id"].to_pylist() == wanted


@pytest.mark.parametrize(
    ("num_rows", "clump", "crc"),
    [
        (1_000, 1, 2035184396),
        (100_000, 1, 3710770884),
        (1_000_000, 1, 3366489952),
        (1_000_000, 16, 3654079704),
    ],
)
def test_lancedb_at_size(num_rows, clump, crc):
    order = _native.lancedb_shuffle(num_rows, 42, clump)
    values = pa.record_batch(order.offsets(0, num_rows)).column(0).to_numpy()
    assert zlib.crc32(values.astype("<u8").tobytes()) == crc


def test_verbs():
    """One sequence through every verb that draws: no release may move any of these rows."""
    perm = ll.open(pa.table({"x": range(20), "g": [k % 7 for k in range(20)]}))

    def served(view):
        return view.select_columns(["x"]).to_arrow()["x"].to_pylist()

    train, val = perm.split({"train": 0.8, "val": 0.2}, seed=7)
    assert served(train)[:8] == TRAIN
    assert served(val) == VAL
    assert served(train.shuffle(seed=7, epoch=2).shard(1, 3)) == SHARD
    assert served(perm.sample(5, seed=7)) == SAMPLE
    assert [served(part) for part in perm.split(2, seed=7, group_by="g")] == GROUPED
    first = perm.split([0.5, 0.5], seed=7, stratify_by="g")[0]
    assert served(first) == STRATIFIED
    assert served(perm.split([0.5, 0.5], seed=7, hash_by="x")[0]) == HASHED
    assert served(perm.kfold(3, seed=7)[1].val) == FOLD


def spelled(batches):
    return ", ".join(" ".join(map(str, batch)) for batch in batches).strip()


@pytest.mark.parametrize(("call", "wanted"), BATCHES)
def test_batches_are_the_published_ones(call, wanted):
    assert spelled(eval(call, vars(determinism_page.load()))) == wanted


@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_loader_cuts_batches_as_published(ranks, drop_last, tail):
    published = determinism_page.load().batches
    for rows, size, start in itertools.product(
        range(24), range(ranks, 13), (0, 1, 7, 23)
    ):
        for rank in range(ranks) if start <= rows else ():
            share = share_of(
                *(rows, start, size, World(rank, ranks)), tail=tail, drop_last=drop_last
            )
            found = [[unit % rows for unit in units] for units in share.batches()]
            wanted = published(rows, size, rank, ranks, start, tail, drop_last)
            assert found == wanted, (rows, size, start, rank)


@pytest.mark.parametrize(("call", "wanted"), PRINTS)
def test_fingerprints_are_the_published_ones(call, wanted):
    order = eval(call, {"Order": _native.Order})
    assert f"{order.fingerprint():016x}" == wanted


def lengths_of(lengths: list[int]) -> tuple[_native.Order, _native.Lengths]:
    order = _native.Order.all(len(lengths))
    builder = _native.LengthsBuilder(order)
    builder.push(pa.table({"n": lengths}))
    return order, builder.finish()


def packed(lengths, length, strategy="concat", window=16_384):
    """What the core packs, as the page does."""
    options = {
        "strategy": strategy,
        "window": window,
        "long": "split",
        "has_eos": False,
    }
    packing = _native.Packing(*lengths_of(lengths), length=length, **options)
    return packing.blocks(0, packing.num_blocks)


def budgeted(lengths, tokens, window=8192, padded=True, most_rows=None):
    """What the core batches, as the page does."""
    options = {
        "padded": padded,
        "most_rows": most_rows,
        "window": window,
        "long": "alone",
    }
    buckets = _native.Buckets(*lengths_of(lengths), tokens=tokens, **options)
    whole = share_of(buckets.num_batches, 0, 1, World(), tail="pad", drop_last=False)
    order, ends = buckets.share(whole)
    stops = [0, *pa.record_batch(ends).column(0).to_pylist()]
    return [rows(order)[a:b] for a, b in itertools.pairwise(stops)]


@pytest.mark.parametrize("vector", SEQUENCES, ids=str)
def test_sequences(vector):
    call, wanted = vector
    for names in (
        vars(determinism_page.load()),
        {"packed": packed, "budgeted": budgeted},
    ):
        found = [
            " ".join(
                str(part) if isinstance(part, int) else "{}:{}+{}".format(*part)
                for part in parts
            )
            for parts in eval(call, dict(names))
        ]
        assert ", ".join(found) == wanted


@pytest.mark.parametrize("vector", ROWS, ids=str)
def test_random_transforms(vector):
    """The page, and the functions of the package in place of those of the page."""
    call, wanted = vector[0], ast.literal_eval(vector[1])
    assert eval(call, vars(PAGE)) == wanted

    def row_key(seed, epoch, name, place):
        key = randomness.key(seed, epoch, name)
        return randomness.row_keys(key, np.array([place], np.uint64))

    def word(key, at):
        return randomness.words(key, at, 1)[0]

    def of(word, method, *arguments):
        draws = RowDraws(np.zeros(1, np.uint64))
        draws.words = lambda size=(): word
        return getattr(draws, method)(*arguments)

    names = {
        "row_key": row_key,
        "word": word,
        "random_of": functools.partial(of, method="random"),
        "integer_of": lambda word, low, high: of(word, "integers", low, high),
        "normal_of": functools.partial(of, method="normal"),
    }
    found = eval(call, names)[0]
    assert found == pytest.approx(wanted, rel=1e-15 if "normal" in call else 0)
