"""Reads what criterion left of the benches in Rust: order, plan and gather."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HOME = Path.home() / ".cache" / "lanceloader" / "target"
"""Where the Makefile has cargo build, unless told otherwise."""
ONE_RUN_S = 3600
"""Criterion keeps what it once measured: older than this beside the newest is of another run."""


def estimates(target: Path | None = None) -> list[dict[str, Any]]:
    """Give name, seconds and things per second of each bench; nothing if none was run."""
    home = target or Path(os.environ.get("CARGO_TARGET_DIR") or HOME)
    found = []
    for file in sorted((home / "criterion").rglob("new/estimates.json")):
        bench = json.loads((file.parent / "benchmark.json").read_text())
        spread = json.loads(file.read_text())
        estimate = spread.get("slope") or spread["median"]
        interval = estimate["confidence_interval"]
        found.append(
            {
                "group": bench["group_id"],
                "name": bench["full_id"],
                "seconds": estimate["point_estimate"] / 1e9,
                "lowest_s": interval["lower_bound"] / 1e9,
                "highest_s": interval["upper_bound"] / 1e9,
                "elements": (bench["throughput"] or {}).get("Elements"),
                "measured_at": round(file.stat().st_mtime),
            }
        )
    newest = max((bench["measured_at"] for bench in found), default=0)
    return [bench for bench in found if newest - bench["measured_at"] < ONE_RUN_S]
