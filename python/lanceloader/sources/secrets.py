"""Credentials in pickles.

As with ``multiprocessing``'s authentication keys, only the pickles that are sent to a child
process which is being spawned may hold credentials. Any other pickle may be stored or sent away.
"""

from __future__ import annotations

import multiprocessing.context
from typing import Any

__all__ = ["may_travel", "without_secrets"]

SECRETS = (
    "key",
    "secret",
    "token",
    "password",
    "credential",
    "sas",
    "signature",
    "header",
    "authorization",
    "proxy_url",
)
"""Parts of the names of options that hold credentials."""

PUBLIC = ("skip_signature",)
"""Ends of the names of options that match ``SECRETS`` but hold no credentials."""


def is_secret(name: str) -> bool:
    """Return whether the option of this name may hold a credential."""
    return not name.endswith(PUBLIC) and any(secret in name for secret in SECRETS)


def may_travel() -> bool:
    """Return whether the current pickle goes to a child process that is being spawned."""
    return multiprocessing.context.get_spawning_popen() is not None


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Remove credentials from (nested) options unless ``may_travel``."""
    if may_travel():
        return options
    return {
        name: without_secrets(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not is_secret(name.lower())
    }
