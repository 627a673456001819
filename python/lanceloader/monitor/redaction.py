"""Replaces credentials in printed text and in reports."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["remember", "without_secrets"]

# Storage options whose values may appear in logs.
_HARMLESS = re.compile(
    "region|endpoint|host_override|allow_http|timeout|virtual_hosted|skip_signature|retries|retry"
)
_SECRET_VARIABLE = re.compile("SECRET|TOKEN|PASSWORD|_KEY|SAS|CREDENTIAL")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(
    r"([?&](?:sig|signature|token|key|password|x-amz-[a-z-]+)=)[^&\s]+", re.IGNORECASE
)
_LEAST_LENGTH = 4

_values: set[str] = set()


def remember(options: Mapping[str, str]) -> None:
    """Replace the values of storage options in all text that is printed from now on."""
    _values.update(
        value
        for name, value in options.items()
        if len(value) >= _LEAST_LENGTH and not _HARMLESS.search(name.lower())
    )


def without_secrets(text: str) -> str:
    """Replace credentials in a text."""
    variables = {
        value
        for name, value in os.environ.items()
        # Paths are not credentials, and an error must name the path that was not found.
        if _SECRET_VARIABLE.search(name)
        and len(value) >= 2 * _LEAST_LENGTH
        and "/" not in value[:1]
    }
    for value in sorted(_values | variables, key=len, reverse=True):
        text = text.replace(value, "***")
    return _QUERY.sub(r"\1***", _USER_IN_URL.sub("***@", text))
