"""The main module of a process that runs one job; started by ``process.py``.

A job is a generator. What it yields goes to the process that started it, and it goes on when that
process says so. Worker processes import this file too, so it imports little.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any


def function(reference: str) -> Callable[..., Any]:
    """Return what ``module:name`` stands for."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    job, arguments = pickle.loads(bytes.fromhex(sys.argv[1]))
    for found in function(job)(**arguments):
        event = {"event": found or {}, "at": time.monotonic()}
        print(json.dumps(event), flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
