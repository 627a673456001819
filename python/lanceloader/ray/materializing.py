"""``materialize``: writes rows as a new table, whose fragments are written by tasks."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanceloader._extras import need
from lanceloader.errors import StorageError
from lanceloader.materialize import (
    StoppableBatches,
    as_stored,
    staging,
    without_file_scheme,
)
from lanceloader.monitor.progress import check_bar, reported
from lanceloader.ray.batches import arrow_batches, cut, has_functions, row_bytes_of
from lanceloader.ray.cleaning import remove_unused, unused_files
from lanceloader.ray.nodes import POLL_SECONDS, RETRIES, as_completed, task_count
from lanceloader.ray.passes import Passes, in_order
from lanceloader.ray.reading import check_permutation
from lanceloader.ray.recipe import Recipe, credentials_hint
from lanceloader.ray.stopping import Stop
from lanceloader.ray.tables import Place, data_files
from lanceloader.sources.secrets import travelling, without_secrets
from lanceloader.verbs.materializing import cast_to
from lanceloader.verbs.reading import FUNCTION_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

    from lanceloader._permutation import Permutation
    from lanceloader._typing import Progress, StorageOptions

__all__ = ["materialize"]

LEAST_BYTES, MOST_BYTES = 32 << 20, 1 << 30
"""The minimum and maximum bytes of rows per task, if there are as many."""

BUFFER_BYTES, COLUMN_BYTES = 256 << 20, 8 << 20
"""The maximum bytes that a task buffers to write pages, of all columns and of one."""


def materialize(
    perm: Permutation,
    uri: str | os.PathLike[str],
    *,
    storage_options: StorageOptions | None = None,
    send_credentials: bool = False,
    num_tasks: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the rows of a permutation as a new Lance table, in tasks on all nodes.

    ``perm.materialize(uri, engine="ray")`` calls this, and returns a permutation of the new table.

    Each task reads the rows at its positions and writes them as fragments. The driver commits all
    fragments as a table at once. Tasks that die are started again. A folder must be on storage that
    all nodes share.

    Args:
        perm: The permutation.
        uri: The path or URI of the new table.
        storage_options: Options of the object store of a URI, for the driver and for tasks.
        send_credentials: Whether tasks get the credentials among these options and those of the
            table that is read. Otherwise, every node needs its own.
        num_tasks: The number of tasks; by default several for each CPU, of 32 MiB to 1 GiB of rows each.
        progress: As for ``Permutation.materialize``; moves when a task is done.

    Raises:
        FileExistsError: If ``uri`` exists.
        ImportError: If Ray or pylance is not installed.
        StorageError: If nodes do not share the folder.

    Example:
        >>> lanceloader.ray.materialize(perm.shuffle(7), "s3://b/new.lance")  # doctest: +SKIP
    """
    need("ray", "lanceloader.ray")
    need("lance", 'materialize(engine="ray")', "ray")
    check_permutation(perm)
    check_bar(progress)
    address = without_file_scheme(os.fspath(uri))
    writing = Writing(perm, storage_options, send_credentials=send_credentials)
    if num_tasks is None:
        sizes = row_bytes_of(perm), LEAST_BYTES, MOST_BYTES
        num_tasks = task_count(perm.num_rows, *sizes)
    plan = Plan(
        writing, Passes.of(perm, writing.recipe, num_tasks, writing.stop), progress
    )
    plan.ranges = cut(perm, num_tasks) if plan.passes is None else plan.passes.buckets
    if "://" in address:
        write_remotely(plan, Place(address, storage_options))
    else:
        write_locally(plan, Path(os.path.abspath(address)))  # noqa: PTH100


@dataclass
class Plan:
    """How a table is written.

    Attributes:
        writing: The part of the plan that all tasks get.
        passes: The passes that first bring the rows into order, if tasks do not read them in order.
        progress: As for ``materialize``.
        ranges: The positions that each task writes.
    """

    writing: Writing
    passes: Passes | None
    progress: Progress | None
    ranges: list[range] = field(default_factory=list)


class Writing:
    """The part of a plan that tasks get: the rows, their schema in the table, and storage options."""

    def __init__(
        self,
        perm: Permutation,
        storage_options: StorageOptions | None,
        *,
        send_credentials: bool,
    ) -> None:
        """Compute the schema, from the first rows if functions make the rows."""
        schema = perm.schema
        if has_functions(perm) and perm.num_rows:
            first = next(arrow_batches(perm, range(min(FUNCTION_ROWS, perm.num_rows))))
            schema = first.schema
        self.stop = Stop()
        self.read_schema = schema
        self.schema: pa.Schema = as_stored(schema, iter(()))[0]
        self.recipe = Recipe.of(perm, send_credentials=send_credentials)
        with travelling(is_allowed=send_credentials):
            self.storage_options = without_secrets(storage_options or {})

    def fragments(self, uri: str, positions: range, *pieces: Any) -> list[Any]:
        """Write the rows at some positions, and return their fragments.

        Args:
            uri: The path or URI of the table.
            positions: The positions.
            *pieces: The rows at the positions, if other tasks have read them.
        """
        import pyarrow as pa

        with credentials_hint():
            batches = (
                in_order(pieces)
                if pieces
                else arrow_batches(self.recipe.open(), positions)
            )
            batches = cast_to(self.read_schema, self.stop.before_each(batches))
            schema, batches = as_stored(self.read_schema, batches)
            failures: list[BaseException] = []
            source = StoppableBatches(batches, failures)
            reader = pa.RecordBatchReader.from_batches(schema, source)
            fragment = importlib.import_module("lance.fragment")
            try:
                written: list[Any] = fragment.write_fragments(
                    reader,
                    uri,
                    schema=schema,
                    mode="create",
                    data_cache_bytes=min(BUFFER_BYTES, len(schema) * COLUMN_BYTES),
                    storage_options=self.storage_options or None,
                )
            except Exception:
                if failures:
                    # Arrow's stream has replaced the exception by another one.
                    raise failures[0] from None
                raise
        return written


def write_in_tasks(plan: Plan, place: Place) -> list[Any]:
    """Write all ranges in tasks, and return their fragments in the order of the ranges."""
    import ray

    remote: Any = ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD")
    task = remote(Writing.fragments)
    shared, ranges = ray.put(plan.writing), plan.ranges
    pieces = plan.passes.deal(plan.progress) if plan.passes else repeat(())
    numbers = {
        task.remote(shared, place.uri, rows, *given): at
        for at, (rows, given) in enumerate(zip(ranges, pieces, strict=False))
    }
    found: dict[int, list[Any]] = {}
    done, total = 0, sum(map(len, ranges))
    try:
        with reported("writing", plan.progress, unit=" rows") as report:
            report(0, total)
            for each, fragments in as_completed(numbers):
                found[numbers[each]] = fragments
                done += len(ranges[numbers[each]])
                report(done, total)
    except BaseException:
        plan.writing.stop.set()
        pending = [each for each, at in numbers.items() if at not in found]
        written = [*found.values(), *results_of_stopped(pending)]
        place.remove(data_files([each for part in written for each in part]))
        raise
    return [fragment for at in range(len(ranges)) for fragment in found[at]]


def results_of_stopped(tasks: list[Any]) -> list[list[Any]]:
    """Wait for tasks that were told to stop, and return the results of those that succeeded."""
    import ray

    results = []
    done, _ = (
        ray.wait(tasks, num_returns=len(tasks), timeout=POLL_SECONDS)
        if tasks
        else ([], [])
    )
    for task in done:
        # The other tasks have failed, or have stopped.
        with contextlib.suppress(ray.exceptions.RayError):
            results.append(ray.get(task))
    return results


def write_locally(plan: Plan, target: Path) -> None:
    """Write to a folder beside the table, then rename it.

    Raises:
        FileExistsError: If ``target`` exists, or another process writes it.
        StorageError: If files that tasks wrote are missing.
    """
    if target.exists():
        message = f"{target} exists already; pass the path of a new table"
        raise FileExistsError(message)
    with staging(target) as folder:
        place = Place(str(folder / f"{target.stem}.lance"), None)
        fragments = write_in_tasks(plan, place)
        missing = place.missing(fragments)
        if missing:
            message = (
                f"{len(missing)} files that tasks wrote are not in {target.parent}: nodes must share "
                "this folder; pass a path on a shared file system, or the URI of an object store"
            )
            raise StorageError(message)
        remove_unused(place, fragments)
        place.commit(plan.writing.schema, fragments)
        if target.exists():
            message = f"{target} was created by another process in the meantime"
            raise FileExistsError(message)
        Path(place.uri).rename(target)


def write_remotely(plan: Plan, place: Place) -> None:
    """Write to an object store, where the table exists once its manifest does.

    Raises:
        FileExistsError: If the table exists already.
    """
    before = place.files()
    if place.is_table(before):
        message = f"{place.uri} exists already; pass the address of a new table"
        raise FileExistsError(message)
    fragments = write_in_tasks(plan, place)
    # Another process that writes the same table will find this one, and fail.
    place.remove(set(unused_files(place, fragments)) - set(before))
    place.commit(plan.writing.schema, fragments)
