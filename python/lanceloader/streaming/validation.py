"""Validation of the arguments of ``StreamingDataset``, in the order in which LanceDB checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lanceloader._typing import Tail
from lanceloader.choices import check_choice
from lanceloader.errors import BoundsError
from lanceloader.numbers import whole_number
from lanceloader.stages.transform import UNSET, ErrorPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

# The seed of an epoch is shuffle_seed + epoch * _EPOCH_PRIME.
_EPOCH_PRIME = 100003

DEFAULT_READ_BATCH_SIZE = 64
DEFAULT_PREFETCH_BATCHES = 4

MOST_SPLITS = 2**20
"""Each split costs memory in every process."""


class RowErrorPolicy(ErrorPolicy):
    """What becomes of a row whose transform fails.

    Unlike the policy of ``Permutation.loader``, what is filled in is a row, not a batch of one.

    Raises:
        ValueError: If ``on_error`` is unknown, or ``error_value`` and ``repair`` do not fit it.
    """

    def __init__(
        self,
        on_error: str | Callable[[Exception], bool] = "raise",
        error_value: Any = UNSET,
        repair: Callable[[Exception, pa.RecordBatch], Any] | None = None,
    ) -> None:
        is_known = isinstance(on_error, str) and on_error in (
            *("raise", "skip", "warn", "fill"),
        )
        if not is_known and not callable(on_error):
            message = (
                "on_transform_error must be 'raise', 'skip', 'warn', 'fill', or a callable, "
                f"got {on_error!r}"
            )
            raise ValueError(message)
        num_given = (error_value is not UNSET) + (repair is not None)
        if isinstance(on_error, str) and on_error == "fill":
            if num_given != 1:
                message = (
                    "on_transform_error='fill' requires exactly one of fill_value and repair, "
                    f"got {'both' if num_given else 'neither'} (error_value is fill_value, too)"
                )
                raise ValueError(message)
            if repair is not None and not callable(repair):
                message = (
                    "repair must be a function of an exception and a batch of one row, got "
                    f"{repair!r}"
                )
                raise ValueError(message)
        elif num_given:
            message = (
                # In LanceDB's words, which programs may look for.
                "fill_value and repair require on_transform_error='fill', got "
                f"on_transform_error={on_error!r} (error_value is fill_value, too)"
            )
            raise ValueError(message)
        self.on_error: Any = on_error
        self.error_value = error_value
        self.repair = repair

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Version 0.1 pickled the value and the function only.
        if "value" in state:
            state = {"error_value": state["value"], "repair": state["repair"]}
        self.__dict__.update(state)

    @property
    def keeps_rows(self) -> bool:
        """Whether every row is yielded or raises, so that ranks stay in step."""
        return isinstance(self.on_error, str) and self.on_error in ("raise", "fill")

    @property
    def is_filling(self) -> bool:
        """Whether failed rows are replaced."""
        return isinstance(self.on_error, str) and self.on_error == "fill"


def one_of_names(error_value: Any, fill_value: Any) -> Any:
    """Return the value that was passed by either of its names, ours and LanceDB's.

    Raises:
        ValueError: If both were passed.
    """
    if error_value is not UNSET and fill_value is not UNSET:
        message = (
            f"error_value={error_value!r} and fill_value={fill_value!r} are two names of one "
            "argument: pass error_value only"
        )
        raise ValueError(message)
    return fill_value if error_value is UNSET else error_value


def check_topology(
    num_splits: int, rank: int, world_size: int, tail: Tail | None
) -> None:
    """Check that the splits divide among the ranks.

    Raises:
        ValueError: If they do not, ``rank`` is not below ``world_size``, or ``tail`` is unknown.
        ZeroDivisionError: If ``world_size`` is 0.
    """
    whole_number(num_splits, "num_splits")
    whole_number(rank, "rank")
    whole_number(world_size, "world_size")
    if world_size == 0:
        raise ZeroDivisionError("world_size must be at least 1, got 0")
    if tail is not None:
        check_choice("tail", tail, Tail)
    if tail is None and num_splits % world_size != 0:
        message = (
            f"num_splits ({num_splits}) must be divisible by world_size ({world_size}). Pass a "
            "multiple, or tail='pad', 'drop' or 'uneven'"
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
            f"`num_splits` must be from 1 to {MOST_SPLITS:,}, got {num_splits}. A number with "
            "many divisors, such as 48 or 720, fits many numbers of ranks and workers"
        )
        raise ValueError(message)


def check_positive(name: str, value: int | None) -> None:
    """Check that an argument is a positive whole number or ``None``.

    Raises:
        TypeError: If it is neither a whole number nor ``None``.
        ValueError: If it is 0 or less.
    """
    if value is not None:
        check_required(name, value)


def check_required(name: str, value: int) -> None:
    """Check that an argument is a positive whole number.

    Raises:
        TypeError: If it is not a whole number.
        ValueError: If it is 0 or less.
    """
    if whole_number(value, name) <= 0:
        message = f"{name} must be greater than 0, got {value}"
        raise ValueError(message)


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
        ValueError: If an argument is missing or wrong, or the column does not hold tokens.
        KeyError: If the column does not exist.
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
        raise ValueError(
            "transform cannot be combined with pack_sequences, which reads the token column "
            "itself"
        )
    for name, token in (("eos_id", eos_id), ("pad_id", pad_id)):
        if isinstance(token, int) and not -(2**63) <= token < 2**63:
            message = f"{name} must fit in a signed 64-bit integer, got {token}"
            raise ValueError(message)
    if columns is None or len(columns) != 1:
        message = (
            "pack_sequences requires columns to name exactly one list-typed column of token "
            f"ids, got {columns!r}"
        )
        raise ValueError(message)
    check_tokens(schema().field(columns[0]))


def check_blocks(blocks: Any, num_splits: int) -> None:
    """Check ``blocks_per_epoch``.

    Raises:
        ValueError: If it is neither "auto" nor a positive multiple of ``num_splits``.
    """
    if blocks == "auto":
        return
    if not isinstance(blocks, int) or isinstance(blocks, bool):
        message = (
            f"blocks_per_epoch must be a positive integer or 'auto', got {blocks!r}"
        )
        raise ValueError(message)
    check_positive("blocks_per_epoch", blocks)
    if blocks % num_splits != 0:
        message = f"blocks_per_epoch ({blocks}) must be divisible by num_splits ({num_splits})"
        raise ValueError(message)


def check_tokens(field: pa.Field) -> None:
    """Check that a column holds lists of integers.

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


def check_tail(tail: Tail | None, policy: RowErrorPolicy, pack_sequences: Any) -> None:
    """Check the arguments that ``tail`` does not support.

    Raises:
        ValueError: If rows may be skipped, or are packed.
    """
    if tail is None:
        return
    if pack_sequences is not None:
        raise ValueError(
            "tail cannot be combined with pack_sequences; set blocks_per_epoch instead"
        )
    if not policy.keeps_rows:
        message = (
            f"tail={tail!r} cannot be combined with on_transform_error={policy.on_error!r}, "
            "which may skip rows on one rank only. Pass 'raise' or 'fill'"
        )
        raise ValueError(message)
