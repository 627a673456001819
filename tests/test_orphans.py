"""Whatever a trainer started ends when the trainer is killed, at any stage of starting and running."""

from __future__ import annotations

import lance
import pytest
import tables
from programs import PRELUDE, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAINERS = (
    PRELUDE
    + """
import random, warnings
import torch
import lanceloader.streaming
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader

warnings.simplefilter("ignore")
method, num_trials, longest_s = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])


def own():
    options = {"num_workers": 2, "multiprocessing_context": method}
    return DataLoader(ll.open(path).with_format("arrow"), 50, epochs=None, **options)


def torch_over_ours():
    perm = ll.open(path).select_columns(["id"])
    return TorchLoader(perm, 50, num_workers=2, multiprocessing_context=method)


def streaming():
    # A path: workers that have to import lancedb first take long to start.
    dataset = StreamingDataset(path, num_splits=2, shuffle=False)
    return StreamingDataLoader(
        dataset, batch_size=50, num_workers=2, multiprocessing_context=method
    )


def helper():
    from lanceloader.helper.client import iterate_in_helper
    import producers

    return iterate_in_helper(producers.forever, method=method)


def train(make):
    '''Read until killed.'''
    loader = make()
    while True:
        for batch in loader:
            pass


def session(number):
    '''The processes that a trainer started, and those that these started.'''
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        # Its session; those that have ended are only waiting for their parent.
        if int(fields[3]) == number and fields[0] not in "ZX":
            found.append(int(name))
    return found


def trial(make, delay_s):
    trainer = os.fork()
    if trainer == 0:
        os.setsid()
        # What is killed says nothing; its workers complain that it is gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            train(make)
        finally:
            os._exit(3)
    time.sleep(delay_s)
    os.kill(trainer, signal.SIGKILL)
    _, status = os.waitpid(trainer, 0)
    assert os.WIFSIGNALED(status), (make.__name__, status)
    end = time.monotonic() + 90
    while session(trainer) and time.monotonic() < end:
        time.sleep(0.05)
    left = session(trainer)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


draws = random.Random(15)
left = {}
for make in (own, torch_over_ours, streaming, helper):
    for _ in range(num_trials):
        # Half of the kills fall into the start of the workers.
        delay_s = draws.uniform(0, draws.choice([0.2, longest_s]))
        left[f"{make.__name__} after {delay_s:.6f} s"] = trial(make, delay_s)
done(left=left)
"""
)


@pytest.mark.parametrize(
    ("method", "num_trials", "longest_s"),
    [("fork", 4, 1.0), ("forkserver", 1, 5.0), ("spawn", 2, 6.0)],
)
def test_nothing_outlives_a_trainer_that_was_killed(
    tmp_path, method, num_trials, longest_s
):
    lance.write_dataset(tables.narrow(1000), tmp_path / "t.lance")
    program = start(TRAINERS, tmp_path, method, str(num_trials), str(longest_s))
    found = finish(program, limit_s=800)
    assert len(found["left"]) == 4 * num_trials
    assert not any(found["left"].values()), found["left"]
