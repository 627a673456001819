"""Whatever a trainer started ends when the trainer is killed, at any stage of starting and running.

``make search`` makes a hundred trials.
"""

from __future__ import annotations

import os

import lance
import pytest
import tables
from programs import PRELUDE, SESSION, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS = int(os.environ.get("LANCELOADER_TRIALS", "28"))
"""How many trainers are killed, by all start methods together."""
SHARES = {"fork": 4, "forkserver": 1, "spawn": 2}
"""Of as many trials of each loader, how many are of a start method."""
NUM_LOADERS = 4

TRAINERS = (
    PRELUDE
    + SESSION
    + """
import random, select, warnings
import torch
import lanceloader.streaming
from lanceloader.streaming import StreamingDataLoader, StreamingDataset
from lanceloader.torch import DataLoader
from torch.utils.data import DataLoader as TorchLoader

warnings.simplefilter("ignore")
method, num_trials = sys.argv[2], int(sys.argv[3])


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


def train(make, begun):
    '''Read until killed.'''
    loader = make()
    while True:
        for batch in loader:
            if begun is not None:
                os.write(begun, b"1")
                begun = None


def has_begun(pipe):
    '''Whether a trainer has a batch, or has failed.'''
    return bool(select.select([pipe], [], [], 0.005)[0])


def trial(make, stage, delay_s):
    begun, write = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        os.setsid()
        # What is killed says nothing; its workers complain that it is gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            train(make, write)
        finally:
            os._exit(3)
    os.close(write)
    # The stage before the first batch is the number of processes.
    while not (stage < BEGUN and len(session(trainer)) >= stage) and not has_begun(begun):
        pass
    time.sleep(delay_s)
    os.kill(trainer, signal.SIGKILL)
    _, status = os.waitpid(trainer, 0)
    os.close(begun)
    assert os.WIFSIGNALED(status), (make.__name__, status)
    end = time.monotonic() + 90
    while session(trainer) and time.monotonic() < end:
        time.sleep(0.05)
    left = session(trainer)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


# At once, with some of the processes that there will be, and with a batch.
BEGUN = 6
draws = random.Random(f"15 {method}")
left = {}
for number in range(num_trials):
    for make in (own, torch_over_ours, streaming, helper):
        stage = draws.choice([1, 2, 2, 3, 3, 4, 5, BEGUN, BEGUN])
        delay_s = draws.choice([0, draws.uniform(0, 0.05), draws.uniform(0, 0.5)])
        name = f"{number}: {make.__name__}, stage {stage}, after {delay_s:.6f} s"
        left[name] = trial(make, stage, delay_s)
done(left=left)
"""
)


@pytest.mark.parametrize("method", SHARES)
def test_nothing_outlives_a_trainer_that_was_killed(tmp_path, method):
    lance.write_dataset(tables.narrow(1000), tmp_path / "t.lance")
    each = sum(SHARES.values()) * NUM_LOADERS
    num_trials = -(-TRIALS * SHARES[method] // each)
    program = start(TRAINERS, tmp_path, method, str(num_trials))
    found = finish(program, limit_s=1400)
    assert len(found["left"]) == NUM_LOADERS * num_trials
    assert not any(found["left"].values()), found["left"]
