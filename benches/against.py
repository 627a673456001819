"""Races every arm of ``arms.py`` in fresh processes: rows/s, first batch, memory, and resuming."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arms import REPLAYS, TABLES, Arm, arms
from measure import Failure, Step, failure, rotated
from outside import Child, child, shares, workers
from tables import BenchTable
from tqdm.auto import tqdm
from venvs import python_of

PEERS = "peers"
INTERVAL_S = 0.1
"""How often a process and its workers are weighed."""
SHARED = Path("/dev/shm")
MOSAIC_MEMORY = re.compile(r"\d{6}_[a-z_]+")
MAKE_LIMIT_S = 3600.0
RESUME_TABLE, RESUME_BATCH, RESUME_STEP = "narrow", 16, 1_000_000
QUICK_STEP = 100_000
REPLAY_LIMIT_S = 60.0
"""Who reads up to a step does so for this long; the rest is reckoned from it."""
CHECK_STEP = 200
"""Up to here everyone reads once, so that resuming there can be compared with it."""


@dataclass(frozen=True)
class PeerRun:
    """What one process of an arm found."""

    what: str
    """``speed``, ``resume`` or ``check``."""
    table: str
    num_rows: int
    batch_size: int
    library: str
    how: str
    output: str
    shuffle: str
    resumes: str
    round: int
    load: float
    """Load average of the machine over the last minute."""
    figures: dict[str, float]


class Against:
    """The arms of some tables, and what was found so far."""

    def __init__(
        self, rounds: int, seconds: float, step: Step, words: list[str] | None
    ) -> None:
        self.rounds, self.seconds, self.step = rounds, seconds, step
        self.words = words
        self.runs: list[PeerRun] = []
        self.failures: list[Failure] = []

    def running(self, table: BenchTable, where: str) -> list[Arm]:
        """Give the arms whose copies are there, made now if need be."""
        found, made = [], set()
        for arm in arms(table.name):
            if self.words and not any(word in arm.name for word in self.words):
                continue
            try:
                if arm.make and arm.make not in made:
                    self.step(f"{where}: {arm.name}, making its copy")
                    make(table, arm)
                    made.add(arm.make)
                found.append(arm)
            except Exception as error:
                self.fail(where, arm, error)
        return found

    def fail(self, where: str, arm: Arm, error: Exception) -> None:
        found = failure(where, arm.name, arm.output, error)
        tqdm.write(f"{where}: {arm.name} is left out: {found.reason}")
        self.failures.append(found)

    def race(self, table: BenchTable) -> None:
        """Let everyone read a table, by turns."""
        where = f"{table.name}, {PEERS}"
        running = self.running(table, where)
        table.warm()
        for number in range(self.rounds):
            for arm in rotated(running, number):
                self.step(f"{where}: {arm.name}")
                try:
                    # One round is weighed: it costs a little, everyone alike.
                    figures = timed(
                        table,
                        arm,
                        number,
                        self.seconds,
                        is_weighed=number == 0,
                        is_only=self.rounds == 1,
                    )
                    self.add("speed", table, arm, number, figures)
                except Exception as error:
                    running.remove(arm)
                    self.fail(where, arm, error)

    def resume(self, table: BenchTable, step: int) -> None:
        """Let everyone begin at a step, by turns; and once at one that is soon reached."""
        where = f"resuming, {PEERS}"
        table = replace(table, batch_size=RESUME_BATCH)
        running = self.running(table, where)
        for arm in list(running):
            if arm.resumes == REPLAYS:
                continue
            self.step(f"{where}: {arm.name}, compared")
            try:
                figures = {"is_exact": float(is_exact(table, arm))}
                self.add("check", table, arm, 0, figures)
            except Exception as error:
                running.remove(arm)
                self.fail(where, arm, error)
        for number in range(self.rounds):
            for arm in rotated(running, number):
                self.step(f"{where}: {arm.name}")
                try:
                    found = resumed(table, arm, step)
                    figures = {"resume_s": found["seconds"], "share": found["share"]}
                    self.add("resume", table, arm, number, figures)
                except Exception as error:
                    running.remove(arm)
                    self.fail(where, arm, error)

    def add(
        self,
        what: str,
        table: BenchTable,
        arm: Arm,
        number: int,
        figures: dict[str, float],
    ) -> None:
        self.runs.append(
            PeerRun(
                what,
                table.name,
                table.num_rows,
                table.batch_size,
                arm.library,
                arm.how,
                arm.output,
                arm.shuffle,
                arm.resumes,
                number,
                os.getloadavg()[0],
                figures,
            )
        )


@contextlib.contextmanager
def job(what: str, table: BenchTable, arm: Arm, **arguments: Any) -> Iterator[Child]:
    python = python_of(arm.venv)
    with (
        swept(),
        child(
            "peer", python=python, table=table, what=what, arm=vars(arm), **arguments
        ) as running,
    ):
        yield running
        # Some libraries hang when they are to end. Python's tracker of shared memory is left
        # to take away what they had.
        for pid in reversed([running.process.pid, *workers(running.process.pid)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def swept() -> Iterator[None]:
    """Remove the named shared memory that MosaicML's processes leave behind."""
    before = set(named_memory())
    yield
    for left in set(named_memory()) - before:
        left.unlink(missing_ok=True)


def named_memory() -> Iterator[Path]:
    return (each for each in SHARED.glob("*") if MOSAIC_MEMORY.fullmatch(each.name))


def make(table: BenchTable, arm: Arm) -> None:
    with job("make", table, arm, limit_s=MAKE_LIMIT_S) as running:
        running.go_on()
        running.wait_for("made")


def timed(
    table: BenchTable, arm: Arm, number: int, seconds: float, *, is_weighed: bool,
    is_only: bool,
) -> dict[str, float]:  # fmt: skip
    extra = {"number": number, "seconds": seconds, "is_weighed": is_weighed}
    with job("speed", table, arm, **extra) as running:
        scale = Scale(running.process.pid) if is_weighed else None
        with scale or contextlib.nullcontext():
            running.go_on()
            first = running.wait_for("first")["seconds"]
            running.wait_for("timing")
        running.go_on()
        found = running.wait_for("timed")
        figures = {
            "rows_per_s": found["rows_per_s"],
            "num_batches": found["num_batches"],
            "process_s_per_batch": found["process_s_per_batch"],
        }
        # Whoever is weighed is stopped again and again, the longer the more memory is mapped.
        if scale is None or is_only:
            figures["first_batch_s"] = first
        if scale is not None:
            with scale:
                running.go_on()
                running.wait_for("weighed")
            figures |= scale.figures()
            running.go_on()
            if differs := running.wait_for("compared")["differs"]:
                raise AssertionError(differs)
    return figures


class Scale:
    """Weighs a process and its workers while a block runs; it may be entered again."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.base = shares(pid)
        self.found = [self.base]

    def __enter__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self) -> None:
        while not self.stop.wait(INTERVAL_S):
            self.found.append(shares(self.pid))

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.found.append(shares(self.pid))

    def figures(self) -> dict[str, float]:
        """Give the peaks, less what the imports of the main process take."""
        peaks = [max(each) for each in zip(*self.found, strict=True)]
        return {
            "imported_bytes": self.base[0],
            "peak_bytes": peaks[0] - self.base[0],
            "peak_anonymous_bytes": peaks[1] - self.base[1],
        }


def resumed(table: BenchTable, arm: Arm, step: int) -> dict[str, Any]:
    found = None
    if arm.state:
        with job("state", table, arm, step=step) as running:
            running.go_on()
            found = running.wait_for("state")["state"]
    extra = {"step": step, "state": found, "replay_s": REPLAY_LIMIT_S}
    with job("resume", table, arm, **extra) as running:
        running.go_on()
        return running.wait_for("resumed")


def is_exact(table: BenchTable, arm: Arm) -> bool:
    """Whether the rows after resuming are those that come without."""
    with job("play", table, arm, step=CHECK_STEP) as running:
        running.go_on()
        wanted = running.wait_for("played")["ids"]
    return resumed(table, arm, CHECK_STEP)["ids"] == wanted


def run_against(
    tables: list[BenchTable],
    rounds: int,
    seconds: float,
    step: Step,
    *,
    words: list[str] | None = None,
    quick: bool = False,
) -> tuple[list[PeerRun], list[Failure]]:
    """Race everyone on each table, and have everyone resume on one of them.

    Args:
        words: Only arms whose name has one of these in it.
    """
    found = Against(rounds, seconds, step, words)
    for table in tables:
        if table.name in TABLES:
            found.race(table)
    for table in tables:
        if table.name == RESUME_TABLE:
            found.resume(table, QUICK_STEP if quick else RESUME_STEP)
    return found.runs, found.failures
