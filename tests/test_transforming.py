"""Transforms in threads: order, bounds, the end of the iteration, and rows that fail."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import pickle
import signal
import threading
import traceback
import weakref

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from lanceloader.stages.transform import (
    UNSET,
    ErrorPolicy,
    TransformCounts,
    one_row_batches,
    transformed,
)
from programs import PRELUDE, finish, start

THREADS = [0, 1, 3]


def of_lists(batches, call, **options):
    """Over batches that are lists of numbers."""
    options = {"threads": 2, **options}
    return transformed(
        batches,
        call,
        num_rows=len,
        one_row_batches=lambda rows: ([row] for row in rows),
        **options,
    )


def batches_of(num_batches, size=4):
    return [list(range(at * size, (at + 1) * size)) for at in range(num_batches)]


def ours():
    return [t for t in threading.enumerate() if t.name.startswith("lanceloader-tr")]


def ended():
    """Whether all threads end, once there is nothing that holds them."""
    for thread in ours():
        thread.join(20)
    return not ours()


class BadError(Exception):
    pass


def unless(is_bad, made=lambda row: row * 10):
    """A transform that fails on some rows."""

    def call(rows):
        for row in rows:
            if is_bad(row):
                raise BadError(row)
        return [made(row) for row in rows]

    return call


@pytest.mark.parametrize("threads", THREADS)
def test_order_is_kept(threads):
    gates = [threading.Event() for _ in range(9)]
    gates[0].set()

    def call(number):
        # Each but the first of three is done before the one ahead of it.
        if threads == 3 and number % 3 < 2:
            gates[number + 1].wait(20)
        gates[number].set()
        return number * 2

    found = transformed(range(9), call, threads=threads)
    assert list(found) == [number * 2 for number in range(9)]
    assert ended()
    assert list(found) == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_items_in_flight_is_bounded(threads):
    taken, handed, most = 0, 0, []
    changed = threading.Condition()

    def source():
        nonlocal taken
        for number in range(60):
            with changed:
                taken += 1
                most.append(taken - handed)
                changed.notify_all()
            yield number

    found = transformed(source(), lambda number: number, threads=threads)
    assert taken == 0
    for number in found:
        assert number == handed
        with changed:
            # All that may be taken is taken, whether or not anybody asks.
            wanted = min(60, handed + 1 + 2 * threads)
            assert changed.wait_for(lambda wanted=wanted: taken >= wanted, 20)
            handed += 1
    assert max(most) == 2 * threads + 1
    # One had been handed over, but was not counted yet.
    assert taken == 60


@pytest.mark.parametrize("how", ["close", "drop", "cycle"])
def test_threads_end_with_the_consumer(how):
    closed = threading.Event()

    def source():
        try:
            yield from range(1000)
        finally:
            closed.set()

    class Holder:
        pass

    holder = Holder()
    # Held here too, so that it does not end by itself.
    items = source()
    holder.found = transformed(items, lambda number: number, threads=2)
    assert next(holder.found) == 0
    if how == "close":
        holder.found.close()
        assert list(holder.found) == []
    elif how == "cycle":
        holder.itself = holder
    del holder
    gc.collect()
    assert ended()
    assert closed.is_set()


def test_batches_are_not_kept():
    class Batch:
        pass

    refs, goes_on, waits = [], threading.Event(), threading.Event()

    def source():
        for _ in range(5):
            batch = Batch()
            refs.append(weakref.ref(batch))
            yield batch
            del batch
        waits.set()
        goes_on.wait(20)

    def call(batch):
        made = Batch()
        refs.append(weakref.ref(made))
        return made

    found = transformed(source(), call, threads=1)
    for _ in range(5):
        next(found)
    # The thread is at work still, on what comes next.
    assert waits.wait(20)
    assert [ref() for ref in refs] == [None] * 10
    goes_on.set()
    assert list(found) == []
    assert ended()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *(("source", kind) for kind in (ValueError, KeyboardInterrupt, SystemExit)),
        *(("transform", kind) for kind in (ValueError, KeyboardInterrupt, SystemExit)),
        *(("transform", kind) for kind in (StopIteration, GeneratorExit)),
    ],
)
def test_exceptions_reach_the_consumer(threads, where, kind):
    def breaks(number):
        if number == 3:
            raise kind("it is 3")
        return number

    class Source:
        number = -1

        def __iter__(self):
            return self

        def __next__(self):
            self.number += 1
            return breaks(self.number)

    source = Source() if where == "source" else iter(range(9))
    call = breaks if where == "transform" else lambda number: number
    found = transformed(source, call, threads=threads)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    converted = kind in (StopIteration, GeneratorExit)
    with pytest.raises(RuntimeError if converted else kind) as caught:
        next(found)
    if converted:
        assert type(caught.value.__cause__) is kind
        assert kind.__name__ in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "raise kind(" in shown
    assert "in breaks" in shown
    assert list(found) == []
    assert ended()


def test_several_consumers():
    found = of_lists(batches_of(200), unless(lambda row: False), threads=3)
    parts = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda part=part: part.extend(found)) for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    rows = [row for part in parts for batch in part for row in batch]
    assert sorted(rows) == [row * 10 for row in range(800)]
    assert all(part == sorted(part) for part in parts)


def test_timeout():
    hang = threading.Event()

    def call(rows):
        if rows[0] == 8:
            hang.wait(20)
        return rows

    found = of_lists(batches_of(9), call, timeout=0.2, first=100)
    assert [next(found), next(found)] == batches_of(2)
    with pytest.raises(TimeoutError, match=r"batch 102 of 4 rows .* 0\.2 s"):
        next(found)
    assert list(found) == []
    hang.set()
    assert ended()


def test_arguments():
    for options in ({"threads": -1}, {"threads": 0, "timeout": 1}, {"timeout": 0}):
        with pytest.raises(ValueError, match=r"`threads`|`timeout`"):
            of_lists([], list, **options)
    for options in (
        {"on_error": "ignore"},
        {"on_error": 3},
        {"on_error": "fill"},
        {"on_error": "fill", "error_value": [1], "repair": print},
        {"on_error": "skip", "error_value": [1]},
        {"on_error": "raise", "repair": print},
        {"on_error": "fill", "error_value": [1, 2]},
        {"on_error": "fill", "error_value": None},
    ):
        with pytest.raises(ValueError, match=r"`on_error`|`error_value`|has no rows"):
            ErrorPolicy(**options)


# Rows that fail.


@hypothesis.given(
    sizes=st.lists(st.integers(1, 5), max_size=8),
    bad=st.sets(st.integers(0, 40)),
    threads=st.sampled_from(THREADS),
    on_error=st.sampled_from(["skip", "warn", "fill", "repair", "function"]),
)
def test_rows_that_fail(sizes, bad, threads, on_error):
    starts = np.cumsum([0, *sizes]).tolist()
    batches = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
    policy = {
        "fill": lambda: ErrorPolicy("fill", error_value=[None]),
        "repair": lambda: ErrorPolicy(
            "fill", repair=lambda error, row: [(error.args, row)]
        ),
        "function": lambda: ErrorPolicy(lambda error: isinstance(error, BadError)),
    }.get(on_error, lambda: ErrorPolicy(on_error))()
    filler = {"fill": lambda row: None, "repair": lambda row: ((row,), [row])}
    is_filled = on_error in filler
    wanted = [
        [
            filler[on_error](row) if row in bad else row * 10
            for row in batch
            if is_filled or row not in bad
        ]
        for batch in batches
    ]
    counts = TransformCounts()
    found = of_lists(
        batches, unless(bad.__contains__), threads=threads, policy=policy, counts=counts
    )
    assert list(found) == [batch for batch in wanted if batch]
    num_bad = len(bad & set(range(starts[-1])))
    assert (counts.rows_filled, counts.rows_skipped) == (
        (num_bad, 0) if is_filled else (0, num_bad)
    )
    assert counts.batches_skipped == sum(not batch for batch in wanted)


@pytest.mark.parametrize("threads", THREADS)
def test_errors_that_the_policy_does_not_skip_are_raised(threads):
    def only_first(error):
        return error.args == (5,)

    found = of_lists(
        batches_of(3),
        unless(lambda row: row in (5, 6)),
        threads=threads,
        policy=ErrorPolicy(only_first),
    )
    assert next(found) == [0, 10, 20, 30]
    with pytest.raises(BadError, match="6"):
        next(found)

    def interrupted(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(of_lists(batches_of(3), interrupted, policy=ErrorPolicy("skip")))
    for call in (lambda rows: rows[:-1], lambda rows: rows * 2, lambda rows: len(rows)):
        with pytest.raises(ValueError, match="one output row per input row"):
            list(of_lists(batches_of(3), call, policy=ErrorPolicy("warn")))
        assert len(list(of_lists(batches_of(3), call))) == 3


def test_a_function_sees_every_exception():
    seen = []
    policy = ErrorPolicy(lambda error: seen.append(error.args[0]) or True)
    call = unless(lambda row: row % 2)
    assert list(of_lists(batches_of(1), call, policy=policy)) == [[0, 20]]
    assert seen == [1, 1, 3]


def test_what_is_logged(caplog):
    call = unless(lambda row: row in (1, 2, 4, 5, 6, 7))
    for name, wanted in {
        "skip": ["A batch was skipped, as the transform failed for all of its 4 rows"],
        "warn": ["Skipped 2 of 4 rows", "A batch was skipped"],
    }.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lanceloader"):
            found = list(of_lists(batches_of(3), call, policy=ErrorPolicy(name)))
        assert found == [[0, 30], [80, 90, 100, 110]]
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == len(wanted)
        for message, words in zip(messages, wanted, strict=True):
            assert message.startswith(words)
            assert "BadError(" in message


def test_each_filled_row_is_a_copy():
    policy = ErrorPolicy("fill", error_value=[{"x": []}])
    found = of_lists(batches_of(1, 2), unless(lambda row: True), policy=policy)
    first, second = next(found)
    first["x"].append(1)
    assert second == {"x": []}
    assert policy.error_value == [{"x": []}]


def test_counts_are_of_the_batches_yielded():
    counts, made = TransformCounts(), threading.Semaphore(0)
    call = unless(lambda row: row % 4 == 0)

    def counted(rows):
        try:
            return call(rows)
        finally:
            if rows == [15]:
                made.release()

    found = of_lists(batches_of(9), counted, policy=ErrorPolicy("skip"), counts=counts)
    next(found)
    assert made.acquire(timeout=20)
    assert counts.rows_skipped == 1
    found.close()


def test_the_unset_marker_is_the_same_object_in_copies():
    for unset in (copy.deepcopy(UNSET), pickle.loads(pickle.dumps(UNSET))):
        assert unset is UNSET


def test_rows_of_the_core(table):
    import lanceloader as ll

    perm = ll.open(table)
    (raw,) = perm.open_reader().load(perm.order, 200, False)
    rows = list(one_row_batches(raw))
    assert [row.num_rows for row in rows] == [1] * len(perm)
    assert pa.Table.from_batches(rows) == perm.to_arrow()


# Processes.

STAGE = """
from lanceloader.stages.transform import transformed
"""


def test_exit_with_a_transform_that_hangs(tmp_path):
    program = """
from lanceloader.stages import ordered_map as threads
threads.GRACE_S = 0.1
found = transformed(range(9), lambda number: number or time.sleep(1000), threads=2, timeout=0.1)
try:
    next(found)
except TimeoutError:
    done(late=True)
"""
    assert finish(start(PRELUDE + STAGE + program, tmp_path), 60) == {"late": True}


def test_ctrl_c_while_waiting(tmp_path):
    program = """
begun, may_end = threading.Event(), threading.Event()


def slow(number):
    if number == 0:
        begun.wait()
        # So that whoever has begun is waiting.
        time.sleep(0.5)
        print("ready", flush=True)
        may_end.wait()
    return number


found = transformed(range(9), slow, threads=2)
try:
    begun.set()
    next(found)
except KeyboardInterrupt:
    may_end.set()
    done(interrupted=True, left=list(found))
"""
    process = start(PRELUDE + STAGE + program, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process, 60) == {"interrupted": True, "left": []}


def test_after_a_fork(tmp_path):
    program = """
import warnings
warnings.simplefilter("ignore")
found = transformed(range(99), lambda number: number, threads=2)
next(found)
child = os.fork()
if child == 0:
    try:
        next(found)
    except RuntimeError as error:
        del found
        gc.collect()
        assert list(transformed(range(9), lambda number: number, threads=2)) == list(range(9))
        os._exit(7 if "another process" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
done(rest=list(found) == list(range(1, 99)))
"""
    assert finish(start(PRELUDE + STAGE + program, tmp_path), 60) == {"rest": True}
