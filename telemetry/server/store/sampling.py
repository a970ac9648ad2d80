"""Fewer points for a chart without losing a spike: per bucket of x the lowest and the highest point.

Pure and deterministic: the same points and range give the same samples, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.server.store.chunks import FloatArray, IntArray

__all__ = ["bucket_edges", "min_max_rows", "smooth"]

# A block of this many half-lives: its weights reach 2^100, so values up to 1e277 do not overflow.
_BLOCK_HALF_LIVES = 100.0
# Weights below this vanish in a float64 sum.
_VANISHED = 2.0**-60
# Beyond this many blocks a Python loop over them costs more than the scan.
_MAX_BLOCKS = 2000


def bucket_edges(low: int, high: int, buckets: int) -> list[int]:
    """Return the first x of each bucket: integers from `low` on, for buckets of equal width up to `high`.

    Python integers, since high - low may exceed 64 bits. Where there are fewer x than buckets, some
    buckets are empty (equal edges).
    """
    width = high - low + 1
    return [low + (width * number) // buckets for number in range(buckets)]


def min_max_rows(x: IntArray, values: FloatArray, low: int, high: int, buckets: int) -> npt.NDArray[np.int64]:
    """Pick the rows that draw the same outline: at most two a bucket, in order of x.

    Args:
        x: int64[n], ascending, all within low..high.
        values: float64[n]; a non-finite value is picked only where its bucket has no finite one, so
            that the line shows the gap.
        buckets: buckets of equal width between `low` and `high`.
    Returns:
        int64[m] ascending row numbers, m <= 2 * buckets.
    """
    if not len(x):
        return np.empty(0, np.int64)
    edges = np.array(bucket_edges(low, high, buckets), np.int64)
    starts = np.searchsorted(x, edges, side="left")
    ends = np.append(starts[1:], len(x))
    filled = ends > starts
    starts, sizes = starts[filled], (ends - starts)[filled]
    finite = np.isfinite(values)
    picked = [
        _first_extreme(np.minimum, np.where(finite, values, np.inf), finite, starts, sizes),
        _first_extreme(np.maximum, np.where(finite, values, -np.inf), finite, starts, sizes),
    ]
    return np.unique(np.concatenate(picked))


def _first_extreme(
    choose: np.ufunc,
    values: FloatArray,
    finite: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    best = choose.reduceat(values, starts)
    rows = np.flatnonzero((values == np.repeat(best, sizes)) & finite)
    at = np.searchsorted(rows, starts, side="left")
    found = rows[np.minimum(at, len(rows) - 1)] if len(rows) else starts
    # No finite value in this bucket: its first row stands for the gap.
    missing = (at >= len(rows)) | (found >= starts + sizes)
    return np.where(missing, starts, found)


@dataclass(frozen=True, slots=True)
class _Sums:
    numerator: FloatArray
    denominator: FloatArray


def smooth(x: IntArray, values: FloatArray, half_life: float, weights: FloatArray | None = None) -> FloatArray:
    """Debiased exponential moving average: each point weighs 2^-(distance in x / half_life).

    The value at a row depends on that row and earlier ones only, so appending points in order of x never
    changes what was drawn. Non-finite values have no weight; before the first finite one it is NaN.

    Args:
        x: int64[n], ascending.
        values: float64[n].
        half_life: in the unit of x, > 0.
        weights: float64[n], how many points a row stands for; None for one each.
    Returns:
        float64[n].
    """
    if not len(x):
        return np.empty(0, np.float64)
    finite = np.isfinite(values)
    mass = finite.astype(np.float64) if weights is None else np.where(finite, weights, 0.0)
    # Relative to the first x before it becomes a float, since nanoseconds since 1970 need 61 bits; and
    # unsigned, since two int64 may lie 2^64 - 1 apart.
    # Neighbours are at least 1 apart, or not at all: below a thousandth nothing is left to decay.
    half_life = max(half_life, 1e-3)
    age = (x.view(np.uint64) - x[:1].view(np.uint64)).astype(np.float64) / half_life
    clean = np.where(finite, values, 0.0)
    blocks = np.floor(age / _BLOCK_HALF_LIVES)
    starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
    with np.errstate(all="ignore"):
        few = len(starts) <= _MAX_BLOCKS
        sums = _by_blocks(age, clean, mass, starts) if few else _by_scan(age, clean, mass)
        result: FloatArray = np.where(sums.denominator > 0, sums.numerator / sums.denominator, np.nan)
    return result


def _by_blocks(age: FloatArray, values: FloatArray, mass: FloatArray, starts: npt.NDArray[Any]) -> _Sums:
    """Running sums of weights that grow with x, restarted before they overflow."""
    sums = _Sums(np.empty_like(age), np.empty_like(age))
    bounds = [*starts.tolist(), len(age)]
    top = bottom = 0.0
    before = 0.0
    for low, high in pairwise(bounds):
        part = slice(low, high)
        fade = 2.0 ** -float(age[low] - before)
        growth = np.exp2(age[part] - age[low])
        weight = growth * mass[part]
        sums.numerator[part] = (np.cumsum(weight * values[part]) + top * fade) / growth
        sums.denominator[part] = (np.cumsum(weight) + bottom * fade) / growth
        top, bottom = float(sums.numerator[high - 1]), float(sums.denominator[high - 1])
        before = float(age[high - 1])
    return sums


def _by_scan(age: FloatArray, values: FloatArray, mass: FloatArray) -> _Sums:
    """Hillis and Steele's scan: each pass doubles how far back a row has looked."""
    sums = _Sums(values * mass, mass.copy())
    fade = np.exp2(-np.diff(age, prepend=age[0]))
    fade[0] = 0.0
    step = 1
    while step < len(age):
        carried = fade[step:].copy()
        sums.numerator[step:] += carried * sums.numerator[:-step].copy()
        sums.denominator[step:] += carried * sums.denominator[:-step].copy()
        fade[step:] = carried * fade[:-step]
        if float(fade.max()) < _VANISHED:
            break
        step *= 2
    return sums
