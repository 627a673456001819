"""``warm``: the cache of every node, filled before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.monitor.progress import check_bar, reported
from lanceloader.ray.nodes import RETRIES, as_completed, connect
from lanceloader.ray.reading import check_permutation
from lanceloader.ray.recipe import Recipe, noting_credentials

if TYPE_CHECKING:
    from lanceloader._permutation import Permutation
    from lanceloader._typing import Progress
    from lanceloader.verbs.warming import WarmReport

__all__ = ["warm"]


def warm(
    perm: Permutation,
    *,
    send_credentials: bool = False,
    progress: Progress | None = None,
) -> dict[str, WarmReport]:
    """Fill the cache of every node of a Ray cluster, so that a first epoch does not have to.

    One task runs on each node that is alive now, as ``Permutation.warm`` does on one machine.
    Whatever reads the table on that node later finds the rows in the node's cache folder.

    Args:
        perm: The permutation: the selected columns of all rows of its table are packed or fetched.
        send_credentials: As for ``read``.
        progress: Whether to show a bar, by default as ``LANCELOADER_PROGRESS`` says; or a
            function, called with the number of nodes that are done and of all.

    Returns:
        What each node did, by its id in Ray.

    Raises:
        ImportError: If Ray is not installed.
        StorageError: If the rows cannot be written to the cache folder of a node.
        UnsupportedError: If the native reader does not read these columns.

    Example:
        >>> reports = lanceloader.ray.warm(perm.shuffle(seed=7))  # doctest: +SKIP
        >>> {node[:4]: report.bytes for node, report in reports.items()}  # doctest: +SKIP
        {'3fd1': 160000000, '90ab': 160000000}
    """
    need("ray", "lanceloader.ray")
    check_permutation(perm)
    check_bar(progress)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    connect()
    recipe = Recipe.of(perm, send_credentials=send_credentials)
    remote: Any = ray.remote(num_cpus=0, max_retries=RETRIES)
    task = remote(warm_this_node)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    here = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    running = {
        task.options(scheduling_strategy=here[node]).remote(recipe): node
        for node in nodes
    }
    reports: dict[str, WarmReport] = {}
    with reported("warming", progress, unit=" nodes") as report:
        report(0, len(nodes))
        for each, found in as_completed(running):
            reports[running[each]] = found
            report(len(reports), len(nodes))
    return reports


def warm_this_node(recipe: Recipe) -> WarmReport:
    """Fill the cache of the node that this task runs on."""
    with noting_credentials():
        return recipe.open().warm(progress=False)
