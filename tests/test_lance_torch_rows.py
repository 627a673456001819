"""``lanceloader.compat.lance_torch``: rows by position."""

from __future__ import annotations

import pickle
import re

import importable
import lance
import lance.arrow
import lance.sampler
import lance.torch.data
import pytest
import torch
from lance_torch_tables import (
    FIXTURES,
    SIZES,
    WARNINGS,
    assert_all_same,
    rows,
    theirs,
    write,
)
from lanceloader.compat import lance_torch as ours
from torch.utils.data import DataLoader

pytestmark = WARNINGS
whole, deleted, path = FIXTURES


# Rows by position


def test_rows_by_position_are_those_of_pylance(path):
    wanted, found = (library.SafeLanceDataset(path) for library in (theirs, ours))
    assert len(found) == len(wanted)
    for positions in ([5], [300, 2, 300], list(range(50))):
        rows = found.__getitems__(positions)
        assert isinstance(rows, list)
        assert rows == wanted.__getitems__(positions)
    assert found[7] == wanted[7]
    assert type(found[7]) is dict
    assert found[-1] == found[len(found) - 1]
    with pytest.raises(IndexError, match="out of range"):
        found[len(found)]


@pytest.mark.parametrize("columns", [None, importable.listed_rows])
def test_batches_of_positions_are_those_of_pylance(tmp_path, columns):
    path = write(tmp_path / "t.lance", make=lambda *at: rows(*at).drop(["maybe"]))
    found = []
    for library in (theirs, ours):
        loader = DataLoader(
            library.SafeLanceDataset(path), batch_size=64, shuffle=True,
            generator=torch.Generator().manual_seed(3), collate_fn=columns,
        )  # fmt: skip
        found.append(list(loader))
    assert_all_same(*found)


def test_fixed_batches_of_positions(whole):
    rows = ours.SafeLanceDataset(whole)
    sampler = ours.ShardedFixedBatchSampler(1, 2, True, 0, 40, len(rows))
    loader = DataLoader(rows, batch_sampler=sampler, collate_fn=importable.listed_rows)
    seen = [row["id"] for batch in loader for row in batch]
    assert sorted(seen) == list(range(428, 856))


def test_rows_by_position_keep_their_version(tmp_path):
    path = write(tmp_path / "t.lance", [50])
    old = ours.SafeLanceDataset(path)
    lance.write_dataset(rows(50, 20), path, mode="append")
    assert len(old) == len(pickle.loads(pickle.dumps(old))) == 50
    assert old.uri == path
    assert len(ours.SafeLanceDataset(path, dataset_options={"version": 1})) == 50
    assert re.fullmatch("<SafeLanceDataset of 50 rows of .* at version 1>", repr(old))


def test_a_safe_loader_without_workers(whole):
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(whole), num_workers=0, collate_fn=importable.listed_rows
    )
    assert loader.batch_size == 32
    assert [row["id"] for batch in loader for row in batch] == list(range(sum(SIZES)))


def test_a_safe_loader_may_fork(whole):
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(whole), 100, 2, multiprocessing_context="fork",
        persistent_workers=False, collate_fn=importable.listed_rows,
    )  # fmt: skip
    assert [row["id"] for batch in loader for row in batch] == list(range(sum(SIZES)))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_spawned_workers_read_rows_by_position(tmp_path):
    path = write(tmp_path / "t.lance", make=lambda *at: rows(*at).drop(["maybe"]))
    options = {"batch_size": 64, "shuffle": True}
    wanted = DataLoader(
        theirs.SafeLanceDataset(path),
        generator=torch.Generator().manual_seed(3),
        **options,
    )
    loader = ours.get_safe_loader(
        ours.SafeLanceDataset(path),
        num_workers=2,
        generator=torch.Generator().manual_seed(3),
        **options,
    )
    assert_all_same(wanted, loader)
    assert loader.persistent_workers
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert ours.get_safe_loader(ours.SafeLanceDataset(path)).num_workers == 4
