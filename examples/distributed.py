"""Two processes train together, then three go on from their checkpoint: every row comes once.

Real data: 5,000 handwritten digits as vectors. Ranks are found by themselves; a batch of all
ranks together is the same rows, however many there are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import lancedb
import lanceloader as ll
import tables
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(rank: int, world_size: int, folder: str, steps: int | None) -> None:
    store = dist.FileStore(f"{folder}/store-{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    perm = ll.open(f"{folder}/digit_vectors.lance", format="torch_dict")
    loader = perm.loader(global_batch_size=96, shuffle=True, seed=1, tail="uneven")
    model = DistributedDataParallel(nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint, seen = Path(folder, "checkpoint.pt"), []
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["loader"])
        seen = saved["seen"]
    for step, batch in enumerate(loader, 1):
        loss = nn.functional.cross_entropy(model(batch["vector"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids: list = [None] * world_size
        dist.all_gather_object(ids, batch["id"].tolist())
        seen += [row for part in ids for row in part]
        if step == steps:
            break
    if rank == 0:
        state = {"loader": loader.state_dict(), "model": model.state_dict()}
        torch.save(state | {"seen": seen}, checkpoint)
        twice = len(seen) - len(set(seen))
        print(f"{world_size} ranks: {len(seen):,} rows so far, {twice} of them twice")
    # Nobody leaves while others still talk.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as path:
        tables.digit_vectors(lancedb.connect(path))
        for num_ranks, stop in ((2, 30), (3, None)):
            mp.spawn(train, (num_ranks, path, stop), nprocs=num_ranks)
