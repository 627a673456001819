"""``Loader.headspace``: replayed batches and the report."""

from __future__ import annotations

import itertools

import lance
import lanceloader as ll
import pytest
import tables
from lanceloader.monitor import replay as headspace
from lanceloader.monitor.replay import HeadspaceReport


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    """5,000 rows."""
    path = tmp_path_factory.mktemp("headspace") / "t.lance"
    return ll.open(lance.write_dataset(tables.narrow(5000), path))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(headspace, "time", clock)
    return clock


def test_the_last_batches_that_were_read_are_replayed(perm):
    loader = perm.loader(100, format="arrow", shuffle=True, seed=3)
    trial = loader.headspace(after=10, keep=4)
    assert len(trial) == len(loader) == 50
    served = list(trial)
    assert len(served) == 50
    wanted = list(itertools.islice(loader, 10))
    assert all(one.equals(other) for one, other in zip(served, wanted, strict=False))
    for at, batch in enumerate(served[10:]):
        # The same objects, not copies.
        assert batch is served[6 + at % 4]


def test_nothing_is_read_while_batches_are_replayed(perm):
    loader = perm.loader(100)
    batches = iter(loader.headspace(after=10))
    for _ in range(11):
        next(batches)
    ended = loader.stats()
    next(batches)
    assert loader.stats().seconds == ended.seconds
    assert ended.batches == 10


def test_tensors_on_a_device_are_replayed(perm):
    torch = pytest.importorskip("torch")
    loader = perm.select_columns(["id"]).loader(
        100, format="torch_dict", device="cpu", transform_threads=1
    )
    served = list(loader.headspace(after=5, keep=1))
    assert len(served) == 50
    assert all(batch is served[4] for batch in served[5:])
    assert torch.equal(served[4]["id"], torch.arange(400, 500))


@pytest.mark.parametrize("num_rows", [700, 1000, 1001])
def test_few_batches(perm, num_rows):
    loader = perm.with_take(num_rows).loader(100, format="arrow")
    trial = loader.headspace(after=10)
    assert len(list(trial)) == len(loader)
    assert sum(batch.num_rows for batch in trial) == min(num_rows, 1000) + (
        100 if num_rows > 1000 else 0
    )


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("skipped", [0, 5, 30, 45, 50])
def test_what_is_left_of_an_epoch(perm, epochs, skipped):
    wanted = 50 * epochs - skipped
    loader = perm.loader(100, epochs=epochs).set_epoch(2).skip_batches(skipped)
    state = loader.state_dict()
    trial = loader.headspace(after=10)
    assert len(trial) == len(list(trial)) == wanted
    # And then from the start on.
    assert len(trial) == len(loader) == 50 * epochs
    again = perm.loader(100, epochs=epochs)
    again.load_state_dict(state)
    assert len(list(again.headspace(after=10))) == wanted


def test_what_is_left_of_batches_of_so_many_tokens(perm):
    loader = perm.loader(batch_tokens=10**5, length="id", epochs=2).skip_batches(9)
    trial = loader.headspace(after=10)
    assert len(trial) == len(loader) - 9 == len(list(trial))


def test_without_an_end(perm):
    trial = perm.loader(1000, epochs=None, format="arrow").headspace(after=12, keep=2)
    served = list(itertools.islice(trial, 40))
    assert all(batch is served[10 + at % 2] for at, batch in enumerate(served[12:]))
    with pytest.raises(TypeError, match="never ends"):
        len(trial)


def test_no_more_is_kept_than_was_read(perm):
    served = list(perm.loader(100).headspace(after=5, keep=50))
    assert all(batch is served[at % 5] for at, batch in enumerate(served))


def test_a_trial_may_be_made_again(perm):
    trial = perm.loader(100, format="arrow").headspace(after=10, keep=3)
    one, other = list(trial), list(trial)
    assert all(a.equals(b) for a, b in zip(one, other, strict=True))


def test_the_report(perm, clock):
    trial = perm.loader(100).headspace(after=10)
    assert trial.report() == HeadspaceReport()
    for number, _ in enumerate(trial):
        # The first two warm up; then 0.2 s a step, and 0.1 s from memory.
        clock.now += 50 if number < 2 else 0.2 if number < 10 else 0.1
    found = trial.report()
    assert (found.steps_read, found.steps_replayed) == (8, 40)
    assert found.seconds_read == pytest.approx(1.6)
    assert found.seconds_replayed == pytest.approx(4.0)
    assert found.steps_per_second == pytest.approx(5)
    assert found.steps_per_second_replayed == pytest.approx(10)
    assert found.gain == pytest.approx(2)
    assert "5.0 steps/s, 8 steps" in str(found)
    assert "at most 2.00 times as fast" in str(found)


def test_a_report_before_the_end(perm, clock):
    trial = perm.loader(100).headspace(after=10)
    wanted = {1: (0, 0), 2: (0, 0), 3: (1, 0), 10: (8, 0), 11: (8, 1), 13: (8, 3)}
    for number, _ in enumerate(trial):
        found = trial.report()
        if number in wanted:
            assert (found.steps_read, found.steps_replayed) == wanted[number]
            assert bool(found.gain) == (number > 10)
        clock.now += 1
        if number == 13:
            break
    assert "too few to compare" in str(HeadspaceReport(8, 1.0))


def test_a_loader_that_is_fast_enough():
    report = HeadspaceReport(100, 1.0, 100, 0.99)
    assert "would not make training faster" in str(report)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"after": 4}, "`after` must be at least 5, got 4"),
        ({"after": 10, "keep": 0}, "`keep` must be at least 1, got 0"),
    ],
)
def test_wrong_numbers(perm, options, match):
    with pytest.raises(ValueError, match=match):
        perm.loader(100).headspace(**options)
