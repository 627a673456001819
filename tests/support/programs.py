"""Programs of their own for tests of processes, with a limit of time.

Limits say "does not hang", never "is fast".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 150
CONTEXTS = ["fork", "forkserver", "spawn"]

PRELUDE = """
import gc, json, os, pickle, signal, sys, threading, time
import importable
import lanceloader as ll
import numpy as np
import pyarrow as pa
from process_state import soon

folder = sys.argv[1]
path = folder + "/t.lance"


def read_threads():
    found = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                found += file.read().startswith("lanceloader-rea")
        except OSError:
            pass
    return found


def rss():
    gc.collect()
    pa.default_memory_pool().release_unused()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def done(**found):
    print(json.dumps(found), flush=True)
"""

SESSION = """
def session(number):
    '''The processes of a session, as of a trainer and of all that it started.'''
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        # Those that have ended are only waiting for their parent.
        if int(fields[3]) == number and fields[0] not in "ZX":
            found.append(int(name))
    return found
"""

LOADER = (
    PRELUDE
    + """
import warnings
from torch.utils.data import DataLoader

# That there are more workers than cores.
warnings.filterwarnings("ignore", "This DataLoader will create")


def loader_of(dataset, workers, context, **options):
    if workers:
        options = {"multiprocessing_context": context, "timeout": 100} | options
    return DataLoader(dataset, num_workers=workers, **options)


def check(batches, wanted):
    '''Every row once, and each with the values that belong together.'''
    rows = {}
    for batch in batches:
        for at, row in enumerate(batch["id"].tolist()):
            assert row not in rows, row
            rows[row] = batch["name"][at], round(float(batch["y"][at]), 6)
    assert rows == wanted, (len(rows), len(wanted))


def wanted_of(perm):
    table = perm.to_arrow()
    columns = (table[name].to_pylist() for name in ("id", "name", "y"))
    return {id: (name, round(y, 6)) for id, name, y in zip(*columns)}
"""
)


def start(program, folder, *arguments):
    paths = [str(Path(__file__).parent)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # One that hangs says where, see `finish`.
            "PYTHONFAULTHANDLER": "1",
        },
        # Whatever it started dies with it.
        start_new_session=True,
    )


def finish(process, limit_s=LIMIT_S):
    """What the program says it found."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it hangs:\n{out}\n{err}")
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return json.loads(out.strip().rpartition("\n")[2])


def run(program, folder, *arguments):
    return finish(start(program, folder, *arguments))
