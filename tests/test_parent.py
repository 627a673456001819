"""A process that ends with its parent: when the parent has ended, and for no other reason."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait

import pytest
from lanceloader.transport.parent import when_ended
from process_state import soon


def exit_with_parent(connection):
    parent = multiprocessing.parent_process()
    when_ended(parent, lambda: os._exit(1))
    connection.send("watches")
    wait([parent.sentinel])
    # What the watching thread would do about it, it would have done by now.
    time.sleep(0.3)
    os._exit(7)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_sentinel_that_the_parent_closed_is_not_its_end():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=exit_with_parent, args=(theirs,))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == "watches"
    process._popen.finalizer()
    status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    process._popen.returncode = status
    assert status == 7


class Sleeping:
    """A process that ends when its input does."""

    def __init__(self):
        program = "import sys; sys.stdin.read()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE
        )
        self.pid = self.process.pid

    @property
    def sentinel(self):
        raise AssertionError("there is a better way")

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture
def sleeping():
    process = Sleeping()
    yield process
    process.end()


def test_a_process_that_ends(sleeping):
    ended = threading.Event()
    when_ended(sleeping, ended.set)
    assert not ended.wait(0.2)
    sleeping.end()
    assert ended.wait(60)


def test_a_process_that_has_ended(sleeping):
    sleeping.end()
    ended = threading.Event()
    when_ended(sleeping, ended.set)
    assert ended.wait(60)


def test_a_file_that_other_code_closed_is_not_its_end(sleeping, monkeypatch):
    real, opened = os.pidfd_open, []

    def open_file(pid):
        opened.append(real(pid))
        if len(opened) == 1:
            # Before anybody polls it.
            os.close(opened[0])
        return opened[-1]

    monkeypatch.setattr(os, "pidfd_open", open_file)
    ended = threading.Event()
    when_ended(sleeping, ended.set)
    assert soon(lambda: len(opened) == 2)
    assert not ended.wait(0.2)
    sleeping.end()
    assert ended.wait(60)
    for file in opened[1:]:
        os.close(file)
