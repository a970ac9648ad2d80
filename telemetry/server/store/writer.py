"""One transaction of the writer: frames in, rows out, and what changed for the live pages.

All of it runs on the writer thread. Rows that every frame of a group touches (totals, statistics, open
chunks) are written once, at the end of the transaction; that is what a group commit saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, tuple_, update

from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.blob_refs import LostBlobs
from telemetry.server.store.chunks import (
    CHUNK_MIN_POINTS,
    Points,
    concat_points,
    pack,
    split_evenly,
    unpack,
)
from telemetry.server.store.content import FrameContent, SeriesRun, without_older
from telemetry.server.store.deletion import deleted_task_ids, highest_buried_row
from telemetry.server.store.fold import refold
from telemetry.server.store.gate import Gate, ProjectLimits, Usage
from telemetry.server.store.metrics import md5_columns
from telemetry.server.store.model_index import index_models
from telemetry.server.store.ranges import Ranges
from telemetry.server.store.record import RECORD_COLUMNS, columns_of
from telemetry.server.store.reports import add_reports
from telemetry.server.store.reset import REVIVING_KEYS, move_newer, recount, reset_of, revive, stored_reset
from telemetry.server.store.rows import (
    ADD_BYTES,
    UPSERT_RANGE,
    UPSERT_RECORD,
    UPSERT_VALUE,
    chunk_row,
    record_row,
    value_row,
)
from telemetry.server.store.state import MetricKey, SeriesState, TaskState

__all__ = ["SeriesChange", "TaskChange", "Transaction", "WriterCache"]

# A tail of many one-point rows is slow to read: between this many and twice as many are merged into one.
TAIL_ROWS = 64
# SQLite takes 32,766 parameters since 3.32; there is no gain beyond a few hundred.
_IN_LIST = 500

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """A series after the transaction."""

    count: int
    last: float | None
    last_iteration: int
    last_unix_ns: int


@dataclass(slots=True)
class TaskChange:
    """What a transaction changed in one task. `reset`: it was begun anew, what a page shows of it is gone."""

    series: dict[int, SeriesChange] = field(default_factory=dict)
    console_last_id: int | None = None
    models: bool = False
    plots: bool = False
    media: bool = False
    reset: bool = False

    def merged(self, later: TaskChange) -> TaskChange:
        """Return both changes as one; `later` came after."""
        both = replace(self, series=dict(self.series))
        both.absorb(later)
        return both

    def absorb(self, later: TaskChange) -> None:
        """Make this one both changes; `later` came after."""
        self.series.update(later.series)
        if later.console_last_id is not None:
            self.console_last_id = later.console_last_id
        self.models |= later.models
        self.plots |= later.plots
        self.media |= later.media
        self.reset |= later.reset


class WriterCache:
    """Committed state by task, and the next free row ids. Thrown away when a transaction fails."""

    def __init__(self, connection: Connection) -> None:
        self.tasks: dict[str, TaskState] = {}
        self.metrics: dict[MetricKey, int] = {}
        # By project, where projects have limits.
        self.usage: dict[str, Usage] = {}
        # Tasks and series taken in since the last trim.
        self.loaded = 0
        self.deleted = deleted_task_ids(connection)
        self._next_id = {
            table.name: 1 + (connection.execute(select(func.max(table.c.id))).scalar() or 0)
            for table in (
                schema.tasks,
                schema.metrics,
                schema.series,
                schema.chunks,
                schema.console,
            )
        }
        # Rows of a deleted task may be left.
        tasks = schema.tasks.name
        self._next_id[tasks] = max(self._next_id[tasks], 1 + highest_buried_row(connection))

    def next_id(self, table: Table) -> int:
        """Return a fresh row id: there is one writer, so it can count by itself."""
        identifier = self._next_id[table.name]
        self._next_id[table.name] = identifier + 1
        return identifier

    def trim(self, max_entries: int, keep: Iterable[str]) -> None:
        """Forget all tasks but those to `keep` when there are many of them or of their series."""
        if self.loaded > max_entries:
            self.tasks = {task_id: self.tasks[task_id] for task_id in keep}
            # What is kept is not counted again: a task with very many series must not be read each time.
            self.loaded = 0
        if len(self.metrics) > max_entries:
            self.metrics.clear()


class Transaction:
    """Apply frames within an open transaction of `connection`; the caller commits.

    Args:
        now_unix_ns: by the server's clock.

    Attributes:
        refused: why, by the position of the frame among those applied.
        ignored: positions of the frames of deleted tasks: they count as stored, and nothing of them is.
        lost_blobs: after `finish`, those that no task holds any more.
    """

    def __init__(
        self,
        connection: Connection,
        cache: WriterCache,
        ranges: Callable[[Connection, bytes], Ranges],
        limits: ProjectLimits | None = None,
        *,
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
        self._dirty_tasks: dict[str, TaskState] = {}
        self._dirty_series: dict[int, SeriesState] = {}
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
        if content.runs:
            rank = schema.NO_RANK if content.rank is None else content.rank
            self._add_series(task, content.runs, rank)
            task.note_recent([self._add_run(task, run, rank) for run in content.runs])
        self._add_events(task, content, change)
        return True

    def finish(self) -> None:
        """Write all rows that were collected; nothing may be applied after it."""
        self._write_rows()
        totals = [task.totals_row() for task in self._dirty_tasks.values()]
        if totals:
            self._connection.execute(_UPDATE_TOTALS, totals)
        for task in self._refolded.values():
            refold(self._connection, task.id, task.task_id)
        self._write_ranges()
        if self._task_bytes:
            rows = [{"task": task, "frame_bytes": count} for task, count in self._task_bytes.items()]
            self._connection.execute(ADD_BYTES, rows)
        self._gate.finish()
        self.lost_blobs = self._blobs.finish()

    def _write_rows(self) -> None:
        for table, rows in self._rows.values():
            self._connection.execute(insert(table), rows)
        self._rows = {}
        self._write_series()
        self._dirty_series = {}

    def _add_row(self, table: Table, row: dict[str, Any]) -> None:
        self._rows.setdefault(table.name, (table, []))[1].append(row)

    # -- tasks and series

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
            self._cache.loaded += 1 + len(task.series)
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
        found = move_newer(self._connection, old.id, task.id, since_unix_ns)
        self._blobs.drop(old.id)
        recount(self._connection, task)
        self._cache.tasks[task.task_id] = self._dirty_tasks[task.task_id] = self._refolded[task.task_id] = task
        self._gate.count_anew()
        self.changes[task.task_id] = TaskChange(reset=True)
        for rank, run in found:
            self._add_series(task, [run], rank)
            task.add_points([run])
            task.note_times(int(run.points.times_unix_ns.min()), run.last_unix_ns)
            task.note_recent([self._add_run(task, run, rank)])
        return task

    def _new_task(self, task_id: str) -> TaskState:
        task = TaskState(self._cache.next_id(schema.tasks), task_id)
        row = task.totals_row() | columns_of(task_id, {})
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
            recent=[(identifier, time_unix_ns) for identifier, time_unix_ns in orjson.loads(row.recent_series)],
        )
        writers = schema.task_writers.c
        query = select(writers.writer).where(writers.task == task.id)
        task.writers = set(self._connection.execute(query).scalars())
        stats, metrics = schema.series_stats, schema.metrics
        found = self._connection.execute(
            select(stats, metrics.c.kind, metrics.c.title, metrics.c.series.label("series_name"))
            .join(metrics, metrics.c.id == stats.c.metric)
            .where(stats.c.task == task.id)
        )
        for values in found.mappings():
            state = _series_state(dict(values))
            task.add_series(state)
        return task

    def _add_series(self, task: TaskState, runs: Sequence[SeriesRun], rank: int) -> None:
        """Make the series that the task does not have yet."""
        keys = [(run.key.kind, run.key.title, run.key.series) for run in runs]
        # By key: a frame may hold a series twice, with two units, of which the first is kept.
        fresh = {
            key: run for key, run in zip(reversed(keys), reversed(runs), strict=True) if (*key, rank) not in task.series
        }
        if not fresh:
            return
        self._find_metrics(fresh)
        for key, run in reversed(fresh.items()):
            metric = self._cache.metrics[key]
            series = SeriesState(self._cache.next_id(schema.series), task.id, metric, (*key, rank), is_new=True)
            task.add_series(series)
            self._cache.loaded += 1
            row = {"id": series.id, "task": task.id, "metric": metric, "rank": rank, "unit": run.key.unit}
            self._add_row(schema.series, row)

    def _add_run(self, task: TaskState, run: SeriesRun, rank: int) -> SeriesState:
        series = task.series[run.key.kind, run.key.title, run.key.series, rank]
        series.add(run)
        self._dirty_series[series.id] = series
        self.changes[task.task_id].series[series.id] = SeriesChange(
            series.count, series.last, series.last_iteration, series.last_unix_ns
        )
        return series

    def _find_metrics(self, keys: Iterable[MetricKey]) -> None:
        """Have the ids of these metrics in the cache; those that no task had before are made."""
        known, columns = self._cache.metrics, schema.metrics.c
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for some in _slices(missing, _IN_LIST):
            query = select(columns.id, columns.kind, columns.title, columns.series).where(
                tuple_(columns.kind, columns.title, columns.series).in_(some)
            )
            for identifier, kind, title, series in self._connection.execute(query):
                known[kind, title, series] = identifier
        rows = []
        for key in missing:
            if key not in known:
                known[key] = self._cache.next_id(schema.metrics)
                kind, title, series = key
                names = {"kind": kind, "title": title, "series": series, "path": f"{title}/{series}"}
                rows.append({"id": known[key], **names, **md5_columns(title, series)})
        if rows:
            self._connection.execute(insert(schema.metrics), rows)

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

    # -- points

    def _write_series(self) -> None:
        dirty = list(self._dirty_series.values())
        if not dirty:
            return
        old_tails = self._take_tails([series for series in dirty if _rewrites_tail(series)])
        new_tails: list[dict[str, Any]] = []
        new_chunks: list[dict[str, Any]] = []
        new_data: list[dict[str, Any]] = []
        for series in dirty:
            rewrites = _rewrites_tail(series)
            appended = concat_points(series.pending)
            series.pending = []
            series.tail_points += len(appended)
            points = concat_points([*old_tails.get(series.id, ()), appended]) if rewrites else appended
            if series.tail_points >= CHUNK_MIN_POINTS:
                for piece in split_evenly(points):
                    identifier = self._cache.next_id(schema.chunks)
                    new_chunks.append(chunk_row(identifier, series.id, piece))
                    new_data.append({"chunk": identifier, "data": pack(piece)})
                series.tail_points = series.tail_rows = 0
            else:
                series.tail_rows = 0 if rewrites else series.tail_rows + 1
                new_tails.append({"series": series.id, "merged": int(rewrites), "data": pack(points)})
        for table, rows in (
            (schema.tails, new_tails),
            (schema.chunks, new_chunks),
            (schema.chunk_data, new_data),
        ):
            if rows:
                self._connection.execute(insert(table), rows)
        self._write_stats(dirty)

    def _take_tails(self, series: Sequence[SeriesState]) -> dict[int, list[Points]]:
        """Remove and return the tail rows that are merged or sealed now, in order of arrival."""
        taken: dict[int, list[Points]] = {}
        columns = schema.tails.c
        sealed = [item.id for item in series if _seals(item) and item.tail_points]
        merged = [item.id for item in series if not _seals(item)]
        for identifiers, condition in ((sealed, columns.merged >= 0), (merged, columns.merged == 0)):
            for some in _slices(identifiers, _IN_LIST):
                which = columns.series.in_(some) & condition
                rows = self._connection.execute(
                    select(columns.series, columns.data).where(which).order_by(columns.series, columns.id)
                )
                for identifier, data in rows:
                    taken.setdefault(identifier, []).append(unpack(data))
                self._connection.execute(delete(schema.tails).where(which))
        return taken

    def _write_stats(self, dirty: Sequence[SeriesState]) -> None:
        fresh = [series.row() for series in dirty if series.is_new]
        known = [{f"b_{key}": value for key, value in series.row().items()} for series in dirty if not series.is_new]
        if fresh:
            self._connection.execute(insert(schema.series_stats), fresh)
        if known:
            self._connection.execute(_UPDATE_STATS, known)
        for series in dirty:
            series.is_new = False

    def _write_ranges(self) -> None:
        columns = schema.frame_ranges.c
        for writer, (before, now) in self.ranges.items():
            old, new = set(before.pairs()), set(now.pairs())
            kept_firsts = {first for first, _ in new}
            for first, _ in old - new:
                if first not in kept_firsts:
                    self._connection.execute(
                        delete(schema.frame_ranges).where(columns.writer == writer, columns.first == first)
                    )
            rows = [{"writer": writer, "first": first, "last": last} for first, last in new - old]
            if rows:
                self._connection.execute(UPSERT_RANGE, rows)


def _seals(series: SeriesState) -> bool:
    return series.tail_points + sum(map(len, series.pending)) >= CHUNK_MIN_POINTS


def _rewrites_tail(series: SeriesState) -> bool:
    # Not all series at the same number of rows: those of one task grow together, and would stop the writer.
    return _seals(series) or series.tail_rows + 1 >= TAIL_ROWS + series.id % TAIL_ROWS


def _slices(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _series_state(values: dict[str, Any]) -> SeriesState:
    key = (values.pop("kind"), values.pop("title"), values.pop("series_name"), values.pop("rank"))
    return SeriesState(id=values.pop("series"), key=key, last_unix_ns=values.pop("last_time"), **values)


_UPDATE_TOTALS = (
    update(schema.tasks)
    .where(schema.tasks.c.id == bindparam("b_id"))
    .values({name: bindparam(name) for name in TaskState(0, "").totals_row() if name != "b_id"})
)
_UPDATE_STATS = (
    update(schema.series_stats)
    .where(schema.series_stats.c.series == bindparam("b_series"))
    .values(
        {
            name: bindparam(f"b_{name}")
            for name in SeriesState(0, 0, 0, ("", "", "", 0)).row()
            if name not in ("series", "task", "metric", "rank")
        }
    )
)
