"""``warm``: fills the cache of every node before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.monitor.progress import check_bar, reported
from lanceloader.ray.nodes import RETRIES, connect, result_of
from lanceloader.ray.reading import check_permutation
from lanceloader.ray.recipe import Recipe, credentials_hint

if TYPE_CHECKING:
    from lanceloader._permutation import Permutation
    from lanceloader._typing import Progress
    from lanceloader.verbs.warming import WarmReport

__all__ = ["warm"]

POLL_SECONDS = 5
"""The seconds between two checks of which nodes are alive."""


def warm(
    perm: Permutation,
    *,
    send_credentials: bool = False,
    progress: Progress | None = None,
) -> dict[str, WarmReport]:
    """Fill the cache of every node of a Ray cluster, so that the first epoch does not have to.

    One task runs on each node that is alive now and has a CPU or a GPU for tasks, and does what
    ``Permutation.warm`` does on one machine. Later readers of the table on that node find the rows in the
    node's cache folder. Nodes that leave the cluster meanwhile are left out.

    Args:
        perm: The permutation: the selected columns of all rows of its table are packed or fetched.
        send_credentials: As for ``read``.
        progress: Whether to show a bar, by default as ``LANCELOADER_PROGRESS`` says; or a
            function, called with the number of nodes that are done and of all.

    Returns:
        The report of each node, by its id in Ray.

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
    nodes = nodes_with_tasks()
    here = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    running = {
        task.options(scheduling_strategy=here[node]).remote(recipe): node
        for node in nodes
    }
    reports: dict[str, WarmReport] = {}
    with reported("warming", progress, unit=" nodes") as report:
        report(0, len(nodes))
        pending = set(running)
        while pending:
            ready, _ = ray.wait([*pending], timeout=POLL_SECONDS)
            alive = nodes_with_tasks()
            for each in ready:
                node = running[each]
                try:
                    reports[node] = result_of(each)
                except ray.exceptions.RayError:
                    if node in nodes_with_tasks():
                        raise
            # Ray may wait forever for a task that is bound to a node which is gone.
            gone = {each for each in pending if running[each] not in alive}
            pending -= {*ready} | gone
            report(len(nodes) - len(pending), len(nodes))
    return reports


def nodes_with_tasks() -> list[str]:
    """Return the ids of the nodes that are alive and have a CPU or a GPU, which head nodes may lack."""
    import ray

    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and not {"CPU", "GPU"}.isdisjoint(node["Resources"])
    ]


def warm_this_node(recipe: Recipe) -> WarmReport:
    """Fill the cache of the node that this task runs on."""
    with credentials_hint():
        return recipe.open().warm(progress=False)
