"""Questions to the results of a run, as they stand in loader.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import peers
from peers import OURS

Record = dict[str, Any]
Key = tuple[str, ...]

# Those of samples that the targets and the front page name.
LOADER, DIRECT, RESIDENT, DATA_LOADER, IN_ORDER = (
    f"{OURS}, {how}"
    for how in (*peers.STRATEGIES, peers.DATA_LOADER, f"{peers.LOADER}, in order")
)
LANCEDB, TAKE = f"{peers.LANCEDB}, {peers.DATA_LOADER}", peers.TAKE_ARM.name
SCANS = [arm.name for arm in (peers.SCAN_ARM, peers.SCAN_OWN_SIZE)]
IN_MEMORY = (peers.TORCH_COLUMNS, peers.ARROW_TAKE, peers.MEMMAP)
COLUMNS, PYARROW, MEMMAP = (arm.name for arm in IN_MEMORY)
LITDATA = "LitData"


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what was measured."""
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def best(*values: float | None) -> float | None:
    """Return the largest of those that were measured."""
    return max((value for value in values if value is not None), default=None)


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


@dataclass(frozen=True)
class Results:
    run: Record
    """Everything in the file, and what all its parts have found, together."""

    @classmethod
    def read(cls, path: Path) -> Results:
        run = json.loads(path.read_text())
        parts = run["parts"].values()
        for name in ("samples", "peers", "measured", "failures"):
            run[name] = [one for part in parts for one in part[name]]
        timelines = (part["timeline"] for part in parts if part["timeline"])
        run["timeline"] = next(timelines, {})
        return cls(run)

    @cached_property
    def samples(self) -> list[Record]:
        return self.run["samples"]

    def races(self, kind: str) -> list[str]:
        return unique(one["race"] for one in self.samples if one["kind"] == kind)

    def entries(self, race: str) -> list[tuple[str, str]]:
        """Return contender and output of everyone in a race, in the order of the first round."""
        of_race = [one for one in self.samples if one["race"] == race]
        of_race.sort(key=lambda one: one["round"])
        return unique((one["contender"], one["output"]) for one in of_race)

    def of(self, race: str, contender: str, output: str | None = None) -> list[Record]:
        return [
            one
            for one in self.samples
            if (one["race"], one["contender"]) == (race, contender)
            and output in (None, one["output"])
        ]

    def value(
        self, field: str, race: str, contender: str, output: str | None = None
    ) -> float | None:
        return median(one[field] for one in self.of(race, contender, output))

    def rate(
        self, race: str, contender: str, output: str | None = None
    ) -> float | None:
        return self.value("rows_per_s", race, contender, output)

    def alike(self, race: str, contender: str, output: str) -> float | None:
        """Return rows/s of a contender at an output, or at its own if it has no such output."""
        return self.rate(race, contender, output) or self.rate(race, contender)

    def scan(self, race: str) -> float | None:
        """Return the faster of the two scans: batches of our size, or of its own."""
        return best(*(self.rate(race, scan) for scan in SCANS))

    def cases(self, experiment: str) -> list[str]:
        measured = self.run["measured"]
        return unique(o["case"] for o in measured if o["experiment"] == experiment)

    def figure(
        self,
        experiment: str,
        case: str,
        name: str,
        summary: Callable[[Iterable[float]], float | None] = median,
    ) -> float | None:
        found = [
            one["figures"][name]
            for one in self.run["measured"]
            if (one["experiment"], one["case"]) == (experiment, case)
            and name in one["figures"]
        ]
        return summary(found) if found else None
