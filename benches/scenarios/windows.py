"""Windows over episodes per second: 16 actions of 14 float32 numbers and two states of as many, shuffled."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

from harness.bench import Bench, Figures
from harness.child import function
from harness.process import child
from harness.tables import make_once
from peers import windows as peer
from peers.windows import STEPS, Episodes

WINDOWS = "windows"
EPISODES = 2000
OURS = "lanceloader, windows"
LIMIT = f"lanceloader, as many plain rows: {STEPS} for each window"
ONE_BY_ONE = "lancedb Permutation, one take for each window"
WAYS = {OURS: "windows", LIMIT: "plain_rows", ONE_BY_ONE: "one_by_one"}


def run(bench: Bench) -> None:
    count = EPISODES // (20 if bench.quick else 1)
    episodes = Episodes(bench.folder / f"episodes-{count}", count)
    make_once(episodes.folder, functools.partial(peer.make, episodes))
    cases = {
        name: functools.partial(one, bench, episodes, opened)
        for name, opened in WAYS.items()
    }
    bench.measure(WINDOWS, cases, bench.rounds)


def one(bench: Bench, episodes: Episodes, opened: str, number: int) -> Figures:
    del number
    arguments = {"episodes": episodes, "opened": opened, "seconds": bench.seconds}
    with (
        bench.empty_folder() as cache,
        child("scenarios.windows:timed", cache=cache, **arguments) as running,
    ):
        return running.next()


def timed(episodes: Episodes, opened: str, seconds: float) -> Iterator[Any]:
    """Time batches of an epoch that follows a whole one, so that rows are packed where they come to be."""
    begin = function(f"peers.windows:{opened}")
    yield
    start = time.perf_counter()
    batches = begin(episodes)
    num_windows = next(batches)
    first_batch_s = time.perf_counter() - start
    while num_windows < episodes.num_episodes * peer.LENGTH:
        num_windows += next(batches)
        if time.perf_counter() > start + seconds:
            break
    start, num_windows = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        num_windows += next(batches)
    rate = num_windows / (time.perf_counter() - start)
    yield {"windows_per_s": rate, "first_batch_s": first_batch_s}
