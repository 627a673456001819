"""The number of Python functions that a batch of ``loader()`` passes through."""

from __future__ import annotations

import gc
import sys

import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
from lanceloader.formats import Columns

pytest.importorskip("torch")

MOST_DEEP = 8
MOST_CALLS = 16
"""Without those of columns that are converted one by one, of which this table has none."""


def calls_of_one_batch(loader) -> list[tuple[int, str]]:
    """The Python functions that one batch enters, each with its depth."""
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    found: list[tuple[int, str]] = []
    depth = 0

    def note(frame, event, arg):
        nonlocal depth
        del arg
        if event == "call":
            depth += 1
            found.append((depth, frame.f_code.co_qualname))
        elif event == "return":
            depth -= 1

    before = sys.getprofile()
    # The garbage collector calls functions of other libraries.
    gc.disable()
    sys.setprofile(note)
    try:
        next(batches)
    finally:
        sys.setprofile(before)
        gc.enable()
    return found


@pytest.mark.parametrize("name", ["torch_dict", "numpy_dict", "torch_matrix", "arrow"])
def test_a_batch_passes_through_few_functions(name, monkeypatch):
    # Other tests of this process may have copied batches to a device.
    monkeypatch.setattr(Columns, "are_copied", False)
    table = pa.table({"x": np.arange(10_000, dtype=np.float32)})
    loader = ll.open(table).loader(64, shuffle=True, seed=1, format=name)
    found = calls_of_one_batch(loader)
    listed = "\n".join("  " * depth + function for depth, function in found)
    assert max(depth for depth, _ in found) <= MOST_DEEP, listed
    assert len(found) <= MOST_CALLS, listed
