"""Charts: the points of one series in a range, all of them or their outline.

Three ways, by how many points there are: every point; min/max buckets over every point; and, for very
long series, min/max buckets over the cells of the chunks that lie inside the range and over the points
of the chunks that its ends cut through. Points that are in no chunk are few, and always read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from telemetry.server.store.attempts import Cut, visible
from telemetry.server.store.blocks import PlacedRun
from telemetry.server.store.chunks import FloatArray, IntArray, Points
from telemetry.server.store.parts import TaskParts
from telemetry.server.store.sampling import min_max_rows, smooth
from telemetry.server.store.seams import ChunkPlace

__all__ = ["MAX_NON_FINITE", "PointsQuery", "SampledSeries", "Summary", "query_points", "query_summary"]

# Up to here every point is read, at some 0.06 us each; beyond it the overviews answer.
RAW_POINTS = 500_000
# How many non-finite points an answer names; all are counted.
MAX_NON_FINITE = 100
# What lies further back than this many half-lives has no weight left in a float64.
_WARM_UP_HALF_LIVES = 60
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class PointsQuery:
    """What to draw.

    Attributes:
        by_time: x is the time in Unix ns, else the iteration.
        low, high: inclusive, in x; None for no bound.
        max_samples: at most this many samples a series, >= 2.
        half_life: of the smoothing, in x; None for none.
        all_attempts: also the points that a later attempt of the job has reported anew.
    """

    by_time: bool
    low: int | None
    high: int | None
    max_samples: int
    half_life: float | None = None
    all_attempts: bool = False


@dataclass(frozen=True, slots=True)
class SampledSeries:
    """The answer for one series; `x`, `values` and `smooth` are of one length, ascending in x.

    Attributes:
        count: stored points in the range.
        exact: `x` and `values` are all of them.
        smooth: NaN before the first finite value; None if it was not asked for.
        smooth_exact: computed over every stored point, not over means of cells.
        non_finite: (x, value) of the first ones, at most MAX_NON_FINITE.
    """

    count: int
    exact: bool
    x: IntArray
    values: FloatArray
    smooth: FloatArray | None
    smooth_exact: bool
    non_finite: list[tuple[int, float]]
    non_finite_count: int


class _Chunk(NamedTuple):
    """A chunk without its columns; `lowest` and `highest` are in x. `mixed`: some of its points are hidden."""

    place: ChunkPlace
    lowest: int
    highest: int
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class _Samples:
    """Candidates for drawing, ascending in x."""

    x: IntArray
    values: FloatArray

    def between(self, low: int, high: int) -> _Samples:
        first = int(np.searchsorted(self.x, low, side="left"))
        last = int(np.searchsorted(self.x, high, side="right"))
        return _Samples(self.x[first:last], self.values[first:last])


def query_points(
    parts: TaskParts, series: int, runs: Sequence[PlacedRun], query: PointsQuery, cuts: Sequence[Cut] = ()
) -> SampledSeries:
    """Answer for one series, without what `cuts` hide. `runs`: what of it is in no chunk."""
    low = _INT64_MIN if query.low is None else _clamp(query.low)
    high = _INT64_MAX if query.high is None else _clamp(query.high)
    warm_low = _warm_up(low, query.half_life) if query.low is not None else low
    rows = _chunks(parts, series, query.by_time, warm_low, high, cuts)
    loose = sum(len(run.points) for run in runs)
    held = sum(row.place.size for row in rows) + loose
    if held > RAW_POINTS and warm_low < low:
        # Only the smoothing asked for the earlier points.
        needed = [row for row in rows if row.highest >= low]
        if sum(row.place.size for row in needed) + loose <= RAW_POINTS:
            rows, warm_low, held = needed, low, RAW_POINTS
    if held <= RAW_POINTS:
        points = visible(parts.read([row.place for row in rows], runs), cuts)
        return _from_points(_sorted(points, query.by_time), query, low, high, warm_low)
    return _from_cells(parts, rows, runs, query, low, high, cuts)


@dataclass(frozen=True, slots=True)
class Summary:
    """The finite points of a series in a range, or cells that stand for 256 of them each; in any order.

    Attributes:
        x: int64[n]; of a cell its middle point's.
        mean, low, high: float64[n]; all the same for a point.
        weight: float64[n], how many points.
        exact: no cell is among them.
    """

    x: IntArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    weight: FloatArray
    exact: bool


def query_summary(
    parts: TaskParts,
    series: int,
    runs: Sequence[PlacedRun],
    query: PointsQuery,
    max_points: int,
    cuts: Sequence[Cut] = (),
) -> Summary:
    """Return what a band over several series is made of; points while they are at most `max_points`."""
    low = _INT64_MIN if query.low is None else _clamp(query.low)
    high = _INT64_MAX if query.high is None else _clamp(query.high)
    rows = _chunks(parts, series, query.by_time, low, high, cuts)
    whole: list[_Chunk] = []
    if sum(row.place.size for row in rows) + sum(len(run.points) for run in runs) > max_points:
        whole = [row for row in rows if row.lowest >= low and row.highest <= high and not row.mixed]
    held = {row.place.id for row in whole}
    points = visible(parts.read([row.place for row in rows if row.place.id not in held], runs), cuts)
    raw = _sorted(points, query.by_time).between(low, high)
    kept = np.isfinite(raw.values)
    x, values = raw.x[kept], raw.values[kept]
    if not whole:
        return Summary(x, values, values, values, np.ones(len(x)), True)
    cells = parts.overviews([row.place for row in whole])
    cells = cells[cells["finite"] > 0]
    return Summary(
        np.concatenate([cells["middle_time" if query.by_time else "middle_iteration"], x]),
        np.concatenate([cells["mean"], values]),
        np.concatenate([cells["min_value"], values]),
        np.concatenate([cells["max_value"], values]),
        np.concatenate([cells["finite"].astype(np.float64), np.ones(len(x))]),
        False,
    )


def _warm_up(low: int, half_life: float | None) -> int:
    if half_life is None:
        return low
    return _clamp(low - math.ceil(min(2.0**64, half_life * _WARM_UP_HALF_LIVES)))


def _clamp(x: int) -> int:
    return min(_INT64_MAX, max(_INT64_MIN, x))


def _from_points(samples: _Samples, query: PointsQuery, low: int, high: int, warm_low: int) -> SampledSeries:
    warm = samples.between(warm_low, high)
    inside = samples.between(low, high)
    count = len(inside.x)
    lost = np.flatnonzero(~np.isfinite(inside.values))
    exact = count <= query.max_samples
    if exact:
        rows = np.arange(count)
    else:
        first, last = int(inside.x[0]), int(inside.x[-1])
        rows = min_max_rows(
            inside.x,
            inside.values,
            first if query.low is None else low,
            last if query.high is None else high,
            query.max_samples // 2,
        )
    smoothed = None
    if query.half_life is not None:
        curve = smooth(warm.x, warm.values, query.half_life)
        smoothed = curve[len(curve) - count :][rows] if count else curve[:0]
    return SampledSeries(
        count=count,
        exact=exact,
        x=inside.x[rows],
        values=inside.values[rows],
        smooth=smoothed,
        smooth_exact=True,
        non_finite=[(int(inside.x[row]), float(inside.values[row])) for row in lost[:MAX_NON_FINITE]],
        non_finite_count=len(lost),
    )


def _from_cells(
    parts: TaskParts,
    rows: list[_Chunk],
    runs: Sequence[PlacedRun],
    query: PointsQuery,
    low: int,
    high: int,
    cuts: Sequence[Cut],
) -> SampledSeries:
    rows = [row for row in rows if row.highest >= low]
    whole = [row for row in rows if row.lowest >= low and row.highest <= high and not row.mixed]
    held = {row.place.id for row in whole}
    overview = parts.overviews([row.place for row in whole])
    points = visible(parts.read([row.place for row in rows if row.place.id not in held], runs), cuts)
    raw = _sorted(points, query.by_time).between(low, high)
    if not whole:
        # Points far out of order: every chunk reaches over an end of the range.
        answer = _from_points(raw, query, low, high, low)
        return replace(answer, smooth_exact=query.half_life is None or query.low is None)
    named = _lost_of(parts, whole, raw, query.by_time)
    suffix = "time" if query.by_time else "iteration"
    x = np.concatenate([overview[f"min_{suffix}"], overview[f"max_{suffix}"], raw.x])
    values = np.concatenate([overview["min_value"], overview["max_value"], raw.values])
    order = np.argsort(x, kind="stable")
    x, values = x[order], values[order]
    bounds = (
        min(min(row.lowest for row in whole), int(x[0])) if query.low is None else low,
        max(max(row.highest for row in whole), int(x[-1])) if query.high is None else high,
    )
    picked = min_max_rows(x, values, *bounds, query.max_samples // 2)
    smoothed = None
    if query.half_life is not None:
        smoothed = _smooth_cells(overview, raw, suffix, query.half_life, x[picked])
    return SampledSeries(
        count=sum(row.place.size for row in whole) + len(raw.x),
        exact=False,
        x=x[picked],
        values=values[picked],
        smooth=smoothed,
        smooth_exact=False,
        non_finite=named,
        non_finite_count=sum(row.place.non_finite for row in whole) + int((~np.isfinite(raw.values)).sum()),
    )


def _smooth_cells(
    overview: npt.NDArray[np.void], raw: _Samples, suffix: str, half_life: float, at: IntArray
) -> FloatArray:
    """Smooth over the means of cells, read off at the given x."""
    x = np.concatenate([overview[f"middle_{suffix}"], raw.x])
    means = np.concatenate([overview["mean"], raw.values])
    weights = np.concatenate([overview["finite"].astype(np.float64), np.ones(len(raw.x))])
    order = np.argsort(x, kind="stable")
    x = x[order]
    curve = smooth(x, means[order], half_life, weights[order])
    rows = np.searchsorted(x, at, side="right") - 1
    return curve[np.maximum(rows, 0)]


def _lost_of(parts: TaskParts, whole: list[_Chunk], raw: _Samples, by_time: bool) -> list[tuple[int, float]]:
    """Name the first non-finite points; only chunks that have some are unpacked, until there are enough."""
    bad = ~np.isfinite(raw.values)
    named = list(zip(raw.x[bad].tolist(), raw.values[bad].tolist(), strict=True))
    wanted: list[_Chunk] = []
    for row in sorted((row for row in whole if row.place.non_finite), key=lambda row: (row.lowest, row.place.id)):
        wanted.append(row)
        if sum(chunk.place.non_finite for chunk in wanted) >= MAX_NON_FINITE:
            break
    points = parts.read([row.place for row in wanted], ())
    bad = ~np.isfinite(points.values)
    x = (points.times_unix_ns if by_time else points.iterations)[bad]
    named += zip(x.tolist(), points.values[bad].tolist(), strict=True)
    named.sort(key=lambda item: item[0])
    return named[:MAX_NON_FINITE]


def _sorted(points: Points, by_time: bool) -> _Samples:
    x = points.times_unix_ns if by_time else points.iterations
    if len(x) > 1 and bool((x[1:] < x[:-1]).any()):
        order = np.argsort(x, kind="stable")
        return _Samples(x[order], points.values[order])
    return _Samples(x, points.values)


# -- reading the store


def _chunks(parts: TaskParts, series: int, by_time: bool, low: int, high: int, cuts: Sequence[Cut]) -> list[_Chunk]:
    """Return the chunks that reach into the range, but for those of which all points are hidden."""
    found: list[_Chunk] = []
    for place in parts.chunks_of([series], by_time=by_time, low=low, high=high).get(series, ()):
        span = (place.lowest_time, place.highest_time) if by_time else (place.lowest_iteration, place.highest_iteration)
        if not cuts:
            found.append(_Chunk(place, *span))
            continue
        touching = [
            cut for cut in cuts if place.lowest_time < cut.time_unix_ns and place.highest_iteration >= cut.iteration
        ]
        if any(place.highest_time < cut.time_unix_ns and place.lowest_iteration >= cut.iteration for cut in touching):
            continue
        found.append(_Chunk(place, *span, mixed=bool(touching)))
    return found
