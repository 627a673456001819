"""``make_loader``: from options to a ``Loader``, of rows, packed documents or a mixture alike."""

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
    """What a loader can be made of."""

    @property
    def batch_size(self) -> int:
        """The rows of a batch where options give no number."""

    @property
    def transform_fn(self) -> Transform:
        """The function that converts a batch to its format."""

    @property
    def is_shard(self) -> bool:
        """Whether this is the part of one rank already."""

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
        """Return what is batched.

        Raises:
            ValueError: If the options do not fit this source.
        """


def make_loader(source: LoaderSource, options: LoaderOptions) -> Loader[Any]:
    """Return a loader of ``source``; see ``Permutation.loader`` for the options.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If options exclude each other.
    """
    given = with_defaults(options)
    source = prepared(source, given)
    world = world_of(source, given)
    units_first = given["batch_tokens"] is not None
    if units_first and given["global_batch_size"] is not None:
        raise ValueError(
            "`batch_tokens` and `global_batch_size` exclude each other: pass one of them"
        )
    pipeline = pipeline_of(source, given)
    units = source.make_units(given, by_column=pipeline.by_row)
    batch_size = given["batch_size"]
    if units_first:
        # Units are whole batches, and `batch_size` limits their rows.
        batch_size = 1
    elif batch_size is None and given["global_batch_size"] is None:
        batch_size = source.batch_size
    steps = StepOptions.of(
        batch_size,
        given["global_batch_size"],
        given["drop_last"],
        given["tail"],
        given["epochs"],
        world,
    )
    return Loader(
        units,
        steps,
        pipeline,
        progress=given["progress"],
        in_process=given["in_process"],
    )


def prepared(source: LoaderSource, given: LoaderOptions) -> LoaderSource:
    """Return the source shuffled, in its format, and read as the options say."""
    seed, nulls, fill_value = given["seed"], given["nulls"], given["fill_value"]
    if seed is not None and not given["shuffle"]:
        message = (
            f"`seed`={seed!r} has no effect without a shuffle: pass shuffle=True, too"
        )
        raise ValueError(message)
    if given["shuffle"]:
        source = source.shuffle(seed)
    if given["format"] is not None:
        source = source.with_format(given["format"], nulls=nulls, fill_value=fill_value)
    elif nulls is not None or fill_value is not None:
        raise ValueError(
            "`nulls` and `fill_value` are options of a format: pass `format`, too"
        )
    return source.with_read_options(
        ReadOptions.of(
            given["read"],
            given["memory_limit"],
            given["cache_dir"],
            given["threads"],
        )
    )


def world_of(source: LoaderSource, given: LoaderOptions) -> World | None:
    """Return the rank, or ``None`` to ask ``torch.distributed`` whenever it is needed."""
    world = World.of(given["rank"], given["world_size"], given["mesh"])
    if world is None and source.is_shard:
        world = World()
    ranks = (world or World.found()).world_size
    if given["shuffle"] and given["seed"] is None and ranks > 1:
        message = (
            f"shuffle=True without a seed on {ranks} ranks: each would shuffle in its own order; "
            "pass the same `seed` on all of them"
        )
        raise ValueError(message)
    return world


def pipeline_of(source: LoaderSource, given: LoaderOptions) -> BatchPipeline:
    """Return the stages of a batch."""
    on_error = given["on_error"]
    pipeline = BatchPipeline.of(
        given["transform"],
        given["transform_threads"],
        ErrorPolicy(on_error, given["error_value"], given["repair"]),
        given["transform_timeout"],
        given["collate"],
        pin_memory=given["pin_memory"],
        device=given["device"],
    )
    if pipeline.by_row and is_format(source.transform_fn, "torch_col"):
        message = (
            f"`on_error`={on_error!r} needs batches that can be split into rows, unlike those of "
            'format "torch_col": pass another format, such as "torch_dict"'
        )
        raise ValueError(message)
    return pipeline
