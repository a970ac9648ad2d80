"""Sealing: points leave the log for chunks and blocks; and merging: blocks become fewer, and their long runs chunks.

A seal writes, of each series of a task, what came since the last seal: long runs as chunks of their own, the others
together as blocks of level 0, one a partition (blocks.py). Eight blocks of a level and partition are merged into one
of the next level, and what is then long enough becomes chunks; so a point is written once by its seal and once for
each level that it goes through. docs/architecture.md has the arithmetic.

The order of arrival is kept: a part's position is that of its first frame, and parts of one series never overlap.

Pure: what is made here is written by `seams.SealedPoints`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.server.store.blocks import PackedBlock, PlacedRun, make_block, partition_of
from telemetry.server.store.chunks import CHUNK_MIN_POINTS, Points, cells_of, concat_points, pack, split_evenly

__all__ = ["FAN_IN", "Merge", "PlacedBlock", "PlacedChunk", "Sealed", "arrange", "due_level", "merged"]

# So many blocks of a level are merged into one of the next.
FAN_IN = 8
# zlib's levels.
_SEALED_EFFORT, _MERGED_EFFORT = 1, 6


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block and what its row says of it."""

    partition: int
    level: int
    position: int
    last_position: int
    block: PackedBlock


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """What is known of a chunk by name, its overview included; and its packed points."""

    row: dict[str, Any]
    data: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a seal or a merge writes."""

    chunks: Sequence[PlacedChunk]
    blocks: Sequence[PlacedBlock]


@dataclass(frozen=True, slots=True)
class Merge:
    """Blocks of one partition of a task that are to become one, by id; and its level."""

    task: int
    partition: int
    blocks: Sequence[int]
    level: int


def arrange(ids: Sequence[int], series: npt.NDArray[np.uint32], points: Points, first: int, last: int) -> Sealed:
    """Make of points what a seal writes; no lock is needed meanwhile.

    Args:
        ids: of each series, by number; ascending.
        series: uint32[n], the number of the series of each point.
        points: n of them, in the order they came.
        first, last: the positions of the frames that they came in.
    """
    if not len(points):
        return Sealed([], [])
    narrow = series.astype(np.uint16) if len(ids) <= 65_536 else series
    points = points.take(np.argsort(narrow, kind="stable"))
    counts = np.bincount(series, minlength=len(ids))
    present = np.flatnonzero(counts)
    bounds = [0, *np.cumsum(counts[present]).tolist()]
    runs = (
        PlacedRun(ids[number], first, points.take(slice(start, end)))
        for number, (start, end) in zip(present.tolist(), pairwise(bounds), strict=True)
    )
    return _parts(runs, 0, first, last)


def _parts(runs: Iterable[PlacedRun], level: int, first: int, last: int) -> Sealed:
    """Make chunks of the long runs and blocks of the others. `runs`: in order of series and position."""
    chunks: list[PlacedChunk] = []
    short: dict[int, list[PlacedRun]] = defaultdict(list)
    for run in runs:
        if len(run.points) < CHUNK_MIN_POINTS:
            short[partition_of(run.series)].append(run)
            continue
        for piece in split_evenly(run.points):
            chunks.append(PlacedChunk(_chunk_row(run.series, run.position, piece), pack(piece)))
    # What was merged stays for long, and is worth more time than what the next merge takes apart again.
    effort = _MERGED_EFFORT if level else _SEALED_EFFORT
    blocks = [PlacedBlock(partition, level, first, last, make_block(some, effort)) for partition, some in short.items()]
    return Sealed(chunks, blocks)


def due_level(levels: Mapping[int, int], *, ended: bool) -> tuple[int | None, int] | None:
    """Say which blocks of a partition are to be merged: (their level or None for all, how many of the oldest).

    Args:
        levels: how many blocks there are of each, in order.
        ended: nothing more will come, so all become one.
    """
    if ended:
        return (None, sum(levels.values())) if sum(levels.values()) > 1 else None
    # The oldest: so all blocks of a level are younger than those of the next.
    return next(((level, FAN_IN) for level, count in levels.items() if count >= FAN_IN), None)


def merged(
    merge: Merge, runs: Sequence[PlacedRun], chunks: Mapping[int, Sequence[int]], first: int, last: int
) -> Sealed:
    """Make of blocks what they become; no lock is needed meanwhile.

    Args:
        runs: all of theirs, in order of series and position.
        chunks: by series, the positions of the chunks that lie between.
        first, last: the positions of the frames that the runs came in.
    """
    return _parts(_joined(runs, chunks), merge.level, first, last)


def _joined(runs: Sequence[PlacedRun], chunks: Mapping[int, Sequence[int]]) -> Iterator[PlacedRun]:
    """Join the runs of each series, but for those that a chunk lies between."""
    for series, group in groupby(runs, key=attrgetter("series")):
        between = chunks.get(series, ())
        waiting: list[PlacedRun] = []
        for run in group:
            if waiting and any(waiting[-1].position < position < run.position for position in between):
                yield _join(waiting)
                waiting = []
            waiting.append(run)
        yield _join(waiting)


def _join(runs: Sequence[PlacedRun]) -> PlacedRun:
    return PlacedRun(runs[0].series, runs[0].position, concat_points([run.points for run in runs]))


def _chunk_row(series: int, position: int, points: Points) -> dict[str, Any]:
    cells = cells_of(points)
    finite = int(cells["finite"].sum())
    iterations, times_unix_ns = points.iterations, points.times_unix_ns
    return {
        "series": series,
        "position": position,
        "count": len(points),
        "non_finite": len(points) - finite,
        "first_iteration": int(iterations[0]),
        "last_iteration": int(iterations[-1]),
        "lowest_iteration": int(iterations.min()),
        "highest_iteration": int(iterations.max()),
        "first_time": int(times_unix_ns[0]),
        "last_time": int(times_unix_ns[-1]),
        "lowest_time": int(times_unix_ns.min()),
        "highest_time": int(times_unix_ns.max()),
        "min": float(np.nanmin(cells["min_value"])) if finite else None,
        "max": float(np.nanmax(cells["max_value"])) if finite else None,
        "overview": cells.tobytes(),
    }
