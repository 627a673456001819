"""What a ``Loader`` is, in words and as tables: for ``repr``, notebooks and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.choices import path_of
from lanceloader.loader.page import page
from lanceloader.monitor.markup import facts
from lanceloader.monitor.redaction import without_secrets
from lanceloader.monitor.stats import Stats

if TYPE_CHECKING:
    import os

__all__ = ["loader_html", "summary_of", "write_report"]


def summary_of(loader: Any) -> dict[str, str]:
    """Return the steps, the epoch, the place and the rank of a loader. Nothing is read."""
    units, epochs = loader.units, loader.epochs
    at = loader.cursor.checkpoint
    topics = {}
    batch = units.batch_text(loader.batch_size)
    number = ""
    if units.is_planned(loader.epoch) and epochs in (1, None):
        share = loader.schedule.epoch_share(loader.epoch)
        number = f"{share.num_batches:,} "
    elif epochs is not None and units.is_planned(loader.cursor.first_epoch):
        number = f"{len(loader):,} "
    topics["steps"] = f"{number}steps of {batch}"
    if epochs is None:
        topics["steps"] += " per epoch"
        topics["epochs"] = "endless"
    elif epochs != 1:
        topics["steps"] += f" in {epochs:,} epochs"
    if at.epoch is not None:
        topics["epoch"] = f"epoch {at.epoch}"
    topics["place"] = f"at step {-(-at.position // loader.global_batch_size):,}"
    if loader.world.world_size > 1:
        topics["rank"] = str(loader.world)
    return topics


def loader_html(loader: Any) -> str:
    """Return a table of what a loader is, with the verdict of the last iteration."""
    pairs, stats = facts_of(loader), loader.stats()
    if stats.batches:
        pairs.append(("verdict", stats.verdict))
    return facts(pairs)


def facts_of(loader: Any) -> list[tuple[str, str]]:
    """Return what a loader is as names and texts."""
    pairs = [
        (name, text.removeprefix(f"{name} "))
        for name, text in summary_of(loader).items()
    ]
    view = without_secrets(repr(loader.units.view)).removeprefix("<").removesuffix(">")
    return [*pairs, ("reads", view)]


def write_report(
    loader: Any, path: str | os.PathLike[str], stats: Stats | None
) -> None:
    """Write the report of a loader; see ``Loader.report``.

    Raises:
        TypeError: If ``path`` is not a path, or ``stats`` is not a ``Stats``.
        OSError: If the file cannot be written.
    """
    file = path_of("path", path)
    if stats is not None and not isinstance(stats, Stats):
        message = (
            f"`stats` must be a Stats, such as `Stats.merged` returns, not {stats!r}"
        )
        raise TypeError(message)
    found = loader.stats() if stats is None else stats
    pairs = [*facts_of(loader), ("format", found.format or "a transform")]
    text = page("lanceloader report", pairs, loader.explain(), found)
    # A text may hold lone surrogates, which UTF-8 cannot encode.
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
