"""``Stats`` in the text format of Prometheus.

The format is version 0.0.4 of https://prometheus.io/docs/instrumenting/exposition_formats/. Units
are seconds and bytes. A counter begins at 0 with each iteration, which Prometheus treats as a reset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lanceloader.monitor.measurements import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lanceloader.monitor.measurements import Measurements

__all__ = ["prometheus_text"]

BOUNDS = (
    *(1e-05, 2.5e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0),
)
"""The upper bounds of the classes of waits, in seconds. They must not change from run to run."""

RESERVED = ("rank", "stage", "source", "le")
"""The labels that samples have already."""

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """A number, with the end of its name and its labels."""

    suffix: str
    labels: Labels
    value: float


class Metric(NamedTuple):
    """A metric: its name without the prefix, type and help."""

    name: str
    kind: str
    help: str


def prometheus_text(
    ranks: Sequence[Measurements], labels: Mapping[str, str] | None
) -> str:
    """Return the statistics of ranks in the text format of Prometheus.

    Raises:
        TypeError: If the labels are not a mapping.
        ValueError: If a label has an invalid name, or one that samples have already.
    """
    common = checked_labels(labels or {})
    lines = []
    of_metrics = [dict(metrics_of(stats)) for stats in ranks]
    for metric in of_metrics[0]:
        name = f"lanceloader_{metric.name}"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        for stats, metrics in zip(ranks, of_metrics, strict=True):
            own = (*common, ("rank", str(stats.rank)))
            lines += [
                f"{name}{suffix}{text_of((*own, *more))} {number(value)}"
                for suffix, more, value in metrics[metric]
            ]
    return "\n".join([*lines, ""])


def checked_labels(labels: Mapping[Any, Any]) -> Labels:
    """Return labels as pairs of strings.

    Raises:
        TypeError: If they are not a mapping.
        ValueError: If a name is invalid or reserved.
    """
    if not isinstance(labels, Mapping):
        message = f'`labels` must be a dict, such as {{"job": "train"}}, not {labels!r}'
        raise TypeError(message)
    for name in labels:
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            message = (
                f"label {name!r} must have letters, digits and underscores only, and begin with "
                "a letter or one underscore"
            )
            raise ValueError(message)
        if name in RESERVED:
            message = (
                f"label {name!r} is one that samples have already: pass another name"
            )
            raise ValueError(message)
    return tuple((name, str(value)) for name, value in labels.items())


def metrics_of(stats: Measurements) -> Iterator[tuple[Metric, list[Sample]]]:
    """Yield all metrics, which are the same for all statistics, with their samples."""

    def counter(name: str, text: str, value: float) -> tuple[Metric, list[Sample]]:
        return Metric(f"{name}_total", "counter", text), [Sample("", (), value)]

    def gauge(name: str, text: str, value: float) -> tuple[Metric, list[Sample]]:
        return Metric(name, "gauge", text), [Sample("", (), value)]

    yield counter("batches", "Batches returned.", stats.batches)
    yield counter("rows", "Rows in these batches, before any transform.", stats.rows)
    yield counter("bytes", "Size of these batches as Arrow data.", stats.bytes)
    yield counter("seconds", "Time since the first batch was requested.", stats.seconds)
    yield counter(
        "wait_seconds",
        "Time spent waiting for batches, including the first.",
        stats.wait_seconds,
    )
    yield counter(
        "read_wait_seconds",
        "Time spent waiting for the threads that read.",
        stats.read_wait_seconds,
    )
    yield (
        Metric("batch_wait_seconds", "histogram", "Waits after the first batch."),
        list(histogram(stats)),
    )
    yield (
        Metric("stage_seconds_total", "counter", "Time of all threads in each stage."),
        [
            Sample("", (("stage", stage),), stats.stage_seconds.get(stage, 0.0))
            for stage in STAGES
        ],
    )
    by_source = {
        "packed": stats.rows_packed,
        "table": stats.rows_direct,
        "scratch": stats.rows_spilled,
    }
    yield (
        Metric("rows_read_total", "counter", "Rows read, by where they came from."),
        [Sample("", (("source", name),), rows) for name, rows in by_source.items()],
    )
    yield counter(
        "blocks_packed", "Blocks of rows that were packed.", stats.blocks_filled
    )
    yield counter(
        "blocks_found", "Blocks of rows found in the cache.", stats.blocks_mapped
    )
    yield counter(
        "rows_skipped",
        "Rows on which a transform failed, left out.",
        stats.rows_skipped,
    )
    yield counter(
        "rows_filled", "Rows on which a transform failed, replaced.", stats.rows_filled
    )
    yield counter(
        "batches_skipped",
        "Batches of which all rows were left out.",
        stats.batches_skipped,
    )
    yield counter("requests", "Requests to object storage.", stats.requests)
    yield counter("fetched_bytes", "Size of the answers.", stats.bytes_fetched)
    yield counter(
        "copied_bytes",
        "Bytes of remote files that came from the cache folder.",
        stats.bytes_copied,
    )
    yield counter("retries", "Requests that were made again.", stats.retries)
    yield counter(
        "throttled", "Requests that a store refused as too many.", stats.throttled
    )
    yield gauge(
        "first_batch_seconds",
        "Time until the first batch was returned.",
        stats.first_batch_seconds,
    )
    yield gauge(
        "wait_ratio",
        "Share of the time after the first batch spent waiting, from 0 to 1.",
        stats.wait_share,
    )
    yield gauge("ready_batches", "Mean number of finished batches.", stats.ready)
    yield gauge("transform_threads", "Threads that transform.", stats.transform_threads)
    yield gauge("kept_bytes", "Size of the packed rows in memory.", stats.bytes_kept)
    yield gauge(
        "fill_seconds",
        "Time until all rows were packed, 0 if they are not.",
        stats.fill_seconds,
    )
    yield gauge(
        "fallback",
        "Whether rows could not be packed or stored in files, 0 or 1.",
        float(stats.failure is not None),
    )


def histogram(stats: Measurements) -> Iterator[Sample]:
    """Yield the cumulative counts of the waits after the first batch, their sum and number."""
    # The ends of the classes that were counted are at most a quarter too long.
    for bound in BOUNDS:
        known = sum(count for seconds, count in stats.waits if seconds <= bound)
        yield Sample("_bucket", (("le", number(bound)),), known)
    total = sum(count for _, count in stats.waits)
    yield Sample("_bucket", (("le", "+Inf"),), total)
    waited = max(0.0, stats.wait_seconds - stats.first_batch_seconds)
    yield Sample("_sum", (), waited)
    yield Sample("_count", (), total)


def text_of(labels: Labels) -> str:
    """Return labels in braces."""
    pairs = (f'{name}="{escaped(value)}"' for name, value in labels)
    return f"{{{','.join(pairs)}}}"


def escaped(value: str) -> str:
    """Return the value of a label with backslashes, quotes and line feeds escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """Return a number as Go parses it."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
