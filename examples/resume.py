"""Training that is killed in the middle of an epoch, and goes on where its checkpoint was taken.

Real data: 5,000 handwritten digits as vectors. The second process trains on the rows that the
first one did not, in the same order, and with two workers more.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
import tempfile
from pathlib import Path

import lancedb
import lanceloader as ll
import tables
import torch
from lanceloader.torch import DataLoader
from torch import nn


def train(folder: str, num_workers: int, killed_at: int | None) -> None:
    perm = ll.open(f"{folder}/digit_vectors.lance", columns=["vector", "label"])
    loader = DataLoader(
        perm, 128, shuffle=True, seed=1, format="torch_dict", num_workers=num_workers
    )
    model = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    checkpoint, epoch, step, rows = Path(folder, "checkpoint.pt"), 0, 0, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        epoch, step = saved["loader"]["epoch"], saved["step"]
    for number in range(epoch, 3):
        for batch in loader.set_epoch(number):
            loss = nn.functional.cross_entropy(model(batch["vector"]), batch["label"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step, rows = step + 1, rows + len(batch["label"])
            if step == killed_at:
                print(f"killed at step {step}", flush=True)
                signal.raise_signal(signal.SIGKILL)
            if step % 25 == 0:
                kept = {"loader": loader, "model": model, "optimizer": optimizer}
                states = {name: each.state_dict() for name, each in kept.items()}
                torch.save(states | {"step": step}, checkpoint)
    print(f"{rows:,} more rows, to step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as path:
        tables.digit_vectors(lancedb.connect(path))
        for arguments in ((path, 0, 60), (path, 2, None)):
            process = mp.get_context("spawn").Process(target=train, args=arguments)
            process.start()
            process.join()
