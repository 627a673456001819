"""Documents that cannot be packed, wrong arguments, and errors while packing."""

from __future__ import annotations

import signal
import threading

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import sequences
from lanceloader import _native
from lanceloader.units.share import share_of
from lanceloader.world import World
from sequences import PAD, docs_of, flat, rows_of, wanted

STRATEGIES = ["concat", "first_fit", "best_fit"]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return sequences.written(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def perm(uri):
    return ll.open(uri).shuffle(seed=5)


def test_states_of_other_plans_are_refused(perm):
    view = perm.pack(24, strategy="best_fit")
    state = view.loader(4).state_dict()
    view.loader(8).load_state_dict(state)
    for other in (
        perm.pack(25, strategy="best_fit").loader(4),
        perm.pack(24).loader(4),
        perm.pack(24, strategy="best_fit", eos_id=1).loader(4),
        perm.pack(24, strategy="best_fit", window=100).loader(4),
        perm.loader(4),
        perm.loader(batch_tokens=100),
    ):
        with pytest.raises(ValueError, match="this checkpoint is for another"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="another unit: row there, block here"):
        view.loader(4).load_state_dict(perm.loader(4).state_dict())


def test_a_block_filler_is_shared_by_threads(perm):
    packing = perm.pack(24, pad_id=PAD)._units().packing(None)
    whole = share_of(packing.num_blocks, 0, 1, World(), tail="pad", drop_last=False)
    (order,) = packing.reads(whole)
    reader = perm.select_columns(["tokens"]).open_reader()
    rows = reader.load(order, 3, False)
    filler = packing.fill(whole, rows, pad_id=PAD, eos_id=0)
    found = []

    def take():
        for batch in filler:
            found.extend(pa.record_batch(batch).to_pylist())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def by_tokens(row):
        return row["input_ids"]

    assert sorted(found, key=by_tokens) == sorted(
        wanted(docs_of(perm), 24), key=by_tokens
    )


def test_what_rows_are_made_of_may_fail(perm):
    packing = perm.pack(24)._units().packing(None)
    whole = share_of(packing.num_blocks, 0, 1, World(), tail="pad", drop_last=False)

    def broken():
        yield pa.table({"tokens": pa.array([], pa.list_(pa.int8()))})
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(packing.fill(whole, broken(), pad_id=0, eos_id=0))
    with pytest.raises(RuntimeError, match="rows ended"):
        next(packing.fill(whole, iter([]), pad_id=0, eos_id=0))
    other = share_of(packing.num_blocks + 1, 0, 1, World(), tail="pad", drop_last=False)
    with pytest.raises(ValueError, match="share"):
        packing.reads(other)


@pytest.mark.parametrize("window", [16_384, 2**31 - 1])
def test_planning_can_be_interrupted(window):
    """Of so many documents that it takes longer than the timer, or the signal ends the next step."""
    order = _native.Order.all(20_000_000).shuffled(1)
    rng = np.random.default_rng(0)
    builder = _native.LengthsBuilder(order)
    builder.push(pa.table({"n": rng.integers(1, 1000, 20_000_000, dtype=np.int16)}))
    lengths = builder.finish()

    def ring(*_):
        raise InterruptedError("rung")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError, match="rung"):
            _native.Packing(
                order,
                lengths,
                length=2048,
                strategy="best_fit",
                long="split",
                has_eos=False,
                window=window,
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_wrong_lengths_are_detected():
    data = pa.table({"tokens": [[1, 2], [3]], "n": [2, 2]})
    with pytest.raises(ValueError, match=r"1 tokens in row 1: wanted 2"):
        list(ll.open(data).pack(4, lengths="n").loader(1))


def test_long_documents():
    docs = [[1, 2, 3], list(range(10, 25)), [], [4] * 6]
    perm = ll.open(pa.table({"tokens": pa.array(docs, pa.list_(pa.int64()))}))

    def inputs(strategy, long):
        view = perm.pack(6, strategy=strategy, long=long, pad_id=PAD)
        rows = flat(rows_of(view.loader(2, format="arrow")))
        return [row["input_ids"][: row["num_tokens"]] for row in rows], view

    for strategy in STRATEGIES:
        cut, view = inputs(strategy, "truncate")
        assert sum(map(len, cut)) == 3 + 6 + 6
        assert "lost      9 tokens of 1 documents" in view.explain()
        kept, view = inputs(strategy, "drop")
        assert sum(map(len, kept)) == 3 + 6
        assert "lost      15 tokens of 1 documents" in view.explain()
        with pytest.raises(ValueError, match="15 tokens in row 1"):
            inputs(strategy, "error")
    whole, _ = inputs("best_fit", "split")
    assert whole == [
        [1, 2, 3, 22, 23, 24],
        list(range(10, 16)),
        list(range(16, 22)),
        [4] * 6,
    ]


def test_nothing_to_pack():
    empty = ll.open(pa.table({"tokens": pa.array([[], []], pa.list_(pa.int64()))}))
    for strategy in STRATEGIES:
        assert list(empty.pack(4, strategy=strategy).loader(2)) == []
        (batch,) = empty.pack(4, eos_id=7, strategy=strategy).loader(2, format="arrow")
        assert batch["input_ids"].to_pylist() == [[7, 7, 0, 0]]
        assert batch["doc_ids"].to_pylist() == [[0, 1, -1, -1]]
    none = empty.with_take(0).pack(4)
    assert none.num_blocks() == 0
    assert list(none.loader(2)) == []


@pytest.mark.parametrize(
    ("tokens", "kind", "message"),
    [
        ([[1], None], pa.list_(pa.int32()), "null as the tokens of row 1"),
        ([[1], [2, None]], pa.list_(pa.int32()), "null among the tokens of row 1"),
        ([[1], [2**63]], pa.list_(pa.uint64()), f"{2**63} among the tokens of row 1"),
    ],
)
def test_invalid_tokens_are_named(tokens, kind, message):
    perm = ll.open(pa.table({"tokens": pa.array(tokens, kind)}))
    with pytest.raises(ValueError, match=message):
        list(perm.pack(4).loader(1))
    # Without that row all is well.
    assert len(list(perm.with_take(1).pack(4).loader(1))) == 1


def test_arguments_are_checked(perm):
    two = ll.open(pa.table({"a": [[1]], "b": [[2]], "f": [[0.5]], "s": ["x"]}))
    cases = [
        (lambda: perm.pack(0), "`length` must be .* got 0"),
        (lambda: perm.pack(2**31), "`length` must be .* got 2147483648"),
        (lambda: perm.pack(4, strategy="worst_fit"), "worst_fit"),
        (lambda: perm.pack(4, long="keep"), "keep"),
        (lambda: perm.pack(4, window=0), "`window` must be .* got 0"),
        (lambda: perm.pack(4, eos_id=2**63), "eos_id"),
        (lambda: perm.pack(4, pad_id=-(2**63) - 1), "pad_id"),
        (lambda: two.pack(4), "`a`, `b`, `f`"),
        (lambda: two.pack(4, column="f"), "integers"),
        (
            lambda: two.pack(4, column="s"),
            "`s` must hold lists of integers, not string",
        ),
        (lambda: two.pack(4, column="a", lengths="s"), "`s` of type string"),
        (lambda: two.pack(4, column="c"), "`c`"),
        (lambda: perm.select_columns(["id"]).pack(4), "the permutation has none"),
        (lambda: perm.pack(4).loader(4, batch_tokens=9), "pass `batch_size`"),
        (lambda: perm.pack(4).loader(4, long="error"), r"pass `long` to pack\(\)"),
        (
            lambda: perm.pack(4).loader(4, padded=True),
            "`padded`=True does not apply to blocks of 4",
        ),
        (
            lambda: perm.pack(4).loader(4, bucket_rows=8),
            "`bucket_rows`=8 does not apply",
        ),
        (lambda: perm.pack(4).loader(4, length="n"), "`length`='n' does not apply"),
        (lambda: perm.pack(4).loader(0), "`batch_size` must be at least 1, got 0"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    for wrong in (lambda: perm.pack(4.5), lambda: perm.pack(4, eos_id="</s>")):
        with pytest.raises(TypeError):
            wrong()
    # A column need not be selected.
    assert perm.select_columns(["id"]).pack(24, column="tokens").num_blocks() > 0
