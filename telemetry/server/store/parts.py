"""Where a task's points are: in chunks, in blocks and in the memtable; one state of all three.

Who reads takes a view of the memtable first and opens the snapshot then. What was sealed in between is in the snapshot,
which says up to which frame (`tasks.sealed`); it is left out of the view. So nothing is missing, and nothing is there
twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from telemetry.server.store import schema
from telemetry.server.store.blocks import BlockIndex, PlacedRun, partition_of, read_index
from telemetry.server.store.chunks import Points, concat_points, unpack
from telemetry.server.store.errors import NotFound
from telemetry.server.store.memtable import PointsView, SeriesName

__all__ = ["ChunkPlace", "KnownSeries", "TaskParts"]

# Row ids per query; SQLite takes 32,766.
_IN_LIST = 2000
# Where more of a block is wanted than this share, it is read whole.
_WHOLE_SHARE = 0.25

_blocks = schema.blocks.c


@dataclass(frozen=True, slots=True)
class KnownSeries:
    """A series of a task, with or without points that are sealed."""

    id: int
    name: SeriesName
    unit: str


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """A chunk in the order of arrival."""

    id: int
    position: int
    count: int


class TaskParts:
    """A task's points as one snapshot and a view of the memtable have them.

    Args:
        connection: a snapshot that was opened after the view was taken.
        task: the row id.
        view: None where the memtable has nothing of the task.
    """

    def __init__(self, connection: Connection, task: int, view: PointsView | None) -> None:
        self.connection = connection
        self.task = task
        self._view: PointsView | None = None
        # A task that was begun anew meanwhile has another row.
        if view is not None and view.row == task:
            sealed = connection.execute(select(schema.tasks.c.sealed).where(schema.tasks.c.id == task)).scalar_one()
            self._view = view.after(int(sealed))

    # -- which series there are

    def series(self) -> list[KnownSeries]:
        """Return the task's series by kind, title, name and rank."""
        if self._view is not None:
            view = self._view
            known = [KnownSeries(*one) for one in zip(view.ids, view.names, view.units, strict=True)]
        else:
            known = self._stored_series()
        return sorted(known, key=attrgetter("name"))

    def _stored_series(self) -> list[KnownSeries]:
        series, metrics = schema.series.c, schema.metrics.c
        query = (
            select(series.id, metrics.kind, metrics.title, metrics.series, series.rank, series.unit)
            .join(schema.metrics, metrics.id == series.metric)
            .where(series.task == self.task)
        )
        return [
            KnownSeries(identifier, (kind, title, name, rank), unit)
            for identifier, kind, title, name, rank, unit in self.connection.execute(query)
        ]

    def check(self, series: Collection[int]) -> None:
        """Check that these are series of the task.

        Raises:
            NotFound: one is not.
        """
        there = set(self._view.ids if self._view is not None else self._stored_ids(series))
        for identifier in series:
            if identifier not in there:
                task_id = self.connection.execute(
                    select(schema.tasks.c.task_id).where(schema.tasks.c.id == self.task)
                ).scalar_one()
                raise NotFound(f"task {task_id} has no series {identifier}")

    def _stored_ids(self, series: Collection[int]) -> Iterator[int]:
        columns = schema.series.c
        for some in _slices(list(series)):
            yield from self.connection.execute(
                select(columns.id).where(columns.task == self.task, columns.id.in_(some))
            ).scalars()

    def ranks_of(self, series: Sequence[int]) -> list[list[int]]:
        """Return, for each of these series, the ids of the same series of every rank, by rank."""
        if self._view is not None:
            pairs: Iterable[tuple[int, Any, int]] = (
                (identifier, name[:3], name[3])
                for identifier, name in zip(self._view.ids, self._view.names, strict=True)
            )
        else:
            columns = schema.series.c
            metrics = select(columns.metric).where(columns.task == self.task, columns.id.in_(series))
            query = select(columns.id, columns.metric, columns.rank)
            rows = self.connection.execute(query.where(columns.task == self.task, columns.metric.in_(metrics)))
            pairs = [(identifier, metric, rank) for identifier, metric, rank in rows]
        by_metric: dict[Any, list[tuple[int, int]]] = defaultdict(list)
        metric_of: dict[int, Any] = {}
        for identifier, metric, rank in pairs:
            by_metric[metric].append((rank, identifier))
            metric_of[identifier] = metric
        return [[identifier for _, identifier in sorted(by_metric[metric_of[one]])] for one in series]

    # -- points outside chunks

    def loose(self, series: Collection[int]) -> dict[int, list[PlacedRun]]:
        """Return the runs of these series that are in no chunk, by series, in the order they came."""
        found: dict[int, list[PlacedRun]] = defaultdict(list)
        partitions: dict[int, set[int]] = defaultdict(set)
        for identifier in series:
            partitions[partition_of(identifier)].add(identifier)
        for partition, wanted in partitions.items():
            for run in self._runs_of(partition, wanted):
                found[run.series].append(run)
        for runs in found.values():
            runs.sort(key=attrgetter("position"))
        for run in self._fresh_runs(series):
            found[run.series].append(run)
        return found

    def _runs_of(self, partition: int, wanted: set[int]) -> Iterator[PlacedRun]:
        query = (
            select(_blocks.id, _blocks.places)
            .where(_blocks.task == self.task, _blocks.partition == partition)
            .order_by(_blocks.position, _blocks.id)
        )
        for identifier, packed in self.connection.execute(query).all():
            index = read_index(packed)
            which = index.find(wanted)
            if len(which):
                yield from self._unpacked(identifier, index, which)

    def _unpacked(self, block: int, index: BlockIndex, which: Any) -> Iterator[PlacedRun]:
        packs = np.unique(index.packs[which])
        if len(packs) > _WHOLE_SHARE * (len(index.offsets) - 1):
            data = self.connection.execute(select(_blocks.data).where(_blocks.id == block)).scalar_one()
            yield from index.runs(which, data)
            return
        for number in packs:
            start, end = int(index.offsets[number]), int(index.offsets[number + 1])
            piece = func.substr(_blocks.data, start + 1, end - start)
            data = self.connection.execute(select(piece).where(_blocks.id == block)).scalar_one()
            yield from index.runs(which[index.packs[which] == number], data, start)

    def _fresh_runs(self, series: Collection[int]) -> Iterator[PlacedRun]:
        view = self._view
        if view is None or not len(view.series):
            return
        position = view.positions[0]
        # One look at all the points for each series, or one sort for all of them.
        if len(series) > 16:
            order = np.argsort(view.series, kind="stable")
            ordered = view.series[order]
        for identifier in series:
            number = bisect_left(view.ids, identifier)
            if number == len(view.ids) or view.ids[number] != identifier:
                continue
            if len(series) > 16:
                first, last = np.searchsorted(ordered, [number, number + 1])
                which = order[first:last]
            else:
                which = np.flatnonzero(view.series == number)
            if len(which):
                yield PlacedRun(identifier, position, view.points.take(which))

    # -- chunks and runs together

    def chunks_of(self, series: Sequence[int]) -> dict[int, list[ChunkPlace]]:
        """Return the chunks of these series, by series, in the order they came."""
        columns = schema.chunks.c
        found: dict[int, list[ChunkPlace]] = defaultdict(list)
        for some in _slices(series):
            query = (
                select(columns.series, columns.id, columns.position, columns.count)
                .where(columns.task == self.task, columns.series.in_(some))
                .order_by(columns.series, columns.position, columns.id)
            )
            for identifier, *place in self.connection.execute(query):
                found[identifier].append(ChunkPlace(*place))
        return found

    def read(self, chunks: Sequence[ChunkPlace], runs: Sequence[PlacedRun]) -> Points:
        """Return the points of chunks and runs of one series in the order they came."""
        packed = self._packed([chunk.id for chunk in chunks])
        parts = [(chunk.position, chunk.id, unpack(data)) for chunk, data in zip(chunks, packed, strict=True)]
        parts += [(run.position, 0, run.points) for run in runs]
        parts.sort(key=lambda part: part[:2])
        return concat_points([points for _, _, points in parts])

    def _packed(self, chunks: Sequence[int]) -> list[bytes]:
        columns = schema.chunk_data.c
        found: dict[int, bytes] = {}
        for some in _slices(chunks):
            query = select(columns.chunk, columns.data).where(columns.chunk.in_(some))
            found.update((chunk, data) for chunk, data in self.connection.execute(query))
        return [found[chunk] for chunk in chunks]


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _IN_LIST):
        yield items[start : start + _IN_LIST]
