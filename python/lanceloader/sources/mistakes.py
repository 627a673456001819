"""What to pass in place of objects, addresses and options that are often passed by mistake."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["check_scheme", "table_from", "warn_of_misspelt"]

OTHER_SCHEMES = {
    "s3a": "write s3:// instead of s3a://",
    "s3n": "write s3:// instead of s3n://",
    "gcs": "write gs:// instead of gcs://",
    "http": "pass the s3://, gs:// or az:// address of the table; the address of the service is the "
    "storage option `aws_endpoint`",
}
OTHER_SCHEMES["https"] = OTHER_SCHEMES["http"]
"""Schemes of addresses that Lance does not read, and what to write instead."""

REPOSITORY = re.compile(r"hf://(dataset|model|space|bucket)s?/[^/]+/[^/]+.*")
"""The beginning of an address at Hugging Face, as Lance reads it."""

S3_OPTIONS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint",
    "allow_http",
    "skip_signature",
    "timeout",
    "connect_timeout",
)
"""The options of S3 that a misspelt name is compared with, without the prefix ``aws_``."""

NEAR = 0.8
"""How similar two names are, from 0 to 1, if one of them is taken for a misspelling."""


def table_from(value: Any) -> str:
    """Return the end of a message about an object that is not a table: what to pass instead."""
    if isinstance(value, Mapping):
        return ": pass pyarrow.table(data)"
    if isinstance(value, Iterator):
        return ": pass pyarrow.Table.from_pylist(list(rows)) for dicts of rows"
    if isinstance(value, Sequence):
        return ": pass pyarrow.Table.from_pylist(rows) for dicts of rows"
    if hasattr(value, "open_table"):
        return ": pass connection.open_table(name)"
    if hasattr(value, "__array__"):
        return ': pass pyarrow.table({"x": values}) with a column for each array'
    return ""


def check_scheme(uri: str) -> None:
    """Check the scheme of the address of a table.

    Raises:
        ValueError: If Lance does not read such addresses.
    """
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.lower() in OTHER_SCHEMES:
        message = (
            f"{uri} is not an address of a Lance table: {OTHER_SCHEMES[scheme.lower()]}"
        )
        raise ValueError(message)
    if scheme == "hf" and not REPOSITORY.fullmatch(uri):
        message = (
            f"{uri} is not an address of a Lance table: write hf://datasets/owner/name/table.lance, or "
            "models, spaces or buckets in place of datasets"
        )
        raise ValueError(message)


def warn_of_misspelt(options: Iterable[str]) -> None:
    """Warn of names of storage options that are nearly those of options of S3."""
    for name in options:
        bare = name.lower().removeprefix("aws_")
        near = difflib.get_close_matches(bare, S3_OPTIONS, n=1, cutoff=NEAR)
        if near and near[0] != bare:
            prefix = "aws_" if name.lower().startswith("aws_") else ""
            message = (
                f"`storage_options` has an unknown option {name!r}, which is ignored: did you mean "
                f"{prefix + near[0]!r}?"
            )
            warnings.warn(message, stacklevel=2)
