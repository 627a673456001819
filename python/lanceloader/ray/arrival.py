"""The first function that a task runs on a node, which may lack lanceloader.

Ray pickles the functions of this module by value, so they must not need the package.
"""

from __future__ import annotations

from typing import Any

__all__ = ["arrive"]


def arrive(version: str, module: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """Return an object of a class of ``lanceloader.ray``.

    Args:
        version: The version of lanceloader on the driver.
        module: The module of the class.
        name: The name of the class.
        arguments: Its arguments.

    Raises:
        ImportError: If this node has no lanceloader with that module.
    """
    import importlib

    try:
        found = importlib.import_module(module)
    except ImportError as error:
        import socket
        import sys

        message = (
            f"the node {socket.gethostname()} ({sys.executable}) cannot import {module}, but "
            f"the driver has lanceloader {version}: install this release on all nodes, or pass it "
            f"to ray.init(runtime_env=...) ({error})"
        )
        raise ImportError(message) from error
    return getattr(found, name)(*arguments)
