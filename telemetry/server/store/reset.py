"""Beginning a task anew under its id: what is older than the reset goes, whichever arrives first.

What is newer (a child process was quicker than the one that told of the reset) moves to a new row of `tasks`; the old
row is left to `deletion`, which removes what is left of it slice by slice. So a reset costs the same whether the task
held ten points or ten million. A table with the columns `task` and `time` (of the event) is moved by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
from sqlalchemy import Connection, Table, delete, func, insert, or_, select, update

from telemetry.events import RecordChange
from telemetry.fold import reset_moment
from telemetry.record import Section, TaskKey
from telemetry.server.store import schema
from telemetry.server.store.blob_refs import read_refs
from telemetry.server.store.chunks import Points
from telemetry.server.store.deletion import NOBODY
from telemetry.server.store.parts import KnownSeries, TaskParts
from telemetry.server.store.seams import ChunkPlace
from telemetry.server.store.state import TaskState

__all__ = ["REVIVING_KEYS", "move_newer", "newer_runs", "recount", "reset_of", "revive", "stored_reset"]

# In section "task": whoever writes one of these begins a deleted task anew, or goes on with it, and means it.
REVIVING_KEYS = frozenset({TaskKey.RESET, TaskKey.CONTINUED})

# Their times are not those of events, or they are handled by themselves.
_APART = frozenset({schema.tasks.name, schema.task_blobs.name})
_IN_LIST = 500

_buried = schema.deleted_tasks.c


def reset_of(records: Sequence[RecordChange]) -> int:
    """Return the moment, Unix ns, at which a frame's changes begin their task anew; 0 if they do not."""
    return max(
        (
            reset_moment(event.value, event.time_unix_ns)
            for event in records
            if event.section == Section.TASK and event.key == TaskKey.RESET
        ),
        default=0,
    )


def stored_reset(connection: Connection, task: int) -> int:
    """Return when a task that is stored was begun anew last, Unix ns; 0: never. `task`: its row id."""
    columns = schema.records.c
    row = connection.execute(
        select(columns.value, columns.time).where(
            columns.task == task,
            columns.section == Section.TASK,
            columns.key == TaskKey.RESET,
            columns.value.is_not(None),
        )
    ).one_or_none()
    return 0 if row is None else reset_moment(msgpack.unpackb(row.value), row.time)


def revive(connection: Connection, task_id: str) -> None:
    """Take the tombstone of a deleted task away; what is left of the old one is removed all the same."""
    rows_left = (_buried.task_id == task_id) & _buried.row.is_not(None)
    row = connection.execute(select(_buried.row).where(rows_left)).scalar()
    if row is not None:
        connection.execute(update(schema.deleted_tasks).where(rows_left).values(task_id=_nobody(row)))
    connection.execute(delete(schema.deleted_tasks).where(_buried.task_id == task_id))


def move_newer(connection: Connection, old: int, new: int, since_unix_ns: int) -> None:
    """Give a task a new row with what is not older than `since_unix_ns`; all else is left under the old row's id.

    Points do not move: the caller takes the newer ones before (`newer_runs`) and writes them anew.
    """
    tasks = schema.tasks.c
    connection.execute(insert(schema.deleted_tasks), {"task_id": _nobody(old), "row": old})
    # What it says of points was of those that stay behind.
    afresh = {"id": new, "sealed": 0, "summed": 0, "recent_series": "[]"}
    connection.execute(update(schema.tasks).where(tasks.id == old).values(afresh))
    connection.execute(delete(schema.task_tags).where(schema.task_tags.c.task == old))
    writers: set[bytes] = set()
    for table in _tables_of_events():
        columns = table.c
        connection.execute(
            update(table)
            .where(columns.task == old, or_(columns.time >= since_unix_ns, columns.time <= 0))
            .values(task=new)
        )
        if "writer" in columns:
            query = select(columns.writer).where(columns.task == new, columns.writer.is_not(None)).distinct()
            writers |= set(connection.execute(query).scalars())
    for some in _slices(sorted(writers)):
        which = (schema.task_writers.c.task == old) & schema.task_writers.c.writer.in_(some)
        connection.execute(update(schema.task_writers).where(which).values(task=new))
    held = schema.task_blobs.c
    for some in _slices(sorted(read_refs(connection, new))):
        which = (held.task == old) & held.sha256.in_(some)
        connection.execute(update(schema.task_blobs).where(which).values(task=new))


def recount(connection: Connection, task: TaskState) -> None:
    """Count what a task holds apart from points: lines, models, writers, and its first and last moments."""
    count = func.count()
    for table, name in ((schema.console, "console_lines"), (schema.models, "models")):
        number = connection.execute(select(count).select_from(table).where(table.c.task == task.id)).scalar_one()
        setattr(task, name, number)
    writers = schema.task_writers.c
    task.writers = set(connection.execute(select(writers.writer).where(writers.task == task.id)).scalars())
    for table in _tables_of_events():
        when = table.c.time
        span = select(func.min(when), func.max(when)).where(table.c.task == task.id, when > 0)
        first, last = connection.execute(span).one()
        if first is not None:
            task.note_times(first, last)
    records = schema.records.c
    query = select(func.max(records.time)).where(
        records.task == task.id, records.section != Section.HEARTBEATS, records.time > 0
    )
    task.last_change = connection.execute(query).scalar()


def _nobody(row: int) -> str:
    """Return what stands in a tombstone for the id of a task that is there again."""
    return f"{NOBODY}{row}"


def _tables_of_events() -> list[Table]:
    return [
        table
        for table in schema.metadata.sorted_tables
        if {"task", "time"} <= set(table.c.keys()) and table.name not in _APART
    ]


def newer_runs(parts: TaskParts, since_unix_ns: int) -> list[tuple[KnownSeries, Points]]:
    """Return of each series the points that are not older than a moment, in the order they came.

    `parts`: of the old row, before `move_newer`.
    """
    known = parts.series()
    found: list[tuple[KnownSeries, Points]] = []
    for some in _slices(known):
        identifiers = [one.id for one in some]
        loose = parts.loose(identifiers)
        chunks = _reaching_beyond(parts, identifiers, since_unix_ns)
        for one in some:
            points = parts.read(chunks.get(one.id, ()), loose.get(one.id, ()))
            kept = (points.times_unix_ns >= since_unix_ns) | (points.times_unix_ns <= 0)
            if kept.any():
                found.append((one, points.take(kept)))
    # In the order in which they were first seen, as they will be numbered.
    return sorted(found, key=lambda pair: pair[0].id)


def _reaching_beyond(parts: TaskParts, series: Sequence[int], since_unix_ns: int) -> dict[int, list[ChunkPlace]]:
    """Return the chunks that may hold a point that is not older than a moment, by series."""
    found = parts.chunks_of(series, by_time=True, low=since_unix_ns)
    # Those that hold points of no known time.
    for identifier, chunks in parts.chunks_of(series, by_time=True, high=0).items():
        known = found.setdefault(identifier, [])
        ids = {chunk.id for chunk in known}
        known += [chunk for chunk in chunks if chunk.id not in ids]
    return found


def _slices(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _IN_LIST] for start in range(0, len(items), _IN_LIST)]
