"""``make_loader``: makes a ``Loader`` of rows, packed documents or a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from lanceloader.formats import format_of, has_free_length, is_format
from lanceloader.formats.functions import decodes, draws, steps_of
from lanceloader.loader.loader import Loader
from lanceloader.loader.options import DEFAULTS, with_defaults
from lanceloader.loader.steps import StepOptions
from lanceloader.numbers import count
from lanceloader.options import ReadOptions
from lanceloader.randomness import takes_rng
from lanceloader.stages.error_policy import ErrorPolicy
from lanceloader.stages.pipeline import BatchPipeline, num_cpus
from lanceloader.units.draws import check_sampler, num_replicas_of
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

    def with_seed(self, seed: int) -> Self:
        """Return the source with another seed of random transforms, in the same order."""

    def with_format(
        self,
        format: Any,  # noqa: A002
        *,
        nulls: Any = None,
        fill_value: Any = None,
        pad: Any = None,
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
        ValueError: If options are mutually exclusive.
    """
    options = with_defaults(options)
    check_samplers(options)
    source = prepared(source, options)
    world = world_of(source, options)
    if world is not None and world.rank > 0:
        options = {**options, "progress": False}
    has_budget = options["batch_tokens"] is not None
    units_first = has_budget or options["batch_sampler"] is not None
    if has_budget and options["global_batch_size"] is not None:
        raise ValueError(
            "`batch_tokens` and `global_batch_size` are mutually exclusive: pass one of them"
        )
    pipeline = pipeline_of(source, options)
    units = source.make_units(options, by_column=pipeline.by_row)
    batch_size = options["batch_size"]
    if units_first:
        # A unit is a whole batch; under a budget `batch_size` limits its rows.
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
    seed = options["seed"]
    if options["decode"] is not None:
        source = with_decode(source, options["decode"])
    is_drawn = takes_rng(options["transform"]) or draws(source.transform_fn)
    nulls, fill_value, pad = options["nulls"], options["fill_value"], options["pad"]
    if seed is not None and not options["shuffle"] and not is_drawn:
        message = (
            f"`seed`={seed!r} has no effect without a shuffle, a random crop or a transform that takes `rng`: pass "
            "shuffle=True, too"
        )
        raise ValueError(message)
    if options["shuffle"]:
        source = source.shuffle(seed)
    elif seed is not None:
        source = source.with_seed(count(seed, "seed"))
    if options["format"] is not None:
        source = source.with_format(
            options["format"], nulls=nulls, fill_value=fill_value, pad=pad
        )
    elif nulls is not None or fill_value is not None or pad is not None:
        raise ValueError(
            "`nulls`, `fill_value` and `pad` are options of a format: pass `format`, too"
        )
    return source.with_read_options(
        ReadOptions(
            options["read"],
            options["memory_limit"],
            options["cache_dir"],
            options["threads"],
        )
    )


def with_decode(source: LoaderSource, decode: Any) -> LoaderSource:
    """Return the source with decoded columns.

    Raises:
        ValueError: If it is not a permutation.
    """
    verb = getattr(source, "with_decode", None)
    if verb is None:
        message = (
            f"`decode` is not supported for a {type(source).__name__}, only for permutations and "
            "mixtures: decode in `transform`"
        )
        raise ValueError(message)
    decoded: LoaderSource = verb(decode)
    return decoded


def world_of(source: LoaderSource, options: LoaderOptions) -> World | None:
    """Return the rank, or ``None`` to ask ``torch.distributed`` when it is needed.

    Raises:
        ValueError: If several ranks would shuffle without a common seed.
    """
    world = World.of(options["rank"], options["world_size"], options["mesh"])
    for name, sampler in (
        ("sampler", options["sampler"]),
        ("batch_sampler", options["batch_sampler"]),
    ):
        if sampler is not None:
            return world_of_sampler(sampler, name, world)
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


def world_of_sampler(sampler: Any, name: str, world: World | None) -> World:
    """Return the rank for a sampler, which may divide the rows among ranks by itself.

    Args:
        sampler: The sampler.
        name: The name of the option.
        world: The rank according to the other options, or ``None``.

    Raises:
        ValueError: If rows would be divided twice, or not at all although there are several ranks.
    """
    kind, replicas = type(sampler).__name__, num_replicas_of(sampler)
    if replicas > 1:
        if world is not None and world.world_size > 1:
            message = (
                f"`{name}` divides the rows among {replicas} ranks, and so would {world}: pass "
                f"only the {kind}, or leave it out and pass shuffle=True and a seed"
            )
            raise ValueError(message)
        return World()
    found = World.found().world_size
    if world is None and found > 1:
        message = (
            f"`{name}` is a {kind}, which does not divide rows among the {found} ranks of "
            "torch.distributed: pass a DistributedSampler; or `rank` and `world_size`, if it "
            "yields the same on all ranks; or world_size=1, if each rank gets all that it yields"
        )
        raise ValueError(message)
    return world or World()


def check_samplers(options: LoaderOptions) -> None:
    """Check a sampler, and that the other options fit it.

    Raises:
        TypeError: If it cannot be read once for each epoch.
        ValueError: If an option excludes it.
    """
    given = {name: value for name, value in options.items() if name in SAMPLERS}
    for name, excluded in SAMPLERS.items():
        if given[name] is None:
            continue
        check_sampler(given[name], name)
        values: dict[str, Any] = {**options}
        for other, reason in excluded.items():
            if other == "seed" and (
                takes_rng(options["transform"]) or options["decode"]
            ):
                continue
            if values[other] != DEFAULTS_OF_ALL[other]:
                message = (
                    f"`{name}` and `{other}`={values[other]!r} are mutually exclusive, as {reason}: "
                    "pass one of them"
                )
                raise ValueError(message)


_EXCLUDED = {
    "shuffle": "a sampler chooses the order",
    "seed": "a sampler chooses the order",
    "batch_tokens": "a token budget makes batches by length",
    "in_process": "a sampler is read in this process",
}
SAMPLERS = {
    "sampler": _EXCLUDED,
    "batch_sampler": _EXCLUDED
    | {
        "sampler": "both choose the order",
        "batch_size": "a batch sampler makes batches",
        "global_batch_size": "a batch sampler makes batches",
        "drop_last": "a batch sampler makes batches",
    },
}
"""The options that are samplers; those that exclude them, and why."""
DEFAULTS_OF_ALL: dict[str, Any] = {**DEFAULTS}


def pipeline_of(source: LoaderSource, options: LoaderOptions) -> BatchPipeline:
    """Return the stages that process raw batches.

    Raises:
        ValueError: If options are mutually exclusive.
    """
    on_error, threads = options["on_error"], options["transform_threads"]
    if threads is None and steps_of(source.transform_fn):
        threads = num_cpus()
    pipeline = BatchPipeline.of(
        options["transform"],
        threads,
        ErrorPolicy(on_error, options["error_value"], options["repair"]),
        options["transform_timeout"],
        options["collate"],
        pin_memory=options["pin_memory"],
        device=options["device"],
        decodes=decodes(source.transform_fn),
    )
    if pipeline.by_row and is_format(format_of(source.transform_fn), "torch_col"):
        message = (
            f"`on_error`={on_error!r} needs batches that can be split into rows, unlike those of "
            'format "torch_col": pass another format, such as "torch_dict"'
        )
        raise ValueError(message)
    if pipeline.by_row and has_free_length(source.transform_fn):
        message = (
            f"`on_error`={on_error!r} splits batches into rows, which `pad` would pad to different "
            'lengths: pass "length" in `pad`, or pad in `collate` with Ragged.padded()'
        )
        raise ValueError(message)
    return pipeline
