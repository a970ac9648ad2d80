"""Sealed points in SQL: the tables `chunks`, `chunk_data` and `blocks`. Nobody else reads or writes them.

The move of an older store (moving.py) fills them before there is anybody else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, delete, func, insert, select, update

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.server.store import schema
from telemetry.server.store.blocks import BlockIndex, PlacedRun, partition_of, read_index
from telemetry.server.store.chunks import CELL_DTYPE, Points, unpack
from telemetry.server.store.sealing import Merge, Sealed, due_level, merged
from telemetry.server.store.seams import ChunkPlace

__all__ = ["SqlPoints", "write_parts"]

# Row ids per query; SQLite takes 32,766.
_IN_LIST = 2000
# Where more of a block is wanted than this share, it is read whole.
_WHOLE_SHARE = 0.25
# Of a deleted task at once, some 60 kB each and more: some 20 ms of the writer's time.
_DROP_CHUNKS = 100
_DROP_BLOCKS = 20

_blocks = schema.blocks.c
_chunks = schema.chunks.c
_chunk_data = schema.chunk_data.c
_tasks = schema.tasks.c


class SqlPoints:
    """Implements `seams.SealedPoints`."""

    def __init__(self) -> None:
        # Ids for chunks, once it is known from where on. They also rise where a transaction fails.
        self._chunk_ids: Iterator[int] | None = None

    # -- writing

    def put(self, transaction: Connection, task: int, parts: Sealed, upto: int) -> None:
        write_parts(transaction, task, parts, self._next_chunks(transaction))
        transaction.execute(update(schema.tasks).where(_tasks.id == task).values(sealed=upto))

    def merges(self, snapshot: Connection, task: int, *, ended: bool) -> list[Merge]:
        query = (
            select(_blocks.partition, _blocks.level, func.count())
            .where(_blocks.task == task)
            .group_by(_blocks.partition, _blocks.level)
            .order_by(_blocks.partition, _blocks.level)
        )
        found: list[Merge] = []
        for partition, rows in groupby(snapshot.execute(query).all(), key=lambda row: row[0]):
            levels = {level: count for _, level, count in rows}
            here = (_blocks.task == task) & (_blocks.partition == partition)
            blocks = select(_blocks.id).where(here).order_by(_blocks.position, _blocks.id)
            due = due_level(levels, ended=ended)
            if due is None:
                continue
            level, most = due
            if level is not None:
                blocks = blocks.where(_blocks.level == level).limit(most)
            into = 1 + (max(levels) if level is None else level)
            found.append(Merge(task, partition, list(snapshot.execute(blocks).scalars()), into))
        return found

    def read_merge(self, snapshot: Connection, merge: Merge) -> Sealed | None:
        query = select(_blocks.position, _blocks.last_position, _blocks.places, _blocks.data).where(
            _blocks.id.in_(merge.blocks)
        )
        rows = snapshot.execute(query.order_by(_blocks.position, _blocks.id)).all()
        if len(rows) < len(merge.blocks):
            return None
        first, last = min(row.position for row in rows), max(row.last_position for row in rows)
        runs: list[PlacedRun] = []
        for row in rows:
            index = read_index(row.places)
            runs += index.runs(index.find(None), row.data)
        runs.sort(key=attrgetter("series", "position"))
        return merged(merge, runs, _chunks_between(snapshot, merge.task, first, last), first, last)

    def merge(self, transaction: Connection, merge: Merge, parts: Sealed) -> bool:
        there = select(func.count()).select_from(schema.blocks).where(_blocks.id.in_(merge.blocks))
        if transaction.execute(there).scalar_one() < len(merge.blocks):
            return False
        transaction.execute(delete(schema.blocks).where(_blocks.id.in_(merge.blocks)))
        write_parts(transaction, merge.task, parts, self._next_chunks(transaction))
        return True

    def drop(self, transaction: Connection, task: int) -> bool:
        some = select(_chunks.id).where(_chunks.task == task).order_by(_chunks.id).limit(_DROP_CHUNKS)
        transaction.execute(delete(schema.chunk_data).where(_chunk_data.chunk.in_(some)))
        if transaction.execute(delete(schema.chunks).where(_chunks.id.in_(some))).rowcount >= _DROP_CHUNKS:
            return True
        some = select(_blocks.id).where(_blocks.task == task).limit(_DROP_BLOCKS)
        return transaction.execute(delete(schema.blocks).where(_blocks.id.in_(some))).rowcount >= _DROP_BLOCKS

    def _next_chunks(self, transaction: Connection) -> Iterator[int]:
        if self._chunk_ids is None:
            highest = transaction.execute(select(func.max(_chunks.id))).scalar() or 0
            self._chunk_ids = itertools.count(1 + highest)
        return self._chunk_ids

    # -- reading

    def sealed_upto(self, snapshot: Connection, task: int) -> int:
        return int(snapshot.execute(select(_tasks.sealed).where(_tasks.id == task)).scalar_one())

    def chunks(
        self,
        snapshot: Connection,
        task: int,
        series: Collection[int],
        *,
        by_time: bool = False,
        low: int = INT64_MIN,
        high: int = INT64_MAX,
    ) -> dict[int, list[ChunkPlace]]:
        lowest = _chunks.lowest_time if by_time else _chunks.lowest_iteration
        highest = _chunks.highest_time if by_time else _chunks.highest_iteration
        found: dict[int, list[ChunkPlace]] = defaultdict(list)
        for some in _slices(list(series)):
            query = (
                select(_chunks.series, *_PLACE)
                .where(_chunks.task == task, _chunks.series.in_(some), lowest <= high, highest >= low)
                .order_by(_chunks.series, _chunks.position, _chunks.id)
            )
            for row in snapshot.execute(query):
                found[row[0]].append(ChunkPlace._make(row[1:]))
        return found

    def overviews(self, snapshot: Connection, chunks: Sequence[ChunkPlace]) -> npt.NDArray[np.void]:
        found: dict[int, bytes] = {}
        for some in _slices([chunk.id for chunk in chunks]):
            query = select(_chunks.id, _chunks.overview).where(_chunks.id.in_(some))
            found.update((identifier, cells) for identifier, cells in snapshot.execute(query))
        return np.frombuffer(b"".join(found[chunk.id] for chunk in chunks), CELL_DTYPE)

    def read(self, snapshot: Connection, chunks: Sequence[ChunkPlace]) -> list[Points]:
        found: dict[int, bytes] = {}
        for some in _slices([chunk.id for chunk in chunks]):
            query = select(_chunk_data.chunk, _chunk_data.data).where(_chunk_data.chunk.in_(some))
            found.update((chunk, data) for chunk, data in snapshot.execute(query))
        return [unpack(found[chunk.id]) for chunk in chunks]

    def runs(self, snapshot: Connection, task: int, series: Collection[int]) -> Iterator[PlacedRun]:
        partitions: dict[int, set[int]] = defaultdict(set)
        for identifier in series:
            partitions[partition_of(identifier)].add(identifier)
        for partition, wanted in partitions.items():
            query = (
                select(_blocks.id, _blocks.places)
                .where(_blocks.task == task, _blocks.partition == partition)
                .order_by(_blocks.position, _blocks.id)
            )
            for identifier, packed in snapshot.execute(query).all():
                index = read_index(packed)
                which = index.find(wanted)
                if len(which):
                    yield from _unpacked(snapshot, identifier, index, which)


def _unpacked(snapshot: Connection, block: int, index: BlockIndex, which: npt.NDArray[np.intp]) -> Iterator[PlacedRun]:
    packs = np.unique(index.packs[which])
    if len(packs) > _WHOLE_SHARE * (len(index.offsets) - 1):
        data = snapshot.execute(select(_blocks.data).where(_blocks.id == block)).scalar_one()
        yield from index.runs(which, data)
        return
    for number in packs:
        start, end = int(index.offsets[number]), int(index.offsets[number + 1])
        piece = func.substr(_blocks.data, start + 1, end - start)
        data = snapshot.execute(select(piece).where(_blocks.id == block)).scalar_one()
        yield from index.runs(which[index.packs[which] == number], data, start)


def _chunks_between(snapshot: Connection, task: int, first: int, last: int) -> dict[int, list[int]]:
    """Return by series the positions of the chunks that lie between two positions."""
    query = select(_chunks.series, _chunks.position).where(
        _chunks.task == task, _chunks.position > first, _chunks.position <= last
    )
    found: dict[int, list[int]] = defaultdict(list)
    for series, position in snapshot.execute(query.distinct()):
        found[series].append(position)
    return found


def write_parts(transaction: Connection, task: int, parts: Sealed, next_chunk: Iterator[int]) -> None:
    """Write what `arrange` made. `next_chunk`: ids for chunks, ascending."""
    if parts.chunks:
        rows, data = [], []
        for chunk in parts.chunks:
            identifier = next(next_chunk)
            rows.append({**chunk.row, "id": identifier, "task": task})
            data.append({"chunk": identifier, "data": chunk.data})
        transaction.execute(insert(schema.chunks), rows)
        transaction.execute(insert(schema.chunk_data), data)
    if parts.blocks:
        transaction.execute(
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


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _IN_LIST):
        yield items[start : start + _IN_LIST]


# As the fields of ChunkPlace.
_PLACE = (
    _chunks.id,
    _chunks.position,
    _chunks.count,
    _chunks.non_finite,
    _chunks.lowest_iteration,
    _chunks.highest_iteration,
    _chunks.lowest_time,
    _chunks.highest_time,
)
