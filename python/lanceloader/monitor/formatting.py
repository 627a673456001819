"""Sizes and durations in a readable form."""

from __future__ import annotations

__all__ = ["brief", "readable"]


def readable(size: float) -> str:
    """Return a number of bytes with a suitable unit, as in ``"1.5 MiB"``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def brief(seconds: float) -> str:
    """Return a duration with a suitable unit, as in ``"1.50 ms"``."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds * 1e6:.0f} µs"
