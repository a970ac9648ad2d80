"""Points in columns: how a run of points of one series is packed, unpacked and summed up in cells.

A packed run is a 9-byte head and three columns: iterations int64, times int64 (Unix ns), values
float64. Every bit is kept, NaN payloads and signed zeros too. Integers are stored as differences
(modulo 2^64, so any int64 is safe), everything in byte planes (see docs/wire.md). Each plane is then
stored in the way that suits it: a constant plane as one byte, noise as it is, the rest deflated.

    head:    format u8 (1), count u32, deflated bytes u32
    modes:   24 plane modes u8 (8 per column): 0 constant, 1 raw, 2 deflated
    data:    constant bytes, then raw planes, then one zlib stream of the rest, each in plane order

Runs shorter than `_PACK_MIN_POINTS` are stored as the bare columns (format 0): packing costs more
than it saves there. Everything here is pure and safe from any thread; zlib lets the GIL go.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "CELL_DTYPE",
    "CELL_POINTS",
    "CHUNK_MAX_POINTS",
    "CHUNK_MIN_POINTS",
    "FloatArray",
    "IntArray",
    "Points",
    "cells_of",
    "concat_points",
    "pack",
    "split_evenly",
    "unpack",
]

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]

# A sealed chunk holds between these: large enough to pack well and to keep a 10-million-point series
# at some 1,500 rows, small enough to unpack in about 0.1 ms when a zoom cuts through it.
CHUNK_MIN_POINTS = 4096
CHUNK_MAX_POINTS = 8192

# One cell of the overview: its minimum and maximum stand for it when the whole series is drawn.
CELL_POINTS = 256

_PACK_MIN_POINTS = 128
_HEAD = struct.Struct("<BII")
_FORMAT_BARE = 0
_FORMAT_PLANES = 1
_CONSTANT, _RAW, _DEFLATED = 0, 1, 2
_PLANES = 24
_POINT_BYTES = 24

# Of 512 bytes of pure noise about 221 of the 256 values appear; deflate gains nothing there.
_NOISE_SAMPLE_BYTES = 512
_NOISE_DISTINCT = 190

# The overview of up to CELL_POINTS points. `min_*` and `max_*` are the points with the smallest and
# largest finite value (the first of equals); a cell without any has NaN there, at its first point.
CELL_DTYPE = np.dtype(
    [
        ("min_iteration", "<i8"),
        ("min_time", "<i8"),
        ("min_value", "<f8"),
        ("max_iteration", "<i8"),
        ("max_time", "<i8"),
        ("max_value", "<f8"),
        ("middle_iteration", "<i8"),
        ("middle_time", "<i8"),
        ("mean", "<f8"),
        ("finite", "<u4"),
        ("count", "<u4"),
    ]
)


@dataclass(frozen=True, slots=True)
class Points:
    """A run of points of one series, in the order they arrived.

    Attributes:
        iterations: int64[n].
        times_unix_ns: int64[n].
        values: float64[n], NaN and infinities kept.
    """

    iterations: IntArray
    times_unix_ns: IntArray
    values: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, which: slice | npt.NDArray[Any]) -> Points:
        """Return the points that an index array, mask or slice picks."""
        return Points(self.iterations[which], self.times_unix_ns[which], self.values[which])


def concat_points(parts: Sequence[Points]) -> Points:
    """Return the parts one after another; no part gives no points."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Points(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    return Points(
        np.concatenate([part.iterations for part in parts]),
        np.concatenate([part.times_unix_ns for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def split_evenly(points: Points) -> list[Points]:
    """Cut a run into the fewest chunks of at most CHUNK_MAX_POINTS, of nearly equal length."""
    pieces = max(1, -(-len(points) // CHUNK_MAX_POINTS))
    bounds = [len(points) * piece // pieces for piece in range(pieces + 1)]
    return [points.take(slice(low, high)) for low, high in pairwise(bounds)]


def pack(points: Points, level: int = 1) -> bytes:
    """Pack a run of points; `unpack` gives the same bits back. About 0.5 ms for 8,192 random values.

    Args:
        level: zlib's. 6 gains some 2 % on short runs of many series, for a third more time.
    """
    count = len(points)
    if count < _PACK_MIN_POINTS:
        return b"".join(
            (
                _HEAD.pack(_FORMAT_BARE, count, 0),
                points.iterations.astype("<i8", copy=False).tobytes(),
                points.times_unix_ns.astype("<i8", copy=False).tobytes(),
                points.values.astype("<f8", copy=False).tobytes(),
            )
        )
    planes = np.empty((_PLANES, count), np.uint8)
    planes[0:8] = _planes(_differences(points.iterations))
    planes[8:16] = _planes(_differences(points.times_unix_ns))
    planes[16:24] = _planes(points.values.astype("<f8", copy=False))
    modes = bytearray(_PLANES)
    constants = bytearray()
    raw: list[bytes] = []
    deflatable: list[bytes] = []
    low, high = planes.min(axis=1).tolist(), planes.max(axis=1).tolist()
    stride = max(1, count // _NOISE_SAMPLE_BYTES)
    for index in range(_PLANES):
        plane = planes[index]
        if low[index] == high[index]:
            constants.append(low[index])
        elif _looks_like_noise(plane, stride):
            modes[index] = _RAW
            raw.append(plane.tobytes())
        else:
            modes[index] = _DEFLATED
            deflatable.append(plane.tobytes())
    deflated = zlib.compress(b"".join(deflatable), level) if deflatable else b""
    head = _HEAD.pack(_FORMAT_PLANES, count, len(deflated))
    return b"".join((head, modes, constants, *raw, deflated))


def unpack(data: bytes) -> Points:
    """Return the points of a packed run.

    Raises:
        ValueError: these bytes were not written by `pack`.
    """
    if len(data) < _HEAD.size:
        raise ValueError("a packed run of points is cut")
    form, count, deflated_bytes = _HEAD.unpack_from(data)
    if form == _FORMAT_BARE:
        if len(data) != _HEAD.size + count * _POINT_BYTES:
            raise ValueError(f"a bare run of {count} points has {len(data)} bytes")
        columns = [
            np.frombuffer(data, kind, count, _HEAD.size + column * 8 * count)
            for column, kind in enumerate(("<i8", "<i8", "<f8"))
        ]
        return Points(columns[0], columns[1], columns[2])
    if form != _FORMAT_PLANES:
        raise ValueError(f"unknown format {form} of a packed run of points")
    planes = _unpack_planes(data, count, deflated_bytes)
    iterations = np.cumsum(np.ascontiguousarray(planes[0:8].T).view("<i8").ravel(), dtype=np.int64)
    times_unix_ns = np.cumsum(np.ascontiguousarray(planes[8:16].T).view("<i8").ravel(), dtype=np.int64)
    values = np.ascontiguousarray(planes[16:24].T).view("<f8").ravel()
    return Points(iterations, times_unix_ns, values)


def _unpack_planes(data: bytes, count: int, deflated_bytes: int) -> npt.NDArray[np.uint8]:
    modes = data[_HEAD.size : _HEAD.size + _PLANES]
    if len(modes) < _PLANES or max(modes) > _DEFLATED:
        raise ValueError(f"a packed run of {count} points has unknown plane modes")
    constants = modes.count(_CONSTANT)
    raw_at = _HEAD.size + _PLANES + constants
    deflated_at = raw_at + modes.count(_RAW) * count
    if deflated_at + deflated_bytes != len(data):
        raise ValueError(f"a packed run of {count} points has {len(data)} bytes")
    try:
        inflated = zlib.decompress(memoryview(data)[deflated_at:]) if deflated_bytes else b""
    except zlib.error as error:
        raise ValueError(f"a packed run of {count} points does not inflate: {error}") from error
    if len(inflated) != modes.count(_DEFLATED) * count:
        raise ValueError(f"a packed run of {count} points inflates to {len(inflated)} bytes")
    planes = np.empty((_PLANES, count), np.uint8)
    constant_at, inflated_at = _HEAD.size + _PLANES, 0
    for index, mode in enumerate(modes):
        if mode == _CONSTANT:
            planes[index] = data[constant_at]
            constant_at += 1
        elif mode == _RAW:
            planes[index] = np.frombuffer(data, np.uint8, count, raw_at)
            raw_at += count
        else:
            planes[index] = np.frombuffer(inflated, np.uint8, count, inflated_at)
            inflated_at += count
    return planes


def _differences(column: IntArray) -> npt.NDArray[np.uint64]:
    # Unsigned on purpose: it wraps around where a signed difference would overflow, and cumsum undoes it.
    unsigned = column.astype("<i8", copy=False).view(np.uint64)
    steps = np.empty_like(unsigned)
    steps[:1] = unsigned[:1]
    np.subtract(unsigned[1:], unsigned[:-1], out=steps[1:])
    return steps


def _planes(column: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1, 8).T


def _looks_like_noise(plane: npt.NDArray[np.uint8], stride: int) -> bool:
    sample = plane[: stride * _NOISE_SAMPLE_BYTES : stride]
    if len(sample) < _NOISE_SAMPLE_BYTES:
        return False
    return int(np.count_nonzero(np.bincount(sample, minlength=256))) > _NOISE_DISTINCT


def cells_of(points: Points) -> npt.NDArray[np.void]:
    """Return the overview of a run: CELL_DTYPE[ceil(n / CELL_POINTS)], cells in the points' order."""
    count = len(points)
    rows = -(-count // CELL_POINTS)
    cells = np.zeros(rows, CELL_DTYPE)
    if not rows:
        return cells
    finite = np.isfinite(points.values)
    padded = np.full(rows * CELL_POINTS, np.inf)
    padded[:count] = points.values
    mask = np.zeros(rows * CELL_POINTS, np.bool_)
    mask[:count] = finite
    grid, kept = padded.reshape(rows, CELL_POINTS), mask.reshape(rows, CELL_POINTS)
    starts = np.arange(rows) * CELL_POINTS
    lowest = starts + np.where(kept, grid, np.inf).argmin(axis=1)
    highest = starts + np.where(kept, grid, -np.inf).argmax(axis=1)
    sizes = np.minimum(CELL_POINTS, count - starts)
    middle = starts + sizes // 2
    numbers = kept.sum(axis=1)
    empty = numbers == 0
    for name, at in (("min", lowest), ("max", highest)):
        cells[f"{name}_iteration"] = points.iterations[at]
        cells[f"{name}_time"] = points.times_unix_ns[at]
        cells[f"{name}_value"] = np.where(empty, np.nan, points.values[at])
    cells["middle_iteration"] = points.iterations[middle]
    cells["middle_time"] = points.times_unix_ns[middle]
    # Divided before it is summed: the sum of 256 values near the largest float64 would overflow.
    shares = np.where(kept, grid, 0.0) / np.maximum(numbers, 1)[:, None]
    cells["mean"] = np.where(empty, np.nan, shares.sum(axis=1))
    cells["finite"] = numbers
    cells["count"] = sizes
    return cells
