"""Credentials in pickles.

As with ``multiprocessing``'s authentication keys, only the pickles that are sent to a child
process which is being spawned may hold credentials. Any other pickle may be stored or sent away.
"""

from __future__ import annotations

import multiprocessing.context
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["may_travel", "travelling", "without_secrets"]

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


_IS_ALLOWED: ContextVar[bool] = ContextVar("is_allowed", default=False)
"""Whether the user allowed credentials in the pickles that are being made."""


@contextmanager
def travelling(*, is_allowed: bool) -> Iterator[None]:
    """Allow credentials in the pickles that are made inside, as a user requested."""
    token = _IS_ALLOWED.set(is_allowed)
    try:
        yield
    finally:
        _IS_ALLOWED.reset(token)


def is_secret(name: str) -> bool:
    """Return whether the option of this name may hold a credential."""
    return not name.endswith(PUBLIC) and any(secret in name for secret in SECRETS)


def may_travel() -> bool:
    """Return whether the current pickle may hold credentials.

    It goes to a child process that is being spawned, or the user allowed it.
    """
    is_spawning = multiprocessing.context.get_spawning_popen() is not None
    return is_spawning or _IS_ALLOWED.get()


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Remove credentials from (nested) options unless ``may_travel``."""
    if may_travel():
        return options
    return {
        name: without_secrets(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not is_secret(name.lower())
    }
