"""The options of ``loader()``: their types and defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict, cast

from lanceloader.hints import unexpected
from lanceloader.loader.groups import ErrorOptions, RankOptions
from lanceloader.loader.hints import INSTEAD_OF
from lanceloader.options import ReadOptions
from lanceloader.stages.error_policy import UNSET

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import SupportsIndex

    from lanceloader._typing import Format, LongRows, Nulls, Pad, Read, Size, Tail
    from lanceloader.images import ImageOptions
    from lanceloader.stages.error_policy import OnError

__all__ = [
    "DEFAULTS",
    "LoaderOptions",
    "LoaderOptionsAfterSize",
    "check_no_token_budget",
    "with_defaults",
]


class LoaderOptionsAfterSize(TypedDict, total=False):
    """The options of ``Permutation.loader`` except ``batch_size``; see there for their meanings."""

    global_batch_size: SupportsIndex | None
    batch_tokens: SupportsIndex | None
    length: str | None
    padded: bool
    bucket_rows: SupportsIndex
    long: LongRows
    drop_last: bool
    shuffle: bool
    seed: SupportsIndex | None
    epochs: SupportsIndex | None
    sampler: Iterable[SupportsIndex] | None
    batch_sampler: Iterable[Sequence[SupportsIndex]] | None
    rank: SupportsIndex | None
    world_size: SupportsIndex | None
    mesh: Any
    tail: Tail
    ranks: RankOptions | None
    format: Format | None
    nulls: Nulls | None
    fill_value: Any
    pad: Pad | None
    decode: Mapping[str, ImageOptions] | None
    transform: Callable[[Any], Any] | None
    transform_threads: SupportsIndex | None
    transform_timeout: float | None
    on_error: OnError
    error_value: Any
    repair: Callable[[Exception, Any], Any] | None
    errors: ErrorOptions | None
    collate: Callable[[Any], Any] | None
    pin_memory: bool
    device: Any
    in_process: bool
    read: Read | None
    memory_limit: Size | None
    cache_dir: str | os.PathLike[str] | None
    threads: int | None
    reading: ReadOptions | None
    progress: bool | None


class LoaderOptions(LoaderOptionsAfterSize, total=False):
    """The options of ``Permutation.loader``.

    For functions that forward options: ``def train(perm, **options: Unpack[LoaderOptions])``.
    """

    batch_size: SupportsIndex | None


DEFAULTS: LoaderOptions = {
    "batch_size": None,
    "global_batch_size": None,
    "batch_tokens": None,
    "length": None,
    "padded": True,
    "bucket_rows": 8192,
    "long": "alone",
    "drop_last": False,
    "shuffle": False,
    "seed": None,
    "epochs": 1,
    "sampler": None,
    "batch_sampler": None,
    "rank": None,
    "world_size": None,
    "mesh": None,
    "tail": "pad",
    "ranks": None,
    "format": None,
    "nulls": None,
    "fill_value": None,
    "pad": None,
    "decode": None,
    "transform": None,
    "transform_threads": None,
    "transform_timeout": None,
    "on_error": "raise",
    "error_value": UNSET,
    "repair": None,
    "errors": None,
    "collate": None,
    "pin_memory": False,
    "device": None,
    "in_process": True,
    "read": None,
    "memory_limit": None,
    "cache_dir": None,
    "threads": None,
    "reading": None,
    "progress": None,
}
"""The default of each option."""

GROUPS = {"reading": ReadOptions, "ranks": RankOptions, "errors": ErrorOptions}
"""The options that hold several others, and the types of their values."""


def check_flags(options: LoaderOptions) -> None:
    """Check that flags are booleans: ``"no"`` and 7 would be true.

    Raises:
        TypeError: If one is not.
    """
    for name in (
        "padded",
        "drop_last",
        "shuffle",
        "pin_memory",
        "in_process",
        "progress",
    ):
        value: Any = options[name]
        if name == "progress" and value is None:
            continue
        # NumPy has booleans of its own.
        if not isinstance(value, bool) and type(value).__name__ not in (
            "bool",
            "bool_",
        ):
            more = "; a seed is `seed`" if name == "shuffle" else ""
            message = f"`{name}` must be True or False, not {value!r}{more}"
            raise TypeError(message)


def with_defaults(options: LoaderOptions) -> LoaderOptions:
    """Return the options with the defaults of those that were not passed.

    Options of a group are among the others, and the group itself is ``None``.

    Raises:
        TypeError: If an option is unknown or of the wrong type.
        ValueError: If an option was passed both by itself and in a group.
    """
    unknown = options.keys() - DEFAULTS.keys()
    if unknown:
        raise unexpected(min(unknown), DEFAULTS, "loader", INSTEAD_OF)
    found: LoaderOptions = {**DEFAULTS, **options}
    check_flags(found)
    for name, kind in GROUPS.items():
        found = without_group(found, name, kind)
    return found


def without_group(options: LoaderOptions, group: str, kind: type[Any]) -> LoaderOptions:
    """Return the options with those of a group among the others.

    Raises:
        TypeError: If the group is of another type.
        ValueError: If an option was passed both by itself and in the group.
    """
    found: dict[str, Any] = {**options}
    given: Any = found[group]
    if given is None:
        return options
    if type(given) is not kind:
        message = (
            f"`{group}` must be a lanceloader.{kind.__name__}, not of type "
            f"{type(given).__name__}"
        )
        raise TypeError(message)
    found[group] = None
    defaults: dict[str, Any] = {**DEFAULTS}
    for field in fields(given):
        value, own, default = (
            getattr(given, field.name),
            found[field.name],
            defaults[field.name],
        )
        if value is field.default:
            continue
        # Values such as arrays do not compare to one truth value.
        if own is not default and not (isinstance(own, str) and own == default):
            message = (
                f"`{field.name}`={own!r} and `{group}`={given!r} both set `{field.name}`: pass it "
                "once"
            )
            raise ValueError(message)
        found[field.name] = value
    return cast("LoaderOptions", found)


def check_no_token_budget(options: LoaderOptions) -> None:
    """Check that no option of a token budget was passed.

    Raises:
        ValueError: If one was.
    """
    for name in ("length", "padded", "bucket_rows", "long"):
        value: Any = options[name]
        if value != DEFAULTS[name]:
            message = f"`{name}`={value!r} has no effect without a token budget: pass `batch_tokens`, too"
            raise ValueError(message)
