"""The option ``pad`` of the dict formats: which columns of lists are padded, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from lanceloader.formats._columns import paths_in
from lanceloader.formats.ragged import Side
from lanceloader.sql import missing_column

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

__all__ = ["check_pad", "padding_in", "padding_of"]

ARGUMENTS = ("value", "side", "length", "multiple_of", "mask")


def padding_of(pad: Any, path: str) -> dict[str, Any] | None:
    """Return how a column is padded, as arguments of ``Ragged.padded``; ``None`` if it is not.

    Args:
        pad: The option: one value for all columns of lists, or a dict by column of values or
            of dicts of arguments.
        path: The dotted path of the column.
    """
    if isinstance(pad, Mapping):
        if path not in pad:
            return None
        pad = pad[path]
    if pad is None:
        return None
    return dict(pad) if isinstance(pad, Mapping) else {"value": pad}


def check_pad(pad: Any, schema: pa.Schema) -> None:
    """Check the option ``pad`` of a format.

    Raises:
        ColumnNotFoundError: If a column does not exist. The message lists the closest names.
        ValueError: If a column has no lists, or an argument is unknown or wrong.
    """
    if not isinstance(pad, Mapping):
        return
    fields = dict(fields_in(schema))
    for name in pad:
        if name not in fields:
            message = f"`pad` names the column {name!r}, which does not exist"
            raise missing_column(message, str(name), list(fields))
        kind = fields[name].type
        if not hasattr(kind, "value_field") or hasattr(kind, "list_size"):
            message = (
                f"`pad` names the column {name!r} of type {kind}, which has no lists of different "
                "lengths: leave it out"
            )
            raise ValueError(message)
        check_arguments(name, padding_of(pad, name) or {"value": 0}, schema.names)


def check_arguments(name: str, arguments: dict[str, Any], columns: list[str]) -> None:
    """Check how one column is padded.

    Raises:
        ValueError: If an argument is unknown or wrong.
    """
    unknown = [argument for argument in arguments if argument not in ARGUMENTS]
    if unknown or "value" not in arguments:
        known = ", ".join(f'"{argument}"' for argument in ARGUMENTS)
        message = (
            f'`pad` of column {name!r} must be a value, or a dict with "value" and some of {known}, '
            f"got {arguments!r}"
        )
        raise ValueError(message)
    side = arguments.get("side", "right")
    if side not in get_args(Side):
        message = (
            f'`pad` of column {name!r}: "side" must be "right" or "left", got {side!r}'
        )
        raise ValueError(message)
    if arguments.get("mask") in columns:
        message = (
            f'`pad` of column {name!r}: "mask" is {arguments["mask"]!r}, the name of a column: '
            "pass another name"
        )
        raise ValueError(message)


def fields_in(schema: pa.Schema) -> Iterator[tuple[str, pa.Field]]:
    """Yield all fields with their dotted paths, those of structs too."""
    for top in schema:
        for path in paths_in(top):
            field = top
            names = path[len(top.name) + 1 :]
            while names:
                (field,) = (
                    child
                    for child in field.type
                    if names == child.name or names.startswith(f"{child.name}.")
                )
                names = names[len(field.name) + 1 :]
            yield path, field


def padding_in(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how columns are padded by a format with these options."""
    pad = options.get("pad")
    each = pad.values() if isinstance(pad, Mapping) else [pad]
    found = (padding_of(one, "") for one in [{"": value} for value in each])
    return [padding for padding in found if padding is not None]
