"""Real process groups: ranks are found, killed, and resumed in another number."""

from __future__ import annotations

import json

import lance
import lanceloader as ll
import process_groups
import pytest
import tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROWS = 1003


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("gloo") / "t.lance"
    lance.write_dataset(tables.narrow(ROWS), path, max_rows_per_file=300)
    return str(path)


def order(path, epoch=1):
    return ll.open(path).shuffle(3, epoch=epoch).to_arrow()["id"].to_pylist()


def finished(processes):
    for process in processes:
        process.join(200)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize(
    "stages",
    [
        # Ranks, workers of each (None: the loader itself), and the step of the state.
        [(2, 1, 5), (3, None, 4), (1, 3, None)],
        [(4, None, 6), (1, 0, 3), (2, 2, None)],
    ],
)
def test_killed_and_resumed_as_other_worlds_every_row_comes_once(
    path, tmp_path, stages
):
    """What was trained after the state that was kept is lost with the ranks, and comes again."""
    served, state = [], None
    for number, (world_size, num_workers, stop) in enumerate(stages):
        folder = tmp_path / f"stage-{number}"
        arguments = (path, num_workers, state, stop)
        with process_groups.started(
            process_groups.train, world_size, folder, *arguments
        ) as processes:
            if stop is None:
                assert finished(processes) == [0] * world_size, process_groups.said(
                    folder
                )
            else:
                process_groups.wait_for(folder, "ready-*", world_size, processes)
                for process in processes:
                    process.kill()
        found = process_groups.kept(folder)
        states = [json.dumps(rank["state"]) for rank in found]
        assert states == [states[0]] * world_size
        state = states[0]
        for step in zip(*(rank["steps"] for rank in found), strict=True):
            served += [row for part in step for row in part]
    # Once, and in the order of one process that was never killed.
    assert served == order(path)
    assert json.loads(state)["position"] == ROWS


def test_ranks_of_a_replica_get_the_same_rows(path, tmp_path):
    folder = tmp_path / "mesh"
    with process_groups.started(
        process_groups.train_on_mesh, 4, folder, path
    ) as processes:
        assert finished(processes) == [0] * 4, process_groups.said(folder)
    found = process_groups.kept(folder)
    assert [rank["place"] for rank in found] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert found[0]["mesh"] == found[1]["mesh"] != found[2]["mesh"] == found[3]["mesh"]
    both = zip(found[0]["mesh"], found[2]["mesh"], strict=True)
    rows = [row for step in both for part in step for row in part]
    assert rows == order(path, 0)
    assert "one dimension, not 2 ('data', 'tensor')" in found[3]["error"]


@pytest.mark.parametrize("num_workers", [None, 2])
def test_where_a_rank_dies_the_others_end_with_an_error(path, tmp_path, num_workers):
    folder = tmp_path / "dying"
    arguments = (path, num_workers)
    with process_groups.started(
        process_groups.train_until_one_dies, 3, folder, *arguments
    ) as processes:
        process_groups.wait_for(folder, "ready-1", 1, processes)
        processes[1].kill()
        assert finished(processes) == [3, -9, 3]
    assert len(process_groups.said(folder)) == 2
    assert all("RuntimeError" in text for text in process_groups.said(folder))
