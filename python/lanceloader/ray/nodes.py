"""The Ray cluster: connecting on first use, the number of CPUs, and results of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._native import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "POLL_SECONDS",
    "RETRIES",
    "as_completed",
    "connect",
    "count_cpus",
    "result_of",
    "task_count",
]

RETRIES = 3
"""How often a task is retried if its worker or node dies."""

POLL_SECONDS = 60
"""The maximum time of one wait for tasks."""

TASKS_PER_CPU = 4
"""Enough that all CPUs finish at about the same time."""

LEAST_ROWS, MOST_ROWS = 10_000, 1 << 20
"""The minimum and maximum rows per task if the size of a row is unknown."""


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


def task_count(
    num_rows: int, row_bytes: int | None, least_bytes: int, most_bytes: int
) -> int:
    """Return the number of tasks among which to divide some rows.

    Args:
        num_rows: The number of rows.
        row_bytes: The number of bytes of a row, or ``None`` if it is unknown.
        least_bytes: The minimum number of bytes of rows per task, if there are as many.
        most_bytes: The maximum number of bytes of rows per task.
    """
    total, least, most = num_rows, LEAST_ROWS, MOST_ROWS
    if row_bytes is not None:
        total, least, most = num_rows * row_bytes, least_bytes, most_bytes
    size = min(max(total // (count_cpus() * TASKS_PER_CPU), least), most)
    return max(1, -(-total // size))


def as_completed(tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each task with its result, in the order in which tasks finish.

    Raises:
        RayError: If a task failed.
    """
    import ray

    pending = list(tasks)
    while pending:
        ready, pending = ray.wait(pending, timeout=POLL_SECONDS)
        for task in ready:
            yield task, result_of(task)


def result_of(task: Any) -> Any:
    """Return the result of a finished task.

    Raises:
        RayError: If it failed.
    """
    import ray

    try:
        return ray.get(task)
    except Exception as error:
        # Ray replaces errors of unpickling by its own, with the same text.
        if "No module named" in str(error):
            error.add_note(
                f"The driver has lanceloader {__version__}: install this release on all nodes, and "
                "what functions of map() import, or pass them to ray.init(runtime_env=...)"
            )
        raise
