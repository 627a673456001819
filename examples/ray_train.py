"""Ray Train: one of two workers dies, Ray starts both again, then three go on: every row comes once.

Real data: 5,000 handwritten digits as vectors. Ranks are found by themselves; a batch of all
workers together is the same rows, however many there are.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import lancedb
import lanceloader as ll
import ray.train
import ray.train.torch
import tables
import torch
import torch.distributed as dist
from torch import nn


def train(config: dict) -> None:
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    perm = ll.open(config["table"], format="torch_dict")
    # Not prepared by Ray: the loader knows its rank, and would leave nothing to add.
    loader = perm.loader(global_batch_size=250, shuffle=True, seed=1, tail="uneven")
    model = ray.train.torch.prepare_model(nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = ray.train.get_checkpoint() or config["checkpoint"]
    seen = []
    if checkpoint:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.module.load_state_dict(saved["model"])
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
        mark = Path(config["table"]).with_name("killed")
        if rank == 1 and step == 6 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        state = {"model": model.module.state_dict(), "loader": loader.state_dict()}
        with tempfile.TemporaryDirectory() as folder:
            # Every worker has the same state of its loader, so one of them stores it.
            if rank == 0:
                torch.save(state | {"seen": seen}, Path(folder, "state.pt"))
            ray.train.report(
                {"seen": len(seen), "twice": len(seen) - len(set(seen))},
                checkpoint=ray.train.Checkpoint.from_directory(folder)
                if rank == 0
                else None,
            )
        if step == config["steps"]:
            break


def fit(
    table: str, workers: int, steps: int | None, checkpoint: ray.train.Checkpoint | None
) -> ray.train.Result:
    trainer = ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"table": table, "steps": steps, "checkpoint": checkpoint},
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(
            storage_path=str(Path(table).with_name(f"runs-{workers}")),
            failure_config=ray.train.FailureConfig(max_failures=1),
        ),
    )
    result = trainer.fit()
    said = result.metrics
    print(
        f"{workers} workers: {said['seen']:,} rows so far, {said['twice']} of them twice"
    )
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as path:
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        tables.digit_vectors(lancedb.connect(path))
        digits = f"{path}/digit_vectors.lance"
        first = fit(digits, 2, 8, None)
        last = fit(digits, 3, None, first.checkpoint)
        assert last.metrics["seen"] == 5000
        assert last.metrics["twice"] == 0
        ray.shutdown()
