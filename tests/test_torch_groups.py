"""Workers of torch's own ``DataLoader`` send groups of batches, and torch gets each by itself."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace

import lance
import lanceloader as ll
import lanceloader.torch
import numpy as np
import pyarrow as pa
import pytest
from killing import kill_and_drain
from lanceloader.transport import groups, torch_groups
from lanceloader.transport.shared_memory import WritableSegments
from lanceloader.transport.torch_groups import GroupedQueues
from torch.utils.data import DataLoader
from torch.utils.data._utils.worker import (
    _IterableDatasetStopIteration,
    _ResumeIteration,
)
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)
ROWS, BATCH = 2003, 8


@pytest.fixture(scope="module")
def perm(tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "t.lance"
    lance.write_dataset(pa.table({"id": np.arange(ROWS)}), path)
    return ll.open(str(path))


@pytest.fixture
def messages(monkeypatch):
    """The messages that arrive after the first one, where batches are never slow."""
    monkeypatch.setattr(groups, "LONGEST_NS", 1 << 62)
    found = []
    accept = GroupedQueues._accept

    def noting(self, message):
        found.append(message)
        accept(self, message)

    monkeypatch.setattr(GroupedQueues, "_accept", noting)
    return found


def workers_of(loader, num_workers, **options):
    options = {"multiprocessing_context": "fork", **options}
    return DataLoader(loader, batch_size=None, num_workers=num_workers, **options)


def ids(batches):
    return [np.asarray(batch["id"]).tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("name", ["torch_dict", "arrow", "numpy_dict", "python_col"])
def test_batches_come_in_order_and_share_messages(perm, messages, num_workers, name):
    loader = perm.loader(BATCH, shuffle=True, seed=3, format=name)
    wanted = ids(loader)
    # Each worker ends after another number of batches.
    assert len(wanted) == 251
    assert ids(workers_of(loader, num_workers)) == wanted
    assert 0 < len(messages) < len(wanted) / 3


def test_workers_that_stay_begin_again(perm, messages):
    loader = perm.loader(BATCH, shuffle=True, seed=3, format="torch_dict")
    wanted = ids(loader)
    batches = workers_of(loader, 2, persistent_workers=True)
    for num_batches in (1, 7, 120):
        assert ids(batches) == wanted
        begun = iter(batches)
        # Batches that were not asked for do not come in the next iteration.
        assert ids(next(begun) for _ in range(num_batches)) == wanted[:num_batches]
    assert ids(batches) == wanted


@pytest.mark.parametrize("num_begun", [1, 3])
def test_iterations_that_are_left_before_their_first_batch(perm, num_begun):
    loader = perm.loader(BATCH, format="torch_dict")
    batches = workers_of(loader, 2, persistent_workers=True)
    wanted = ids(loader)
    for _ in range(3):
        for _ in range(num_begun):
            iter(batches)
        assert ids(batches) == wanted


def unsendable_at(number):
    def transform(batch):
        return batch | {"f": lambda: 0} if batch["id"][0] == number * BATCH else batch

    return transform


def test_only_batches_that_cannot_be_sent_are_errors(perm):
    wanted = ids(perm.loader(BATCH, format="torch_dict"))
    loader = perm.loader(BATCH, format="torch_dict", transform=unsendable_at(200))
    own = ll.torch.DataLoader(loader, num_workers=1, multiprocessing_context="fork")
    # Our own ends with an error.
    for batches, rest in (workers_of(loader, 1), wanted[201:]), (own, []):
        iterator = iter(batches)
        assert ids(itertools.islice(iterator, 200)) == wanted[:200]
        with pytest.raises(TypeError, match="cannot be pickled"):
            next(iterator)
        assert ids(iterator) == rest


def test_spawned_workers_send_groups(perm, messages):
    loader = perm.loader(BATCH, format="torch_dict")
    batches = workers_of(loader, 1, multiprocessing_context="spawn")
    assert ids(batches) == ids(loader)
    assert any(number < 0 for number, _ in messages)


def fails_late(batch):
    if batch["id"][0] >= 1600:
        raise KeyError("late")
    return batch


def test_batches_before_an_error_arrive(perm):
    loader = perm.loader(BATCH, format="torch_dict", transform=fails_late)
    found = []
    with pytest.raises(KeyError, match="late"):
        found.extend(workers_of(loader, 2))
    assert ids(found) == ids(perm.loader(BATCH, format="torch_dict"))[:200]


def test_a_worker_that_is_killed_is_noticed(perm):
    loader = perm.loader(BATCH, format="torch_dict", epochs=None)
    batches = iter(workers_of(loader, 2))
    for _ in range(50):
        next(batches)
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        kill_and_drain(batches)


def test_groups_go_through_the_queue_without_shared_memory(perm, messages, monkeypatch):
    write = WritableSegments.write

    def writes_four(self, *arguments):
        if next(counted) > 4:
            raise OSError("no memory")
        return write(self, *arguments)

    counted = itertools.count()
    monkeypatch.setattr(WritableSegments, "write", writes_four)
    loader = perm.loader(BATCH, format="torch_dict")
    assert ids(workers_of(loader, 2)) == ids(loader)
    assert 0 < len(messages) < len(loader) / 3


class OtherIterator(_MultiProcessingDataLoaderIter):
    """An iterator that may look at messages itself."""


class OtherLoader(DataLoader):
    def _get_iterator(self):
        return OtherIterator(self)


def test_other_iterators_get_one_batch_a_message(perm, messages):
    loader = perm.loader(BATCH, format="torch_dict")
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    batches = OtherLoader(loader, batch_size=None, **options)
    assert ids(batches) == ids(loader)
    assert messages == []


def test_an_iterator_that_lacks_a_name_gets_one_batch_a_message(
    perm, messages, monkeypatch
):
    names = (*torch_groups.OF_TORCH, "_of_another_version")
    monkeypatch.setattr(torch_groups, "OF_TORCH", names)
    loader = perm.loader(BATCH, format="torch_dict")
    assert ids(workers_of(loader, 2)) == ids(loader)
    assert messages == []


def test_a_limit_of_batches_made_ahead_counts_batches(perm, messages):
    loader = perm.loader(BATCH, format="torch_dict")
    for prefetch_factor in (1, 3):
        batches = workers_of(loader, 2, prefetch_factor=prefetch_factor)
        assert ids(batches) == ids(loader)
    assert messages == []


def returns_ids(batch):
    return batch["id"].tolist()


def test_functions_of_users_get_single_batches(perm, messages):
    loader = perm.loader(BATCH, format="torch_dict")
    batches = workers_of(loader, 2, collate_fn=returns_ids)
    assert [*batches] == ids(loader)
    assert messages == []


class Queues:
    """The queues of an iterator of torch, whose workers answer when a test says so."""

    def __init__(self, monkeypatch, num_workers, depth=2):
        self.answers = deque()
        self.sent = [[] for _ in range(num_workers)]
        reader = SimpleNamespace(get=lambda block, timeout: self.answers.popleft())
        monkeypatch.setattr(torch_groups, "DirectReader", lambda queue: reader)
        numbers = range(depth * num_workers)
        self.iterator = SimpleNamespace(
            _prefetch_factor=depth,
            _index_queues=[Queue(sent) for sent in self.sent],
            _data_queue=SimpleNamespace(),
            _task_info={number: (number % num_workers,) for number in numbers},
        )
        GroupedQueues(self.iterator, (0, "a"))

    def put(self, worker, message):
        self.iterator._index_queues[worker].put(message)

    def get(self):
        return self.iterator._data_queue.get(timeout=5)

    def answer(self, worker, found):
        self.answers.append((-1 - worker, found))


class Queue:
    def __init__(self, sent):
        self.sent = sent

    def put(self, message):
        self.sent.append(message)


def test_no_more_single_batches_are_made_ahead_than_usual(monkeypatch):
    queues = Queues(monkeypatch, 1)
    queues.answers.append((1, "b"))
    for number in range(2, 20):
        # torch has got the batch before the last one.
        queues.put(0, (number, None))
        assert len(queues.sent[0]) == number - 1
        assert queues.get()[0] == number - 1
        queues.answer(0, ["c"])
    assert set(queues.sent[0]) == {(-1, None)}


def test_batches_of_groups_get_the_numbers_of_requests(monkeypatch):
    queues = Queues(monkeypatch, 2)
    queues.answers += [(1, "b"), (3, "d"), (2, "c")]
    assert [queues.get() for _ in range(3)] == [(1, "b"), (3, "d"), (2, "c")]
    for number in range(4, 8):
        queues.put(number % 2, (number, None))
    queues.answer(1, ["f", "h", "j", "l"])
    queues.answer(0, ["e", "g", "i"])
    found = [queues.get() for _ in range(4)]
    assert found == [(5, "f"), (7, "h"), (4, "e"), (6, "g")]
    # What has arrived is there at once, and a group that is begun is replaced.
    for number in (8, 9):
        queues.put(number % 2, (number, None))
    assert [queues.get(), queues.get()] == [(8, "i"), (9, "j")]
    assert [len(sent) for sent in queues.sent] == [3, 3]


def test_a_batch_that_torch_waits_for_is_asked_for(monkeypatch):
    """When a worker ends, torch asks another one for more batches than before."""
    queues = Queues(monkeypatch, 2)
    for number in (4, 6, 8):
        queues.put(0, (number, None))
    assert len(queues.sent[0]) == 1
    queues.answers.append((2, "c"))
    queues.answer(0, ["e"])
    assert [queues.get(), queues.get()] == [(2, "c"), (4, "e")]
    queues.answer(0, ["g"])
    queues.answer(0, ["i"])
    assert [queues.get(), queues.get()] == [(6, "g"), (8, "i")]
    assert len(queues.sent[0]) == 3


def test_nothing_is_asked_of_a_worker_that_has_ended(monkeypatch):
    queues = Queues(monkeypatch, 1)
    queues.put(0, (2, None))
    end = _IterableDatasetStopIteration(0)
    queues.answers += [(1, end)]
    assert queues.get() == (1, end)
    queues.put(0, (3, None))
    queues.put(0, None)
    assert queues.sent[0] == [(-1, None), None]


def test_batches_of_the_iteration_before_are_dropped(monkeypatch):
    queues = Queues(monkeypatch, 1)
    queues.put(0, (2, None))
    resume = _ResumeIteration(7)
    queues.put(0, resume)
    queues.answers += [(1, "b"), (-1, ["c", "d"]), (resume, None)]
    assert queues.get() == (resume, None)
    queues.put(0, (0, None))
    queues.answer(0, ["new"])
    assert queues.get() == (0, "new")
    assert queues.sent[0] == [(-1, None), resume, (-1, None)]
