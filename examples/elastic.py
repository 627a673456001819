"""torchrun on two nodes: a worker dies, then a node leaves, and every row comes once.

Run without arguments, it starts both agents of torchrun on this machine. On two machines, run on each one:
torchrun --nnodes=1:2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT elastic.py FOLDER
with a folder that both share. Real data: 5,000 handwritten digits as vectors.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import lancedb
import lanceloader as ll
import tables
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(folder: Path) -> None:
    # torchrun has set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    dist.init_process_group("gloo")
    perm = ll.open(folder / "digit_vectors.lance", format="torch_dict")
    loader = perm.loader(global_batch_size=250, shuffle=True, seed=1, tail="uneven")
    model = DistributedDataParallel(nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = folder / "checkpoint.pt"
    seen, worlds = [], []
    # After a failure, torchrun starts all workers again, with another number of ranks if a node has left.
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["loader"])
        seen, worlds = saved["seen"], saved["worlds"]
    world_size = dist.get_world_size()
    worlds = [*worlds, world_size]
    for batch in loader:
        loss = nn.functional.cross_entropy(model(batch["vector"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids: list = [None] * world_size
        dist.all_gather_object(ids, batch["id"].tolist())
        seen += [row for part in ids for row in part]
        if dist.get_rank() == 0:
            state = {"loader": loader.state_dict(), "model": model.state_dict()}
            state |= {"seen": seen, "worlds": worlds}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
        dist.barrier()
        fail(len(seen), folder)
    dist.destroy_process_group()


def fail(rows: int, folder: Path) -> None:
    """On the second node: kill the worker after a quarter of the rows, the node after half of them."""
    for at, what in ((1250, "worker"), (2500, "node")):
        mark = folder / f"killed-{what}"
        if rows == at and os.environ.get("NODE") == "1" and not mark.exists():
            mark.touch()
            if what == "node":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def launch(folder: Path) -> list[int]:
    """Start an agent for each of two nodes, and return their exit codes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2"]
        command += ["--nproc-per-node=1", "--max-restarts=9", "--rdzv-id=elastic"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
        # A node that has left is found out after three seconds, in place of fifteen.
        options = f"is_host={1 - node},last_call_timeout=5,keep_alive_interval=1"
        command += [f"--rdzv-conf={options}", "--local-addr=127.0.0.1", __file__]
        environment = os.environ | {"NODE": str(node), "OMP_NUM_THREADS": "1"}
        # Otherwise, workers that start again may find the addresses of those before.
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        agents.append(subprocess.Popen([*command, str(folder)], env=environment))
    return [agent.wait() for agent in agents]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as path:
        folder = Path(path)
        table = tables.digit_vectors(lancedb.connect(path))
        codes = launch(folder)
        assert codes == [0, -signal.SIGKILL], codes
        saved = torch.load(folder / "checkpoint.pt")
        seen = saved["seen"]
        assert seen == ll.open(table).shuffle(seed=1).to_arrow()["id"].to_pylist()
        print(f"ranks: {saved['worlds']}; {len(seen):,} rows, each of them once")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]))
    else:
        main()
