"""Bands: the same series of many ranks as one line, the mean, between the lowest and the highest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from telemetry.server.store.attempts import Cut
from telemetry.server.store.blocks import PlacedRun
from telemetry.server.store.chunks import FloatArray, IntArray
from telemetry.server.store.parts import TaskParts
from telemetry.server.store.points import PointsQuery, Summary, query_summary
from telemetry.server.store.sampling import bucket_edges

__all__ = ["Band", "query_band"]

# Points of all ranks together that are read one by one, at some 0.1 us each; beyond it the overviews answer.
BAND_POINTS = 4_000_000


@dataclass(frozen=True, slots=True)
class Band:
    """The answer for one series over its ranks; the arrays are of one length, ascending in x.

    Attributes:
        ranks: series that have been taken together.
        count: finite points in the range.
        exact: one entry for each x that was reported; else buckets of equal width, each at the middle of its x. The
            lowest and the highest are never lost.
    """

    ranks: int
    count: int
    exact: bool
    x: IntArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def query_band(
    parts: TaskParts,
    series: Sequence[int],
    runs: Mapping[int, Sequence[PlacedRun]],
    query: PointsQuery,
    cuts: Sequence[Cut] = (),
) -> Band:
    """Return the band over these series, without what `cuts` hide. `runs`: what of each is in no chunk."""
    share = BAND_POINTS // max(1, len(series))
    return band_over([query_summary(parts, one, runs.get(one, ()), query, share, cuts) for one in series], query)


def band_over(parts: Sequence[Summary], query: PointsQuery) -> Band:
    """Return the band over summaries; pure, and the same whatever their order."""
    x = np.concatenate([part.x for part in parts]) if parts else np.empty(0, np.int64)
    if not len(x):
        nothing = np.empty(0, np.float64)
        return Band(len(parts), 0, True, np.empty(0, np.int64), nothing, nothing, nothing)
    order = np.argsort(x, kind="stable")
    x = x[order]
    mean, low, high, weight = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("mean", "low", "high", "weight")
    )
    starts = np.flatnonzero(np.append(True, x[1:] != x[:-1]))
    # Two ranks share their iterations and never an instant: by time there is always a bucket around each point.
    exact = all(part.exact for part in parts) and len(starts) <= query.max_samples and not query.by_time
    if not exact:
        first = int(x[0]) if query.low is None else query.low
        last = int(x[-1]) if query.high is None else query.high
        buckets = min(query.max_samples, max(len(part.x) for part in parts))
        edges = np.array(bucket_edges(first, last, buckets), np.int64)
        starts = np.unique(np.searchsorted(x, edges, side="left"))
        starts = starts[starts < len(x)]
    ends = np.append(starts[1:], len(x)) - 1
    total = np.add.reduceat(weight, starts)
    # Each share before the sum: the sum of many values near the largest float64 would overflow.
    shares = mean * (weight / np.repeat(total, ends - starts + 1))
    return Band(
        ranks=len(parts),
        count=int(weight.sum()),
        exact=exact,
        # Halved first: the sum of two int64 may be none.
        x=x[starts] // 2 + x[ends] // 2 + (x[starts] % 2 + x[ends] % 2) // 2,
        mean=np.add.reduceat(shares, starts),
        low=np.minimum.reduceat(low, starts),
        high=np.maximum.reduceat(high, starts),
    )
