"""Progress bars: when they appear, where, and for what."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import importable
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import tables
from lanceloader import _native
from lanceloader.monitor import progress
from lanceloader.monitor.preparation import packing, writing
from lanceloader.monitor.progress import Bar, is_wanted, polled, requested, waiting
from lanceloader.world import World
from process_state import soon


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """5,000 rows on disk."""
    path = tmp_path_factory.mktemp("progress") / "t.lance"
    lance.write_dataset(tables.narrow(5000), path, max_rows_per_file=1500)
    return str(path)


@pytest.fixture
def perm(uri):
    return ll.open(uri)


@pytest.fixture
def on(monkeypatch, bars_at_once):
    """The environment asks for bars, which do not wait."""
    monkeypatch.setenv("LANCELOADER_PROGRESS", "1")


# When


def test_a_bar_appears_after_a_second(capsys):
    with Bar("quick", 3) as bar:
        bar.add(3)
    assert capsys.readouterr().err == ""
    with Bar("slow", 3) as bar:
        bar.add(1)
        bar._started -= 10
        assert capsys.readouterr().err == ""
        bar.add(1)
        assert "slow:  67%" in capsys.readouterr().err
    # The clock of the bar began with the work: two rows in ten seconds.
    assert "5.0" in capsys.readouterr().err.split("\r")[-1]


@pytest.mark.parametrize(
    ("variable", "argument", "wanted"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        ("1", None, True),
        ("true", None, True),
        ("1", False, False),
        ("0", None, False),
        ("0", True, False),
        ("off", True, False),
        ("", True, True),
        ("", None, False),
        ("1", print, False),
    ],
)
def test_argument_and_variable(monkeypatch, variable, argument, wanted):
    if variable is None:
        monkeypatch.delenv("LANCELOADER_PROGRESS", raising=False)
    else:
        monkeypatch.setenv("LANCELOADER_PROGRESS", variable)
    assert is_wanted(argument) == wanted


def test_a_variable_that_is_neither(monkeypatch, perm):
    monkeypatch.setenv("LANCELOADER_PROGRESS", "maybe")
    with pytest.raises(ValueError, match=r"must be 1 .* or 0 .*, got 'maybe'"):
        perm.to_arrow()


def test_a_call_asks_for_all_work_inside_it(monkeypatch):
    with requested(True):
        assert is_wanted(None)
        assert not is_wanted(False)
        with requested(None):
            assert is_wanted(None)
        with requested(False):
            assert not is_wanted(None)
    assert not is_wanted(None)
    monkeypatch.setenv("LANCELOADER_PROGRESS", "1")
    with requested(False):
        assert not is_wanted(None)


# Where


def test_only_on_rank_0(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_wanted(True)
    monkeypatch.setenv("RANK", "0")
    assert is_wanted(True)
    monkeypatch.setattr(World, "in_use", classmethod(lambda cls: cls(2, 4)))
    assert not is_wanted(True)
    # A loader knows its rank.
    assert is_wanted(True, rank=0)
    assert not is_wanted(True, rank=3)


def wanted_in_worker(queue):
    queue.put((is_wanted(True), is_wanted(True, rank=0)))


@pytest.mark.parametrize("daemon", [True, False])
def test_not_in_workers(daemon):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=wanted_in_worker, args=(queue,), daemon=daemon)
    worker.start()
    worker.join()
    # Ranks are ordinary processes; workers of torch and of pools are daemons.
    assert queue.get() == (not daemon, not daemon)


def test_not_in_a_helper_process(perm):
    loader = perm.loader(1000, in_process=False, transform=importable.bars_wanted)
    assert list(loader) == [False] * 5


def test_workers_leave_the_bar_to_this_process(perm, capfd, on):
    torch = pytest.importorskip("lanceloader.torch")
    loader = torch.DataLoader(perm, 500, num_workers=2)
    assert len(list(loader)) == 10
    shown = capfd.readouterr().err
    assert "loading: 100%" in shown
    assert "10.0/10.0" in shown
    # Rows are not known, waits are.
    assert " rows/s" not in shown
    assert "waits " in shown


def test_a_closed_standard_error_stops_nothing(perm, monkeypatch, on):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert perm.to_arrow().num_rows == 5000
    assert len(list(perm.loader(500))) == 10


def test_a_fork_leaves_the_bar_alone(capfd, bars_at_once):
    with Bar("forked", 10) as bar:
        bar.add(1)
        # As if another thread was drawing.
        bar._lock.acquire()
        child = os.fork()
        if child == 0:
            bar.add(5)
            bar.close()
            os._exit(0)
        bar._lock.release()
        assert os.waitpid(child, 0)[1] == 0
        bar.add(1)
    assert "2.00/10.0" in capfd.readouterr().err.split("\r")[-1]


def test_several_threads_move_a_bar(capsys, bars_at_once):
    with Bar("together", 4000) as bar:
        threads = [
            threading.Thread(target=lambda: [bar.add(1) for _ in range(1000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "4.00k/4.00k" in capsys.readouterr().err.split("\r")[-1]


def test_a_missing_tqdm_is_an_error_only_if_it_is_asked_for(perm, monkeypatch, on):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(progress._state, "has_warned", False)
    with pytest.raises(ImportError, match="progress=True needs tqdm"):
        perm.filter("id > 3", progress=True)
    with pytest.warns(RuntimeWarning, match="LANCELOADER_PROGRESS=1 needs tqdm"):
        assert perm.to_arrow().num_rows == 5000
    # It is said once.
    assert len(list(perm.loader(500))) == 10


# For what


def followers():
    """The threads that follow work of others."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name == "lanceloader-progress"]


def test_work_that_cannot_say_how_far_it_is(capsys, bars_at_once):
    with waiting("thinking", progress=True):
        time.sleep(0.3)
    shown = capsys.readouterr().err
    assert "thinking: 00:00" in shown
    assert "it/s" not in shown
    with pytest.raises(KeyError), waiting("thinking", progress=True):
        raise KeyError
    with waiting("thinking"):
        pass
    assert capsys.readouterr().err.count("\n") == 1
    assert not followers()


def test_work_of_other_threads(capsys, bars_at_once):
    found = iter([(1, 4), (2, 4), (4, 4), None])
    ended = threading.Event()

    def poll():
        state = next(found)
        if state is None:
            ended.set()
        return state

    with polled("far away", poll, unit=" things"):
        assert ended.wait(10)
    assert "4.00/4.00" in capsys.readouterr().err


def bars(capsys):
    """The titles of the bars that were shown."""
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    return {line.partition(":")[0].strip("\x1b[A ") for line in lines} - {""}


def test_opening_and_filtering(uri, capsys, bars_at_once):
    few = ll.open(uri, filter="id < 10", progress=True)
    assert len(few) == 10
    assert bars(capsys) == {"opening t", "filtering"}
    assert len(ll.open(uri).filter("id < 10", progress=True)) == 10
    assert bars(capsys) == {"filtering"}


def test_counting(tmp_path, capsys, on):
    data = tables.narrow(50)
    dataset = lance.write_dataset(data, tmp_path / "o", data_storage_version="legacy")
    assert len(ll.open(dataset)) == 50
    assert "counting rows of o" in bars(capsys)


def test_plans_and_tables_in_memory(any_table, capsys, on):
    plan = ll.permutation_builder(any_table).shuffle(seed=1).execute()
    assert len(ll.Permutation.from_tables(any_table, plan)) == 100
    found = bars(capsys)
    assert {"building the permutation table", "looking up rows"} <= found
    is_in_memory = any_table.uri.startswith("memory:")
    assert ("copying t" in found) == is_in_memory


@pytest.mark.parametrize("ask", [True, None])
def test_columns_that_splits_read(perm, capsys, monkeypatch, bars_at_once, ask):
    if ask is None:
        monkeypatch.setenv("LANCELOADER_PROGRESS", "1")
    perm = perm.with_take(60)
    perm.split_by("id", progress=ask)
    assert bars(capsys) == {"reading", "grouping rows"}
    perm.split([0.5, 0.5], seed=1, group_by="id", progress=ask)
    assert bars(capsys) == {"reading", "splitting rows"}
    perm.sample(10, seed=1, balance_by="id", progress=ask)
    assert bars(capsys) == {"reading", "grouping rows", "drawing rows"}
    perm.unique("id", progress=ask)
    assert bars(capsys) == {"reading id"}


def test_lengths(capsys, on):
    lists = pa.array([list(range(k % 7)) for k in range(100)], pa.list_(pa.int32()))
    perm = ll.open(pa.table({"tokens": lists}))
    assert len(perm.loader(batch_tokens=64, length="tokens")) > 0
    assert bars(capsys) == {"lengths of tokens", "planning batches"}


def test_materialize_and_warm(perm, tmp_path, capsys, on):
    perm.materialize(tmp_path / "copy.lance")
    assert "writing" in bars(capsys)
    perm.warm(cache_dir="")
    assert bars(capsys) == {"packing"}
    perm.materialize(tmp_path / "other.lance", progress=False)
    assert bars(capsys) == {"opening other"}


def wide(path):
    """80 MB in 40,000 rows."""
    vectors = np.zeros((40_000, 500), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 500)
    return lance.write_dataset(pa.table({"v": column}), path)


def test_packing_in_the_background(tmp_path, capsys, on, monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.001)
    perm = ll.open(wide(tmp_path / "t.lance")).with_read("resident", cache_dir="")
    loader = perm.loader(64, shuffle=True, seed=1, format="arrow")
    batches = iter(loader)
    next(batches)
    # The bar ends with the work, before the epoch does.
    assert soon(lambda: packing(perm.open_reader()) is None and not followers())
    assert len(list(batches)) == 624
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    packed = [line for line in lines if "packing:" in line]
    assert "100%" in packed[-1]
    assert any("loading: 100%" in line for line in lines)
    # The rows are there now.
    list(loader)
    assert "packing" not in bars(capsys)


def test_how_far_packing_is(tmp_path):
    perm = ll.open(wide(tmp_path / "t.lance")).with_read("resident", cache_dir="")
    reader = perm.open_reader()
    assert isinstance(reader, _native.Reader)
    poll = packing(reader)
    assert poll is not None
    done, total = poll()
    assert done == 0
    assert total == pytest.approx(80e6, rel=0.1)
    perm.warm(cache_dir="")
    loader = reader.load(perm.order.shuffled(1), 64, False)
    for _ in loader:
        pass
    assert soon(lambda: poll() is None)


def test_a_shuffle_larger_than_memory(tmp_path, capsys, on):
    perm = ll.open(wide(tmp_path / "t.lance"))
    perm = perm.with_read("external", memory_limit="32MiB", cache_dir=tmp_path)
    loader = perm.loader(64, shuffle=True, seed=1, format="arrow")
    poll = writing(perm.open_reader())
    assert poll() == (0, None)
    assert len(list(loader)) == 625
    assert "writing rows to scratch files" in bars(capsys)
    before = loader.stats()
    assert before.rows_spilled >= 40_000
    assert "writing rows to scratch files: 00:00" not in capsys.readouterr().err


def test_mixtures(uri, tmp_path, capsys, on):
    other = tmp_path / "other.lance"
    lance.write_dataset(tables.narrow(3000), other)
    mixture = ll.mix({"a": ll.open(uri), "b": ll.open(other)}, weights=[1, 1])
    capsys.readouterr()
    loader = mixture.loader(100, shuffle=True, seed=1, read="resident", cache_dir="")
    assert len(list(loader)) == len(loader)
    assert {"packing", "loading"} <= bars(capsys)


def test_nothing_is_shown_by_default(uri, tmp_path):
    code = f"""
import lanceloader as ll
from lanceloader.monitor import progress
progress.DELAY_SECONDS = 0
perm = ll.open({uri!r}, filter="id >= 0")
perm.warm(cache_dir="")
for batch in perm.loader(500, shuffle=True, seed=1):
    pass
"""
    environment = {k: v for k, v in os.environ.items() if k != "LANCELOADER_PROGRESS"}
    for setting, is_shown in (("1", True), ("0", False), (None, False)):
        env = environment | (
            {} if setting is None else {"LANCELOADER_PROGRESS": setting}
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, check=True
        )
        assert bool(done.stderr) == is_shown
        assert not done.stdout
