"""``Curve``: points of a curve over time, of which there are never too many."""

from __future__ import annotations

__all__ = ["MAX_POINTS", "Curve", "Point"]

MAX_POINTS = 512
"""The most points to keep of a curve over time: about the width of a plot in pixels."""

Point = tuple[float, int, float]
"""The seconds since the start, the rows yielded, and the seconds waited."""


class Curve:
    """Points at equal distances, which double whenever there are too many points.

    Attributes:
        stride: The distance between the numbers of two points.
    """

    def __init__(self) -> None:
        self._first: Point | None = None
        self._others: list[tuple[int, Point]] = []
        self.stride = 1

    def add(self, number: int, point: Point) -> None:
        """Add the point of a number, if it is the first one or a multiple of ``stride``."""
        if self._first is None:
            self._first = point
        elif number % self.stride == 0:
            self._others.append((number, point))
            if len(self._others) >= MAX_POINTS:
                self.stride *= 2
                self._others = [
                    each for each in self._others if each[0] % self.stride == 0
                ]

    def until(self, last: Point) -> tuple[Point, ...]:
        """Return all points, and ``last`` at the end."""
        points = [] if self._first is None else [self._first]
        points += [point for _, point in self._others]
        return (*points, *([last] if points and points[-1] != last else []))
