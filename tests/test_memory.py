"""Memory measured from outside stays within ``memory_limit``, for ragged rows and every strategy."""

from __future__ import annotations

import threading
import time

import lance
import numpy as np
import pyarrow as pa
import pytest
from process_state import anonymous
from programs import PRELUDE, finish, run, start
from vector_tables import STRATEGIES

MIB = 1 << 20
SPARE = 256 * MIB

# The lengths of rows, and the rows of a batch.
SHAPES = {
    "all of 8 MB": ([8_000_000] * 60, 1),
    "all of 3 MB": ([3_000_000] * 150, 4),
    "one of 200 MB": ([100] * 1000 + [200_000_000] + [100] * 1000, 16),
    "rare ones of 16 MiB": (([50] * 499 + [16 * MIB]) * 40, 16),
    "16 MiB, side by side": ([50] * 9000 + [16 * MIB] * 40 + [50] * 9000, 1),
}


def ragged(path, lengths):
    """A table of rows so long, in one file, whose bytes cannot be compressed."""
    pool = np.random.default_rng(1).bytes(max(lengths) + 10_000)
    schema = pa.schema({"id": pa.int64(), "value": pa.large_binary()})

    def batches():
        start = 0
        while start < len(lengths):
            end = start + 1
            while end < len(lengths) and sum(lengths[start : end + 1]) < 8 * MIB:
                end += 1
            values = [pool[at : at + n] for at, n in enumerate(lengths[start:end])]
            columns = [pa.array(range(start, end)), pa.array(values, pa.large_binary())]
            yield pa.record_batch(columns, schema=schema)
            start = end

    lance.write_dataset(batches(), path, schema=schema, max_bytes_per_file=1 << 40)


@pytest.fixture(scope="module", params=SHAPES)
def table(request, tmp_path_factory):
    lengths, batch_size = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("memory")
    ragged(folder / "t.lance", lengths)
    yield folder, lengths, batch_size
    for file in folder.rglob("*.lance"):
        if file.is_file():
            file.unlink()


READS = """
strategies, batch_size, limit = sys.argv[3].split(","), *map(int, sys.argv[4:6])
next(iter(ll.open(pa.table({"id": range(99)})).loader(9)))
print("ready", flush=True)
assert soon(lambda: os.path.exists(folder + "/go"))
ends = {}
for read in strategies:
    try:
        perm = ll.open(path).with_read(read, memory_limit=limit or None, cache_dir="")
        perm.shuffle(1).explain()
        rows = 0
        for batch in perm.loader(batch_size, shuffle=True, seed=1, format="arrow"):
            rows += batch.num_rows
            for id, value in zip(batch["id"].to_pylist(), batch["value"]):
                last = id, len(value.as_buffer())
        ends[read] = rows
    except ValueError as error:
        ends[read] = f"{type(error).__name__}: {error}"
    batch = value = perm = None
done(**ends)
"""


def outcome(folder, strategies, batch_size, limit):
    """What each way to read ends with, and the most memory of its own that the process had."""
    (folder / "go").unlink(missing_ok=True)
    arguments = ",".join(strategies), batch_size, limit
    process = start(PRELUDE + READS, folder, "", *map(str, arguments))
    assert process.stdout.readline() == "ready\n"
    baseline = anonymous(process.pid)
    seen, is_over = [baseline], threading.Event()

    def watch():
        while not is_over.is_set():
            seen.append(anonymous(process.pid))
            time.sleep(0.003)

    watcher = threading.Thread(target=watch)
    watcher.start()
    (folder / "go").touch()
    try:
        return finish(process), max(seen) - baseline
    finally:
        is_over.set()
        watcher.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", [MIB, 64 * MIB])
def test_memory_stays_within_the_limit(table, limit):
    folder, lengths, batch_size = table
    found, peak = outcome(folder, STRATEGIES, batch_size, limit)
    for read, end in found.items():
        is_refused = read in ("resident", "external") and "memory_limit" in str(end)
        assert is_refused or end == len(lengths), (read, end)
    assert peak <= limit + SPARE + 3 * max(lengths), (found, peak / MIB)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_limit_that_a_refusal_names_would_do(table):
    folder, lengths, batch_size = table
    # Two of these tables go through scratch files within any limit.
    read = "resident" if len(lengths) < 200 else "external"
    found, _ = outcome(folder, [read], batch_size, MIB)
    limit = int(found[read].partition("at least ")[2].split(",")[0])
    found, peak = outcome(folder, [read], batch_size, limit)
    assert found[read] == len(lengths), found
    assert peak <= limit + SPARE + 3 * max(lengths), peak / MIB


UNDER_LIMIT = """
import resource
import warnings

import numpy as np

# Packed rows that have no room are read directly.
warnings.simplefilter("ignore", ll.errors.DegradedWarning)

batch_size, room = map(int, sys.argv[3:5])


def lengths_of(values):
    '''Return lengths of bytes from their offsets: Arrow itself ends the process where it has no room for a copy.'''
    offsets = np.frombuffer(values.buffers()[1], np.int64)
    return np.diff(offsets[values.offset : values.offset + len(values) + 1]).tolist()


next(iter(ll.open(pa.table({"id": range(99)})).loader(9)))
perm = ll.open(path).with_read(None if sys.argv[2] == "auto" else sys.argv[2], cache_dir="")
num_rows = len(perm)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
seen, error = [], None
try:
    for batch in perm.loader(batch_size, shuffle=True, seed=1, format="arrow"):
        seen += zip(batch["id"].to_pylist(), lengths_of(batch["value"]))
except MemoryError as raised:
    error = str(raised)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
done(error=error, seen=seen)
"""

# The lengths of rows, the rows of a batch, and the room in MiB with which rows come unless all are to be kept.
LIMITED = {
    "1 KB": ([1000] * 30_000, 256, 800),
    "100 KB": ([100_000] * 800, 16, 400),
    "8 MB": ([8_000_000] * 20, 1, 400),
    "one of 16 MiB": (([50] * 499 + [16 * MIB]) * 4, 16, 400),
}


@pytest.fixture(scope="module", params=LIMITED)
def limited(request, tmp_path_factory):
    lengths, batch_size, enough = LIMITED[request.param]
    folder = tmp_path_factory.mktemp("limited")
    ragged(folder / "t.lance", lengths)
    return folder, lengths, batch_size, enough


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("read", STRATEGIES)
def test_a_limit_of_the_address_space_raises_and_never_aborts(limited, read):
    """Under `ulimit -v`, where what Arrow and Lance allocate would end the process."""
    folder, lengths, batch_size, enough = limited
    for room in (50, 100, 200, 400, 800):
        found = run(
            PRELUDE + UNDER_LIMIT, folder, read, str(batch_size), str(room * MIB)
        )
        if found["error"] is None:
            assert sorted(map(tuple, found["seen"])) == list(enumerate(lengths)), room
        else:
            assert found["error"].startswith("no memory"), (room, found["error"])
            assert "\n" not in found["error"]
            assert "would do" in found["error"] or "allows it" in found["error"]
            assert room < enough or read == "resident", (room, found["error"])
