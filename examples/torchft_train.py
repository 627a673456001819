"""torchft: a replica dies, the other one goes on without stopping, and every row counts once.

Run without arguments, it starts a lighthouse and two replicas on this machine. The first replica
trains on alone until the second, started again, has got the model and the place in the epoch from it.
A step that fails is not committed: its rows come again, divided among the replicas that are left.
Real data: 5,000 handwritten digits as vectors. Needs torchft 0.2.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import lancedb
import lanceloader as ll
import tables
import torch
import torch.distributed as dist
from torch import nn
from torchft import Manager, Optimizer, ProcessGroupGloo
from torchft.coordination import LighthouseServer

LIMIT = timedelta(seconds=60)


class Place:
    """Where training stands, and the batches of this replica from there on."""

    def __init__(self, perm: ll.Permutation) -> None:
        self.perm = perm
        self.state = self.of(0, 1).state_dict()
        self.share = self.loader = self.batches = None

    def of(self, rank: int, replicas: int) -> ll.Loader:
        return self.perm.loader(
            global_batch_size=250,
            shuffle=True,
            seed=1,
            tail="uneven",
            rank=rank,
            world_size=replicas,
        )

    def next(self, rank: int, replicas: int) -> dict | None:
        """The share of this replica in the next batch of all."""
        if (rank, replicas) != self.share:
            self.share = rank, replicas
            self.loader = self.of(rank, replicas)
            self.loader.load_state_dict(self.state)
            self.batches = iter(self.loader)
        return next(self.batches, None)

    def commit(self) -> None:
        self.state = self.loader.state_dict()

    def load(self, state: dict) -> None:
        """Go on from a place, of another replica or from before a step that failed."""
        self.state, self.share = state, None


def train(folder: Path, replica: int) -> None:
    place = Place(ll.open(folder / "digit_vectors.lance", format="torch_dict"))
    model = nn.Linear(64, 10)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)

    def load(state: dict) -> None:
        model.load_state_dict(state["model"])
        plain.load_state_dict(state["optimizer"])
        place.load(state["place"])

    def save() -> dict:
        return {
            "model": model.state_dict(),
            "optimizer": plain.state_dict(),
            # All replicas have the same.
            "place": place.state,
        }

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=LIMIT),
        load_state_dict=load,
        state_dict=save,
        min_replica_size=1,
        # The number of replicas is known before rows are read.
        use_async_quorum=False,
        timeout=LIMIT,
        replica_id=f"digits_{replica}",
        store_addr="127.0.0.1",
        store_port=store.port,
        rank=0,
        world_size=1,
        hostname="127.0.0.1",
    )
    optimizer = Optimizer(manager, plain)
    (folder / f"ready-{replica}").touch()
    wait_for(folder / "ready-0", folder / "ready-1")
    while True:
        # Finds out who takes part in this step.
        optimizer.zero_grad()
        rank, replicas = manager.participating_rank(), manager.num_participants()
        batch = place.next(rank, replicas)
        if batch is None:
            break
        step = manager.current_step()
        fail(step, replica, folder)
        loss = nn.functional.cross_entropy(model(batch["vector"]), batch["label"])
        loss.backward()
        # In place of torchft's DistributedDataParallel, whose 0.2 raises an error where gloo fails.
        for parameter in model.parameters():
            manager.allreduce(parameter.grad).wait()
        if manager.should_commit():
            plain.step()
            place.commit()
            said = {"replicas": replicas, "ids": batch["id"].tolist()}
            name = f"step{step:03}-{rank}"
            (folder / f"{name}.new").write_text(json.dumps(said))
            (folder / f"{name}.new").replace(folder / f"{name}.json")
        else:
            place.load(place.state)
    manager.shutdown()


def fail(step: int, replica: int, folder: Path) -> None:
    """Kill the second replica in its sixth step; the first goes on, and waits in its eleventh until it is back."""
    killed = folder / "killed"
    if step == 5 and replica == 1 and not killed.exists():
        (folder / "ready-1").unlink()
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 10 and replica == 0:
        wait_for(folder / "ready-1")


def wait_for(*paths: Path) -> None:
    end = time.monotonic() + LIMIT.total_seconds()
    while not all(path.exists() for path in paths):
        if time.monotonic() > end:
            raise TimeoutError(f"{paths} are not there")
        time.sleep(0.01)


def launch(folder: Path) -> list[int]:
    """Start two replicas, the second one again when it dies, and return the exit codes."""
    lighthouse = LighthouseServer(
        bind="127.0.0.1:0",
        min_replicas=1,
        join_timeout_ms=60_000,
        quorum_tick_ms=50,
        heartbeat_timeout_ms=3000,
    )
    environment = os.environ | {
        "TORCHFT_LIGHTHOUSE": lighthouse.address(),
        "OMP_NUM_THREADS": "1",
    }

    def start(replica: int) -> subprocess.Popen:
        command = [sys.executable, __file__, str(folder), str(replica)]
        return subprocess.Popen(command, env=environment)

    first, second = start(0), start(1)
    codes = [second.wait()]
    second = start(1)
    codes += [first.wait(), second.wait()]
    lighthouse.shutdown()
    return codes


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lanceloader-") as path:
        folder = Path(path)
        table = tables.digit_vectors(lancedb.connect(path))
        codes = launch(folder)
        assert codes == [-signal.SIGKILL, 0, 0], codes
        shares = [
            json.loads(file.read_text()) for file in sorted(folder.glob("step*.json"))
        ]
        seen = [row for share in shares for row in share["ids"]]
        assert seen == ll.open(table).shuffle(seed=1).to_arrow()["id"].to_pylist()
        replicas = [
            number
            for number, _ in itertools.groupby(shares, lambda share: share["replicas"])
        ]
        print(f"replicas: {replicas}; {len(seen):,} rows, each of them once")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
