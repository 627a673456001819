"""Packages that are hidden, as if they were not installed."""

from __future__ import annotations

import importlib.util


def hide(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in names else find(name, *rest),
    )
