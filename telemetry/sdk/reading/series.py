"""Points of series in plain columns: sorted, summed up, and thinned so that no spike is lost. It needs no numpy."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["MAX_SAMPLES", "X_AXES", "Curve", "SeriesPoints", "by_title", "iso_time", "named", "sample_indices"]

# Of one series in an answer of get_reported_scalars.
MAX_SAMPLES = 5000

X_AXES = ("iter", "timestamp", "iso_time")

_NS_PER_MS = 1_000_000


@dataclass(slots=True)
class SeriesPoints:
    """The points of one series, in any order.

    Attributes:
        rank: which of several processes reported it; None where there is one.
        iterations, times: int64[n]; times in Unix ns. values: float64[n], every bit kept.
    """

    title: str
    series: str
    rank: int | None = None
    iterations: array[int] = field(default_factory=lambda: array("q"))
    times_unix_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.values)

    def since(self, since_unix_ns: int) -> SeriesPoints:
        """Return the points that are not from before a moment (Unix ns); times of 0 and before are kept."""
        rows = [
            row
            for row, time_unix_ns in enumerate(self.times_unix_ns)
            if time_unix_ns >= since_unix_ns or time_unix_ns <= 0
        ]
        return self if len(rows) == len(self) else self._rows(rows)

    def by(self, x_axis: str) -> SeriesPoints:
        """Return the points in order: by iteration and time, or by time and iteration; then by the value's bits."""
        first, second = (
            (self.iterations, self.times_unix_ns) if x_axis == "iter" else (self.times_unix_ns, self.iterations)
        )
        # A run that reported in order, which is nearly every one, is not sorted again.
        if all(first[row] < first[row + 1] for row in range(len(first) - 1)):
            return self
        bits = memoryview(self.values).cast("B").cast("Q")
        return self._rows(sorted(range(len(self)), key=lambda row: (first[row], second[row], bits[row])))

    def x(self, x_axis: str) -> list[Any]:
        """Return the points' places on an axis of X_AXES."""
        if x_axis == "iter":
            return self.iterations.tolist()
        if x_axis == "timestamp":
            return [time_unix_ns // _NS_PER_MS for time_unix_ns in self.times_unix_ns]
        return [iso_time(time_unix_ns) for time_unix_ns in self.times_unix_ns]

    def summary(self) -> dict[str, float]:
        """Return the value at the highest iteration (of several the latest), and the extremes of the finite ones.

        A zero has no sign here: the server's store (SQLite's REAL) keeps none, and both are to say the same.
        """
        finite = [value for value in self.values if math.isfinite(value)]
        bits = memoryview(self.values).cast("B").cast("Q")
        last = max(range(len(self)), key=lambda row: (self.iterations[row], self.times_unix_ns[row], bits[row]))
        return {
            "last": self.values[last] + 0.0,
            "min": min(finite, default=math.nan) + 0.0,
            "max": max(finite, default=math.nan) + 0.0,
        }

    def curve(self, x_axis: str, max_samples: int | None) -> Curve:
        """Return x and y along an axis; at most `max_samples` points of them, None for all."""
        points = self.by(x_axis)
        if max_samples is not None and len(points) > max_samples:
            points = points._rows(sample_indices(points.values, max_samples))
        return Curve(self.title, self.series, self.rank, points.x(x_axis), points.values.tolist())

    def _rows(self, rows: Sequence[int]) -> SeriesPoints:
        return SeriesPoints(
            self.title,
            self.series,
            self.rank,
            array("q", [self.iterations[row] for row in rows]),
            array("q", [self.times_unix_ns[row] for row in rows]),
            array("d", [self.values[row] for row in rows]),
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """A series as an answer holds it: x of one of X_AXES, y as floats."""

    title: str
    series: str
    rank: int | None
    x: list[Any]
    y: list[float]


def sample_indices(values: Sequence[float], most: int) -> list[int]:
    """Return at most `most` indices of `values`, in order: the first, the last, and each bucket's lowest and highest.

    Buckets hold equally many points; one without a finite value gives its first, so that a stretch of NaN is seen.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    if most < 4:
        return [count - 1] if most == 1 else [0, count - 1][:most]
    buckets = (most - 2) // 2
    chosen = {0, count - 1}
    for number in range(buckets):
        rows = range(number * count // buckets, (number + 1) * count // buckets)
        finite = [row for row in rows if math.isfinite(values[row])]
        if finite:
            chosen.add(min(finite, key=values.__getitem__))
            chosen.add(max(finite, key=values.__getitem__))
        else:
            chosen.add(rows[0])
    return sorted(chosen)


def named(ranks: Iterable[tuple[str, str, int | None]]) -> dict[tuple[str, str, int | None], str]:
    """Return the name of each (title, series, rank) within its title: the lowest rank has the series' own."""
    lowest: dict[tuple[str, str], int | None] = {}
    names = {}
    for title, series, rank in sorted(ranks, key=lambda key: (key[0], key[1], -1 if key[2] is None else key[2])):
        first = lowest.setdefault((title, series), rank)
        names[title, series, rank] = series if rank == first else f"{series} [rank {rank}]"
    return names


def by_title(curves: Iterable[Curve]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {title: {series: {"name", "x", "y"}}}, in order of title and series."""
    found = {(curve.title, curve.series, curve.rank): curve for curve in curves}
    answer: dict[str, dict[str, dict[str, Any]]] = {}
    for key, name in sorted(named(found).items(), key=lambda item: (item[0][0], item[1])):
        answer.setdefault(key[0], {})[name] = {"name": name, "x": found[key].x, "y": found[key].y}
    return answer


def iso_time(time_unix_ns: int) -> str:
    """Return a time as 2026-11-24T18:00:00.123Z; one outside the years 1 to 9999 as its nanoseconds."""
    try:
        moment = datetime.fromtimestamp(time_unix_ns // 10**9, UTC)
    except (OverflowError, OSError, ValueError):
        return f"{time_unix_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_unix_ns // _NS_PER_MS % 1000:03d}Z"
