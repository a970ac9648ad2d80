"""Min/max buckets lose no extreme; the smoothing is the debiased average it says it is."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.server.store import sampling
from telemetry.server.store.sampling import bucket_edges, min_max_rows, smooth

X = st.one_of(st.integers(-50, 50), st.integers(INT64_MIN, INT64_MAX))
VALUE = st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(st.tuples(X, VALUE), min_size=1, max_size=200).map(lambda rows: sorted(rows, key=lambda row: row[0]))


@given(POINTS, st.integers(1, 40))
def test_every_bucket_keeps_its_lowest_and_highest_finite_point(rows: list[tuple[int, float]], buckets: int) -> None:
    # given
    x, values = [row[0] for row in rows], [row[1] for row in rows]
    low, high = x[0], x[-1]
    # when
    picked = min_max_rows(np.array(x, np.int64), np.array(values), low, high, buckets).tolist()
    # then
    edges = [*bucket_edges(low, high, buckets), high + 1]
    assert len(picked) <= 2 * buckets
    assert picked == sorted(set(picked))
    for first, end in pairwise(edges):
        inside = [row for row in range(len(rows)) if first <= x[row] < end]
        finite = [row for row in inside if math.isfinite(values[row])]
        chosen = [row for row in picked if row in inside]
        if finite:
            lowest = min(finite, key=lambda row: (values[row], row))
            highest = min(finite, key=lambda row: (-values[row], row))
            assert chosen == sorted({lowest, highest})
        else:
            # A bucket with nothing to draw shows its gap, an empty one nothing.
            assert chosen == inside[:1]


def test_the_edges_of_the_whole_int64_range_do_not_overflow() -> None:
    edges = bucket_edges(INT64_MIN, INT64_MAX, 4)
    assert edges == [INT64_MIN, INT64_MIN // 2, 0, 2**62]


def naive(x: list[int], values: list[float], half_life: float) -> list[float]:
    """The definition, term by term."""
    curve = []
    for row in range(len(x)):
        terms = [
            (2.0 ** (-(x[row] - x[old]) / half_life), values[old])
            for old in range(row + 1)
            if math.isfinite(values[old])
        ]
        mass = math.fsum(weight for weight, _ in terms)
        curve.append(math.fsum(weight * value for weight, value in terms) / mass if mass else math.nan)
    return curve


SMALL = st.lists(
    st.tuples(st.integers(-1000, 1000), st.one_of(st.floats(-1e6, 1e6), st.just(math.nan))),
    min_size=1,
    max_size=60,
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


@given(SMALL, st.floats(0.5, 1e4))
def test_smoothing_is_the_debiased_average(rows: list[tuple[int, float]], half_life: float) -> None:
    x, values = [row[0] for row in rows], [row[1] for row in rows]
    curve = smooth(np.array(x, np.int64), np.array(values), half_life)
    scale = max([abs(value) for value in values if math.isfinite(value)], default=1.0)
    assert curve.tolist() == pytest.approx(naive(x, values, half_life), rel=1e-9, abs=1e-9 * scale, nan_ok=True)


@pytest.mark.parametrize("half_life", [0.001, 0.3, 5.0, 1000.0, 1e12])
def test_both_ways_of_summing_agree(half_life: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a long series with gaps in x
    generator = np.random.default_rng(3)
    x = np.cumsum(generator.integers(0, 20, 20_000))
    values = np.where(generator.random(20_000) < 0.01, np.nan, generator.random(20_000))
    # when it is summed by blocks and by the scan
    monkeypatch.setattr(sampling, "_MAX_BLOCKS", len(x) + 1)
    blocks = smooth(x, values, half_life)
    monkeypatch.setattr(sampling, "_MAX_BLOCKS", 0)
    scan = smooth(x, values, half_life)
    # then
    np.testing.assert_allclose(blocks, scan, rtol=1e-9)


@given(SMALL, st.floats(0.5, 1e4), st.integers(1, 60))
def test_appending_points_does_not_change_what_was_drawn(
    rows: list[tuple[int, float]], half_life: float, kept: int
) -> None:
    x, values = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows])
    whole, before = smooth(x, values, half_life), smooth(x[:kept], values[:kept], half_life)
    np.testing.assert_array_equal(whole[: len(before)], before)


def test_smoothing_survives_the_ends_of_int64_and_of_float64() -> None:
    x = np.array([INT64_MIN, 0, INT64_MAX], np.int64)
    assert smooth(x, np.array([1.0, 2.0, 3.0]), 5e-324).tolist() == [1.0, 2.0, 3.0]
    assert smooth(x, np.array([1.0, 2.0, 3.0]), 1.7e308).tolist() == pytest.approx([1.0, 1.5, 2.0])
    assert smooth(x[:0], np.empty(0), 1.0).tolist() == []
