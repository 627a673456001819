"""Processes: workers of every kind, killed and forked ones, Ctrl-C, memory, exit.

Each test runs a program of its own with a limit of time, so that a hang or a crash is one test
that fails. Limits say "does not hang", never "is fast".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lance
import lancedb
import pytest
import tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

LIMIT_S = 150
CONTEXTS = ["fork", "forkserver", "spawn"]

PRELUDE = """
import gc, json, os, pickle, signal, sys, threading, time
import elsewhere
import lanceloader as ll
import numpy as np
import pyarrow as pa

folder = sys.argv[1]
path = folder + "/t.lance"


def read_threads():
    found = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                found += file.read().startswith("lanceloader-rea")
        except OSError:
            pass
    return found


def soon(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def rss():
    gc.collect()
    pa.default_memory_pool().release_unused()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def done(**found):
    print(json.dumps(found), flush=True)
"""

LOADER = (
    PRELUDE
    + """
import warnings
from torch.utils.data import DataLoader

# That there are more workers than cores.
warnings.filterwarnings("ignore", "This DataLoader will create")


def loader_of(dataset, workers, context, **options):
    if workers:
        options = {"multiprocessing_context": context, "timeout": 100} | options
    return DataLoader(dataset, num_workers=workers, **options)


def check(batches, wanted):
    '''Every row once, and each with the values that belong together.'''
    rows = {}
    for batch in batches:
        for at, row in enumerate(batch["id"].tolist()):
            assert row not in rows, row
            rows[row] = batch["name"][at], round(float(batch["y"][at]), 6)
    assert rows == wanted, (len(rows), len(wanted))


def wanted_of(perm):
    table = perm.to_arrow()
    columns = (table[name].to_pylist() for name in ("id", "name", "y"))
    return {id: (name, round(y, 6)) for id, name, y in zip(*columns)}
"""
)


def start(program, folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        # Whatever it started dies with it.
        start_new_session=True,
    )


def finish(process, limit_s=LIMIT_S):
    """What the program says it found."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it hangs:\n{out}\n{err}")
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return json.loads(out.strip().rpartition("\n")[2])


def run(program, folder, *arguments):
    return finish(start(program, folder, *arguments))


@pytest.fixture
def folder(tmp_path):
    """A dataset of 5,000 rows, some deleted, and a LanceDB table of the same."""
    data = tables.narrow(5000)
    dataset = lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=1500)
    dataset.delete("id % 7 = 3")
    table = lancedb.connect(tmp_path / "db").create_table("t", data)
    table.delete("id % 7 = 3")
    return tmp_path


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_row_once_with_any_number_of_workers(folder, context):
    """The parent has read before, and is in the middle of an iteration."""
    program = """
context = sys.argv[2]
perm = ll.open(path).shuffle(seed=1)
wanted = wanted_of(perm)
perm.take_offsets([0, 17])
half = perm.iter(10)
next(half)
next(iter(loader_of(perm, 0, None, batch_size=8)))
for workers in range(5):
    view = perm if workers % 2 else perm.with_format("torch")
    loader = loader_of(view, workers, context, batch_size=64, shuffle=workers > 2)
    check(loader, wanted)
    next(half)
rows = [row["id"] for batch in perm.iter(10) for row in batch]
assert [row["id"] for batch in half for row in batch] == rows[60:]
done(rows=len(rows))
"""
    assert run(LOADER + program, folder, context) == {"rows": 4286}


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_kind_of_source_in_workers(folder, context):
    program = """
import warnings
import lance, lancedb
warnings.filterwarnings("ignore", "lancedb fork support")
warnings.filterwarnings("ignore", "lance is not fork-safe")
context = sys.argv[2]
table = lancedb.connect(folder + "/db").open_table("t")
memory = lancedb.connect("memory://").create_table("t", table.to_arrow())
memory.delete("id < 100")
plan = ll.permutation_builder(table).split_random(fixed=2, seed=1).execute()
sources = [
    ll.open(table),
    ll.open(memory).filter("id > 200"),
    ll.open(lance.dataset(path)).filter("label = 2"),
    ll.open(table.to_arrow()).sample(0.5, seed=1),
    ll.Permutation.from_tables(table, plan, 1),
    ll.open(table).split([0.5, 0.5], seed=1, stratify_by="label")[1],
]
for at, perm in enumerate(sources):
    view = perm.with_format("torch_dict") if at % 2 else perm
    check(loader_of(view, 2, context, batch_size=64), wanted_of(perm))
assert table.count_rows() == 4286
assert ll.open(table).filter("id < 10").num_rows == 9
done(sources=len(sources))
"""
    assert run(LOADER + program, folder, context) == {"sources": 6}


@pytest.mark.parametrize("context", CONTEXTS)
def test_workers_that_stay_for_several_epochs(folder, context):
    program = """
context = sys.argv[2]
perm = ll.open(path)
wanted = wanted_of(perm)
loader = loader_of(
    perm, 2, context, batch_size=64, shuffle=True, persistent_workers=True
)
for epoch in range(3):
    check(loader, wanted)
    assert len(list(perm.iter(1000))) == 5
pids = loader_of(
    perm.with_transform(elsewhere.pids), 2, context, batch_size=500,
    collate_fn=elsewhere.as_it_is, persistent_workers=True,
)
first = {pid for batch in pids for pid in batch}
assert {pid for batch in pids for pid in batch} == first
assert len(first) == 2 and os.getpid() not in first
done(epochs=3)
"""
    assert run(LOADER + program, folder, context) == {"epochs": 3}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_killed_worker_is_an_error_and_no_hang(folder, context):
    program = """
context = sys.argv[2]
perm = ll.open(path).shuffle(seed=1)
wanted = wanted_of(perm)
half = perm.iter(10)
next(half)
# Tensors on their way from a killed worker fail inside torch in other ways.
plain = perm.with_repeat(200).with_transform(elsewhere.ids)
loader = loader_of(
    plain, 2, context, batch_size=4, collate_fn=elsewhere.as_it_is, timeout=0
)
batches = iter(loader)
next(batches)
victim = batches._workers[0].pid
os.kill(victim, signal.SIGKILL)
try:
    for _ in batches:
        pass
except RuntimeError as error:
    assert "exited unexpectedly" in str(error) or "killed by signal" in str(error), error
else:
    raise AssertionError("nobody noticed")
del batches
assert wanted_of(perm) == wanted
assert len(list(half)) == 428
check(loader_of(perm, 2, context, batch_size=64), wanted)
done(killed=1)
"""
    assert run(LOADER + program, folder, context) == {"killed": 1}


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_exception_in_a_worker_reaches_the_parent_as_it_is(folder, context):
    program = """
context = sys.argv[2]
perm = ll.open(path)
for sampler, error in (([0, 10**6], IndexError), ([-1], OverflowError)):
    try:
        list(loader_of(perm, 1, context, batch_size=2, sampler=sampler))
    except error as caught:
        assert "worker process 0" in str(caught)
    else:
        raise AssertionError(error)
last = max(os.scandir(path + "/data"), key=lambda entry: entry.stat().st_mtime_ns)
os.unlink(last.path)
try:
    list(loader_of(perm, 1, context, batch_size=64))
except ll.errors.TableChangedError as caught:
    assert last.name in str(caught)
else:
    raise AssertionError("rows without a file")
done(errors=3)
"""
    assert run(LOADER + program, folder, context) == {"errors": 3}


@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_a_worker_imports_neither_lancedb_nor_lance(folder, context):
    program = """
import lancedb, lance
table = lancedb.connect(folder + "/db").open_table("t")
plan = ll.permutation_builder(table).split_random(fixed=2, seed=1).execute()
views = [
    ll.open(table).shuffle(seed=1).filter("label = 2"),
    ll.Permutation.from_tables(table, plan, 1),
    ll.open(lance.dataset(path)),
    ll.open(path).split([0.5, 0.5], seed=1)[0],
]
found = set()
for view in views:
    loader = loader_of(
        view.with_transform(elsewhere.loaded), 1, sys.argv[2], batch_size=500,
        collate_fn=elsewhere.as_it_is,
    )
    found |= {name for batch in loader for row in batch for name in row.split(",")}
done(libraries=sorted(found))
"""
    found = run(LOADER + program, folder, context)["libraries"]
    assert "torch" in found
    assert not {"lancedb", "lance"} & set(found)


def test_credentials_reach_spawned_workers(folder):
    program = """
import multiprocessing
options = {"aws_secret_access_key": "hush", "aws_region": "eu"}
perm = ll.open(path, storage_options=options)
assert b"hush" not in pickle.dumps(perm)
context = multiprocessing.get_context("spawn")
queue = context.Queue()
child = context.Process(target=elsewhere.options_of, args=(perm, queue))
child.start()
found = queue.get(timeout=60)
child.join(60)
assert child.exitcode == 0
done(options=found)
"""
    found = run(PRELUDE + program, folder)["options"]
    assert found == {"aws_secret_access_key": "hush", "aws_region": "eu"}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_table_of_lancedb_in_workers(folder, context):
    program = """
import warnings
import lancedb
import lanceloader.torch
warnings.filterwarnings("ignore", "lancedb fork support")
table = lancedb.connect(folder + "/db").open_table("t")
wanted = table.to_arrow()["id"].to_pylist()
for shuffle in (False, True):
    loader = loader_of(table, 2, sys.argv[2], batch_size=64, shuffle=shuffle)
    found = [row for batch in loader for row in batch["id"].to_pylist()]
    assert (found == wanted) is not shuffle
    assert sorted(found) == sorted(wanted)
assert table.count_rows() == len(wanted)
done(rows=len(wanted))
"""
    assert run(LOADER + program, folder, context) == {"rows": 4286}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_pool_of_processes(folder, context):
    program = """
import multiprocessing
perm = ll.open(path).shuffle(seed=1)
wanted = elsewhere.rows_of(perm)
half = perm.iter(10)
next(half)
with multiprocessing.get_context(sys.argv[2]).Pool(3) as pool:
    found = pool.map(elsewhere.row_at, [(perm, k) for k in range(0, 4000, 50)])
    assert found == wanted[:4000:50]
    parts = pool.map(elsewhere.rows_of, [perm.shard(k, 5) for k in range(5)])
    assert [part[0] for part in parts] == wanted[:5]
    assert sorted(sum(parts, [])) == sorted(wanted)
next(half)
done(rows=len(wanted))
"""
    assert run(PRELUDE + program, folder, context) == {"rows": 4286}


FORKING = """
def in_a_child(work):
    '''Fork; the child works, collects garbage and leaves as a process does.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
            gc.collect()
            sys.stdout.flush()
        except BaseException as error:
            print(type(error), error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status


perm = ll.open(path).shuffle(seed=1)
wanted = elsewhere.rows_of(perm)
half = perm.iter(10)
next(half)
"""


def test_forks_of_forks(folder):
    program = """
def check():
    assert elsewhere.rows_of(perm) == wanted
    assert elsewhere.rows_of(perm.select_columns(["id"]).shuffle(seed=2)) != wanted
    assert elsewhere.rows_of(pickle.loads(pickle.dumps(perm))) == wanted

def child():
    check()
    inner = perm.iter(10)
    next(inner)
    in_a_child(grandchild)
    check()
    next(inner)

def grandchild():
    check()
    in_a_child(check)
    check()

in_a_child(child)
check()
assert len(list(half)) == 428
done(generations=3)
"""
    assert run(PRELUDE + FORKING + program, folder) == {"generations": 3}


def test_an_iterator_of_the_parent_says_so_in_a_child(folder):
    """Reading on would take the parent's rows, or wait for a thread that is not there."""
    program = """
fresh = perm.iter(10)

def child():
    global half
    try:
        next(half)
    except ValueError as error:
        assert "forked" in str(error), error
    else:
        raise AssertionError("it gave a batch")
    del half
    gc.collect()
    # Not started in the parent, so it is the child's own.
    assert [row["id"] for batch in fresh for row in batch] == wanted

in_a_child(child)
assert [row["id"] for row in next(half)] == wanted[10:20]
assert [row["id"] for batch in fresh for row in batch] == wanted
done(ok=True)
"""
    assert run(PRELUDE + FORKING + program, folder) == {"ok": True}


def test_a_child_that_leaves_by_the_door(folder):
    """With destructors and all, over iterators, views and readers that it inherited."""
    program = """
batches = [perm.iter(10) for _ in range(5)]
for each in batches:
    next(each)
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        perm.take_offsets([0])
        mine = perm.iter(10)
        next(mine)
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
for each in batches:
    assert len(list(each)) == 428
done(ok=True)
"""
    assert run(PRELUDE + FORKING + program, folder) == {"ok": True}


@pytest.mark.parametrize("source", ["disk", "lancedb"])
def test_forks_while_other_threads_read(folder, source):
    program = """
import warnings
if sys.argv[2] == "lancedb":
    import lancedb
    warnings.filterwarnings("ignore", "lancedb fork support")
    table = lancedb.connect(folder + "/db").open_table("t")
    perm = ll.open(table).shuffle(seed=1)
    wanted = elsewhere.rows_of(perm)
stop = threading.Event()

def read():
    while not stop.is_set():
        for batch in perm.iter(100):
            perm.take_offsets([1, 2, 3])
            ll.open(path).head()
            time.sleep(0.001)
            if stop.is_set():
                break

threads = [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()

def child():
    assert elsewhere.rows_of(perm) == wanted
    assert perm.shuffle(seed=3).select_columns(["id", "x"]).head()

try:
    for _ in range(20):
        in_a_child(child)
finally:
    stop.set()
    for thread in threads:
        thread.join()
assert elsewhere.rows_of(perm) == wanted
done(ok=True)
"""
    assert run(PRELUDE + FORKING + program, folder, source) == {"ok": True}


INTERRUPTED = {
    "iteration": "for batch in long.iter(10): pass",
    "iteration of large batches": "for batch in long.iter(1_000_000): pass",
    "to_arrow": "long.select_columns(['label']).to_arrow()",
    "a slice": "numbers.with_repeat(40_000)[:]",
    "a take": "numbers.take_offsets(np.zeros(40_000_000, dtype=np.int64))",
    "a mask": "len(numbers.with_repeat(30_000).filter(np.ones(30_000 * 4286, bool)).shuffle(seed=1).to_arrow())",
    "a table in memory": "memory.with_repeat(40_000)[:]",
    "a slow transform": "list(long.with_transform(lambda batch: time.sleep(0.1)).iter(10))",
}


@pytest.mark.parametrize("what", INTERRUPTED)
def test_ctrl_c(folder, what):
    program = f"""
perm = ll.open(path).shuffle(seed=1).with_format("arrow")
long = perm.with_repeat(1_000_000)
numbers = perm.select_columns(["label"])
memory = ll.open(numbers.to_arrow()).shuffle(seed=1).with_format("arrow")
before = perm.to_arrow()
print("ready", flush=True)
interrupted = False
try:
    {INTERRUPTED[what]}
except KeyboardInterrupt:
    interrupted = True
batch = None
assert perm.to_arrow().equals(before)
assert soon(lambda: read_threads() == 0), read_threads()
done(interrupted=interrupted)
"""
    process = start(PRELUDE + program, folder)
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    assert finish(process, limit_s=30) == {"interrupted": True}


def test_ctrl_c_in_a_loader_with_workers(folder):
    """The terminal sends it to the whole group."""
    program = """
perm = ll.open(path).shuffle(seed=1)
loader = loader_of(perm.with_repeat(1000), 2, "spawn", batch_size=64)
try:
    for at, batch in enumerate(loader):
        if at == 3:
            print("ready", flush=True)
except KeyboardInterrupt:
    assert len(perm.to_arrow()) == 4286
    done(interrupted=True)
"""
    process = start(LOADER + program, folder)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process, limit_s=60) == {"interrupted": True}


MIB = 1 << 20


@pytest.mark.parametrize("source", ["disk", "memory"])
def test_epochs_leave_no_memory_behind(folder, source):
    program = """
rng = np.random.default_rng(0)
data = pa.table({
    "id": np.arange(100_000),
    "x": rng.random(100_000),
    "name": [f"row {k}" * 5 for k in range(100_000)],
})
if sys.argv[2] == "disk":
    import lance
    lance.write_dataset(data, folder + "/large.lance", max_rows_per_file=30_000)
    perm = ll.open(folder + "/large.lance")
else:
    perm = ll.open(data)
perm = perm.with_format("arrow")
sizes = []
for epoch in range(20):
    rows = 0
    for batch in perm.shuffle(seed=1, epoch=epoch).iter(1000):
        rows += batch.num_rows
    for k in range(50):
        rows += perm.take_offsets(rng.integers(0, 100_000, 2000)).num_rows
    assert rows == 200_000
    sizes.append(rss())
done(sizes=sizes)
"""
    sizes = run(PRELUDE + program, folder, source)["sizes"]
    # An epoch reads 8 MiB: were any of them kept, 17 epochs would be 136 MiB and more.
    assert sizes[-1] - sizes[2] < 48 * MIB, [size // MIB for size in sizes]


def test_iterators_left_half_way_leave_nothing_behind(folder):
    program = """
perm = ll.open(path).shuffle(seed=1).with_format("arrow").with_repeat(1000)
assert read_threads() == 0
sizes = []
for k in range(400):
    batches = perm.iter(1 + k % 100)
    next(batches)
    if k % 3 == 0:
        batches.close()
    del batches
    if k % 100 == 99:
        assert soon(lambda: read_threads() == 0), read_threads()
        sizes.append(rss())
done(sizes=sizes, threads=len(os.listdir("/proc/self/task")), files=len(os.listdir("/proc/self/fd")))
"""
    found = run(PRELUDE + program, folder)
    sizes = found["sizes"]
    assert sizes[-1] - sizes[0] < 48 * MIB, [size // MIB for size in sizes]
    assert found["threads"] < 40
    assert found["files"] < 40


def test_views_and_tables_leave_nothing_behind(folder):
    program = """
sizes, files = [], []
for k in range(300):
    perm = ll.open(path).shuffle(seed=k).with_format("arrow")
    perm.take_offsets([0, 4000])
    pickle.loads(pickle.dumps(perm.filter(np.arange(4286) % 2 == 0))).head()
    if k % 100 == 99:
        sizes.append(rss())
        files.append(len(os.listdir("/proc/self/fd")))
done(sizes=sizes, files=files)
"""
    found = run(PRELUDE + program, folder)
    sizes, files = found["sizes"], found["files"]
    assert sizes[-1] - sizes[0] < 32 * MIB, [size // MIB for size in sizes]
    assert files[-1] <= files[0] + 2


def test_a_dropped_iterator_ends_its_thread(folder):
    program = """
perm = ll.open(path).shuffle(seed=1).with_repeat(1000)
idle = read_threads()
batches = [perm.iter(10) for _ in range(5)]
assert read_threads() == idle
for each in batches:
    next(each)
busy = read_threads()
del batches, each
gc.collect()
ended = soon(lambda: read_threads() == 0)
done(idle=idle, busy=busy, ended=ended)
"""
    found = run(PRELUDE + program, folder)
    assert found == {"idle": 0, "busy": 5, "ended": True}


EXITS = {
    "iterators alive": "keep = [half, iter(perm), perm.iter(3)]; next(keep[1])",
    "an iterator in a cycle": "keep = [half]; keep.append(keep); del half",
    "an exception": "raise SystemExit(0)",
    "a thread that reads": """
def read():
    for batch in perm.with_take(20_000).iter(10):
        pass

threading.Thread(target=read).start()
""",
    "a daemon that reads": """
def read():
    while True:
        for batch in perm.iter(10):
            perm.take_offsets([1, 2, 3])

for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
time.sleep(0.5)
""",
    "a module that keeps one": "sys.modules['json'].keep = half",
    "atexit": """
import atexit
atexit.register(lambda: next(half))
atexit.register(lambda: perm.take_offsets([3]))
""",
}


@pytest.mark.parametrize("how", EXITS)
def test_exit_with_iterators_alive(folder, how):
    program = f"""
perm = ll.open(path).shuffle(seed=1).with_repeat(1000)
half = perm.iter(10)
next(half)
done(ok=True)
{EXITS[how]}
"""
    for _ in range(5 if how == "a daemon that reads" else 1):
        process = start(PRELUDE + program, folder)
        assert finish(process, limit_s=60) == {"ok": True}


def test_a_killed_reader_leaves_the_table_as_it_was(folder):
    program = """
perm = ll.open(path).shuffle(seed=1).with_repeat(1000)
half = perm.iter(10)
next(half)
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = sorted(file for file in folder.rglob("*") if file.is_file())
    process = start(PRELUDE + program, folder)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert sorted(file for file in folder.rglob("*") if file.is_file()) == before
