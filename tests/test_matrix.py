"""``torch_matrix``: columns side by side in one tensor."""

from __future__ import annotations

import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.errors import FormatError
from torch.utils.data import DataLoader

COLUMNS = [f"x{at}" for at in range(5)]
KINDS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()]


def table(kind=None, *, num_rows: int = 900) -> pa.Table:
    values = np.arange(num_rows * 5).reshape(num_rows, 5) % 120
    columns = [pa.array(values[:, at], kind or pa.float32()) for at in range(5)]
    return pa.table([*columns, columns[0]], names=[*COLUMNS, "label"])


def opened(tmp_path, data, columns=COLUMNS):
    lance.write_dataset(data, tmp_path / "t.lance", max_rows_per_file=400)
    return ll.open(tmp_path / "t.lance", columns=columns)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("read", ["direct", "resident", "external"])
def test_a_matrix_is_the_columns_side_by_side(tmp_path, kind, read):
    perm = opened(tmp_path, table(kind))
    loader = perm.loader(64, shuffle=True, seed=3, read=read)
    columns = loader.permutation.with_format("torch_dict")
    matrices = perm.loader(64, shuffle=True, seed=3, read=read, format="torch_matrix")
    for _ in range(2):
        start = 0
        for batch in matrices:
            wanted = columns[start : start + len(batch)]
            assert batch.dtype == wanted["x0"].dtype
            assert torch.equal(batch, torch.stack(list(wanted.values()), 1))
            start += len(batch)
        assert start == 900


def test_columns_in_another_order_and_renamed(tmp_path):
    perm = opened(tmp_path, table(), ["x3", "x1", "label"]).rename_column("x1", "y")
    wanted = perm.to_pandas().to_numpy()
    resident = perm.with_read("resident").with_format("torch_matrix")
    for source in (perm.with_format("torch_matrix"), resident):
        places = [5, 899, 5, 0]
        assert np.array_equal(source.take_offsets(places).numpy(), wanted[places])
        assert np.array_equal(source[10:13].numpy(), wanted[10:13])
        assert np.array_equal(source[7].numpy(), wanted[7:8])


def test_a_matrix_may_be_written_to(tmp_path):
    perm = opened(tmp_path, table()).with_format("torch_matrix")
    perm[:10].zero_()
    assert perm[:10].sum() > 0


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_through_a_data_loader(tmp_path):
    perm = opened(tmp_path, table()).with_format("torch_matrix")
    batches = list(DataLoader(perm, batch_size=100, collate_fn=lambda batch: batch))
    wanted = perm.with_format("torch_col")[:].T
    assert torch.equal(torch.cat(batches), wanted)


def test_of_data_in_memory_and_without_rows():
    perm = ll.open(table(), columns=COLUMNS, format="torch_matrix")
    assert perm[:3].shape == (3, 5)
    assert perm[:0].shape == (0, 5)


def test_what_is_no_matrix_is_named(tmp_path):
    mixed = pa.table(
        {"a": [1, 2], "b": [1.5, 2.5], "n": pa.array([1, None], pa.int64())}
    )
    perm = opened(tmp_path, mixed, None).with_format("torch_matrix")
    with pytest.raises(FormatError, match="`a` of type Int64 and column `b`"):
        perm[:]
    with pytest.raises(FormatError, match="`a` of type Int64"):
        next(iter(perm.loader(1)))
    with pytest.raises(ValueError, match="column `n` with 1 nulls"):
        perm.select_columns(["a", "n"])[:]
