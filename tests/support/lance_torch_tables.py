"""Tables for ``lanceloader.compat.lance_torch``, and items of both libraries side by side."""

from __future__ import annotations

import itertools
import types

import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.compat import lance_torch as ours

WARNINGS = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    # Of pylance, which makes tensors of Arrow's buffers and warns of its own arguments.
    "ignore:The given NumPy array is not writable:UserWarning",
    "ignore:with_row_id is not supported for ShardedBatchSampler:UserWarning",
)

SIZES = (250, 70, 3, 400, 1, 2, 130)
theirs = types.SimpleNamespace(**vars(lance.torch.data) | vars(lance.sampler))


def rows(first, count):
    rng = np.random.default_rng(first)
    return pa.table(
        {
            "id": np.arange(first, first + count),
            "small": rng.integers(0, 100, count).astype(np.uint8),
            "large": pa.array(range(count), pa.uint64()),
            "flag": rng.random(count) < 0.5,
            "maybe": pa.array(
                [None if x % 7 == 0 else x for x in range(count)], pa.int32()
            ),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.random(3 * count, dtype=np.float32)), 3
            ),
        }
    )


def write(path, sizes=SIZES, deleted=None, make=rows):
    for first, count in zip(
        itertools.accumulate(sizes, initial=0), sizes, strict=False
    ):
        lance.write_dataset(
            make(first, count), path, mode="append" if first else "create"
        )
    if deleted:
        lance.dataset(path).delete(deleted)
    return str(path)


def write_whole(folder):
    return write(folder / "t.lance")


def write_deleted(folder):
    """Some rows of each fragment are deleted, all of two small ones, and a whole batch of one."""
    gone = (
        "id % 5 = 1 or id = 724 or (id >= 320 and id < 323) or (id >= 400 and id < 520)"
    )
    return write(folder / "t.lance", deleted=gone)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def deleted(tmp_path_factory):
    return write_deleted(tmp_path_factory.mktemp("deleted"))


@pytest.fixture(params=["whole", "deleted"])
def path(request):
    return request.getfixturevalue(request.param)


FIXTURES = whole, deleted, path


def assert_same(one, other):
    """Items are equal in type, keys, dtype, shape and value."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name, values in one.items():
            assert_same(values, other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for value, same in zip(one, other, strict=True):
            assert_same(value, same)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, pa.RecordBatch):
        assert one.schema.equals(other.schema, check_metadata=True)
        assert one.equals(other)
    else:
        assert one == other


def assert_all_same(wanted, found):
    wanted, found = list(wanted), list(found)
    assert len(wanted) == len(found)
    for one, other in zip(wanted, found, strict=True):
        assert_same(one, other)


def ids(batches):
    return [row for batch in batches for row in batch["id"].tolist()]


def both(path, batch_size, sampler=None, **options):
    """Batches of pylance and ours; a sampler is a name and its arguments."""
    found = []
    for library in (theirs, ours):
        if sampler is not None:
            name, *arguments = sampler
            options["sampler"] = getattr(library, name)(*arguments)
        found.append(list(library.LanceDataset(path, batch_size, **options)))
    return found
