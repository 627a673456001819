"""What each rank does in tests of real process groups; spawned, so it imports little."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import warnings
from datetime import timedelta
from pathlib import Path

import lanceloader as ll
from process_state import soon

TOGETHER = 24


@contextlib.contextmanager
def started(target, world_size, folder, *arguments):
    """Processes of a group, which are killed at the end if they live."""
    context = multiprocessing.get_context("spawn")
    folder.mkdir()
    processes = [
        context.Process(
            target=rank_of, args=(target, rank, world_size, folder, *arguments)
        )
        for rank in range(world_size)
    ]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_for(folder, pattern, number, processes):
    """Wait until there are as many files; a process that fails ends it."""

    def is_there():
        return len(list(folder.glob(pattern))) == number or any(
            process.exitcode for process in processes
        )

    assert soon(is_there, 150), list(folder.iterdir())
    assert not any(process.exitcode for process in processes), said(folder)


def said(folder):
    return [path.read_text() for path in folder.glob("error-*")]


def rank_of(target, rank, world_size, folder, *arguments):
    """Join a group of gloo, and leave what went wrong in a file."""
    import torch.distributed as dist

    warnings.filterwarnings("ignore", "This DataLoader will create")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    try:
        target(rank, folder, *arguments)
    except Exception as error:
        written(folder / f"error-{rank}", f"{type(error).__name__}: {error}")
        # Others are told by the end of this process, not by its goodbye.
        os._exit(3)
    dist.destroy_process_group()


def written(path, text):
    part = path.with_name(f"part-{path.name}")
    part.write_text(text)
    part.rename(path)


def loader_for(path, num_workers, **options):
    options = {"shuffle": True, "seed": 3, "tail": "uneven"} | options
    perm = ll.open(path).select_columns(["id"]).with_format("numpy_dict")
    if num_workers is None:
        return perm.loader(**options)
    from lanceloader.torch import DataLoader

    return DataLoader(perm, num_workers=num_workers, **options)


def agreed(value):
    """Check that all ranks say the same."""
    import torch.distributed as dist

    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    assert all(each == value for each in values), values


def train(rank, folder, path, num_workers, state, stop):
    """Keep rows and a state of every step; at ``stop`` go two steps on, and wait to be killed."""
    loader = loader_for(path, num_workers, global_batch_size=TOGETHER).set_epoch(1)
    if state is not None:
        loader.load_state_dict(json.loads(state))
    steps = []
    for step, batch in enumerate(loader, 1):
        steps.append(batch["id"].tolist())
        agreed(loader.state_dict())
        if step == stop:
            text = json.dumps({"steps": steps, "state": loader.state_dict()})
            written(folder / f"kept-{rank}", text)
        if stop is not None and step == stop + 2:
            written(folder / f"ready-{rank}", "")
            signal.pause()
    agreed(len(steps))
    text = json.dumps({"steps": steps, "state": loader.state_dict()})
    written(folder / f"kept-{rank}", text)


def train_on_mesh(rank, folder, path):
    """Two replicas of two ranks; those of a replica get the same rows."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    found = {}
    meshes = {"mesh": mesh["data"], "group": mesh.get_group("data")}
    for name, each in meshes.items():
        loader = loader_for(path, None, batch_size=10, mesh=each)
        found[name] = [batch["id"].tolist() for batch in loader]
    assert found["mesh"] == found["group"]
    try:
        loader_for(path, None, batch_size=10, mesh=mesh)
    except ValueError as error:
        found["error"] = str(error)
    found["place"] = mesh.get_coordinate()
    written(folder / f"kept-{rank}", json.dumps(found))


def train_until_one_dies(rank, folder, path, num_workers):
    """Step together; rank 1 waits to be killed while the others wait for it."""
    import torch
    import torch.distributed as dist

    loader = loader_for(path, num_workers, global_batch_size=TOGETHER, epochs=None)
    for step, batch in enumerate(loader):
        if step == 3 and rank == 1:
            written(folder / "ready-1", str(os.getpid()))
            signal.pause()
        dist.all_reduce(torch.tensor([float(len(batch["id"]))]))


def kept(folder):
    return [
        json.loads(path.read_text()) for path in sorted(Path(folder).glob("kept-*"))
    ]
