"""What a task runs first on a node, which may lack lanceloader.

Ray pickles the functions of this module by value, so they must not need the package.
"""

from __future__ import annotations

from typing import Any

__all__ = ["arrive"]


def arrive(version: str, pickled: Any) -> Any:
    """Return the recipe that the driver sent.

    Args:
        version: The version of lanceloader on the driver.
        pickled: The permutation, as in ``Recipe``.

    Raises:
        ImportError: If this node has no lanceloader that reads recipes.
    """
    import importlib

    try:
        recipe = importlib.import_module("lanceloader.ray.recipe")
    except ImportError as error:
        import socket
        import sys

        message = (
            f"the node {socket.gethostname()} ({sys.executable}) cannot import lanceloader.ray, but "
            f"the driver has lanceloader {version}: install this release on all nodes, or pass it "
            f"to ray.init(runtime_env=...) ({error})"
        )
        raise ImportError(message) from error
    return recipe.Recipe(version, pickled)
