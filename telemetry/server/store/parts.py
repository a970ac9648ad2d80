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
import numpy.typing as npt
from sqlalchemy import Connection, select

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.server.store import schema
from telemetry.server.store.blocks import PlacedRun
from telemetry.server.store.chunks import Points, concat_points
from telemetry.server.store.errors import NotFound
from telemetry.server.store.memtable import PointsView, SeriesName
from telemetry.server.store.seams import ChunkPlace, SealedPoints

__all__ = ["KnownSeries", "TaskParts"]

# Row ids per query; SQLite takes 32,766.
_IN_LIST = 2000


@dataclass(frozen=True, slots=True)
class KnownSeries:
    """A series of a task, with or without points that are sealed."""

    id: int
    name: SeriesName
    unit: str


class TaskParts:
    """A task's points as one snapshot and a view of the memtable have them.

    Args:
        sealed: whoever has those that are not in the memtable.
        connection: a snapshot that was opened after the view was taken.
        task: the row id.
        view: None where the memtable has nothing of the task.
    """

    def __init__(self, sealed: SealedPoints, connection: Connection, task: int, view: PointsView | None) -> None:
        self._sealed = sealed
        self.connection = connection
        self.task = task
        self._view: PointsView | None = None
        # A task that was begun anew meanwhile has another row.
        if view is not None and view.row == task:
            self._view = view.after(sealed.sealed_upto(connection, task))

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
        for run in self._sealed.runs(self.connection, self.task, series):
            found[run.series].append(run)
        for runs in found.values():
            runs.sort(key=attrgetter("position"))
        for run in self._fresh_runs(series):
            found[run.series].append(run)
        return found

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

    def chunks_of(
        self, series: Collection[int], *, by_time: bool = False, low: int = INT64_MIN, high: int = INT64_MAX
    ) -> dict[int, list[ChunkPlace]]:
        """Return the chunks of these series that reach into a range, by series, in the order they came."""
        return self._sealed.chunks(self.connection, self.task, series, by_time=by_time, low=low, high=high)

    def overviews(self, chunks: Sequence[ChunkPlace]) -> npt.NDArray[np.void]:
        """Return the cells of these chunks, one chunk after the other."""
        return self._sealed.overviews(self.connection, chunks)

    def read(self, chunks: Sequence[ChunkPlace], runs: Sequence[PlacedRun]) -> Points:
        """Return the points of chunks and runs of one series in the order they came."""
        packed = self._sealed.read(self.connection, chunks)
        parts = [(chunk.position, chunk.id, points) for chunk, points in zip(chunks, packed, strict=True)]
        parts += [(run.position, 0, run.points) for run in runs]
        parts.sort(key=lambda part: part[:2])
        return concat_points([points for _, _, points in parts])


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _IN_LIST):
        yield items[start : start + _IN_LIST]
