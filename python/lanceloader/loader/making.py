"""``make_loader``: makes a ``Loader`` of rows, packed documents or a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from lanceloader.formats import is_format
from lanceloader.loader.loader import Loader
from lanceloader.loader.options import with_defaults
from lanceloader.loader.steps import StepOptions
from lanceloader.options import ReadOptions
from lanceloader.stages.pipeline import BatchPipeline
from lanceloader.stages.transform import ErrorPolicy
from lanceloader.world import World

if TYPE_CHECKING:
    from lanceloader._typing import Transform
    from lanceloader.loader.options import LoaderOptions
    from lanceloader.units.base import Units

__all__ = ["LoaderSource", "make_loader"]


class LoaderSource(Protocol):
    """A source of batches: a permutation, packed documents or a mixture."""

    @property
    def batch_size(self) -> int:
        """The default number of rows in a batch."""

    @property
    def transform_fn(self) -> Transform:
        """The function that converts a batch to its format."""

    @property
    def is_shard(self) -> bool:
        """Whether these are the rows of one rank already."""

    def shuffle(self, seed: Any = None) -> Self:
        """Return the source with its rows shuffled."""

    def with_format(
        self,
        format: Any,  # noqa: A002
        *,
        nulls: Any = None,
        fill_value: Any = None,
    ) -> Self:
        """Return the source in another format."""

    def with_read_options(self, options: ReadOptions) -> Self:
        """Return the source read with other options."""

    def make_units(self, options: LoaderOptions, *, by_column: bool) -> Units:
        """Return the units of a loader.

        Raises:
            ValueError: If an option does not apply to this source.
        """


def make_loader(source: LoaderSource, options: LoaderOptions) -> Loader[Any]:
    """Return a loader of ``source``; see ``Permutation.loader`` for the options.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If options exclude each other.
    """
    options = with_defaults(options)
    source = prepared(source, options)
    world = world_of(source, options)
    if world is not None and world.rank > 0:
        options = {**options, "progress": False}
    units_first = options["batch_tokens"] is not None
    if units_first and options["global_batch_size"] is not None:
        raise ValueError(
            "`batch_tokens` and `global_batch_size` exclude each other: pass one of them"
        )
    pipeline = pipeline_of(source, options)
    units = source.make_units(options, by_column=pipeline.by_row)
    batch_size = options["batch_size"]
    if units_first:
        # A unit is a whole batch, in which `batch_size` limits the rows.
        batch_size = 1
    elif batch_size is None and options["global_batch_size"] is None:
        batch_size = source.batch_size
    steps = StepOptions.of(
        batch_size,
        options["global_batch_size"],
        options["drop_last"],
        options["tail"],
        options["epochs"],
        world,
    )
    return Loader(
        units,
        steps,
        pipeline,
        progress=options["progress"],
        in_process=options["in_process"],
    )


def prepared(source: LoaderSource, options: LoaderOptions) -> LoaderSource:
    """Return the source with the order, format and read options of a loader.

    Raises:
        ValueError: If an option has no effect without another one.
    """
    seed, nulls, fill_value = options["seed"], options["nulls"], options["fill_value"]
    if seed is not None and not options["shuffle"]:
        message = (
            f"`seed`={seed!r} has no effect without a shuffle: pass shuffle=True, too"
        )
        raise ValueError(message)
    if options["shuffle"]:
        source = source.shuffle(seed)
    if options["format"] is not None:
        source = source.with_format(
            options["format"], nulls=nulls, fill_value=fill_value
        )
    elif nulls is not None or fill_value is not None:
        raise ValueError(
            "`nulls` and `fill_value` are options of a format: pass `format`, too"
        )
    return source.with_read_options(
        ReadOptions.of(
            options["read"],
            options["memory_limit"],
            options["cache_dir"],
            options["threads"],
        )
    )


def world_of(source: LoaderSource, options: LoaderOptions) -> World | None:
    """Return the rank, or ``None`` to ask ``torch.distributed`` when it is needed.

    Raises:
        ValueError: If several ranks would shuffle without a common seed.
    """
    world = World.of(options["rank"], options["world_size"], options["mesh"])
    if world is None and source.is_shard:
        world = World()
    ranks = (world or World.found()).world_size
    if options["shuffle"] and options["seed"] is None and ranks > 1:
        message = (
            f"shuffle=True needs a seed on {ranks} ranks, as each would choose another order "
            "otherwise: pass the same `seed` on all ranks"
        )
        raise ValueError(message)
    return world


def pipeline_of(source: LoaderSource, options: LoaderOptions) -> BatchPipeline:
    """Return the stages that process raw batches.

    Raises:
        ValueError: If options exclude each other.
    """
    on_error = options["on_error"]
    pipeline = BatchPipeline.of(
        options["transform"],
        options["transform_threads"],
        ErrorPolicy(on_error, options["error_value"], options["repair"]),
        options["transform_timeout"],
        options["collate"],
        pin_memory=options["pin_memory"],
        device=options["device"],
    )
    if pipeline.by_row and is_format(source.transform_fn, "torch_col"):
        message = (
            f"`on_error`={on_error!r} needs batches that can be split into rows, unlike those of "
            'format "torch_col": pass another format, such as "torch_dict"'
        )
        raise ValueError(message)
    return pipeline
