"""What worker processes import, which is most of the time that they take to start."""

from __future__ import annotations

import pytest
from programs import PRELUDE, run

pytestmark = pytest.mark.timeout(400)

PROGRAM = (
    PRELUDE
    + """
import lancedb
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from lanceloader.torch import DataLoader

table = lancedb.connect(folder).create_table("t", pa.table({"id": range(100)}))
options = {"num_workers": 1, "multiprocessing_context": "spawn"}
found = importable.imported


def own():
    perm = ll.open(table).with_format("arrow")
    return DataLoader(perm, 10, transform=found, **options)


def streaming(opened):
    dataset = StreamingDataset(opened, num_splits=2, transform=found)
    collate = importable.as_it_is
    return StreamingDataLoader(dataset, batch_size=10, collate_fn=collate, **options)


loaders = {
    "own": own(),
    "streaming": streaming(table),
    "streaming of a path": streaming(path),
    "helper": ll.open(table).loader(10, transform=found, in_process=False),
}
done(**{name: next(iter(loader))[0].split(",") for name, loader in loaders.items()})
"""
)

UNUSED = {
    *("lancedb", "lance", "pandas", "polars", "datasets", "pydantic", "matplotlib"),
    *("pyarrow.dataset", "pyarrow.parquet", "tqdm.auto", "lanceloader.cli"),
    *("lanceloader.ray", "lanceloader.compat.lance_torch", "lanceloader.plots"),
}


def test_spawned_processes_import_only_what_they_use(tmp_path):
    found = {name: set(modules) for name, modules in run(PROGRAM, tmp_path).items()}
    assert len(found) == 4
    for name, modules in found.items():
        assert {"lanceloader._native", "pyarrow.lib"} <= modules, name
        assert not modules & UNUSED, name
    assert "torch" not in found["helper"]
    assert "lanceloader.streaming" not in found["own"]


def test_streaming_a_path_needs_no_lancedb(tmp_path):
    program = """
import lance
from lanceloader.streaming import StreamingDataset

lance.write_dataset(pa.table({"id": range(10)}), path)
dataset = StreamingDataset(path, num_splits=2, shuffle=False)
rows = [row["id"] for row in dataset]
dataset.set_epoch(1)
done(rows=rows, lancedb="lancedb" in sys.modules)
"""
    found = run(PRELUDE + program, tmp_path)
    assert found == {"rows": [0, 5, 1, 6, 2, 7, 3, 8, 4, 9], "lancedb": False}
