"""Loaders in the workers of Ray Train: ranks, steps, checkpoints, and workers that die."""

from __future__ import annotations

import lance
import lanceloader as ll
import pytest
import ray_driver
import tables

driver = ray_driver.driver
cluster = ray_driver.cluster
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 1000
GLOBAL = 192


@pytest.fixture
def view(tmp_path):
    lance.write_dataset(
        tables.narrow(ROWS), tmp_path / "t.lance", max_rows_per_file=400
    )
    return (
        ll.open(tmp_path / "t.lance").select_columns(["id"]).with_format("torch_dict")
    )


def fit(view, folder, workers, cpus=0.5, dies=None, failures=0):
    """Train, and return what the last report of rank 0 says.

    Args:
        view: The rows.
        folder: Where checkpoints lie.
        workers: How many workers, or the least and the most.
        cpus: How many CPUs a worker holds.
        dies: What dies in step 5, once: ``"process"``, of the last rank, or ``"node"``, the third.
        failures: How many failures are survived.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    def train(config):
        import os
        import signal
        import tempfile
        import threading
        from pathlib import Path

        import ray.train
        import torch
        import torch.distributed as dist

        context = ray.train.get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        loader = config["view"].loader(
            global_batch_size=GLOBAL, shuffle=True, seed=3, tail="uneven"
        )
        seen, worlds, steps = [], [], len(loader)
        saved = ray.train.get_checkpoint()
        if saved is not None:
            with saved.as_directory() as path:
                state = torch.load(Path(path, "state.pt"))
            loader.load_state_dict(state["loader"])
            seen, worlds = state["seen"], state["worlds"]
        worlds = [*worlds, world]
        node = ray.get_runtime_context().get_node_id()
        is_doomed = {
            None: False,
            "process": rank == world - 1,
            "node": node == config["node"],
        }[config["dies"]]
        mark = Path(config["folder"], "died")
        for begun, batch in enumerate(loader, 1):
            parts = [None] * world
            dist.all_gather_object(parts, batch["id"].tolist())
            seen = [*seen, *(row for part in parts for row in part)]
            if is_doomed and begun == 5 and not mark.exists():
                mark.touch()
                is_node = config["dies"] == "node"
                os.kill(os.getppid() if is_node else os.getpid(), signal.SIGKILL)
                # Workers of a dead node are killed by Ray, not at once.
                threading.Event().wait()
            state = {"loader": loader.state_dict(), "seen": seen, "worlds": worlds}
            metrics = {"seen": seen, "worlds": worlds, "steps": steps, "begun": begun}
            with tempfile.TemporaryDirectory() as path:
                checkpoint = None
                if rank == 0:
                    torch.save(state, Path(path, "state.pt"))
                    checkpoint = ray.train.Checkpoint.from_directory(path)
                ray.train.report(metrics, checkpoint=checkpoint)

    (node,) = [
        node["NodeID"] for node in ray.nodes() if "node2" in node["Resources"]
    ] or [None]
    trainer = TorchTrainer(
        train,
        train_loop_config={
            "view": view,
            "dies": dies,
            "folder": folder,
            "node": node,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, resources_per_worker={"CPU": cpus}
        ),
        run_config=ray.train.RunConfig(
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    return trainer.fit().metrics


def wanted(view):
    return view.shuffle(3).with_format("arrow").to_arrow()["id"].to_pylist()


def test_ranks_are_found_and_take_equal_steps(driver, view, tmp_path):
    """A loader that did not know its rank would serve every row to each worker."""
    found = driver(fit, view, str(tmp_path), 3)
    assert found["worlds"] == [3]
    assert found["steps"] == found["begun"] == -(-ROWS // GLOBAL)
    assert found["seen"] == wanted(view)


def test_a_worker_is_killed_and_every_row_comes_once(driver, view, tmp_path):
    found = driver(fit, view, str(tmp_path), 2, 0.5, "process", 1)
    assert found["worlds"] == [2, 2]
    # It goes on from the last checkpoint that was kept: one of the steps before.
    assert 1 < found["begun"] < found["steps"]
    assert found["seen"] == wanted(view)


def test_a_node_is_killed_and_fewer_workers_go_on(cluster, view, tmp_path):
    found = cluster(fit, view, str(tmp_path), (2, 3), 1, "node", 1)
    assert found["worlds"] == [3, 2]
    assert found["begun"] < found["steps"]
    assert found["seen"] == wanted(view)


def test_prepare_data_loader_leaves_a_loader_as_it_is(driver, view, tmp_path):
    """It adds a sampler to loaders of torch, and so it need not be called."""

    def prepared(view, folder):
        import ray.train
        from ray.train.torch import TorchTrainer

        def train(config):
            import ray.train.torch
            from lanceloader.torch import DataLoader

            for loader in (
                config["view"].loader(100, shuffle=True, seed=3),
                DataLoader(config["view"], 100, shuffle=True, seed=3),
            ):
                same = ray.train.torch.prepare_data_loader(loader)
                batches = [batch["id"].tolist() for batch in loader]
                assert [batch["id"].tolist() for batch in same] == batches
                assert len(same) == len(loader) == ROWS // 200

        trainer = TorchTrainer(
            train,
            train_loop_config={"view": view},
            scaling_config=ray.train.ScalingConfig(
                num_workers=2, resources_per_worker={"CPU": 0.5}
            ),
            run_config=ray.train.RunConfig(storage_path=folder),
        )
        return trainer.fit().error

    assert driver(prepared, view, str(tmp_path)) is None
