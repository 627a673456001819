"""The sizes on paper in docs/how-to/ray.md: what they predict is what a server of small tables counts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import counting_s3
import lance
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_folder

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "ray.md"
ROWS = {"columns": 400_000, "vectors": 400_000, "long": 1000}
COLUMNS = {"columns": 12, "vectors": 1, "long": 1}
ROW_BYTES = {"columns": 96, "vectors": 100, "long": 30_000}


@pytest.fixture(scope="module")
def cost():
    """The function that the page shows."""
    (code,) = re.findall(
        r"```python\n(CHUNK, .*?\n)\n\ndef hours", PAGE.read_text(), re.S
    )
    names = {}
    exec(code, names)
    return names["cost"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    rng = np.random.default_rng(0)
    vectors = pa.array(rng.random(ROWS["vectors"] * 25, np.float32))
    values = pa.array(
        [rng.bytes(30_000) for _ in range(ROWS["long"])], pa.large_binary()
    )
    made = {
        "columns": {f"c{k}": rng.normal(size=ROWS["columns"]) for k in range(12)},
        "vectors": {"vector": pa.FixedSizeListArray.from_arrays(vectors, 25)},
        "long": {"value": values},
    }
    for name, columns in made.items():
        lance.write_dataset(pa.table(columns), folder / f"{name}.lance")
    return folder


@pytest.fixture
def counted(folder, monkeypatch):
    """Count bytes and requests of reading rows, after the files are opened."""
    s3_folder.forget_credentials(monkeypatch)
    # A busy machine would ask twice for what comes late.
    monkeypatch.setenv("LANCELOADER_HEDGED_REQUESTS", "0")

    def count(name, view, **options):
        options = {"cache_dir": ""} | options
        perm = ll.open(f"s3://bucket/{name}.lance", storage_options=server.options)
        perm = view(perm.with_read(**options).with_format("arrow"))
        perm.open_reader().take(perm.order, [0])
        server.reset()
        assert sum(batch.num_rows for batch in perm.loader(256)) == len(perm)
        return server.bytes, server.requests

    with counting_s3.serving(folder) as server:
        yield SimpleNamespace(count=count, server=server)


LARGEST = 32
"""A request for rows that follow one another may have 4 MiB, in place of the 128 KiB of short columns."""


def agrees(found, predicted, more=3.0, fewer=3.0):
    size, requests, _ = predicted
    assert 3 / 4 < found[0] / size < 4 / 3
    assert 1 / fewer < found[1] / requests < more


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_kept(cost, counted, tmp_path, name):
    found = counted.count(name, lambda perm: perm.shuffle(1), cache_dir=tmp_path)
    agrees(found, cost(ROWS[name], ROW_BYTES[name], 1, "kept"), fewer=LARGEST)


@pytest.mark.parametrize("name", ROWS)
def test_rows_at_random(cost, counted, name):
    """A few of many, as of a table that is much larger than a chunk for each row."""
    found = counted.count(
        name, lambda perm: perm.shuffle(1).with_take(12), read="direct"
    )
    predicted = cost(12, ROW_BYTES[name], 1, "rows", COLUMNS[name])
    agrees(found, predicted, more=4 / 3, fewer=4 / 3)


@pytest.mark.parametrize("name", ROWS)
def test_rows_in_order(cost, counted, name):
    found = counted.count(name, lambda perm: perm, read="direct")
    agrees(found, cost(ROWS[name], ROW_BYTES[name], 1, "in order"), fewer=LARGEST)


@pytest.mark.parametrize("nodes", [1, 3])
def test_rows_of_two_passes(cost, counted, nodes):
    """What one of the nodes fetches, and what it sends."""
    from lanceloader.ray.batches import ranges
    from lanceloader.ray.passes import Passes

    rows, row_bytes = ROWS["vectors"], ROW_BYTES["vectors"]
    perm = ll.open(
        "s3://bucket/vectors.lance", storage_options=counted.server.options
    ).with_read("external", cache_dir="")
    perm = perm.shuffle(1)
    plan = Passes(
        recipe=SimpleNamespace(open=lambda: perm),
        buckets=ranges(rows, 20),
        sources=ranges(rows, nodes),
        chunk_rows=50_000,
        held_bytes=16 << 20,
        stop=SimpleNamespace(before_each=iter),
    )
    perm.open_reader().take(perm.order, [0])
    counted.server.reset()
    sent = sum(
        places.nbytes + rows.size for places, rows in plan.dealt(plan.sources[0])
    )
    found = counted.server.bytes, counted.server.requests
    agrees(found, cost(rows, row_bytes, nodes, "passes"), fewer=LARGEST)
    assert sent == pytest.approx(rows / nodes * (row_bytes + 4), rel=0.1)
