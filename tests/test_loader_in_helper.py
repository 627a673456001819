"""A loader that runs in one helper process."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal

import importable
import lanceloader as ll
import numpy as np
import producers
import pyarrow as pa
import pytest
import torch
from equality import same
from process_state import soon

pytestmark = pytest.mark.timeout(180)

ROWS = 1003


@pytest.fixture(scope="module")
def perm():
    data = {"id": np.arange(ROWS), "x": np.arange(ROWS, dtype="f4")}
    return ll.open(pa.table(data)).shuffle(3).with_format("torch_dict")


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def helpers():
    """The processes that this one began and that go on."""
    children = multiprocessing.active_children()
    return [child for child in children if child.name == "lanceloader-helper"]


def test_batches_are_those_of_this_process(perm):
    options = {
        "batch_size": 100,
        "transform": producers.doubled,
        "collate": producers.paired,
    }
    here = list(perm.loader(**options))
    loader = perm.loader(**options, in_process=False)
    found = list(loader)
    assert same(found, here)
    assert loader.state_dict() == perm.loader(**options).state_dict()
    stats = loader.stats()
    assert (stats.batches, stats.rows) == (11, ROWS)
    assert stats.rows_direct + stats.rows_packed == ROWS
    assert stats.stage_seconds["transform"] > 0


def test_the_state_is_of_the_batches_yielded(perm):
    loader = perm.loader(100, epochs=2, in_process=False, device="cpu")
    batches = iter(loader)
    found = [next(batches) for _ in range(13)]
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 200)
    batches.close()
    rest = perm.loader(77, epochs=2)
    rest.load_state_dict(state)
    assert sorted(ids([*found, *rest])) == sorted([*range(ROWS)] * 2)
    back = perm.loader(100, epochs=2, in_process=False)
    back.load_state_dict(state)
    assert ids(back) == ids(rest_of(perm, state))


def test_rows_are_counted_with_each_batch(perm):
    """Whatever else the helper says now and then."""
    loader = perm.loader(10, in_process=False)
    sizes = []
    for batch in loader:
        sizes.append(batch["id"].nbytes + batch["x"].nbytes)
        stats = loader.stats()
        assert (stats.batches, stats.rows) == (len(sizes), 10 * len(sizes))
        assert stats.bytes == pytest.approx(sum(sizes), rel=0.2)
        if len(sizes) == 50:
            break
    assert (loader.stats().batches, loader.stats().rows) == (50, 500)


def rest_of(perm, state):
    loader = perm.loader(100, epochs=2)
    loader.load_state_dict(state)
    return loader


def test_ranks_read_their_shares(perm):
    options = {"global_batch_size": 64, "world_size": 3, "tail": "uneven"}
    found = [ids(perm.loader(rank=r, in_process=False, **options)) for r in range(3)]
    wanted = [ids(perm.loader(rank=r, **options)) for r in range(3)]
    assert found == wanted
    assert sorted(itertools.chain(*found)) == [*range(ROWS)]


def test_a_transform_that_raises(perm):
    loader = perm.loader(100, transform=producers.refuses, in_process=False)
    with pytest.raises(ValueError, match="no batch is good enough") as caught:
        list(loader)
    assert "refuses" in str(caught.value.__cause__)
    assert soon(lambda: not helpers())


def test_a_transform_that_does_not_pickle(perm):
    loader = perm.loader(100, transform=lambda batch: batch, in_process=False)
    with pytest.raises(
        TypeError, match=r"`in_process`=False .* pass functions that are"
    ):
        list(loader)


def test_a_batch_that_does_not_pickle(perm):
    loader = perm.loader(100, transform=importable.with_lock, in_process=False)
    with pytest.raises(TypeError, match=r"cannot send a batch of type dict .* lock"):
        list(loader)
    assert soon(lambda: not helpers())


def test_a_helper_that_is_killed(perm):
    loader = perm.loader(10, in_process=False)
    batches = iter(loader)
    next(batches)
    (helper,) = helpers()
    os.kill(helper.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="SIGKILL"):
        list(batches)
    # Where it stood is known: nothing is lost.
    at = loader.state_dict()["position"]
    rest = perm.loader(10)
    rest.load_state_dict(loader.state_dict())
    assert ids(rest) == ids(perm.loader(10))[at:]
    assert soon(lambda: not helpers())


def test_a_consumer_that_stops(perm):
    for batch in perm.loader(10, in_process=False):
        assert isinstance(batch["x"], torch.Tensor)
        break
    del batch
    assert soon(lambda: not helpers())
