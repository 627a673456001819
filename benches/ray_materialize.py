"""``materialize(engine="ray")`` by three nodes of one CPU each, beside the local engine on one core.

Both write the same shuffled rows, in turns. The nodes share the cores of this machine, which may be
fewer than three: ``share of the cores`` is how long one core takes, divided by the cores that there
are and by the seconds of the nodes, so 1 means that nothing is lost. ``share of the work`` is the
CPU seconds of one core divided by those of the nodes, the driver and all processes of Ray together,
which other programs hardly change.

What is not counted: starting Ray (named in the result, as is what its processes take where nothing
runs), and one small table that every node writes
before, which starts its workers and imports what they need. With ``--cold``, each node begins with a
cache of its own that is empty, and so does the local engine; otherwise rows are packed before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lanceloader as ll
import lanceloader.ray
import ray
from harness.machine import machine, versions
from harness.process import Child, child, tree
from harness.tables import CACHE, bench_table
from ray.cluster_utils import Cluster

NODES = 3
TICK = os.sysconf("SC_CLK_TCK")
WAYS = {
    "auto": {},
    "passes": {"read": "external", "memory_limit": "128MiB"},
    "direct": {"read": "direct"},
}


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all below it, and of children that have ended."""
    found = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += sum(map(int, fields[11:15]))
    return found / TICK


def shuffled(path: str, seed: int, way: str) -> ll.Permutation:
    perm = ll.open(path).shuffle(seed)
    return perm.with_read(**WAYS[way]) if WAYS[way] else perm


def timed(write: Any) -> dict[str, float]:
    cpu, start = cpu_seconds(os.getpid()), time.perf_counter()
    write()
    wall = time.perf_counter() - start
    return {"seconds": wall, "cpu_seconds": cpu_seconds(os.getpid()) - cpu}


def local(
    path: str, folder: str, way: str, first: int
) -> Iterator[dict[str, float] | None]:
    """A job that writes one table after the other."""
    yield None
    for seed in itertools.count(first):
        target = Path(folder, f"local{seed}.lance")
        perm = shuffled(path, seed, way)
        yield timed(lambda perm=perm, target=target: perm.materialize(target))
        shutil.rmtree(target)


def write(perm: ll.Permutation, target: str, num_tasks: int | None = None) -> None:
    lanceloader.ray.materialize(perm, target, num_tasks=num_tasks, progress=False)


@contextmanager
def cluster(folder: str) -> Iterator[float]:
    """Three nodes of one CPU on this machine, each with its own cache folder: how long they take to start."""
    os.environ |= {
        "LANCELOADER_CACHE_DIR": f"{folder}/driver",
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = time.perf_counter()
    found = Cluster()
    try:
        for node in range(NODES):
            found.add_node(
                num_cpus=1,
                object_store_memory=1 << 30,
                include_dashboard=False,
                env_vars={"LANCELOADER_CACHE_DIR": f"{folder}/rows{node}"},
            )
        ray.init(found.address, log_to_driver=False)
        yield time.perf_counter() - start
    finally:
        ray.shutdown()
        found.shutdown()


@contextmanager
def on_one_core() -> Iterator[None]:
    """Processes that are started meanwhile have one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(name: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    table = bench_table(name, options.folder, quick=options.quick)
    small = bench_table("narrow", options.folder, quick=True)
    table.warm()
    turns: list[tuple[dict[str, float], dict[str, float]]] = []
    starts: list[float] = []
    idle: list[float] = []
    # Caches that are empty come with a new cluster.
    clusters = options.rounds if options.cold else 1
    seeds = 1 if options.cold else options.rounds + 1
    for number in range(clusters):
        with tempfile.TemporaryDirectory(
            prefix="ll-ray-", dir="/tmp", ignore_cleanup_errors=True
        ) as folder:
            given = {"path": str(table.path), "folder": folder, "way": way}
            with on_one_core():
                job = child(
                    "ray_materialize:local",
                    cache=Path(folder, "rows"),
                    limit_s=3600,
                    first=number,
                    **given,
                )
                alone = job.__enter__()
            try:
                with cluster(folder) as seconds:
                    starts.append(seconds)
                    perm = shuffled(str(small.path), 0, "direct")
                    write(perm, f"{folder}/small.lance", 4 * NODES)
                    idle.append(timed(lambda: time.sleep(3))["cpu_seconds"] / 3)
                    for seed in range(number, number + seeds):
                        turn = take_turns(alone, seed, given)
                        if options.cold or seed:
                            turns.append(turn)
            finally:
                job.__exit__(None, None, None)
    found = judged(table.num_rows, turns)
    return found | {
        "seconds_to_start_ray": statistics.median(starts),
        "cpu_seconds_of_ray_in_a_second": statistics.median(idle),
    }


def take_turns(
    alone: Child, seed: int, given: dict[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Write the same rows with the local engine and by nodes: each goes first every other time."""
    target = f"{given['folder']}/nodes{seed}.lance"

    def by_nodes() -> dict[str, float]:
        perm = shuffled(given["path"], seed, given["way"])
        return timed(lambda: write(perm, target))

    if seed % 2:
        many, one = by_nodes(), alone.next()
    else:
        one, many = alone.next(), by_nodes()
    shutil.rmtree(target)
    return one, many


def judged(
    rows: int, turns: list[tuple[dict[str, float], dict[str, float]]]
) -> dict[str, Any]:
    cores = min(NODES, len(os.sched_getaffinity(0)))
    ideal = [one["seconds"] / cores / many["seconds"] for one, many in turns]
    work = [one["cpu_seconds"] / many["cpu_seconds"] for one, many in turns]
    return {
        "rows": rows,
        "cores": cores,
        "local": [one for one, _ in turns],
        "nodes": [many for _, many in turns],
        "share_of_the_cores": statistics.median(ideal),
        "share_of_the_work": statistics.median(work),
    }


def main() -> None:
    options = parse()
    tables = {}
    for name in options.tables:
        found = measure(name, options.way, options)
        tables[name] = found
        for arm in ("local", "nodes"):
            seconds = [f"{turn['seconds']:.2f}" for turn in found[arm]]
            cpu = [f"{turn['cpu_seconds']:.2f}" for turn in found[arm]]
            print(f"{name}: {arm}: {seconds} s, {cpu} CPU seconds", flush=True)
        print(
            f"{name}: {found['share_of_the_cores']:.2f} of {found['cores']} cores, "
            f"{found['share_of_the_work']:.2f} of the work; "
            f"Ray started in {found['seconds_to_start_ray']:.1f} s, and takes "
            f"{found['cpu_seconds_of_ray_in_a_second']:.2f} of a core where nothing runs",
            flush=True,
        )
    if options.out:
        found = {
            "quick": options.quick,
            "way": options.way,
            "cold": options.cold,
            "load": os.getloadavg()[0],
            "machine": machine(),
            "versions": versions() | {"ray": ray.__version__},
            "tables": tables,
        }
        path = options.out / "ray_materialize.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["narrow", "image"])
    parser.add_argument("--way", choices=WAYS, default="auto", help="how rows are read")
    parser.add_argument("--cold", action="store_true", help="begin with empty caches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--folder", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, help="a folder for ray_materialize.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
