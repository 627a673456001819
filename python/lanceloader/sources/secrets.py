"""Credentials: which pickles may hold them.

As with ``multiprocessing``'s own authentication keys, a child that this process spawns may
know them; a pickle that is stored or sent elsewhere may not.
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


# Whether requests are signed at all.
PUBLIC = ("skip_signature",)


def is_secret(name: str) -> bool:
    """Whether the option of this name may hold a credential."""
    return not name.endswith(PUBLIC) and any(secret in name for secret in SECRETS)


def may_travel() -> bool:
    """Whether what is being pickled goes straight to a process that we start."""
    return multiprocessing.context.get_spawning_popen() is not None


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Leave credentials out, at any depth, unless they may travel."""
    if may_travel():
        return options
    return {
        name: without_secrets(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not is_secret(name.lower())
    }
