"""torch's ``DataLoader`` with exact states, and LanceDB's ``Table`` as a dataset.

``DataLoader`` is torch's, over a permutation or its ``loader()``, with exact states.

``install`` makes ``torch.utils.data.DataLoader(table)`` work for LanceDB's own tables:

    import lanceloader.torch

    lanceloader.torch.install()
    loader = DataLoader(table, batch_size=1024, shuffle=True, num_workers=2)

Importing this module changes neither torch nor lancedb. For anything but batches of whole rows, use a ``Permutation``.
"""

from __future__ import annotations

from lanceloader.compat_lancedb import table_dataset
from lanceloader.compat_lancedb.collate import collate_as, collate_batch
from lanceloader.compat_lancedb.table_dataset import TableDataset, install, uninstall
from lanceloader.torch_loader import DataLoader

__all__ = ["DataLoader", "TableDataset", "collate_as", "install", "uninstall"]

# Pickles of version 0.1.0 refer to these functions by this module.
_collate = collate_batch
rebuild_remote = table_dataset.rebuild_remote
