"""The cluster: connected to on first use, and how many CPUs it has."""

from __future__ import annotations

__all__ = ["connect", "task_count"]

TASKS_PER_CPU = 4
"""So many that CPUs end at about the same time."""


def connect() -> None:
    """Connect to the cluster, or start one on this machine, unless this process is connected."""
    import ray

    if not ray.is_initialized():
        ray.init()


def count_cpus() -> int:
    """Return the number of CPUs of all nodes."""
    import ray

    connect()
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def task_count(total: int, least: int, most: int) -> int:
    """Return into how many tasks to cut some work.

    Args:
        total: The amount of all work.
        least: The least for one task, if there is as much.
        most: The most for one task.
    """
    size = min(max(total // (count_cpus() * TASKS_PER_CPU), least), most)
    return max(1, -(-total // size))
