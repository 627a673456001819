"""The options of ``loader()``: their types and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from lanceloader.stages.transform import UNSET

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import SupportsIndex

    from lanceloader._typing import Format, LongRows, Nulls, Read, Size, Tail
    from lanceloader.stages.transform import OnError

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
    rank: SupportsIndex | None
    world_size: SupportsIndex | None
    mesh: Any
    tail: Tail
    format: Format | None
    nulls: Nulls | None
    fill_value: Any
    transform: Callable[[Any], Any] | None
    transform_threads: SupportsIndex | None
    transform_timeout: float | None
    on_error: OnError
    error_value: Any
    repair: Callable[[Exception, Any], Any] | None
    collate: Callable[[Any], Any] | None
    pin_memory: bool
    device: Any
    in_process: bool
    read: Read | None
    memory_limit: Size | None
    cache_dir: str | os.PathLike[str] | None
    threads: int | None
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
    "rank": None,
    "world_size": None,
    "mesh": None,
    "tail": "pad",
    "format": None,
    "nulls": None,
    "fill_value": None,
    "transform": None,
    "transform_threads": None,
    "transform_timeout": None,
    "on_error": "raise",
    "error_value": UNSET,
    "repair": None,
    "collate": None,
    "pin_memory": False,
    "device": None,
    "in_process": True,
    "read": None,
    "memory_limit": None,
    "cache_dir": None,
    "threads": None,
    "progress": None,
}
"""The default of each option."""


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

    Raises:
        TypeError: If an option is unknown.
    """
    unknown = options.keys() - DEFAULTS.keys()
    if unknown:
        message = (
            f"loader() got an unexpected keyword argument {min(unknown)!r}; it takes "
            f"{', '.join(DEFAULTS)}"
        )
        raise TypeError(message)
    found: LoaderOptions = {**DEFAULTS, **options}
    check_flags(found)
    return found


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
