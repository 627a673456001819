"""Epochs with other processes leave nothing behind: no memory, files, mappings, threads or processes.

``make search`` runs a hundred of them.
"""

from __future__ import annotations

import os

import lance
import numpy as np
import pyarrow as pa
import pytest
from programs import PRELUDE, SESSION, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = int(os.environ.get("LANCELOADER_TRIALS", "14"))
ROWS, BATCH = 2000, 100
MIB = 1 << 20

PROGRAM = (
    PRELUDE
    + SESSION
    + """
import warnings
import torch
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader

warnings.simplefilter("ignore")
kind, num_epochs, num_rows, size = sys.argv[2], *map(int, sys.argv[3:])
perm = ll.open(path).with_format("torch_dict")
workers = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 100}


def own(**options):
    loader = DataLoader(perm, size, shuffle=True, seed=1, **workers, **options)
    return lambda epoch: loader.set_epoch(epoch)


def persistent():
    return own(persistent_workers=True)


def torch_over_ours():
    loader = TorchLoader(perm, size, shuffle=True, **workers)
    return lambda epoch: loader


def helper():
    loader = perm.loader(size, shuffle=True, seed=1, in_process=False)
    return lambda epoch: loader.set_epoch(epoch)


def streaming(transform=None):
    dataset = StreamingDataset(path, num_splits=2, transform=transform)
    loader = StreamingDataLoader(dataset, batch_size=size, **workers)

    def of_epoch(epoch):
        dataset.set_epoch(epoch)
        return loader

    return of_epoch


def streaming_columns():
    return streaming(lambda batch: {"id": torch.tensor(batch["id"].to_pylist())})


def own_memory(pid):
    '''Memory that is no file's.'''
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return 0
    names = "RssAnon", "RssShmem"
    return sum(int(lines[name].split()[0]) << 10 for name in names if name in lines)


def left():
    gc.collect()
    pa.default_memory_pool().release_unused()
    with open("/proc/self/maps") as file:
        lines = file.read().splitlines()
    found = session(os.getsid(0))
    return {
        "memory": sum(map(own_memory, found)),
        "files": len(os.listdir("/proc/self/fd")),
        "mappings": len(lines),
        "segments": sum("memfd:" in line for line in lines),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(found),
        "names": sum(f"torch_{os.getpid()}_" in name for name in os.listdir("/dev/shm")),
    }


of_epoch = globals()[kind]()
seen = []
for epoch in range(num_epochs):
    rows = sum(len(batch["id"]) for batch in of_epoch(epoch))
    assert rows == num_rows, rows
    batch = None
    seen.append(left())
done(seen=seen)
"""
)

KINDS = (
    *("own", "persistent", "torch_over_ours", "helper"),
    *("streaming", "streaming_columns"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table whose rows take two kilobytes each."""
    folder = tmp_path_factory.mktemp("epochs")
    vectors = np.arange(ROWS * 512, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 512)
    lance.write_dataset(
        pa.table({"id": np.arange(ROWS), "vector": column}), folder / "t.lance"
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_leave_nothing_behind(folder, kind):
    numbers = map(str, (EPOCHS, ROWS, BATCH))
    seen = run(PROGRAM, folder, kind, *numbers)["seen"]
    first, rest = seen[EPOCHS // 4], seen[EPOCHS // 4 :]
    # Were one left by each epoch, there would be as many more.
    allowed = len(rest) // 2

    def least(name):
        """Return the fewest that there were in the last epochs, as threads come and go."""
        return min(each[name] for each in rest[-3:])

    for name in ("files", "mappings", "segments", "threads", "processes"):
        assert least(name) <= first[name] + allowed, (name, first, rest[-1])
    assert least("names") == 0
    # The vectors of an epoch are 4 MiB.
    grown = (least("memory") - first["memory"]) / MIB
    assert grown < 2 * len(rest), (grown, first, rest[-1])
