"""Tables in object storage with many fragments, and larger than memory: requests, bytes and memory."""

from __future__ import annotations

import json

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import programs
import pyarrow as pa
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("no_credentials"),
]

FRAGMENTS = 2000
ROWS_EACH = 5
BATCH = 256


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Fragments larger than what is read at once from their ends."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    rows = FRAGMENTS * ROWS_EACH
    images = pa.array([rng.bytes(20_000) for _ in range(rows)], pa.large_binary())
    table = pa.table({"id": range(rows), "image": images})
    lance.write_dataset(table, folder / "t.lance", max_rows_per_file=ROWS_EACH)
    return folder


def first_batch(server, cache_dir):
    """Read the only batch of a loader: nothing is asked for ahead of another one."""
    perm = ll.open("s3://bucket/t.lance", storage_options=server.options)
    perm = perm.with_read(cache_dir=cache_dir).with_format("arrow").shuffle(seed=3)
    (batch,) = perm.with_take(BATCH).loader(BATCH, threads=1)
    return batch


@pytest.mark.parametrize("is_kept", [True, False])
def test_fragments_of_a_batch_are_asked_together(many, tmp_path, is_kept):
    """Each answer takes so long that requests which are made together are in flight together.

    One after another, they would be some hundred round trips.
    """
    with counting_s3.serving(many) as server:
        server.latency = 0.5
        batch = first_batch(server, tmp_path if is_kept else "")
        requests, round_trips = server.requests, server.round_trips
    local = ll.open(str(many / "t.lance")).with_format("arrow").shuffle(seed=3)
    assert batch.equals(next(iter(local.loader(BATCH))))
    touched = len({offset // ROWS_EACH for offset in batch["id"].to_pylist()})
    # Of each fragment the end, what its pages are like, and its rows; of some others how long rows are.
    assert requests <= 5 * touched + 16
    assert round_trips <= 24


PROGRAM = (
    programs.PRELUDE
    + """
def anonymous():
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) << 10


most, is_over = 0, threading.Event()


def watch():
    global most
    while not is_over.wait(0.005):
        most = max(most, anonymous())


options = json.loads(sys.argv[2])
perm = ll.open("s3://bucket/t.lance", storage_options=options).with_format("arrow")
perm = perm.with_read("external", memory_limit=int(sys.argv[3]), cache_dir=folder)
loader = perm.shuffle(seed=3).loader(1024)
before = anonymous()
threading.Thread(target=watch).start()
epochs = []
try:
    for epoch in range(2):
        seen = np.zeros(len(perm), np.uint8)
        for batch in loader:
            seen[batch["id"].to_numpy()] += 1
        stats = loader.stats()
        assert (stats.failure, stats.copy_failure) == (None, None)
        epochs.append([
            stats.requests,
            stats.bytes_fetched,
            stats.rows_spilled,
            bool((seen == 1).all()),
        ])
finally:
    is_over.set()
done(epochs=epochs, most=most - before)
"""
)


def test_a_shuffle_larger_than_memory_fetches_the_table_once(tmp_path):
    """The limit is a quarter of the rows."""
    rows, limit = 3_000_000, 96 << 20
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.normal(size=rows) for i in range(15)}
    table = pa.table({"id": np.arange(rows), **columns})
    lance.write_dataset(table, tmp_path / "b" / "t.lance", max_rows_per_file=500_000)
    del table, columns
    data = (tmp_path / "b" / "t.lance" / "data").iterdir()
    size = sum(file.stat().st_size for file in data)
    with counting_s3.serving(tmp_path / "b") as server:
        program = programs.start(
            PROGRAM, tmp_path / "kept", json.dumps(server.options), str(limit)
        )
        found = programs.finish(program)
        fetched = server.bytes
    (_, first_bytes, first_spilled, is_first_whole), later = found["epochs"]
    assert is_first_whole
    assert first_spilled == rows
    # The first batch touches most pages, so that all are fetched in order before it.
    assert first_bytes == fetched <= 1.1 * size
    assert later[:2] == [0, 0]
    assert later[3]
    # Requests under way hold what they fetch, which comes on top of the budget.
    assert found["most"] <= limit + (256 << 20)
