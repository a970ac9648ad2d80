"""Sealing: points leave the log for chunks and blocks; and merging: blocks become fewer, and their long runs chunks.

A seal writes, of each series of a task, what came since the last seal: long runs as chunks of their own, the others
together as blocks of level 0, one a partition (blocks.py). Eight blocks of a level and partition are merged into one
of the next level, and what is then long enough becomes chunks; so a point is written once by its seal and once for
each level that it goes through. docs/architecture.md has the arithmetic.

The order of arrival is kept: a part's position is that of its first frame, and parts of one series never overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, delete, func, insert, select

from telemetry.server.store import schema
from telemetry.server.store.blocks import PackedBlock, PlacedRun, make_block, partition_of, read_index
from telemetry.server.store.chunks import CHUNK_MIN_POINTS, Points, concat_points, pack, split_evenly
from telemetry.server.store.rows import chunk_row

__all__ = ["FAN_IN", "Merge", "Sealed", "arrange", "find_merges", "read_merge", "write_merge", "write_parts"]

# So many blocks of a level are merged into one of the next.
FAN_IN = 8

_blocks = schema.blocks.c


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
    """A chunk's row without its id, and its packed points."""

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


def arrange(
    task: int, ids: Sequence[int], series: npt.NDArray[np.uint32], points: Points, first: int, last: int
) -> Sealed:
    """Make of points what a seal writes; no lock is needed meanwhile.

    Args:
        task: its row id.
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
    return _parts(task, runs, 0, first, last)


def _parts(task: int, runs: Iterable[PlacedRun], level: int, first: int, last: int) -> Sealed:
    """Make chunks of the long runs and blocks of the others. `runs`: in order of series and position."""
    chunks: list[PlacedChunk] = []
    short: dict[int, list[PlacedRun]] = defaultdict(list)
    for run in runs:
        if len(run.points) < CHUNK_MIN_POINTS:
            short[partition_of(run.series)].append(run)
            continue
        for piece in split_evenly(run.points):
            chunks.append(PlacedChunk(chunk_row(0, task, run.series, run.position, piece), pack(piece)))
    return Sealed(
        chunks, [PlacedBlock(partition, level, first, last, make_block(some)) for partition, some in short.items()]
    )


def write_parts(connection: Connection, task: int, parts: Sealed, next_chunk: Iterator[int]) -> None:
    """Write what `arrange` made. `next_chunk`: ids for chunks, ascending."""
    if parts.chunks:
        rows, data = [], []
        for chunk in parts.chunks:
            identifier = next(next_chunk)
            rows.append({**chunk.row, "id": identifier})
            data.append({"chunk": identifier, "data": chunk.data})
        connection.execute(insert(schema.chunks), rows)
        connection.execute(insert(schema.chunk_data), data)
    if parts.blocks:
        connection.execute(
            insert(schema.blocks),
            [
                {
                    "task": task,
                    "partition": placed.partition,
                    "level": placed.level,
                    "position": placed.position,
                    "last_position": placed.last_position,
                    "points": placed.block.points,
                    "runs": placed.block.runs,
                    "places": placed.block.index,
                    "data": placed.block.data,
                }
                for placed in parts.blocks
            ],
        )


def find_merges(connection: Connection, task: int, *, ended: bool) -> list[Merge]:
    """Return what of a task's blocks is to be merged. `ended`: nothing more will come, so each partition's into one."""
    query = (
        select(_blocks.partition, _blocks.level, func.count())
        .where(_blocks.task == task)
        .group_by(_blocks.partition, _blocks.level)
        .order_by(_blocks.partition, _blocks.level)
    )
    found: list[Merge] = []
    for partition, rows in groupby(connection.execute(query).all(), key=lambda row: row[0]):
        levels = {level: count for _, level, count in rows}
        here = (_blocks.task == task) & (_blocks.partition == partition)
        blocks = select(_blocks.id).where(here).order_by(_blocks.position, _blocks.id)
        if ended:
            if sum(levels.values()) > 1:
                identifiers = list(connection.execute(blocks).scalars())
                found.append(Merge(task, partition, identifiers, max(levels) + 1))
            continue
        for level, count in levels.items():
            if count >= FAN_IN:
                # The oldest: so all blocks of a level are younger than those of the next.
                some = connection.execute(blocks.where(_blocks.level == level).limit(FAN_IN)).scalars()
                found.append(Merge(task, partition, list(some), level + 1))
                break
    return found


def read_merge(connection: Connection, merge: Merge) -> Sealed | None:
    """Make of blocks what they become; None where they are not all there any more. No lock is needed meanwhile."""
    query = select(_blocks.position, _blocks.last_position, _blocks.places, _blocks.data).where(
        _blocks.id.in_(merge.blocks)
    )
    rows = connection.execute(query.order_by(_blocks.position, _blocks.id)).all()
    if len(rows) < len(merge.blocks):
        return None
    first, last = min(row.position for row in rows), max(row.last_position for row in rows)
    runs: list[PlacedRun] = []
    for row in rows:
        index = read_index(row.places)
        runs += index.runs(index.find(None), row.data)
    runs.sort(key=attrgetter("series", "position"))
    return _parts(
        merge.task, _joined(runs, _chunks_between(connection, merge.task, first, last)), merge.level, first, last
    )


def _chunks_between(connection: Connection, task: int, first: int, last: int) -> dict[int, list[int]]:
    """Return by series the positions of the chunks that lie between two positions."""
    chunks = schema.chunks.c
    query = select(chunks.series, chunks.position).where(
        chunks.task == task, chunks.position > first, chunks.position <= last
    )
    found: dict[int, list[int]] = defaultdict(list)
    for series, position in connection.execute(query.distinct()):
        found[series].append(position)
    return found


def _joined(runs: Sequence[PlacedRun], chunks: dict[int, list[int]]) -> Iterator[PlacedRun]:
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


def write_merge(connection: Connection, merge: Merge, parts: Sealed, next_chunk: Iterator[int]) -> bool:
    """Put what was made in the place of the blocks; False, and nothing is written, where they are gone meanwhile."""
    there = select(func.count()).select_from(schema.blocks).where(_blocks.id.in_(merge.blocks))
    if connection.execute(there).scalar_one() < len(merge.blocks):
        return False
    connection.execute(delete(schema.blocks).where(_blocks.id.in_(merge.blocks)))
    write_parts(connection, merge.task, parts, next_chunk)
    return True
