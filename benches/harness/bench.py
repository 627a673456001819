"""What is found in a run: rounds in which everyone takes turns, and who could not run."""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from peers import WINDOWS, Arm
from tqdm.auto import tqdm

from harness.machine import machine
from harness.tables import BenchTable, bench_table
from harness.turn import Turn, prepare, timed

WARM_BYTES = 1 << 30
"""More than a loader writes that keeps what it fetched."""

Found = TypeVar("Found")
Key = TypeVar("Key", bound=Hashable)
Figures = dict[str, float]


class Bench:
    """The options of a run, and what an experiment of it has found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rounds, self.seconds = options.rounds, options.seconds
        self.quick, self.folder = options.quick, options.folder
        self.tables: dict[str, BenchTable] = {}
        self.bar = tqdm(unit=" turns", mininterval=1)

    def run(self, experiment: Callable[[Bench], None]) -> dict[str, Any]:
        """Return what an experiment found, as it stands in the results."""
        self.samples: list[dict[str, Any]] = []
        self.peers: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self.timeline: dict[str, Any] = {}
        start = time.perf_counter()
        experiment(self)
        loads = [one["load"] for one in self.samples] or [self.load()]
        return {
            "day": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            "kernel": machine()["kernel"],
            "rounds": self.rounds,
            "seconds_per_turn": self.seconds,
            "took_s": round(time.perf_counter() - start, 1),
            "load": [min(loads), max(loads)],
            "samples": self.samples,
            "peers": self.peers,
            "measured": self.measured,
            "failures": self.failures,
            "timeline": self.timeline,
        }

    def table(self, name: str) -> BenchTable:
        if name not in self.tables:
            self.tables[name] = bench_table(name, self.folder, quick=self.quick)
        return self.tables[name]

    @staticmethod
    def load() -> float:
        """Return the load average of the machine over the last minute."""
        return os.getloadavg()[0]

    def step(self, what: str) -> None:
        self.bar.set_description(what)
        self.bar.update()

    def fail(self, where: str, name: str, output: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        tqdm.write(f"{where}: {name} is left out: {reason}")
        self.failures.append(
            {"where": where, "contender": name, "output": output, "reason": reason}
        )

    @contextmanager
    def attempt(self, where: str, name: str, output: str = "") -> Iterator[None]:
        """Run a block that may fail; what fails is left out, and told."""
        self.step(f"{where}: {name}")
        try:
            yield
        except Exception as error:
            self.fail(where, name, output, error)

    def interleave(
        self,
        where: str,
        jobs: Mapping[Key, Callable[[int], Found]],
        rounds: int,
        name_of: Callable[[Key], tuple[str, str]],
    ) -> Iterator[tuple[Key, int, Found]]:
        """Run every job once a round, by turns; one that fails is left out from then on."""
        running = dict(jobs)
        for number in range(rounds):
            for key in rotated(list(running), number):
                found: list[Found] = []
                with self.attempt(where, *name_of(key)):
                    found.append(running[key](number))
                if not found:
                    del running[key]
                for each in found:
                    yield key, number, each

    def measure(
        self,
        experiment: str,
        cases: Mapping[str, Callable[[int], Figures]],
        rounds: int,
    ) -> None:
        """Run cases by turns, and keep the figures of each."""
        for case, number, figures in self.interleave(
            experiment, cases, rounds, lambda case: (case, "")
        ):
            self.add(experiment, case, number, figures)

    def add(self, experiment: str, case: str, number: int, figures: Figures) -> None:
        self.measured.append(
            {
                "experiment": experiment,
                "case": case,
                "round": number,
                "figures": figures,
            }
        )

    def race(
        self, where: str, table: BenchTable, arms: Iterable[Arm], *,
        rounds: int, seconds: float, is_warm: bool = True, is_checked: bool = False,
        is_compared: bool = False, is_weighed: bool = False, reference: Arm | None = None,
    ) -> Iterator[tuple[Arm, int, Figures]]:  # fmt: skip
        """Run arms on a table by turns, with another seed in each round.

        Rows are checked and memory is weighed in the first round. An arm is left out if its rows
        are not the table's; if rows are compared, too, if they are not those of the other arms with
        the same exact shuffle, or of a reference, which takes no part otherwise.
        """
        running = self.prepared(where, table, arms)
        firsts: dict[str, tuple[str, str]] = {}
        if reference:
            with self.attempt(where, reference.name):
                compare(reference, timed(table, reference, 1, 0), firsts)

        def run(arm: Arm, number: int) -> Figures:
            is_first = number == 0
            found = timed(
                table, arm, number + 1, seconds, is_warm=is_warm,
                is_checked=is_checked and is_first, is_weighed=is_weighed and is_first,
            )  # fmt: skip
            if is_checked and is_first:
                check(found)
            if is_compared and is_first:
                compare(arm, found, firsts)
            if is_weighed and is_first and rounds > 1:
                # Whoever is weighed is stopped again and again, the longer the more is mapped.
                del found.figures["first_batch_s"]
            return found.figures

        jobs = {arm: functools.partial(run, arm) for arm in running}
        yield from self.interleave(
            where, jobs, rounds, lambda arm: (arm.name, arm.output)
        )

    def prepared(self, where: str, table: BenchTable, arms: Iterable[Arm]) -> list[Arm]:
        """Return the arms that can read a table, whose copies of it are made now if need be."""
        running, made = [], set()
        for arm in arms:
            with self.attempt(where, arm.name, arm.output):
                if arm.make not in made:
                    prepare(table, arm)
                    made.add(arm.make)
                running.append(arm)
        return running

    @contextmanager
    def empty_folder(self, prefix: str = "rows-") -> Iterator[Path]:
        """Make a new folder on the disk that the tables are on, and delete it in the end."""
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def warm_memory(folder: Path) -> None:
    """Write and delete a file in ``folder``, so that the machine has free memory of its own.

    A virtual machine may give free memory back to its host, and then waits for each page that it takes again. A
    case that runs right after one that freed much memory would be faster than others.
    """
    piece = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(WARM_BYTES // len(piece)):
            file.write(piece)


def rotated(everyone: Sequence[Found], number: int) -> list[Found]:
    """Begin with another one each round: nobody always follows the same neighbour."""
    start = number % max(len(everyone), 1)
    return [*everyone[start:], *everyone[:start]]


def check(found: Turn) -> None:
    if found.differs:
        raise AssertionError(found.differs)


def compare(arm: Arm, found: Turn, firsts: dict[str, tuple[str, str]]) -> None:
    """Compare the first rows of an arm with those of who came first of the same shuffle."""
    if arm.shuffle != WINDOWS:
        name, rows = firsts.setdefault(arm.shuffle, (arm.name, found.first_rows))
        if rows != found.first_rows:
            message = f"other rows than {name}"
            raise AssertionError(message)
