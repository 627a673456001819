"""The batches of a loader with ``in_process=False``: a helper process makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanceloader.loader.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lanceloader.loader.iteration import Iteration

__all__ = ["batches_in_helper"]


def batches_in_helper(loader: Any, iteration: Iteration) -> Iterator[Any]:
    """Yield the batches of an iteration from the helper process of a loader.

    Args:
        loader: The ``Loader``, which keeps the process for its next iteration.
        iteration: The iteration.
    """
    from lanceloader.helper.batches import batches_of_helper
    from lanceloader.helper.kept import KeptHelper

    cursor, metrics = iteration.cursor, iteration.metrics
    start = cursor.start(iteration.number, iteration.requested)
    total = None if loader.epochs is None else len(loader)
    if loader._helper is None:
        loader._helper = KeptHelper()
    sent = loader.copy_for_process(start)
    started, sent.cursor = sent.cursor, Cursor(loader.epochs)
    batches = batches_of_helper(
        loader._helper,
        sent,
        started,
        lambda values: iteration.pipeline.copied(values, metrics),
        metrics,
        lambda at: cursor.move(iteration.number, at),
        lambda at: cursor.finish(iteration.number, at),
    )
    step = start.position // loader.global_batch_size
    yield from iteration.with_bar(batches, "loading", step, total)
