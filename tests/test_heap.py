"""Memory of values that were freed is kept for those of the next batch."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
import resource
import sys

import pyarrow as pa
from lanceloader.formats.python import columns, rows

batch = pa.record_batch({"image": [bytes([1]) * 100_000] * 64})
make = {"rows": rows, "columns": columns}[sys.argv[1]]


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


for _ in range(3):
    make(batch)
before = faults()
for _ in range(20):
    make(batch)
# Without, a page of 4 KiB is faulted in for each that is written.
print((faults() - before) / (20 * 64 * 100_000 / 4096))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps memory")
@pytest.mark.parametrize("make", ["rows", "columns"])
def test_pages_of_large_values_are_written_again(make):
    command = [sys.executable, "-c", PROGRAM, make]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(found.stdout) < 0.2


def test_thresholds_that_were_set_stay():
    program = PROGRAM.replace("import os\n", "")
    command = [sys.executable, "-c", program, "rows"]
    environment = {"MALLOC_TRIM_THRESHOLD_": "100000", "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    )
    assert float(found.stdout) > 0.5
