"""Batches of workers go through shared memory: the same values, nothing left behind."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import lance
import lanceloader as ll
import numpy as np
import producers
import pyarrow as pa
import pytest
import torch
import worker_values
from lanceloader.torch import DataLoader
from lanceloader.transport import inbox, outbox, queues, shared_memory
from lanceloader.transport.outbox import Outbox
from process_state import mappings, num_files, soon
from segments import check_none_is_mapped
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Subset, TensorDataset

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    "ignore:This process .* is multi-threaded:DeprecationWarning",
    # torch's own reducer of sparse tensors.
    "ignore:Sparse invariant checks are implicitly disabled:UserWarning",
)
ROWS, BATCH = 1000, 128


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    ids = np.arange(ROWS)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.arange(ROWS * 64, dtype=np.float32)), 64
    )
    table = pa.table(
        {
            "id": ids,
            "x": ids.astype(np.float32) / 2,
            "vector": vectors,
            "flag": ids % 3 == 0,
            "text": [f"row {number}" * (number % 5) for number in ids],
            "words": [list(range(number % 4)) for number in ids],
            "gaps": pa.array([None if number % 7 == 0 else number for number in ids]),
        }
    )
    found = tmp_path_factory.mktemp("transport") / "t.lance"
    lance.write_dataset(table, found, max_rows_per_file=300)
    return str(found)


@pytest.fixture(autouse=True)
def nothing_is_mapped():
    check_none_is_mapped()
    yield
    gc.collect()


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "equals"):
        return a.equals(b)
    return a == b


def names_of_ours():
    """Names of shared memory that this process made."""
    found = (path.name for path in Path("/dev/shm").iterdir())
    return [name for name in found if f"torch_{os.getpid()}_" in name]


def closed(iterator):
    """End an iterator of torch at once; the garbage collector would wait for its workers."""
    getattr(iterator, "_shutdown_workers", getattr(iterator, "close", None))()


def settled():
    """Whether nothing of workers that ended is mapped any more."""
    gc.collect()
    return mappings() == 0


# A queue by itself.


def write(queue, make, done):
    Outbox(queue, os.getppid())
    for value in make():
        queue.put(value)
    # Files are opened by the reader.
    done.wait(60)


def sent(make):
    """What arrives of the values that a forked process sends."""
    context = multiprocessing.get_context("fork")
    queue, done = context.Queue(), context.Event()
    process = context.Process(target=write, args=(queue, make, done), daemon=True)
    process.start()
    count = len(list(make()))
    found = [queue.get(timeout=60) for _ in range(count)]
    done.set()
    process.join(60)
    assert process.exitcode == 0
    return found


def test_a_segment_that_could_not_be_announced_is_used_again(monkeypatch):
    """The reader never hears of it, so that it would not release it."""

    def fail(file):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(outbox, "DupFd", fail)
    monkeypatch.setattr(outbox, "can_read_files", lambda reader: False)
    # It is set by the outbox, and belongs to the process.
    monkeypatch.setattr(outbox.Columns, "are_sent", outbox.Columns.are_sent)
    queue = multiprocessing.get_context("fork").Queue()
    found = Outbox(queue, os.getpid())
    for _ in range(3):
        with pytest.raises(OSError, match="too many open files"):
            found._to_reference((0, np.zeros(5000)))
    assert found._segments.num_created == 1
    queue.close()


@pytest.mark.parametrize("by_path", [True, False])
def test_values_of_every_kind(monkeypatch, by_path):
    """By paths in /proc, and by sockets where processes may not look at each other's files."""
    if not by_path:
        monkeypatch.setattr(outbox, "can_read_files", lambda _: False)
    (found,) = sent(producers.values)
    (wanted,) = producers.values()
    assert equal(found, wanted)
    assert [type(part) for part in found.values()] == [
        type(part) for part in wanted.values()
    ]
    assert found["grad"].requires_grad


def test_messages_of_any_size_stay_in_order(monkeypatch):
    def make():
        for number in range(60):
            yield number, np.full((number * 7919) % 50_000, number)
            yield number, "text" * number * 100
            yield number, None

    found = sent(make)
    assert equal(found, list(make()))
    # And if some go through the pipe's own thread.
    monkeypatch.setattr(queues, "MOST_DIRECT", 300)
    assert equal(sent(make), found)


def test_a_process_without_shared_memory_sends_as_before(monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(shared_memory.os, "memfd_create", refuse)
    (found,) = sent(producers.values)
    assert equal(found["columns"], next(producers.values())["columns"])


# Loaders.

FORMATS = [
    ("torch_dict", {"nulls": "mask"}),
    ("numpy_dict", {"nulls": "fill", "fill_value": 0}),
    ("arrow", {}),
    ("python", {}),
    ("python_col", {}),
    ("pandas", {}),
]


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_batches_of_every_format(path, format, options):
    perm = ll.open(path).with_format(format, **options)
    for own in (True, False):
        if own:

            def loader(workers, perm=perm):
                context = "fork" if workers else None
                return DataLoader(
                    perm, BATCH, num_workers=workers, multiprocessing_context=context
                )
        else:

            def loader(workers, perm=perm):
                context = "fork" if workers else None
                return TorchLoader(
                    *(perm, BATCH),
                    num_workers=workers,
                    multiprocessing_context=context,
                    collate_fn=worker_values.same,
                )

        wanted = list(loader(0))
        iterator = iter(loader(2))
        found = [next(iterator)]
        assert len(inbox._SEGMENTS) >= 1
        found += iterator
        for got, want in zip(found, wanted, strict=True):
            assert equal(got, list(want) if format == "python" else want)
            kind = list if isinstance(want, list) else type(want)
            assert isinstance(got, kind)


@pytest.mark.parametrize("columns", [["flag"], ["gaps"], ["words", "text"]])
def test_batches_of_few_columns(path, columns):
    perm = ll.open(path).select_columns(columns).with_format("arrow")
    options = {"num_workers": 1, "multiprocessing_context": "fork"}
    found = list(DataLoader(perm, 300, **options))
    assert [batch.num_rows for batch in found] == [300, 300, 300, 100]
    assert all(map(equal, found, DataLoader(perm, 300)))


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("fork", DataLoader),
        ("fork", TorchLoader),
        ("spawn", DataLoader),
        ("forkserver", TorchLoader),
    ],
)
def test_what_collate_functions_return(path, method, kind):
    perm = ll.open(path).select_columns(["id"]).with_format("torch_dict")
    options = {"collate_fn": worker_values.nested}
    workers = {"num_workers": 1, "multiprocessing_context": method}
    found = list(kind(perm, 400, **options, **workers))
    wanted = list(kind(perm, 400, **options))
    assert len(found) == 3
    for got, want in zip(found, wanted, strict=True):
        assert equal(got, want)
        # Not through torch's queue.
        assert not got["tensors"][0].is_shared()
        assert isinstance(got["parameter"], torch.nn.Parameter)
        assert not got["read only"].flags.writeable
        got["array"][0] = 7
        got["tensors"][0][0] = 8


@pytest.mark.parametrize("kind", ["lazily", "wrapped", "subset"])
def test_datasets_round_ours(path, kind):
    perm = ll.open(path).select_columns(["id", "x"]).with_format("torch_dict")
    dataset = {
        "lazily": lambda: worker_values.Lazily(path),
        "wrapped": lambda: worker_values.Wrapped(perm),
        "subset": lambda: Subset(perm, range(ROWS)),
    }[kind]()
    loader = TorchLoader(
        *(dataset, BATCH), num_workers=1, multiprocessing_context="fork"
    )
    iterator = iter(loader)
    first = next(iterator)
    assert first["id"].tolist() == list(range(BATCH))
    assert first["x"].tolist() == [number / 2 for number in range(BATCH)]
    assert not first["id"].is_shared()
    assert len(inbox._SEGMENTS) == 1
    closed(iterator)


def test_other_datasets_are_left_alone():
    data = TensorDataset(torch.arange(10_000).view(-1, 100))
    loader = TorchLoader(data, 50, num_workers=1, multiprocessing_context="fork")
    iterator = iter(loader)
    (batch,) = next(iterator)
    assert batch.is_shared()
    assert not inbox._SEGMENTS
    closed(iterator)


@pytest.mark.parametrize("own", [True, False])
def test_a_batch_that_cannot_be_sent_raises(path, own):
    """torch's queue would drop it, and the loop would wait without end."""
    perm = ll.open(path).select_columns(["id"]).with_format("torch_dict")
    options = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 100}
    kind = DataLoader if own else TorchLoader
    loader = kind(perm, BATCH, collate_fn=worker_values.locked, **options)
    iterator = iter(loader)
    with pytest.raises(TypeError, match=r"cannot be pickled[\s\S]*lock"):
        next(iterator)
    closed(iterator)


# Memory.


@pytest.mark.parametrize("limit", [0, 3, 32])
def test_batches_that_are_kept_stay_as_they_are(path, monkeypatch, limit):
    monkeypatch.setattr(shared_memory, "MOST_IN_USE", limit)
    perm = ll.open(path).select_columns(["id", "vector"]).with_format("torch_dict")
    loader = DataLoader(
        *(perm, 50),
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=worker_values.wide,
        persistent_workers=True,
    )
    kept = [*loader, *loader]
    assert len(kept) == 40
    assert max(len(each.mappings) for each in inbox._SEGMENTS.values()) <= limit + 5
    for number, batch in enumerate(kept):
        start = number % 20 * 50
        assert (batch == np.tile(np.arange(start, start + 50), 16)).all()
        batch += 1
    for number, batch in enumerate(kept):
        assert batch[0] == number % 20 * 50 + 1
    del kept, batch, loader
    assert soon(settled)


@pytest.mark.parametrize("persistent", [True, False])
def test_many_epochs_leave_nothing(path, persistent):
    perm = ll.open(path).select_columns(["id", "vector"]).with_format("torch_dict")
    loader = DataLoader(
        *(perm, 100),
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=persistent,
    )
    counts = []
    for epoch in range(8):
        rows = [
            row for batch in loader.set_epoch(epoch) for row in batch["id"].tolist()
        ]
        assert rows == list(range(ROWS))
        counts.append((num_files(), mappings()))
    assert max(count for _, count in counts) <= 2 * (2 + 4)
    # Fewer than one for each epoch: other threads of this process open files, too.
    assert counts[-1][0] - counts[1][0] < 6
    assert names_of_ours() == []
    del loader
    assert soon(settled)


def test_a_forked_process_keeps_what_it_refers_to(path):
    perm = ll.open(path).select_columns(["id", "vector"]).with_format("torch_dict")
    loader = DataLoader(
        *(perm, 50),
        num_workers=1,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    batches = iter(loader)
    batch = next(batches)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.read(reads, 1)
            status = 0 if batch["vector"][-1, -1] == 50 * 64 - 1 else 2
            # Released in this process only.
            del batch
            gc.collect()
        finally:
            os._exit(status)
    del batch
    rows = [row for batch in batches for row in batch["id"].tolist()]
    rows += [row for batch in loader for row in batch["id"].tolist()]
    os.write(writes, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rows == [*range(50, ROWS), *range(ROWS)]
    os.close(reads)
    os.close(writes)


def test_the_other_direction_is_left_alone(path):
    """What this process sends to workers and what is pickled in it are as before."""
    perm = ll.open(path).select_columns(["id"]).with_format("torch_dict")
    batch = next(iter(perm.loader(BATCH)))
    assert equal(pickle.loads(pickle.dumps(batch)), batch)
    queue = multiprocessing.get_context("fork").Queue()
    assert "put" not in vars(queue)
    queue.put(batch)
    assert equal(queue.get(timeout=60), batch)
    assert mappings() == 0


def test_a_batch_of_a_process_that_has_ended_names_it():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(RuntimeError, match=f"pid {ended.pid}.* exited unexpectedly"):
        inbox.opened(ended.pid, 3)
