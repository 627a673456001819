"""Ctrl-C, memory over time, and exit, each in a separate program."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from programs import LOADER, PRELUDE, finish, run, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

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
os.environ["LANCELOADER_THREADS"] = "1"
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
