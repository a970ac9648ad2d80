"""Charts from the store: exact where they can be, the right outline where not, however the points came."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server_support import LOSS, MS, START_NS, TASK, Row, content_of, rows_of
from store_support import PLACES, store_with_points

from telemetry.events import INT64_MAX, INT64_MIN, SeriesKey
from telemetry.server.store import NotFound, PointsQuery, SampledSeries, Store
from telemetry.server.store import points as points_module


@pytest.fixture(params=PLACES)
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    yield from store_with_points(request.param, tmp_path / "store", monkeypatch)


def write(store: Store, rows: list[Row], *, sequence: int = 0) -> None:
    assert store.write([content_of({LOSS: rows}, sequence=sequence)]).stored == [True]


def ask(
    store: Store,
    *,
    low: int | None = None,
    high: int | None = None,
    most: int = 2000,
    by_time: bool = False,
    half_life: float | None = None,
) -> SampledSeries:
    ((_, answer),) = store.points(TASK, [1], PointsQuery(by_time, low, high, most, half_life))
    return answer


def same_answer(left: SampledSeries, right: SampledSeries) -> bool:
    return left.x.tobytes() == right.x.tobytes() and left.values.tobytes() == right.values.tobytes()


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * 10,
        [1] * 200 + [5000],
        [4095, 1],
        [4095, 4097, 20],
        [20_000, 3, 3],
        [3, 20_000, 3],
    ],
)
def test_however_points_arrive_they_are_read_back_in_order_and_bit_for_bit(store: Store, sizes: list[int]) -> None:
    # given points in frames of different sizes
    total = sum(sizes)
    rows = rows_of(np.random.default_rng(0).random(total).tolist())
    first = 0
    for sequence, size in enumerate(sizes):
        write(store, rows[first : first + size], sequence=sequence)
        first += size
    # when
    answer = ask(store, most=max(2, total))
    # then
    assert answer.exact
    assert answer.count == total
    assert answer.x.tolist() == list(range(total))
    assert answer.values.tolist() == [row[2] for row in rows]


def test_points_written_in_one_group_are_kept_in_the_order_of_their_frames(store: Store) -> None:
    contents = [content_of({LOSS: [(7, START_NS, float(n))]}, sequence=n) for n in range(100)]
    store.write(contents)
    assert ask(store).values.tolist() == [float(n) for n in range(100)]


def test_out_of_order_negative_and_repeated_iterations_are_all_drawn(store: Store) -> None:
    # given
    rows = [(5, START_NS, 1.0), (-3, START_NS + 1, 2.0), (5, START_NS + 2, 3.0), (INT64_MIN, START_NS, 4.0)]
    write(store, rows)
    write(store, [(INT64_MAX, START_NS - 9, 5.0), (-3, START_NS, 6.0)], sequence=1)
    # then they come in order of x, and of arrival where x is the same
    answer = ask(store)
    assert answer.x.tolist() == [INT64_MIN, -3, -3, 5, 5, INT64_MAX]
    assert answer.values.tolist() == [4.0, 2.0, 6.0, 1.0, 3.0, 5.0]
    # and in order of time when x is the time
    assert ask(store, by_time=True).values.tolist() == [5.0, 1.0, 4.0, 6.0, 2.0, 3.0]


def test_nan_and_infinities_are_kept_and_named(store: Store) -> None:
    # given
    values = [0.5, math.nan, math.inf, -math.inf, -0.0]
    write(store, rows_of(values))
    # when
    answer = ask(store)
    # then
    assert np.array(values).tobytes() == answer.values.tobytes()
    assert answer.non_finite_count == 3
    assert [x for x, _ in answer.non_finite] == [1, 2, 3]
    assert [str(value) for _, value in answer.non_finite] == ["nan", "inf", "-inf"]
    # and in the statistics
    (series,) = store.series(TASK)["series"]
    assert (series["min"], series["max"], series["non_finite"], series["count"]) == (0.0, 0.5, 3, 5)


def test_a_range_holds_its_ends_and_counts_what_is_inside(store: Store) -> None:
    write(store, rows_of([float(n) for n in range(10_000)]))
    answer = ask(store, low=4090, high=4105)
    assert answer.x.tolist() == list(range(4090, 4106))
    assert ask(store, low=20_000).count == 0
    assert ask(store, low=3, high=2).count == 0
    assert ask(store, low=10**400, high=None).count == 0
    by_time = ask(store, low=START_NS + 5 * MS, high=START_NS + 6 * MS, by_time=True)
    assert by_time.values.tolist() == [5.0, 6.0]


def test_the_outline_from_points_keeps_each_spike_and_is_the_same_each_time(store: Store) -> None:
    # given a flat line with three spikes
    values = [0.0] * 30_000
    values[17], values[12_345], values[29_999] = 9.0, -8.0, 7.0
    write(store, rows_of(values))
    # when
    answer = ask(store, most=50)
    # then
    drawn = dict(zip(answer.x.tolist(), answer.values.tolist(), strict=True))
    assert not answer.exact
    assert answer.count == 30_000
    assert len(drawn) <= 50
    assert (drawn[17], drawn[12_345], drawn[29_999]) == (9.0, -8.0, 7.0)
    assert same_answer(answer, ask(store, most=50))


def long_series(store: Store, *, count: int = 60_000) -> list[float]:
    values = np.sin(np.arange(count) / 500) + np.random.default_rng(1).random(count) * 0.1
    values[count // 3] = 1e6
    values[count // 3 + 2000 : count // 3 + 2050] = np.nan
    write(store, rows_of(values.tolist()))
    store.point_store.seal_all()
    write(store, rows_of([5.0, math.inf], first=count), sequence=1)
    return [*values.tolist(), 5.0, math.inf]


def test_the_outline_from_cells_keeps_the_spike_and_the_exact_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a series that counts as very long
    values = long_series(store)
    raw = ask(store, most=200)
    monkeypatch.setattr(points_module, "RAW_POINTS", 10_000)
    # when the whole of it is asked for
    answer = ask(store, most=200)
    # then
    assert (20_000, 1e6) in zip(answer.x.tolist(), answer.values.tolist(), strict=True)
    assert (answer.count, answer.non_finite_count) == (len(values), 51)
    assert answer.non_finite[0][0] == 22_000
    assert answer.non_finite[-1] == (60_001, math.inf)
    assert not answer.exact
    assert same_answer(answer, ask(store, most=200))
    # and the outline is that of the points themselves, but for a cell at each edge of a bucket
    assert np.nanmax(answer.values) == np.nanmax(raw.values[np.isfinite(raw.values)])
    assert np.nanmin(answer.values) == np.nanmin(raw.values)
    # and every sample is a stored point
    for x, value in zip(answer.x.tolist(), answer.values.tolist(), strict=True):
        assert value == values[x] or (math.isnan(value) and not math.isfinite(values[x]))


def test_a_range_that_cuts_through_chunks_counts_exactly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    values = long_series(store)
    monkeypatch.setattr(points_module, "RAW_POINTS", 10_000)
    # when
    answer = ask(store, low=11, high=44_444, most=100)
    # then
    assert answer.count == 44_434
    assert answer.x[0] >= 11
    assert answer.x[-1] <= 44_444
    assert max(value for value in answer.values.tolist() if not math.isnan(value)) == 1e6
    # and a short range is exact as ever
    near = ask(store, low=19_990, high=20_010)
    assert near.exact
    assert near.values.tolist() == values[19_990:20_011]


def test_a_long_series_in_random_order_is_answered_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # given chunks that each reach over the whole range
    order = np.random.default_rng(2).permutation(30_000).tolist()
    write(store, [(n, START_NS + n, float(n)) for n in order])
    store.point_store.seal_all()
    monkeypatch.setattr(points_module, "RAW_POINTS", 10_000)
    # then
    answer = ask(store, low=100, high=199, half_life=10.0)
    assert answer.values.tolist() == [float(n) for n in range(100, 200)]
    whole = ask(store, most=100)
    assert (whole.count, whole.values.min(), whole.values.max()) == (30_000, 0.0, 29_999.0)


def test_smoothing_does_not_depend_on_the_range_or_on_down_sampling(store: Store) -> None:
    # given
    write(store, rows_of(np.random.default_rng(3).random(20_000).tolist()))
    whole = ask(store, most=20_000, half_life=30.0)
    assert whole.smooth is not None
    # when zoomed and thinned out
    zoomed, thinned = ask(store, low=9_000, high=9_100, half_life=30.0), ask(store, most=100, half_life=30.0)
    # then the curve runs through the same values
    assert zoomed.smooth is not None
    assert thinned.smooth is not None
    np.testing.assert_allclose(zoomed.smooth, whole.smooth[9_000:9_101], rtol=1e-12)
    np.testing.assert_allclose(thinned.smooth, whole.smooth[thinned.x], rtol=1e-12)


def test_smoothing_over_cells_is_near_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    values = np.sin(np.arange(60_000) / 5_000) + np.random.default_rng(4).random(60_000) * 0.1
    write(store, rows_of(values.tolist()))
    store.point_store.seal_all()
    exact = ask(store, most=60_000, half_life=3000.0)
    monkeypatch.setattr(points_module, "RAW_POINTS", 10_000)
    # when
    near = ask(store, most=200, half_life=3000.0)
    # then
    assert exact.smooth is not None
    assert near.smooth is not None
    assert (exact.smooth_exact, near.smooth_exact) == (True, False)
    # A cell stands at its middle, so the curve may lag half a cell more.
    assert np.abs(near.smooth[5:] - exact.smooth[near.x][5:]).max() < 0.02


def test_series_of_another_task_are_not_found(store: Store) -> None:
    write(store, rows_of([1.0]))
    store.write([content_of({SeriesKey("scalar", "a", "b"): rows_of([1.0])}, task_id="f" * 32, sequence=1)])
    with pytest.raises(NotFound, match="no series 2"):
        store.points(TASK, [1, 2], PointsQuery(False, None, None, 100))
    with pytest.raises(NotFound, match="no task"):
        store.points("e" * 32, [1], PointsQuery(False, None, None, 100))
