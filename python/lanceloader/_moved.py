"""Modules and classes by the names that earlier versions gave them, for pickles that hold these names.

The finder is asked last, so imports of modules that exist cost nothing.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["register"]

# Package of version 0.1 -> {module: (module today, {class: class today})}.
MOVED: dict[str, tuple[str, dict[str, str]]] = {
    "lanceloader._progress": ("lanceloader.monitor.progress", {}),
    "lanceloader._report": ("lanceloader.monitor.report", {}),
    "lanceloader.builder": ("lanceloader.compat_lancedb.builder", {}),
    "lanceloader.loading.aside": ("lanceloader.helper.client", {}),
    "lanceloader.loading.budgeted": (
        "lanceloader.units.bucketed",
        {"Budget": "TokenBudget", "Budgeted": "BucketedUnits"},
    ),
    "lanceloader.loading.device": ("lanceloader.stages.device", {}),
    "lanceloader.loading.differences": ("lanceloader.loader.plan_differences", {}),
    "lanceloader.loading.elsewhere": ("lanceloader.helper.batches", {}),
    "lanceloader.loading.finishing": (
        "lanceloader.stages.pipeline",
        {"Finish": "BatchPipeline"},
    ),
    "lanceloader.loading.headspace": ("lanceloader.monitor.replay", {}),
    "lanceloader.loading.helper": ("lanceloader.helper.child", {}),
    "lanceloader.loading.iterating": ("lanceloader.loader.loader", {}),
    "lanceloader.loading.iteration": ("lanceloader.loader.iterator", {}),
    "lanceloader.loading.joining": ("lanceloader.stages.concat", {}),
    "lanceloader.loading.loader": ("lanceloader.loader.loader", {}),
    "lanceloader.loading.mainguard": ("lanceloader.helper.main_guard", {}),
    "lanceloader.loading.packed": (
        "lanceloader.units.packed",
        {"PackedBlocks": "PackedUnits"},
    ),
    "lanceloader.loading.parcels": ("lanceloader.transport.serialization", {}),
    "lanceloader.loading.places": ("lanceloader.locations", {}),
    "lanceloader.loading.planned": (
        "lanceloader.units.planned",
        {"Planned": "PlannedUnits"},
    ),
    "lanceloader.loading.raw": ("lanceloader.units.batches", {}),
    "lanceloader.loading.running": ("lanceloader.monitor.metrics", {}),
    "lanceloader.loading.segments": ("lanceloader.transport.shared_memory", {}),
    "lanceloader.loading.served": (
        "lanceloader.units.rows",
        {"FromView": "ViewUnits", "Rows": "RowUnits"},
    ),
    "lanceloader.loading.share": ("lanceloader.units.share", {}),
    "lanceloader.loading.state": (
        "lanceloader.loader.checkpoint",
        {"At": "Checkpoint", "Turn": "WorkerTurn", "Way": "EpochProgress"},
    ),
    "lanceloader.loading.steps": ("lanceloader.loader.steps", {"Steps": "StepOptions"}),
    "lanceloader.loading.storages": ("lanceloader.tensor_tree", {}),
    "lanceloader.loading.threads": ("lanceloader.stages.ordered_map", {}),
    "lanceloader.loading.trace": ("lanceloader.monitor.trace", {}),
    "lanceloader.loading.trainers": ("lanceloader.loader.trainers", {}),
    "lanceloader.loading.transforming": (
        "lanceloader.stages.transform",
        {"Policy": "ErrorPolicy", "Counts": "TransformCounts"},
    ),
    "lanceloader.mixing.serving": (
        "lanceloader.mixing.units",
        {"MixedRows": "MixedUnits"},
    ),
    "lanceloader.mixing.watching": ("lanceloader.units.counters", {}),
    "lanceloader.plan_table": ("lanceloader.compat_lancedb.plan_table", {}),
    "lanceloader.sources.by_engine": (
        "lanceloader.sources.engine_source",
        {"Address": "TableAddress", "Handle": "TableHandle"},
    ),
    "lanceloader.stats": ("lanceloader.monitor.stats", {}),
    "lanceloader.streaming.arguments": (
        "lanceloader.streaming.validation",
        {"Filling": "RowErrorPolicy"},
    ),
    "lanceloader.streaming.interleaving": (
        "lanceloader.streaming.sharding",
        {"Interleaving": "GlobalOrder", "Reader": "StridedShard"},
    ),
    "lanceloader.transforms": ("lanceloader.compat_lancedb.transforms", {}),
    "lanceloader.view.base": ("lanceloader.verbs.base", {}),
    "lanceloader.view.columns": ("lanceloader.verbs.columns", {}),
    "lanceloader.view.explaining": ("lanceloader.verbs.explaining", {}),
    "lanceloader.view.loading": ("lanceloader.loader.verbs", {}),
    "lanceloader.view.reading": ("lanceloader.verbs.reading", {"Reading": "ReadVerbs"}),
    "lanceloader.view.rows": ("lanceloader.verbs.rows", {}),
    "lanceloader.view.sampling": (
        "lanceloader.verbs.sampling",
        {"SampleVerb": "SampleVerbs"},
    ),
    "lanceloader.view.sequences": (
        "lanceloader.loader.pack_verbs",
        {"SequenceVerbs": "PackVerbs"},
    ),
    "lanceloader.view.splitting": (
        "lanceloader.verbs.splitting",
        {"SplitVerb": "SplitNumber"},
    ),
}
PACKAGES = {name.rpartition(".")[0] for name in MOVED} - {"lanceloader"}


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes modules of the old names, whose contents are those of the new ones."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname not in MOVED and fullname not in PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, self, is_package=fullname in PACKAGES
        )

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in PACKAGES:
            return
        name, classes = MOVED[module.__name__]
        today = importlib.import_module(name)
        found = {key: value for key, value in vars(today).items() if key[:2] != "__"}
        found |= {old: getattr(today, new) for old, new in classes.items()}
        vars(module).update(found)


def register() -> None:
    """Register the finder of the old names."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
