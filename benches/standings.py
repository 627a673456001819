"""How lanceloader stands against each peer, from what ``against.py`` found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from arms import EXACT, LOADER, OURS, RESIDENT, TABLES, WINDOWED
from results import Record, Results, median, ratio, unique

SHUFFLES = (EXACT, WINDOWED)
Key = tuple[str, str, str]
"""Library, how it is used, output."""


def key_of(run: Record) -> Key:
    return run["library"], run["how"], run["output"]


@dataclass(frozen=True)
class Standings:
    results: Results

    @cached_property
    def runs(self) -> list[Record]:
        # A run of an earlier bench has none.
        return self.results.run.get("peers", [])

    def of(self, what: str, table: str, key: Key | None = None) -> list[Record]:
        return [
            run
            for run in self.runs
            if (run["what"], run["table"]) == (what, table)
            and key in (None, key_of(run))
        ]

    def tables(self, what: str) -> list[str]:
        there = {run["table"] for run in self.runs if run["what"] == what}
        return [name for name in TABLES if name in there]

    def arms(self, what: str, table: str) -> list[Record]:
        """Give one run of everyone, ours first, and then by library."""
        of = sorted(self.of(what, table), key=lambda run: run["round"])
        first = {key_of(run): run for run in reversed(of)}
        libraries = unique(run["library"] for run in of)
        order = sorted(libraries, key=lambda name: name != OURS)
        return sorted(first.values(), key=lambda run: order.index(run["library"]))

    def values(self, what: str, table: str, key: Key, field: str) -> list[float]:
        found = (run["figures"].get(field) for run in self.of(what, table, key))
        return [value for value in found if value is not None]

    def value(self, what: str, table: str, key: Key, field: str) -> float | None:
        return median(self.values(what, table, key, field))

    def peers(self, what: str, table: str, shuffle: str | None = None) -> list[Record]:
        return [
            arm
            for arm in self.arms(what, table)
            if arm["library"] != OURS and shuffle in (None, arm["shuffle"])
        ]

    def ours(self, what: str, table: str, output: str, how: str = LOADER) -> Key | None:
        """Give ``loader()`` with an output, or with its own if it has no such output."""
        mine = [key_of(arm) for arm in self.arms(what, table)]
        mine = [key for key in mine if key[:2] == (OURS, how)]
        same = [key for key in mine if key[2] == output]
        return next(iter([*same, *mine]), None)

    def ahead(self, table: str, peer: Record, how: str = LOADER) -> float | None:
        """Return our rows/s as a multiple of a peer's, of ``loader()`` if nothing else is said."""
        mine = self.ours("speed", table, peer["output"], how)
        own = self.value("speed", table, mine, "rows_per_s") if mine else None
        return ratio(own, self.value("speed", table, key_of(peer), "rows_per_s"))

    def least_ahead(self, table: str, shuffle: str) -> tuple[float, str] | None:
        """Give the peer that comes nearest, and how far ahead of it we are."""
        peers = self.peers("speed", table, shuffle)
        found = [(self.ahead(table, peer), named(key_of(peer))) for peer in peers]
        known = [(value, name) for value, name in found if value is not None]
        return min(known, default=None)

    def share_of_best(
        self, what: str, table: str, field: str
    ) -> tuple[float, str] | None:
        """Give the best peer with an exact shuffle of what should be little, and ours as a multiple of it."""
        found = []
        for peer in self.peers(what, table, EXACT):
            mine = self.ours(what, table, peer["output"])
            own = self.value(what, table, mine, field) if mine else None
            share = ratio(own, self.value(what, table, key_of(peer), field))
            if share is not None:
                found.append((share, named(key_of(peer))))
        return max(found, default=None)


def named(key: Key) -> str:
    library, how, _ = key
    return f"{library}, {how}" if how else library


Row = tuple[str, ...]
NOTHING = "-"


def race_rows(standings: Standings, table: str) -> Iterator[Row]:
    """Everyone on one table."""
    yield (
        table, "output", "shuffle", "rows/s", "lowest", "highest", "loader() is x",
        "s to first batch", "MiB", "no files",
    )  # fmt: skip
    for arm in standings.arms("speed", table):
        key = key_of(arm)
        rates = standings.values("speed", table, key, "rows_per_s")
        over = None if arm["library"] == OURS else standings.ahead(table, arm)
        first = standings.value("speed", table, key, "first_batch_s")
        yield (
            named(key), arm["output"], arm["shuffle"],
            *(f"{each:,.0f}" for each in (median(rates), min(rates), max(rates))),
            NOTHING if over is None else marked(over, over >= 1),
            f"{first:.3f}",
            *(
                mebibytes(standings.value("speed", table, key, name))
                for name in ("peak_bytes", "peak_anonymous_bytes")
            ),
        )  # fmt: skip


def marked(value: float, is_ahead: bool) -> str:  # noqa: FBT001
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return text if is_ahead else f"**{text}**"


def mebibytes(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 2**20:,.0f}"


def matrix_rows(standings: Standings) -> Iterator[Row]:
    """Our rows/s as a multiple of the best arm of each library, by kind of shuffle."""
    tables = standings.tables("speed")
    # Where a strategy was asked for, it has a column of its own.
    asked = [
        (table, arm["how"])
        for table in tables
        for arm in standings.arms("speed", table)
        if arm["library"] == OURS and arm["how"] == RESIDENT
    ]
    ways = [*((table, LOADER) for table in tables), *unique(asked)]
    headings = (t if how == LOADER else f"{t}, {how}" for t, how in ways)
    yield "", "shuffle", *headings
    entries = unique(
        (arm["library"], shuffle)
        for table in tables
        for shuffle in SHUFFLES
        for arm in standings.peers("speed", table, shuffle)
    )
    for library, shuffle in sorted(entries):
        cells = [best_of(standings, library, shuffle, *way) for way in ways]
        yield library, shuffle, *cells


def best_of(
    standings: Standings, library: str, shuffle: str, table: str, how: str
) -> str:
    found = [
        standings.ahead(table, arm, how)
        for arm in standings.peers("speed", table, shuffle)
        if arm["library"] == library
    ]
    least = min((value for value in found if value is not None), default=None)
    return NOTHING if least is None else marked(least, least >= 1)


def resume_rows(standings: Standings, table: str) -> Iterator[Row]:
    """Everyone who begins at a step."""
    yield "", "shuffle", "how", "s to the batch", "lowest", "highest", "same rows"
    for arm in standings.arms("resume", table):
        key = key_of(arm)
        seconds = standings.values("resume", table, key, "resume_s")
        share = standings.value("resume", table, key, "share") or 0.0
        exact = standings.value("check", table, key, "is_exact")
        how = arm["resumes"]
        if share < 1:
            how = f"{how}: reckoned from {share:.1%} of it"
        yield (
            named(key), arm["shuffle"], how,
            *(f"{each:,.3f}" for each in (median(seconds), min(seconds), max(seconds))),
            "not compared" if exact is None else "yes" if exact else "**no**",
        )  # fmt: skip


Line = tuple[str, float | None, bool]
"""What is held against the best peer, the figure, and whether more is better."""


def lines(standings: Standings) -> Iterator[Line]:
    """Give a line for each table and measure: ours against the best of the peers."""
    for table in standings.tables("speed") or TABLES:
        for shuffle in SHUFFLES:
            what = f"{table}, rows/s, {shuffle}"
            yield line(what, standings.least_ahead(table, shuffle), is_more=True)
        for field, words in (
            ("first_batch_s", "time to first batch"),
            ("peak_bytes", "memory"),
            ("peak_anonymous_bytes", "memory that is no file's"),
        ):
            found = standings.share_of_best("speed", table, field)
            yield line(f"{table}, {words}, {EXACT}", found, is_more=False)
    for table in standings.tables("resume") or TABLES[:1]:
        found = standings.share_of_best("resume", table, "resume_s")
        yield line(f"{table}, resuming, {EXACT}", found, is_more=False)


def line(what: str, found: tuple[float, str] | None, *, is_more: bool) -> Line:
    if found is None or math.isnan(found[0]):
        return f"{what}: x the best peer", None, is_more
    return f"{what}: x {found[1]}", found[0], is_more
