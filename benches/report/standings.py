"""How lanceloader stands against each peer, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from harness.process import MIB
from peers import LOADER, OURS, TABLES
from scenarios.against import CHECK, EXACT, RESUME, SPEED, WINDOWED

from report.layout import NOTHING, Row, number
from report.results import Record, Results, median, ratio, unique

RESIDENT = 'loader(read="resident")'
Key = tuple[str, str, str]
"""Library, how it is used, output."""


def key_of(run: Record) -> Key:
    return run["library"], run["how"], run["output"]


def named(run: Record) -> str:
    return ", ".join(filter(None, key_of(run)[:2]))


@dataclass(frozen=True)
class Standings:
    results: Results

    @cached_property
    def runs(self) -> list[Record]:
        return self.results.run["peers"]

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
        """Return one run of everyone, ours first, and then by library."""
        of = sorted(self.of(what, table), key=lambda run: run["round"])
        first = {key_of(run): run for run in reversed(of)}
        libraries = unique(run["library"] for run in of)
        order = sorted(libraries, key=lambda name: name != OURS)
        return sorted(first.values(), key=lambda run: order.index(run["library"]))

    def values(self, what: str, table: str, key: Key, field: str) -> list[float]:
        found = (run["figures"].get(field) for run in self.of(what, table, key))
        return [value for value in found if value is not None]

    def value(self, what: str, table: str, key: Key | None, field: str) -> float | None:
        return median(self.values(what, table, key, field)) if key else None

    def figure(self, what: str, table: str, arm: Record, field: str) -> float | None:
        return self.value(what, table, key_of(arm), field)

    def peers(
        self, table: str, shuffle: str | None = None, what: str = SPEED
    ) -> list[Record]:
        return [
            arm
            for arm in self.arms(what, table)
            if arm["library"] != OURS and shuffle in (None, arm["shuffle"])
        ]

    def ours(
        self, table: str, output: str, how: str = LOADER, what: str = SPEED
    ) -> Key | None:
        """Return ``loader()`` with an output, or with its own if it has no such output."""
        mine = [key_of(arm) for arm in self.arms(what, table)]
        mine = [key for key in mine if key[:2] == (OURS, how)]
        same = [key for key in mine if key[2] == output]
        return next(iter([*same, *mine]), None)

    def over(
        self, table: str, peer: Record, field: str, how: str = LOADER, what: str = SPEED
    ) -> float | None:
        """Return a figure of ours, of ``loader()`` if nothing else is said, as a multiple of a peer's."""
        mine = self.ours(table, peer["output"], how, what)
        own = self.value(what, table, mine, field)
        return ratio(own, self.figure(what, table, peer, field))

    def ahead(self, table: str, peer: Record, how: str = LOADER) -> float | None:
        return self.over(table, peer, "rows_per_s", how)

    def nearest(self, table: str, library: str, how: str = LOADER) -> float | None:
        """Return our rows/s as a multiple of those of the best arm of a library."""
        arms = [arm for arm in self.peers(table) if arm["library"] == library]
        return least(self.ahead(table, arm, how) for arm in arms)

    def extreme(
        self, table: str, shuffle: str, field: str, what: str = SPEED
    ) -> tuple[float, str] | None:
        """Return ours as a multiple of the peer's that is best at something, and which peer that is.

        Of rows/s more is better, and of everything else less.
        """
        peers = self.peers(table, shuffle, what)
        multiples = (
            (self.over(table, peer, field, what=what), named(peer)) for peer in peers
        )
        found = [one for one in multiples if one[0] is not None]
        return (min if field == "rows_per_s" else max)(found, default=None)


def least(values: Iterator[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def marked(value: float | None) -> str:
    if value is None:
        return NOTHING
    return number(value) if value >= 1 else f"**{number(value)}**"


def three(values: list[float], style: str) -> list[str]:
    """Write the median, the lowest and the highest."""
    return [
        format(value, style) for value in (median(values), min(values), max(values))
    ]


def race_rows(standings: Standings, table: str) -> Iterator[Row]:
    """Everyone on one table."""
    yield (
        table, "output", "shuffle", "rows/s", "lowest", "highest", "loader() is x",
        "s to first batch", "MiB", "no files",
    )  # fmt: skip
    for arm in standings.arms(SPEED, table):
        over = None if arm["library"] == OURS else standings.ahead(table, arm)
        first, *weights = (
            standings.figure(SPEED, table, arm, name)
            for name in ("first_batch_s", "peak_bytes", "peak_anonymous_bytes")
        )
        yield (
            named(arm), arm["output"], arm["shuffle"],
            *three(standings.values(SPEED, table, key_of(arm), "rows_per_s"), ",.0f"),
            marked(over), f"{first:.3f}",
            *(NOTHING if one is None else f"{one / MIB:,.0f}" for one in weights),
        )  # fmt: skip


def matrix_rows(standings: Standings) -> Iterator[Row]:
    """Our rows/s as a multiple of the best arm of each library, by kind of shuffle."""
    tables = standings.tables(SPEED)
    # Where a strategy was asked for, it has a column of its own.
    asked = [
        (table, RESIDENT)
        for table in tables
        if any(arm["how"] == RESIDENT for arm in standings.arms(SPEED, table))
    ]
    ways = [*((table, LOADER) for table in tables), *asked]
    headings = (t if how == LOADER else f"{t}, {how}" for t, how in ways)
    yield "", "shuffle", *headings
    entries = {
        (arm["library"], arm["shuffle"])
        for table in tables
        for arm in standings.peers(table)
    }
    for library, shuffle in sorted(entries):
        cells = (
            least(
                standings.ahead(table, arm, how)
                for arm in standings.peers(table, shuffle)
                if arm["library"] == library
            )
            for table, how in ways
        )
        yield library, shuffle, *map(marked, cells)


def resume_rows(standings: Standings, table: str) -> Iterator[Row]:
    """Everyone who begins at a step."""
    yield "", "shuffle", "how", "s to the batch", "lowest", "highest", "same rows"
    for arm in standings.arms(RESUME, table):
        share = standings.figure(RESUME, table, arm, "share") or 0.0
        exact = standings.figure(CHECK, table, arm, "is_exact")
        how = arm["resumes"]
        if share < 1:
            how = f"{how}: reckoned from {share:.1%} of it"
        yield (
            named(arm), arm["shuffle"], how,
            *three(standings.values(RESUME, table, key_of(arm), "resume_s"), ",.3f"),
            "not compared" if exact is None else "yes" if exact else "**no**",
        )  # fmt: skip


Line = tuple[str, float | None, bool]
"""What is held against the best peer, the figure, and whether more is better."""


def lines(standings: Standings) -> Iterator[Line]:
    """Return a line for each table and measure: ours against the best of the peers."""
    for table in standings.tables(SPEED) or TABLES:
        for words, shuffle, field in (
            ("rows/s", EXACT, "rows_per_s"),
            ("rows/s", WINDOWED, "rows_per_s"),
            ("time to first batch", EXACT, "first_batch_s"),
            ("memory", EXACT, "peak_bytes"),
            ("memory that is no file's", EXACT, "peak_anonymous_bytes"),
        ):
            found = standings.extreme(table, shuffle, field)
            yield line(f"{table}, {words}, {shuffle}", found, field == "rows_per_s")
    for table in standings.tables(RESUME) or TABLES[:1]:
        found = standings.extreme(table, EXACT, "resume_s", RESUME)
        yield line(f"{table}, resuming, {EXACT}", found, False)  # noqa: FBT003


def line(what: str, found: tuple[float, str] | None, is_more: bool) -> Line:  # noqa: FBT001
    value, peer = found or (None, "the best peer")
    return f"{what}: x {peer}", value, is_more
