"""Datasets and collate functions whose batches cross from workers, which import this module."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset


def nested(batch):
    """Everything that may be in a batch, made of its rows."""
    ids = batch["id"]
    return {
        "tensors": [ids, ids * 2, (ids.float(), {"deep": ids > 10})],
        "views": ids[::2],
        "array": ids.numpy() * 3,
        "read only": read_only(ids.numpy()),
        "arrow": pa.record_batch({"id": pa.array(ids.numpy()), "t": ["a"] * len(ids)}),
        "none": torch.empty(0, 4),
        "no columns": {},
        "text": [f"row {number}" for number in ids.tolist()],
        "bytes": b"x" * 20_000,
        "sparse": torch.eye(3).to_sparse(),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "plain": (1, None, 2.5, True),
    }


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def locked(batch):
    """What cannot be sent to another process."""
    return {"batch": batch, "lock": threading.Lock()}


def wide(batch):
    """Sixteen times the rows, in one array."""
    return np.tile(batch["id"].numpy(), 16)


def same(batch):
    return batch


class Lazily(Dataset):
    """A dataset that opens the table when rows are asked for, so that it holds nothing of ours."""

    def __init__(self, path):
        self.path = path
        self.opened = None

    def __len__(self):
        return 1000

    def __getitems__(self, positions):
        import lanceloader as ll

        if self.opened is None:
            perm = ll.open(self.path).select_columns(["id", "x"])
            self.opened = perm.with_format("torch_dict")
        return self.opened.__getitems__(positions)


class Wrapped(Dataset):
    """A dataset of a user round one of ours."""

    def __init__(self, perm):
        self.parts = {"train": [perm]}

    def __len__(self):
        return len(self.parts["train"][0])

    def __getitems__(self, positions):
        return self.parts["train"][0].__getitems__(positions)
