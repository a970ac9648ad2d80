"""One transaction of the writer: frames in, rows out, and what changed for the live pages.

All of it runs on the writer thread. Points stay in their frame, which goes into the log as it came: nothing is done
for each series. Rows that every frame of a group touches (totals) are written once, at the end of the transaction;
that is what a group commit saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, bindparam, insert, select, update

from telemetry.events import RecordChange
from telemetry.record import Section, TaskKey, TaskStatus
from telemetry.server.store import schema
from telemetry.server.store.blob_refs import LostBlobs
from telemetry.server.store.content import FrameContent, FramePoints, without_older
from telemetry.server.store.fold import refold
from telemetry.server.store.gate import Gate, ProjectLimits
from telemetry.server.store.model_index import index_models
from telemetry.server.store.point_store import PointStore
from telemetry.server.store.ranges import Ranges
from telemetry.server.store.record import RECORD_COLUMNS, columns_of
from telemetry.server.store.reports import add_reports
from telemetry.server.store.reset import REVIVING_KEYS, move_newer, newer_runs, recount, reset_of, revive, stored_reset
from telemetry.server.store.rows import ADD_BYTES, UPSERT_RECORD, UPSERT_VALUE, record_row, value_row
from telemetry.server.store.seams import FrameRanges, Log, NewFrame
from telemetry.server.store.state import LoggedPoints, TaskState, WriterCache

__all__ = ["TaskChange", "Transaction"]

_ENDED = frozenset(TaskStatus) - {TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS}


@dataclass(slots=True)
class TaskChange:
    """What a transaction changed in one task.

    Attributes:
        points_after: points came in frames after this position in the log; None: no points came.
        reset: it was begun anew, what a page shows of it is gone.
        ended: it said that it came to its end.
    """

    points_after: int | None = None
    console_last_id: int | None = None
    models: bool = False
    plots: bool = False
    media: bool = False
    reset: bool = False
    ended: bool = False

    def merged(self, later: TaskChange) -> TaskChange:
        """Return both changes as one; `later` came after."""
        both = replace(self)
        both.absorb(later)
        return both

    def absorb(self, later: TaskChange) -> None:
        """Make this one both changes; `later` came after."""
        if self.points_after is None:
            self.points_after = later.points_after
        if later.console_last_id is not None:
            self.console_last_id = later.console_last_id
        self.models |= later.models
        self.plots |= later.plots
        self.media |= later.media
        self.reset |= later.reset
        self.ended |= later.ended


class _Unlogged(NamedTuple):
    """A frame with points that will be in the log once the rows of the transaction are written."""

    frame: NewFrame
    task_id: str
    points: FramePoints
    rank: int
    is_new: bool
    change: TaskChange


class Transaction:
    """Apply frames within an open transaction of `connection`; the caller commits.

    Args:
        ranges: says which frames of a writer are committed.
        frame_ranges: takes which frames are there then.
        log: takes the frames with points.
        points: of all tasks, as they were committed last.
        now_unix_ns: by the server's clock.

    Attributes:
        refused: why, by the position of the frame among those applied.
        ignored: positions of the frames of deleted tasks: they count as stored, and nothing of them is.
        lost_blobs: after `finish`, those that no task holds any more.
        logged: after `finish`, the points that came, in the order of their frames.
        begun_anew: tasks of which all points lie under another row now, which is given.
    """

    def __init__(
        self,
        connection: Connection,
        cache: WriterCache,
        ranges: Callable[[Connection, bytes], Ranges],
        limits: ProjectLimits | None = None,
        *,
        frame_ranges: FrameRanges,
        log: Log,
        points: PointStore,
        now_unix_ns: int,
    ) -> None:
        self._connection = connection
        self._now_unix_ns = now_unix_ns
        self._cache = cache
        self._committed_ranges = ranges
        self.ranges: dict[bytes, tuple[Ranges, Ranges]] = {}
        self.changes: dict[str, TaskChange] = {}
        self.refused: dict[int, str] = {}
        self.ignored: set[int] = set()
        self._applied = 0
        self._blobs = LostBlobs(connection)
        self.lost_blobs: set[str] = set()
        self._gate = Gate(connection, limits or ProjectLimits(), cache.usage)
        self._task_bytes: dict[int, int] = {}
        self._frame_ranges = frame_ranges
        self._log = log
        self._points = points
        self._unlogged: list[_Unlogged] = []
        self.logged: list[LoggedPoints] = []
        self.begun_anew: dict[str, int] = {}
        self._dirty_tasks: dict[str, TaskState] = {}
        self._refolded: dict[str, TaskState] = {}
        self._rows: dict[str, tuple[Table, list[dict[str, Any]]]] = {}

    def apply(self, content: FrameContent) -> bool:
        """Take one frame in; False if the store already has it, or if it is in `refused` from now on."""
        position, self._applied = self._applied, self._applied + 1
        writer = content.writer_id
        if writer not in self.ranges:
            known = self._committed_ranges(self._connection, writer)
            self.ranges[writer] = (known, known)
        before, now = self.ranges[writer]
        if content.sequence in now:
            return False
        if content.task_id in self._cache.deleted and not self._revived(content):
            # Refused, it would be sent again and again.
            self.ignored.add(position)
            self.ranges[writer] = (before, now.adding(content.sequence))
            return True
        refusal = self._gate.refusal(content, self._row_id(content.task_id))
        if refusal is not None:
            self.refused[position] = refusal
            return False
        self.ranges[writer] = (before, now.adding(content.sequence))
        task = self._task(content.task_id)
        since_unix_ns = reset_of(content.records)
        if since_unix_ns > task.reset:
            task = self._begin_anew(task, since_unix_ns)
        if task.reset:
            content = without_older(content, task.reset)
        self._task_bytes[task.id] = self._task_bytes.get(task.id, 0) + content.frame_bytes
        change = self.changes.setdefault(content.task_id, TaskChange())
        # A frame of an earlier run adds nothing to one that was begun anew, its writer neither.
        if writer not in task.writers and (not task.reset or content.first_unix_ns is not None):
            task.writers.add(writer)
            self._add_row(schema.task_writers, {"task": task.id, "writer": writer, "rank": content.rank})
        task.add(content, self._now_unix_ns)
        self._dirty_tasks[task.task_id] = task
        if content.points is not None:
            self._add_points(task, content, content.points, change)
        self._add_events(task, content, change)
        return True

    def _add_points(self, task: TaskState, content: FrameContent, points: FramePoints, change: TaskChange) -> None:
        rank = schema.NO_RANK if content.rank is None else content.rank
        frame = NewFrame(task.id, len(points), content.data)
        self._unlogged.append(_Unlogged(frame, task.task_id, points, rank, task.is_new, change))
        task.is_new = False

    def finish(self) -> None:
        """Write all rows that were collected; nothing may be applied after it."""
        self._write_rows()
        totals = [task.totals_row() for task in self._dirty_tasks.values()]
        if totals:
            self._connection.execute(_UPDATE_TOTALS, totals)
        for task in self._refolded.values():
            refold(self._connection, task.id, task.task_id)
        self._frame_ranges.note(self._connection, self.ranges)
        if self._task_bytes:
            rows = [{"task": task, "frame_bytes": count} for task, count in self._task_bytes.items()]
            self._connection.execute(ADD_BYTES, rows)
        self._gate.finish()
        self.lost_blobs = self._blobs.finish()

    def _write_rows(self) -> None:
        for table, rows in self._rows.values():
            self._connection.execute(insert(table), rows)
        self._rows = {}
        positions = self._log.append(self._connection, [one.frame for one in self._unlogged])
        for position, (frame, task_id, points, rank, is_new, change) in zip(positions, self._unlogged, strict=True):
            self.logged.append(LoggedPoints(task_id, frame.task, position, points, rank, is_new))
            if change.points_after is None:
                change.points_after = position - 1
        self._unlogged = []

    def _add_row(self, table: Table, row: dict[str, Any]) -> None:
        self._rows.setdefault(table.name, (table, []))[1].append(row)

    # -- tasks

    def _row_id(self, task_id: str) -> int | None:
        """Return a task's row id without making the task."""
        if task_id in self._cache.tasks:
            return self._cache.tasks[task_id].id
        return self._connection.execute(select(schema.tasks.c.id).where(schema.tasks.c.task_id == task_id)).scalar()

    def _task(self, task_id: str) -> TaskState:
        task = self._cache.tasks.get(task_id)
        if task is None:
            task = self._load_task(task_id) or self._new_task(task_id)
            self._cache.tasks[task_id] = task
        return task

    def _revived(self, content: FrameContent) -> bool:
        """Say whether a frame begins a deleted task anew, or goes on with it; then there is one again."""
        if not any(event.section == Section.TASK and event.key in REVIVING_KEYS for event in content.records):
            return False
        revive(self._connection, content.task_id)
        self._cache.deleted.discard(content.task_id)
        return True

    def _begin_anew(self, old: TaskState, since_unix_ns: int) -> TaskState:
        """Let go of what is older than `since_unix_ns`; return the task as it is then."""
        self._write_rows()
        task = TaskState(self._cache.next_id(schema.tasks), old.task_id, reset=since_unix_ns)
        task.seen, task.active, task.frames = old.seen, old.active, old.frames
        mine = [logged for logged in self.logged if logged.row == old.id]
        self.logged = [logged for logged in self.logged if logged.row != old.id]
        parts = self._points.parts_with(self._connection, old.task_id, old.id, mine)
        found = newer_runs(parts, since_unix_ns)
        move_newer(self._connection, old.id, task.id, since_unix_ns)
        self._blobs.drop(old.id)
        recount(self._connection, task)
        self._cache.tasks[task.task_id] = self._dirty_tasks[task.task_id] = self._refolded[task.task_id] = task
        self._gate.count_anew()
        self.changes[task.task_id] = TaskChange(reset=True, points_after=self._log.claim(self._connection, 1))
        self.begun_anew[task.task_id] = task.id
        for points in self._points.write_anew(self._connection, self._cache, task.task_id, task.id, found):
            task.add_points(points)
            times_unix_ns = points.points.times_unix_ns
            task.note_times(int(times_unix_ns.min()), int(times_unix_ns.max()))
        return task

    def _new_task(self, task_id: str) -> TaskState:
        task = TaskState(self._cache.next_id(schema.tasks), task_id, is_new=True)
        row = task.totals_row() | columns_of(task_id, {}) | {"recent_series": "[]"}
        row["id"] = row.pop("b_id")
        self._connection.execute(insert(schema.tasks), {"task_id": task_id, **row})
        return task

    def _load_task(self, task_id: str) -> TaskState | None:
        columns = schema.tasks.c
        row = self._connection.execute(select(schema.tasks).where(columns.task_id == task_id)).one_or_none()
        if row is None:
            return None
        task = TaskState(
            id=row.id,
            task_id=task_id,
            created=row.created,
            last_update=row.last_update,
            seen=row.seen,
            active=row.active,
            last_iteration=row.last_iteration,
            last_change=row.last_change,
            points=row.points,
            resource_points=row.resource_points,
            console_lines=row.console_lines,
            models=row.models,
            frames=row.frames,
            reset=stored_reset(self._connection, row.id),
        )
        writers = schema.task_writers.c
        query = select(writers.writer).where(writers.task == task.id)
        task.writers = set(self._connection.execute(query).scalars())
        return task

    # -- events

    def _add_events(self, task: TaskState, content: FrameContent, change: TaskChange) -> None:
        for line in content.console:
            change.console_last_id = self._cache.next_id(schema.console)
            self._add_row(
                schema.console,
                {
                    "id": change.console_last_id,
                    "task": task.id,
                    "time": line.time_unix_ns,
                    "stream": line.stream,
                    "level": line.level,
                    "text": line.text,
                    "writer": content.writer_id,
                    "sequence": content.sequence,
                },
            )
        for model in content.models:
            change.models = True
            self._add_row(
                schema.models,
                {
                    "task": task.id,
                    "time": model.time_unix_ns,
                    "name": model.name,
                    "path": model.path,
                    "framework": model.framework,
                    "iteration": model.iteration,
                    "size_bytes": model.size_bytes,
                },
            )
        change.plots |= bool(content.plots)
        change.media |= bool(content.media)
        self._blobs.note_reports(task.id, content)
        add_reports(self._connection, task.id, content)
        if content.values:
            rows = [value_row(task.id, content, event) for event in content.values]
            self._connection.execute(UPSERT_VALUE, rows)
        if content.records:
            self._blobs.note(task.id, content.records)
            rows = [record_row(task.id, content, event) for event in content.records]
            self._connection.execute(UPSERT_RECORD, rows)
            index_models(self._connection, task.id, content.records)
            if any(event.section == Section.TASK and event.key in RECORD_COLUMNS for event in content.records):
                self._refolded[task.task_id] = task
            change.ended |= any(_is_end(event) for event in content.records)


def _is_end(event: RecordChange) -> bool:
    is_status = event.section == Section.TASK and event.key == TaskKey.STATUS
    return is_status and isinstance(event.value, str) and event.value in _ENDED


_UPDATE_TOTALS = (
    update(schema.tasks)
    .where(schema.tasks.c.id == bindparam("b_id"))
    .values({name: bindparam(name) for name in TaskState(0, "").totals_row() if name != "b_id"})
)
