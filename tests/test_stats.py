"""Statistics of a loader: numbers, merged ranks, the verdict and progress bars."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import threading
from collections import Counter

import lance
import lanceloader as ll
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st
from lanceloader.monitor.curve import MAX_POINTS
from lanceloader.monitor.measurements import quantile
from lanceloader.monitor.metrics import Metrics
from lanceloader.monitor.stats import STAGES, Stats
from lanceloader.stages.ordered_map import OrderedMap
from lanceloader.world import World
from process_state import soon


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    """5,000 rows."""
    path = tmp_path_factory.mktemp("stats") / "t.lance"
    return ll.open(
        lance.write_dataset(tables.narrow(5000), path, max_rows_per_file=1500)
    )


@pytest.fixture
def legacy(tmp_path):
    """50 rows that the table's own library reads."""
    path = tmp_path / "old.lance"
    data = tables.narrow(50)
    return ll.open(lance.write_dataset(data, path, data_storage_version="legacy"))


def running(**world):
    return Metrics(lambda: None, None, World(**world))


# What is counted


def test_what_is_counted_ends_with_the_iteration(perm):
    loader = perm.loader(500)
    for _ in loader:
        first, second = loader.stats(), loader.stats()
        assert first.seconds < second.seconds
    assert loader.stats() == loader.stats()
    for _ in loader:
        break
    # Threads may be in the middle of a window, which still counts.
    first, second = loader.stats(), loader.stats()
    assert first.seconds == second.seconds
    assert first.rows == second.rows == 500


def test_time_begins_with_the_first_batch_that_is_asked_for(perm):
    loader = perm.loader(500)
    batches = iter(loader)
    assert loader.stats().seconds == 0
    next(batches)
    assert loader.stats().seconds >= loader.stats().first_batch_seconds > 0


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_rows_are_those_handed_out_and_not_those_under_way(perm, threads):
    loader = perm.loader(100, transform=len, transform_threads=threads)
    per_row = None
    for number, rows in enumerate(loader, 1):
        found = loader.stats()
        assert (found.batches, found.rows, rows) == (number, number * 100, 100)
        per_row = per_row or found.bytes / 100
        # Texts are not all as long.
        assert found.bytes == pytest.approx(found.rows * per_row, rel=0.1)
    assert found.transform_threads == threads


def test_batches_that_are_left_out_are_not_handed_out(perm):
    def fails_on_some(batch):
        if batch["id"][0].as_py() // 100 % 10 == 3:
            raise ValueError
        return batch

    options = {"format": "arrow", "on_error": "skip", "transform": fails_on_some}
    # The last batch is shorter, so that rows of another one would show.
    loader = perm.with_take(4950).loader(100, transform_threads=2, **options)
    handed = [batch.num_rows for batch in loader]
    found = loader.stats()
    assert (found.batches, found.rows) == (45, sum(handed)) == (45, 4450)
    assert (found.batches_skipped, found.rows_skipped) == (5, 500)


def test_several_epochs(perm):
    loader = perm.loader(500, shuffle=True, seed=1, epochs=None)
    batches, seen = iter(loader), []
    for _ in range(35):
        next(batches)
        seen.append(loader.stats())
    assert [each.rows for each in seen] == [500 * k for k in range(1, 36)]
    for stage in STAGES:
        spent = [each.stage_seconds.get(stage, 0) for each in seen]
        assert spent == sorted(spent)
    assert seen[-1].stage_seconds["gather"] > seen[9].stage_seconds["gather"]
    assert seen[-1].ready >= 0
    # Memory does not grow with the epochs.
    assert len(loader._metrics.watches) == 1


def test_iterations_at_once_count_for_themselves(perm):
    loader = perm.loader(500)
    one, other = iter(loader), iter(loader)
    next(one)
    next(one)
    next(other)
    assert loader.stats().batches == 1
    list(one)
    assert loader.stats().batches == 1


def test_a_table_that_its_own_library_reads(legacy):
    loader = legacy.loader(20, shuffle=True, seed=1, format="arrow")
    sizes = [batch.nbytes for batch in loader]
    found = loader.stats()
    assert (found.batches, found.rows, found.rows_direct) == (3, 50, 50)
    assert found.bytes == pytest.approx(sum(sizes), rel=0.2)
    assert 0 < found.stage_seconds["read"] <= found.seconds
    assert 0 < found.read_wait_seconds < found.wait_seconds


def test_stages_are_timed_separately_in_threads(perm):
    def work(batch):
        return sum(range(2000)), batch

    for threads in (0, 2):
        loader = perm.loader(
            100, transform=work, transform_threads=threads, collate=lambda pair: pair[1]
        )
        assert len(list(loader)) == 50
        found = loader.stats()
        spent = found.stage_seconds
        assert min(spent["format"], spent["transform"], spent["gather"]) > 0
        together = spent["format"] + spent["transform"]
        assert together <= found.seconds * max(1, threads)
    plain = perm.loader(100)
    list(plain)
    assert "transform" not in plain.stats().stage_seconds


def test_a_stage_that_fails_was_worked_on(perm):
    def fail(batch):
        raise ValueError("no")

    loader = perm.loader(100, transform=fail, transform_threads=1)
    with pytest.raises(ValueError, match="no"):
        next(iter(loader))
    assert loader.stats().stage_seconds["transform"] > 0


def test_copies_are_a_stage(perm):
    pytest.importorskip("torch")
    numbers = perm.select_columns(["id", "x"])
    loader = numbers.loader(100, format="torch_dict", device="cpu")
    assert len(list(loader)) == 50
    found = loader.stats()
    assert found.rows == 5000
    assert 0 < found.stage_seconds["copy"] < found.wait_seconds


def test_ready_batches_are_counted():
    made = OrderedMap(range(10), str, threads=2, ahead=4, name="test-ready")
    assert made.num_ready == 0
    assert next(made) == "0"
    assert soon(lambda: made.num_ready == 4)
    assert next(made) == "1"
    made.close()


def test_ready_is_an_average_over_requests(perm):
    taken = threading.Semaphore(0)

    def transform(batch):
        taken.release()
        return batch

    loader = perm.loader(1000, transform=transform, transform_threads=1)
    batches = iter(loader)
    next(batches)
    # The thread begins with the third batch behind this one only when both before are made.
    for _ in range(3):
        assert taken.acquire(timeout=20)
    assert loader.stats().ready == 0
    next(batches)
    assert loader.stats().ready in (0.5, 1.0)


def test_the_series_is_bounded():
    counting = running()
    for number in range(1, 10 * MAX_POINTS + 1):
        counting.request()
        counting.yield_batch()
        # Statistics of each step would take longer than all steps.
        if number % 97 == 0:
            assert 0 < len(counting.stats().series) <= MAX_POINTS + 1
    counting.end()
    found = counting.stats()
    assert MAX_POINTS / 2 - 1 <= len(found.series) <= MAX_POINTS + 1
    times = [seconds for seconds, _, _ in found.series]
    assert times == sorted(times)
    assert times[0] == found.first_batch_seconds
    assert times[-1] <= found.seconds
    assert found.series[-1][2] == found.wait_seconds


def test_the_series_of_a_loader(perm):
    loader = perm.loader(500)
    assert loader.stats().series == ()
    list(loader)
    assert [rows for _, rows, _ in loader.stats().series] == list(range(500, 5001, 500))


# What is made of the numbers


def stats(waited=0.0, behind="read", **changes):
    """100 batches in 10 seconds, of which so many were waited, after the first batch."""
    fields = {
        "batches": 100,
        "rows": 1000,
        "seconds": 10.0,
        "first_batch_seconds": 0.0,
        "wait_seconds": waited,
        "read_wait_seconds": waited if behind in ("plan", "read", "gather") else 0.0,
        "stage_seconds": {"read": 1.0, "format": 1.0} | {behind: 5.0},
        "rows_direct": 1000,
    }
    return Stats(**fields | changes)


def test_a_trainer_that_does_not_wait():
    text = "the trainer waits 3% of the time; reading is not the bottleneck"
    assert stats(0.3).verdict == text
    assert "not the bottleneck" in stats(0.5).verdict
    assert "not the bottleneck" not in stats(0.51).verdict


@pytest.mark.parametrize(
    "stage", ["plan", "read", "gather", "format", "transform", "copy"]
)
def test_the_slowest_stage_is_named(stage):
    found = stats(4.0, stage)
    assert found.slowest == stage
    assert f"waits 40% of the time, mostly for {stage}; " in found.verdict


def test_a_stage_of_many_threads_is_not_blamed_for_their_total_time():
    """Readers were busy, but always ahead of the conversion."""
    spent = {"read": 50.0, "format": 4.0}
    assert stats(4.0, "format", stage_seconds=spent).slowest == "format"
    spent = {"format": 4.0, "transform": 6.0, "copy": 5.0}
    found = stats(4.0, "copy", stage_seconds=spent, transform_threads=4)
    assert found.slowest == "copy"


def test_advice_fits():
    direct = stats(4.0, "read").verdict
    assert "memory_limit" in direct
    packed = stats(4.0, "read", rows_direct=0, rows_packed=1000).verdict
    assert "in memory already" in packed
    assert "memory_limit" not in packed
    spilled = stats(4.0, "read", rows_direct=0, rows_spilled=1000).verdict
    assert "scratch files" in spilled
    assert "transform_threads=1" in stats(4.0, "format").verdict
    in_threads = stats(4.0, "format", transform_threads=2).verdict
    assert "transform_threads" not in in_threads


def test_verdicts_with_too_few_batches():
    assert Stats().verdict == "too few batches to say what is slow"
    assert stats(batches=1).verdict == "too few batches to say what is slow"
    assert "not measured" in stats(4.0, stage_seconds={}).verdict


def test_a_few_long_waits_are_reported():
    rare = stats(4.0, waits=((0.001, 99), (3.9, 1)), wait_p99=0.001)
    assert "a few long waits" in rare.verdict
    even = stats(4.0, waits=((0.03, 50), (0.05, 50)), wait_p99=0.05)
    assert "a few long waits" not in even.verdict


def test_a_long_start_is_reported():
    late = stats(3.0, first_batch_seconds=3.0)
    assert late.wait_share == 0
    assert late.verdict.endswith("(and 3.00 s for the first batch)")
    assert "first batch" not in stats(1.0, first_batch_seconds=1.0).verdict


def test_shares():
    found = stats(4.0, first_batch_seconds=2.0)
    assert found.wait_share == pytest.approx(2 / 8)
    assert Stats().wait_share == Stats().hits == Stats().rows_per_second == 0
    assert Stats(rows_packed=3, rows_direct=1).hits == 0.75


def test_numbers_for_a_logger(perm):
    loader = perm.loader(500)
    list(loader)
    found = loader.stats()
    numbers = found.to_dict("loader/")
    assert json.loads(json.dumps(numbers)) == numbers
    assert {type(value) for value in numbers.values()} == {int, float}
    assert all(name.startswith("loader/") for name in numbers)
    assert numbers["loader/rows"] == 5000
    assert numbers["loader/gather_seconds"] == found.stage_seconds["gather"]
    assert numbers["loader/copy_seconds"] == 0
    # The same names each time, so that curves go on.
    assert Stats().to_dict("loader/").keys() == numbers.keys()


def test_the_text(perm):
    loader = perm.loader(500)
    list(loader)
    lines = str(loader.stats()).splitlines()
    words = [line.split()[0] for line in lines]
    assert words[:2] == ["served", "waited"]
    assert words[-1] == "verdict"
    assert str(Stats()).startswith("served    0 batches, 0 rows")


@given(st.lists(st.integers(0, 20)), st.floats(0.01, 1))
def test_quantiles(numbers, share):
    waits = sorted(Counter(numbers).items())
    wanted = 0.0
    for number in sorted(numbers):
        wanted = number
        if sum(each <= number for each in numbers) >= share * len(numbers):
            break
    assert quantile(waits, share) == wanted


# Ranks


def test_ranks_together(perm):
    loaders = [
        perm.loader(global_batch_size=300, rank=rank, world_size=3, tail="uneven")
        for rank in range(3)
    ]
    assert len({len(list(loader)) for loader in loaders}) == 1
    each = [loader.stats() for loader in loaders]
    whole = Stats.merged(reversed(each))
    assert whole.ranks == tuple(each)
    assert whole.rows == 5000
    assert whole.batches == 3 * len(loaders[0])
    assert whole.bytes == sum(one.bytes for one in each)
    waits = sum((Counter(dict(one.waits)) for one in each), Counter())
    assert dict(whole.waits) == waits
    assert min(one.wait_p50 for one in each) <= whole.wait_p50
    assert whole.wait_p99 <= max(one.wait_p99 for one in each)
    for stage in STAGES:
        spent = sum(one.stage_seconds.get(stage, 0) for one in each)
        assert whole.stage_seconds.get(stage, 0) == pytest.approx(spent)
    worst = each[whole.rank]
    assert whole.wait_share == worst.wait_share == max(one.wait_share for one in each)
    assert pickle.loads(pickle.dumps(whole)) == whole
    lines = str(whole).splitlines()
    assert "3 of 3 ranks" in lines[0]
    assert [line.split()[0] for line in lines[-4:]] == ["rank", "0", "1", "2"]
    assert len({len(line) for line in lines[-4:]}) == 1


def test_the_slowest_rank_gives_the_verdict():
    calm, late = stats(0.1), stats(6.0, "gather", rank=1, world_size=2)
    whole = Stats.merged([calm, late])
    assert (whole.rank, whole.world_size, whole.slowest) == (1, 2, "gather")
    assert "waits 60% of the time, mostly for gather" in whole.verdict


def test_rows_that_ranks_share_are_kept_once():
    kept = {"bytes_kept": 100, "is_shared": True}
    shared = [stats(rank=rank, **kept) for rank in range(2)]
    assert Stats.merged(shared).bytes_kept == 100
    own = [stats(rank=rank, bytes_kept=100) for rank in range(2)]
    assert Stats.merged(own).bytes_kept == 200


def test_statistics_that_do_not_merge():
    with pytest.raises(ValueError, match="no statistics"):
        Stats.merged([])
    with pytest.raises(ValueError, match=r"each rank once, got ranks \[0, 0\]"):
        Stats.merged([Stats(), Stats()])


# Bars


@pytest.mark.usefixtures("bars_at_once")
def test_a_bar_says_how_fast_it_goes(perm, capsys):
    loader = perm.loader(500, epochs=2, progress=True)
    assert len(list(loader)) == 20
    shown = capsys.readouterr().err
    assert "epoch 0: 100%" in shown
    assert "epoch 1: 100%" in shown
    last = shown.split("\r")[-1]
    assert "rows/s, waits " in last
    assert "10.0/10.0" in last


@pytest.mark.usefixtures("bars_at_once")
def test_a_bar_goes_on_where_training_does(perm, capsys):
    loader = perm.loader(500, progress=True)
    for _ in itertools.islice(loader, 4):
        pass
    shown = capsys.readouterr().err
    assert "10.0/10.0" not in shown
    # The bar is closed with the loop.
    assert shown.endswith("\n")
    loader.skip_batches(6)
    assert len(list(loader)) == 4
    shown = capsys.readouterr().err
    assert "6.00/10.0" in shown
    assert "10.0/10.0" in shown


@pytest.mark.usefixtures("bars_at_once")
def test_one_bar_for_all_ranks(perm, capsys):
    for rank, is_shown in ((1, False), (0, True)):
        loader = perm.loader(500, rank=rank, world_size=2, progress=True)
        assert len(list(loader)) == 5
        assert bool(capsys.readouterr().err) == is_shown


def test_bars_need_tqdm(perm, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'pip install "lanceloader\[progress\]"'):
        perm.loader(500, progress=True)


@pytest.mark.parametrize("format", [None, "python", "torch", "torch_dict", "arrow"])
def test_the_format_in_use_is_not_advised(format):
    slow = {"format": 1.0}
    numbers = {"batches": 9, "rows": 90, "seconds": 1.0, "wait_seconds": 0.9}
    stats = Stats(**numbers, stage_seconds=slow, format=format)
    assert "mostly for format" in stats.verdict
    assert ("a columnar format" in stats.verdict) == (
        format in (None, "python", "torch")
    )


@pytest.mark.parametrize("format", ["python", "torch_dict", "numpy_dict", "arrow"])
def test_statistics_know_the_format(format):
    loader = ll.open(tables.narrow(10)).loader(5, format=format)
    assert len(list(loader)) == 2
    assert loader.stats().format == format
    transformed = ll.open(tables.narrow(10)).with_transform(len).loader(5)
    assert list(transformed) == [5, 5]
    assert transformed.stats().format is None


def test_the_repr_is_one_line(perm):
    loader = perm.loader(1)
    assert len(list(loader)) == perm.num_rows
    text = repr(loader.stats())
    assert text.startswith(f"<Stats of {perm.num_rows:,} batches, ")
    assert len(text) < 120
