"""Pickles of loaders that earlier versions wrote."""

from __future__ import annotations

from typing import Any

from lanceloader.loader.cursor import Cursor

__all__ = ["state_of_version_0_1_0"]


def state_of_version_0_1_0(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a pickle of version 0.1.0 in the current layout."""
    cursor = Cursor(state["_steps"].epochs)
    cursor.renumber(state["epoch"])
    cursor.jump(state["_start"])
    cursor.checkpoint = state["_at"]
    return {
        "units": state["_served"],
        "_steps": state["_steps"],
        "pipeline": state["_finish"],
        "_has_progress": state["_progress"],
        "_in_process": state["_in_process"],
        "cursor": cursor,
        "_metrics": None,
        "_trace": None,
    }
