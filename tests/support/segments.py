"""Shared memory of other processes that this one has mapped."""

from __future__ import annotations

import gc

from lanceloader.transport import inbox
from process_state import soon


def check_none_is_mapped():
    """Assert that nothing refers to a batch of another process, at once or soon."""
    gc.collect()
    assert soon(lambda: not inbox._SEGMENTS)
