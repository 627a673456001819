"""Batches whose memory the core shares: sent without a copy, and valid as long as anything refers to them."""

from __future__ import annotations

import gc
import os

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
import worker_values
from lanceloader.torch import DataLoader
from lanceloader.transport import blocks, groups, inbox, outbox, shared_memory
from process_state import mappings, soon
from segments import check_none_is_mapped
from torch.utils.data import DataLoader as TorchLoader

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)
ROWS, BATCH, WIDTH = 2000, 100, 512
"""A batch has 200 KiB: the core shares blocks of at least 128 KiB."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    ids = np.arange(ROWS)
    values = np.repeat(ids, WIDTH).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)
    text = [f"row {number}, " * 200 for number in ids]
    found = tmp_path_factory.mktemp("blocks") / "t.lance"
    lance.write_dataset(pa.table({"id": ids, "vector": vectors, "text": text}), found)
    return str(found)


@pytest.fixture(autouse=True)
def nothing_is_mapped():
    check_none_is_mapped()
    yield
    check_none_is_mapped()


def loader_of(path, kind=DataLoader, workers=1, format="torch_dict", **options):
    columns = ["id", "vector"] if format == "torch_dict" else ["id", "vector", "text"]
    perm = ll.open(path).select_columns(columns).with_format(format)
    if kind is TorchLoader:
        options["batch_size"] = None
        dataset = perm.loader(BATCH, shuffle=True, seed=1)
    else:
        options |= {"shuffle": True, "seed": 1, "batch_size": BATCH}
        dataset = perm
    if workers:
        options |= {"num_workers": workers}
        options.setdefault("multiprocessing_context", "fork")
    return kind(dataset, **options)


def order(path):
    return ll.open(path).shuffle(1).select_columns(["id"]).to_arrow()["id"].to_pylist()


def check(batch, rows):
    assert batch["id"].tolist() == rows
    assert (batch["vector"] == batch["id"].float().unsqueeze(1)).all()


def are_shared():
    """Whether batches of workers came without a copy."""
    return any(each.blocks is not None for each in inbox._SEGMENTS.values())


@pytest.mark.parametrize("kind", [DataLoader, TorchLoader])
@pytest.mark.parametrize("by_path", [True, False])
def test_batches_are_those_without_workers(path, monkeypatch, kind, by_path):
    if not by_path:
        monkeypatch.setattr(outbox, "can_read_files", lambda _: False)
    rows = order(path)
    batches = iter(loader_of(path, kind))
    for at in range(0, ROWS, BATCH):
        batch = next(batches)
        check(batch, rows[at : at + BATCH])
        # They are the reader's to change.
        batch["vector"] += 1
        assert (batch["vector"] == batch["id"].unsqueeze(1) + 1).all()
        assert are_shared()
        del batch
    assert next(batches, None) is None


@pytest.mark.parametrize("format", ["arrow", "numpy_dict", "pandas"])
def test_other_formats(path, format):
    batches = iter(loader_of(path, format=format))
    others = iter(loader_of(path, workers=0, format=format))
    for found in batches:
        wanted = next(others)
        assert are_shared() or format == "pandas"
        if format == "numpy_dict":
            assert (found["vector"] == wanted["vector"]).all()
            found["vector"][0] = 3
            assert found["text"] == wanted["text"]
        else:
            assert found.equals(wanted)
        del found
    assert next(others, None) is None


def unchanged(batch):
    return batch


@pytest.mark.parametrize(
    "options",
    [{"transform": unchanged}, {"collate": unchanged}, {"collate_fn": unchanged}],
)
def test_what_functions_of_the_user_may_keep_is_copied(path, options):
    rows = order(path)
    batches = iter(loader_of(path, **options))
    for number, batch in enumerate(batches):
        check(batch, rows[number * BATCH : (number + 1) * BATCH])
        assert not are_shared()
    batches = iter(loader_of(path, TorchLoader, collate_fn=worker_values.same))
    check(next(batches), rows[:BATCH])
    assert not are_shared()
    batches._shutdown_workers()


@pytest.mark.parametrize("limit", [0, 2, 32])
def test_batches_that_are_kept_stay_as_they_are(path, monkeypatch, limit):
    monkeypatch.setattr(shared_memory, "MOST_IN_USE", limit)
    rows = order(path)
    loader = loader_of(path, workers=2, persistent_workers=True)
    kept = [*loader, *loader]
    assert are_shared()
    # Vectors alone, without what they came with.
    vectors = [batch["vector"] for batch in loader]
    for number, batch in enumerate(kept):
        start = number * BATCH % ROWS
        check(batch, rows[start : start + BATCH])
    for number, vector in enumerate(vectors):
        assert vector[:, 0].tolist() == rows[number * BATCH : (number + 1) * BATCH]
    del kept, vectors, batch, vector, loader
    gc.collect()
    assert soon(lambda: mappings() == 0)


def test_a_forked_process_keeps_what_it_refers_to(path):
    rows = order(path)
    loader = loader_of(path, persistent_workers=True)
    batches = iter(loader)
    batch = next(batches)
    assert are_shared()
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.read(reads, 1)
            # Not torch, whose threads this process lacks.
            ids, vector = batch["id"].numpy(), batch["vector"].numpy()
            is_same = ids.tolist() == rows[:BATCH] and (ids == vector.T).all()
            status = 0 if is_same else 2
        finally:
            os._exit(status)
    del batch
    for number, batch in enumerate(batches, 1):
        check(batch, rows[number * BATCH : (number + 1) * BATCH])
    assert len(list(loader)) == ROWS // BATCH
    os.write(writes, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reads)
    os.close(writes)
    del batch


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ways_to_start(path, method):
    rows = order(path)
    batches = iter(loader_of(path, multiprocessing_context=method))
    for number, batch in enumerate(batches):
        check(batch, rows[number * BATCH : (number + 1) * BATCH])
        assert are_shared()


def test_a_helper_process(path):
    rows = order(path)
    perm = ll.open(path).select_columns(["id", "vector"]).with_format("torch_dict")
    loader = perm.loader(BATCH, shuffle=True, seed=1, in_process=False)
    for _ in range(2):
        kept = list(loader)
        for number, batch in enumerate(kept):
            check(batch, rows[number * BATCH : (number + 1) * BATCH])
    assert any(each.blocks is not None for each in shared_memory._live())


def test_many_epochs_take_no_more_memory(path):
    loader = loader_of(path, workers=2, persistent_workers=True)
    counts = []
    for epoch in range(6):
        for batch in loader.set_epoch(epoch):
            assert (batch["vector"] == batch["id"].unsqueeze(1)).all()
        counts.append(mappings())
    assert are_shared()
    assert counts[-1] <= max(counts[:2]) + 2
    del batch, loader


def test_columns_of_a_batch_are_changed_one_by_one(path, tmp_path):
    ids = np.arange(40_000)
    table = pa.table({name: ids + at for at, name in enumerate("abc")})
    lance.write_dataset(table, tmp_path / "t.lance")
    perm = ll.open(str(tmp_path / "t.lance")).with_format("torch_dict")
    loader = DataLoader(perm, 20_000, num_workers=1, multiprocessing_context="fork")
    first, second = loader
    assert list(first) == ["a", "b", "c"]
    weight = torch.nn.Parameter(torch.full((), 2.0))
    scaled = first["a"].float() * weight
    first["b"].mul_(3)
    scaled.sum().backward()
    assert first["a"]._version == 0
    assert first["b"][:3].tolist() == [3, 6, 9]
    assert first["c"][:3].tolist() == [2, 3, 4]
    assert second["b"][0] == 20_001


def forked_reader_drops(path, count):
    """Read batches, and fork while each is in use; return how many came without a copy."""
    batches = iter(loader_of(path, persistent_workers=True, prefetch_factor=1))
    num_shared = 0
    for _, batch in zip(range(count), batches, strict=False):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert (batch["vector"] == batch["id"].unsqueeze(1)).all()
        address = batch["vector"].data_ptr()
        (segments,) = inbox._SEGMENTS.values()
        start = np.frombuffer(segments.blocks, np.uint8).ctypes.data
        num_shared += 0 <= address - start < len(segments.blocks)
        del batch
    return num_shared


def test_what_forks_may_refer_to_is_bounded(path, monkeypatch):
    monkeypatch.setattr(groups, "MOST_BATCHES", 1)
    assert forked_reader_drops(path, 15) == 15
    monkeypatch.setattr(blocks, "MOST_ABANDONED", 3 * BATCH * WIDTH * 4)
    assert 0 < forked_reader_drops(path, 15) < 15
