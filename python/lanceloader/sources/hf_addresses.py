"""Addresses of tables at Hugging Face."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from lanceloader._typing import StorageOptions

__all__ = ["revision_as_option"]

WITH_REVISION = re.compile(
    r"(hf://[^/]+/[^/]+/[^/@]+)@((?:refs/(?:pr|convert)/)?[^/]+)(/.*)?"
)
"""``hf://datasets/owner/name@revision/folder``; pull requests and conversions have slashes in their names."""

NAMES = ("hf_revision", "revision")


def revision_as_option(
    uri: str, options: StorageOptions | None
) -> tuple[str, StorageOptions | None]:
    """Return an address and options without a revision in the address, as Lance reads them.

    Raises:
        ValueError: If the options name another revision.
    """
    found = WITH_REVISION.fullmatch(uri)
    if found is None:
        return uri, options
    repository, revision, path = found.groups(default="")
    revision = unquote(revision)
    for name, value in (options or {}).items():
        if name.lower() in NAMES and value != revision:
            message = (
                f"{uri} has the revision {revision!r}, and `storage_options` has {value!r}: pass the "
                "revision in one place only"
            )
            raise ValueError(message)
    return repository + path, {**(options or {}), "hf_revision": revision}
