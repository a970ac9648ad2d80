"""The chunk codec keeps every bit, and a chunk's cells hold every minimum and maximum."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.server.store.chunks import (
    CELL_POINTS,
    CHUNK_MAX_POINTS,
    CHUNK_MIN_POINTS,
    Points,
    cells_of,
    concat_points,
    pack,
    split_evenly,
    unpack,
)

INT64 = st.integers(INT64_MIN, INT64_MAX)
# Any 64 bits: also NaNs with a payload, signalling ones, negative zero, subnormals.
FLOAT_BITS = st.integers(0, 2**64 - 1)


def points_of(rows: list[tuple[int, int, int]]) -> Points:
    return Points(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.uint64).view(np.float64),
    )


def same_bits(left: Points, right: Points) -> bool:
    return (
        left.iterations.tobytes() == right.iterations.tobytes()
        and left.times_unix_ns.tobytes() == right.times_unix_ns.tobytes()
        and left.values.tobytes() == right.values.tobytes()
    )


@given(st.lists(st.tuples(INT64, INT64, FLOAT_BITS), max_size=300), st.integers(1, 40))
@example([(INT64_MIN, INT64_MAX, 0), (INT64_MAX, INT64_MIN, 2**64 - 1)], 200)
def test_any_points_come_back_bit_for_bit(rows: list[tuple[int, int, int]], repeats: int) -> None:
    points = points_of(rows * repeats)
    assert same_bits(unpack(pack(points)), points)


def test_noise_and_constants_come_back_too() -> None:
    # given columns that use all three ways to store a plane
    generator = np.random.default_rng(1)
    points = Points(np.arange(8192), generator.integers(0, 2**62, 8192), generator.random(8192) * np.float64(1e-300))
    # then
    assert same_bits(unpack(pack(points)), points)


def test_random_values_with_a_clock_take_less_than_ten_bytes_a_point() -> None:
    generator = random.Random(1)
    times, values = [], []
    clock = 1_700_000_000_000_000_000
    for _ in range(8192):
        clock += generator.randrange(3000, 9000)
        times.append(clock)
        values.append(generator.random())
    points = Points(np.arange(8192), np.array(times), np.array(values))
    assert len(pack(points)) / 8192 < 10


@given(st.binary(max_size=200))
def test_bytes_that_are_no_chunk_are_refused(data: bytes) -> None:
    try:
        points = unpack(data)
    except ValueError:
        return
    assert len(points.iterations) == len(points.times_unix_ns) == len(points.values)


def test_a_cut_or_damaged_chunk_is_refused() -> None:
    data = pack(Points(np.arange(1000), np.arange(1000) * 7919, np.sin(np.arange(1000))))
    for cut in (0, 5, 20, 40, len(data) - 1):
        with pytest.raises(ValueError, match="packed run"):
            unpack(data[:cut])
    with pytest.raises(ValueError, match="unknown format"):
        unpack(b"\x07" + data[1:])


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(FLOATS, min_size=1, max_size=700))
def test_each_cell_holds_its_minimum_maximum_mean_and_counts(values: list[float]) -> None:
    # given points whose iteration tells them apart
    count = len(values)
    points = Points(np.arange(count), np.arange(count) * 10, np.array(values))
    # when
    cells = cells_of(points)
    # then
    assert cells["count"].sum() == count
    for number, cell in enumerate(cells):
        part = values[number * CELL_POINTS : (number + 1) * CELL_POINTS]
        finite = [value for value in part if math.isfinite(value)]
        assert cell["finite"] == len(finite)
        if not finite:
            assert math.isnan(cell["min_value"])
            continue
        for name, extreme in (("min", min(finite)), ("max", max(finite))):
            at = number * CELL_POINTS + part.index(extreme)
            assert cell[f"{name}_value"] == extreme
            assert (cell[f"{name}_iteration"], cell[f"{name}_time"]) == (at, at * 10)
        assert min(finite) - 1e-9 * abs(min(finite)) <= cell["mean"] <= max(finite) + 1e-9 * abs(max(finite))


@given(st.integers(CHUNK_MIN_POINTS, 60_000))
def test_a_run_is_cut_into_chunks_of_a_sound_size(count: int) -> None:
    points = Points(np.arange(count), np.arange(count), np.zeros(count))
    pieces = split_evenly(points)
    assert all(CHUNK_MIN_POINTS <= len(piece) <= CHUNK_MAX_POINTS for piece in pieces)
    assert same_bits(concat_points(pieces), points)
