"""Processes: workers of every kind, killed and forked ones.

Each test runs a program of its own, so that a hang or a crash is one test that fails.
"""

from __future__ import annotations

import pytest
from programs import CONTEXTS, LOADER, PRELUDE, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


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
    perm.with_transform(importable.pids), 2, context, batch_size=500,
    collate_fn=importable.as_it_is, persistent_workers=True,
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
plain = perm.with_repeat(200).with_transform(importable.ids)
loader = loader_of(
    plain, 2, context, batch_size=4, collate_fn=importable.as_it_is, timeout=0
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
        view.with_transform(importable.loaded), 1, sys.argv[2], batch_size=500,
        collate_fn=importable.as_it_is,
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
child = context.Process(target=importable.options_of, args=(perm, queue))
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
lanceloader.torch.install()
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
wanted = importable.rows_of(perm)
half = perm.iter(10)
next(half)
with multiprocessing.get_context(sys.argv[2]).Pool(3) as pool:
    found = pool.map(importable.row_at, [(perm, k) for k in range(0, 4000, 50)])
    assert found == wanted[:4000:50]
    parts = pool.map(importable.rows_of, [perm.shard(k, 5) for k in range(5)])
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
wanted = importable.rows_of(perm)
half = perm.iter(10)
next(half)
"""


def test_forks_of_forks(folder):
    program = """
def check():
    assert importable.rows_of(perm) == wanted
    assert importable.rows_of(perm.select_columns(["id"]).shuffle(seed=2)) != wanted
    assert importable.rows_of(pickle.loads(pickle.dumps(perm))) == wanted

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


def test_a_child_that_exits_with_destructors(folder):
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
    wanted = importable.rows_of(perm)
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
    assert importable.rows_of(perm) == wanted
    assert perm.shuffle(seed=3).select_columns(["id", "x"]).head()

try:
    for _ in range(20):
        in_a_child(child)
finally:
    stop.set()
    for thread in threads:
        thread.join()
assert importable.rows_of(perm) == wanted
done(ok=True)
"""
    assert run(PRELUDE + FORKING + program, folder, source) == {"ok": True}
