"""Tables in stores, beside copies of them on a local disk."""

from __future__ import annotations

import numpy as np


def check_read_natively(perm, local):
    """Assert that the core reads a table, and that its rows are those of the copy."""
    assert "own library" not in str(perm.explain())
    assert perm.to_arrow().equals(local.to_arrow())
    positions = np.random.default_rng(1).integers(0, len(local), 100)
    assert perm.take_offsets(positions) == local.take_offsets(positions)
    assert perm.shuffle(seed=3).head(20) == local.shuffle(seed=3).head(20)
