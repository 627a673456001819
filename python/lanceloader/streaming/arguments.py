"""The arguments of ``StreamingDataset``: what they may be, in the order they are checked."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader.errors import BoundsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lanceloader._typing import Tail

# Seed of an epoch: shuffle_seed + epoch * _EPOCH_PRIME.
_EPOCH_PRIME = 100003

DEFAULT_READ_BATCH_SIZE = 64
DEFAULT_PREFETCH_BATCHES = 4

MOST_SPLITS = 2**20
"""Each split costs memory in every process."""

TAILS = "pad", "drop", "uneven"

# No fill value was given; None is one.
UNSET: Any = object()


@dataclass(frozen=True)
class Filling:
    """What stands in for a row whose transform failed."""

    value: Any = None
    repair: Callable[[Exception, pa.RecordBatch], Any] | None = None


def check_topology(
    num_splits: int, rank: int, world_size: int, tail: Tail | None
) -> None:
    """Check that splits go around.

    Raises:
        ValueError: If they do not, there is no such rank, or ``tail`` is not known.
        ZeroDivisionError: If there are no ranks.
    """
    for name, value in {
        "num_splits": num_splits,
        "rank": rank,
        "world_size": world_size,
    }.items():
        check_whole(name, value)
    if world_size == 0:
        raise ZeroDivisionError("world_size 0: wanted at least 1 rank")
    if tail not in (None, *TAILS):
        message = f"tail {tail!r}: wanted one of {', '.join(map(repr, TAILS))}, or None"
        raise ValueError(message)
    if tail is None and num_splits % world_size != 0:
        message = (
            f"num_splits ({num_splits}) must be divisible by world_size ({world_size})"
        )
        raise ValueError(message)
    if not 0 <= rank < world_size:
        message = (
            f"No rows found for rank {rank}: `rank` must be from 0 to {world_size - 1} with "
            f"world_size={world_size}"
        )
        raise BoundsError(message)
    if not 1 <= num_splits <= MOST_SPLITS:
        message = (
            f"`num_splits` must be from 1 to {MOST_SPLITS:,}, got {num_splits}; a number with many "
            "divisors, such as 48 or 720, leaves the choice of ranks and workers open"
        )
        raise ValueError(message)


def check_whole(name: str, value: Any) -> None:
    """Check a whole number.

    Raises:
        TypeError: If it is none.
    """
    try:
        operator.index(value)
    except TypeError:
        message = f"`{name}` must be a whole number, got {value!r}"
        raise TypeError(message) from None


def check_positive(name: str, value: int | None) -> None:
    """Check a count that may be left out.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is 0 or less.
    """
    if value is None:
        return
    check_whole(name, value)
    if value <= 0:
        message = f"{name} must be greater than 0"
        raise ValueError(message)


def check_required(name: str, value: int) -> None:
    """Check a count.

    Raises:
        TypeError: If it is left out.
        ValueError: If it is 0 or less.
    """
    if value is None:
        message = f"{name} None: wanted a number greater than 0"
        raise TypeError(message)
    check_positive(name, value)


def check_packing(
    *,
    num_splits: int,
    pack_sequences: int | None,
    eos_id: int | None,
    pad_id: int | None,
    blocks_per_epoch: int | str | None,
    transform: Any,
    columns: list[str] | None,
    schema: Callable[[], pa.Schema],
) -> None:
    """Check the arguments of packing.

    Raises:
        ValueError: If one is missing or wrong, or the column holds no tokens.
        KeyError: If there is no such column.
    """
    if pack_sequences is None:
        if blocks_per_epoch is not None:
            raise ValueError("blocks_per_epoch requires pack_sequences")
        return
    check_positive("pack_sequences", pack_sequences)
    needed = {
        "eos_id": eos_id,
        "pad_id": pad_id,
        "blocks_per_epoch": blocks_per_epoch,
    }
    for name, value in needed.items():
        if value is None:
            message = f"{name} is required when pack_sequences is set"
            raise ValueError(message)
    check_blocks(blocks_per_epoch, num_splits)
    if transform is not None:
        raise ValueError("transform cannot be combined with pack_sequences")
    for name, token in (("eos_id", eos_id), ("pad_id", pad_id)):
        if isinstance(token, int) and not -(2**63) <= token < 2**63:
            message = f"{name} {token}: wanted a token of 64 bits with sign"
            raise ValueError(message)
    if columns is None or len(columns) != 1:
        raise ValueError(
            "pack_sequences requires columns to name exactly one list-typed column of "
            "token ids"
        )
    check_tokens(schema().field(columns[0]))


def check_blocks(blocks: Any, num_splits: int) -> None:
    """Check the blocks of an epoch.

    Raises:
        ValueError: If they are no number above 0 that the splits divide, nor "auto".
    """
    if blocks == "auto":
        return
    if not isinstance(blocks, int) or isinstance(blocks, bool):
        raise ValueError("blocks_per_epoch must be a positive integer or 'auto'")
    check_positive("blocks_per_epoch", blocks)
    if blocks % num_splits != 0:
        message = f"blocks_per_epoch ({blocks}) must be divisible by num_splits ({num_splits})"
        raise ValueError(message)


def check_tokens(field: pa.Field) -> None:
    """Check that a column holds lists of whole numbers.

    Raises:
        ValueError: If it does not.
    """
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(is_kind(field.type) for is_kind in kinds):
        message = (
            f"pack_sequences requires a list-typed token column; {field.name} has type "
            f"{field.type}"
        )
        raise ValueError(message)
    if not pa.types.is_integer(field.type.value_type):
        message = (
            "pack_sequences requires a token column with integer values; "
            f"{field.name} has value type {field.type.value_type}"
        )
        raise ValueError(message)


def check_errors(on_transform_error: Any, fill_value: Any, repair: Any) -> Filling:
    """Check what is to become of rows whose transform fails.

    Raises:
        ValueError: If there is no such policy, or it does not fit what stands in.
    """
    known = "raise", "skip", "warn", "fill"
    if not callable(on_transform_error) and on_transform_error not in known:
        message = (
            "on_transform_error must be 'raise', 'skip', 'warn', 'fill', or a callable, "
            f"got {on_transform_error!r}"
        )
        raise ValueError(message)
    given = (fill_value is not UNSET) + (repair is not None)
    if isinstance(on_transform_error, str) and on_transform_error == "fill":
        if given != 1:
            raise ValueError(
                "on_transform_error='fill' requires exactly one of fill_value and repair"
            )
        if repair is not None and not callable(repair):
            message = (
                f"repair {repair!r}: wanted a function of an exception and a batch"
            )
            raise ValueError(message)
    elif given:
        raise ValueError("fill_value and repair require on_transform_error='fill'")
    return Filling(None if fill_value is UNSET else fill_value, repair)


def check_tail(tail: Tail | None, on_transform_error: Any, pack_sequences: Any) -> None:
    """Check what does not go with ``tail``.

    Raises:
        ValueError: If rows may vanish, or are packed.
    """
    if tail is None:
        return
    if pack_sequences is not None:
        raise ValueError("tail cannot be combined with pack_sequences")
    is_kept = isinstance(on_transform_error, str) and on_transform_error in (
        "raise",
        "fill",
    )
    if not is_kept:
        message = (
            f"tail={tail!r} with on_transform_error={on_transform_error!r}: wanted 'raise' or "
            "'fill', which keep the ranks in step"
        )
        raise ValueError(message)
