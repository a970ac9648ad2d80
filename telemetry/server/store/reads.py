"""What the pages and the API read, apart from points: tasks, projects, series, console, models, values.

Each function reads within the caller's snapshot and returns plain JSON-ready data in the API's words
(docs/server.md); times are Unix milliseconds there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from sqlalchemy import Connection, Row, Table, func, select, tuple_

from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.errors import NotFound
from telemetry.server.store.gate import project_condition
from telemetry.server.store.model_index import link_models
from telemetry.server.store.plain import Json, json_number, json_value, unix_ms
from telemetry.server.store.table import summaries

__all__ = [
    "ConsoleQuery",
    "read_console",
    "read_models",
    "read_projects",
    "read_projects_of",
    "read_series",
    "read_stands",
    "read_summary",
    "read_task",
    "read_values",
    "task_row_id",
]

_tasks = schema.tasks.c

# One answer of console lines ends here, even when fewer lines than asked for fit.
_CONSOLE_ANSWER_CHARS = 4_000_000

# The colours that console lines are kept with.
_ESC = "\x1b"
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")


@dataclass(frozen=True, slots=True)
class ConsoleQuery:
    """Console lines between two ids (exclusive); `from_end`: the last `limit` of them, not the first."""

    after: int | None = None
    before: int | None = None
    limit: int = 1000
    from_end: bool = False
    stream: str | None = None
    search: str = ""
    rank: int | None = None


def task_row_id(connection: Connection, task_id: str) -> int:
    """Return the row id of a task.

    Raises:
        NotFound: no frame of this task has been stored.
    """
    found = connection.execute(select(_tasks.id).where(_tasks.task_id == task_id)).scalar()
    if found is None:
        raise NotFound(f"no task {task_id}")
    return int(found)


def read_projects(connection: Connection, within: tuple[str, ...] | None = None) -> Json:
    """Return each project with the number of its tasks; only those `within` some, if given."""
    query = select(_tasks.project, func.count()).group_by(_tasks.project).order_by(_tasks.project)
    if within is not None:
        query = query.where(project_condition(within))
    return {"projects": [{"name": name, "tasks": count} for name, count in connection.execute(query)]}


def read_projects_of(connection: Connection, task_ids: Sequence[str]) -> dict[str, str]:
    """Return the project of each of these tasks that is known, "" where it was not said yet."""
    found: dict[str, str] = {}
    for start in range(0, len(task_ids), 500):
        query = select(_tasks.task_id, _tasks.project).where(_tasks.task_id.in_(task_ids[start : start + 500]))
        found.update((task_id, project) for task_id, project in connection.execute(query))
    return found


def read_summary(connection: Connection, task_id: str, now_unix_ns: int) -> Json:
    """Return a task as the table of tasks shows it."""
    return summaries(connection, [_task_row(connection, task_id)], now_unix_ns)[0]


def read_stands(connection: Connection, task_id: str, keys: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """Return a task's status as it said, and when one of these (section, key) was last changed, Unix ns or 0."""
    row = _task_row(connection, task_id)
    columns = schema.records.c
    latest = 0
    for start in range(0, len(keys), 500):
        query = select(func.max(columns.time)).where(
            columns.task == row.id, tuple_(columns.section, columns.key).in_(keys[start : start + 500])
        )
        latest = max(latest, connection.execute(query).scalar() or 0)
    return row.status, latest


def read_task(connection: Connection, task_id: str, now_unix_ns: int) -> Json:
    """Return a task's summary, its whole record and its counts."""
    row = _task_row(connection, task_id)
    columns = schema.records.c
    record: dict[str, Json] = {}
    for section, key, value in connection.execute(
        select(columns.section, columns.key, columns.value)
        .where(columns.task == row.id, columns.value.is_not(None))
        .order_by(columns.section, columns.key)
    ):
        record.setdefault(section, {})[key] = json_value(msgpack.unpackb(value))
    link_models(connection, record.get(Section.INPUT_MODELS, {}))
    return summaries(connection, [row], now_unix_ns)[0] | {
        "record": record,
        "counts": {
            "points": row.points,
            "resource_points": row.resource_points,
            "console_lines": row.console_lines,
            "models": row.models,
            "plots": _count(connection, schema.plots, row.id),
            "media": _count(connection, schema.media, row.id),
            "frames": row.frames,
        },
    }


def read_series(connection: Connection, task_id: str, kind: str | None) -> Json:
    """Return the statistics of a task's series, by kind, title and name."""
    task = task_row_id(connection, task_id)
    stats, metrics, series = schema.series_stats, schema.metrics, schema.series
    query = (
        select(stats, metrics.c.kind, metrics.c.title, metrics.c.series.label("series_name"), series.c.unit)
        .join(metrics, metrics.c.id == stats.c.metric)
        .join(series, (series.c.task == stats.c.task) & (series.c.id == stats.c.series))
        .where(stats.c.task == task)
        .order_by(metrics.c.kind, metrics.c.title, metrics.c.series, stats.c.rank)
    )
    if kind is not None:
        query = query.where(metrics.c.kind == kind)
    return {
        "series": [
            {
                "id": row.series,
                "kind": row.kind,
                "title": row.title,
                "series": row.series_name,
                "rank": None if row.rank == schema.NO_RANK else row.rank,
                "unit": row.unit,
                "count": row.count,
                "last": json_number(row.last),
                "last_iteration": row.last_iteration,
                "last_unix_ms": unix_ms(row.last_time),
                "min": row.min,
                "min_iteration": row.min_iteration,
                "max": row.max,
                "max_iteration": row.max_iteration,
                "first_iteration": row.lowest_iteration,
                "highest_iteration": row.highest_iteration,
                "non_finite": row.non_finite,
            }
            for row in connection.execute(query)
        ]
    }


def read_console(connection: Connection, task_id: str, query: ConsoleQuery) -> Json:
    """Return console lines in the order they arrived, and whether more match beyond them."""
    task = task_row_id(connection, task_id)
    columns, writers = schema.console.c, schema.task_writers.c
    of_writer = (writers.task == columns.task) & (writers.writer == columns.writer)
    lines_with_rank = schema.console.outerjoin(schema.task_writers, of_writer)
    statement = select(schema.console, writers.rank).select_from(lines_with_rank).where(columns.task == task)
    if query.after is not None:
        statement = statement.where(columns.id > query.after)
    if query.before is not None:
        statement = statement.where(columns.id < query.before)
    if query.stream is not None:
        statement = statement.where(columns.stream == query.stream)
    if query.rank is not None:
        statement = statement.where(writers.rank == query.rank)
    if query.search:
        # A coloured line may have its colours in the middle of the words: it is looked at below.
        statement = statement.where(columns.text.icontains(query.search, autoescape=True) | columns.text.contains(_ESC))
    order = columns.id.desc() if query.from_end else columns.id.asc()
    lines: list[Json] = []
    chars = 0
    more = False
    for row in connection.execute(statement.order_by(order)):
        if query.search and _ESC in row.text and query.search.lower() not in _COLOUR.sub("", row.text).lower():
            continue
        chars += len(row.text)
        if len(lines) == query.limit or (lines and chars > _CONSOLE_ANSWER_CHARS):
            more = True
            break
        lines.append(
            {
                "id": row.id,
                "unix_ms": unix_ms(row.time),
                "stream": row.stream,
                "level": row.level,
                "rank": row.rank,
                "text": row.text,
            }
        )
    if query.from_end:
        lines.reverse()
    return {"lines": lines, "more": more}


def read_models(connection: Connection, task_id: str) -> Json:
    """Return the model files that a task reported, by time."""
    columns = schema.models.c
    rows = connection.execute(
        select(schema.models).where(columns.task == task_row_id(connection, task_id)).order_by(columns.time, columns.id)
    )
    return {
        "models": [
            {
                "name": row.name,
                "path": row.path,
                "framework": row.framework,
                "iteration": row.iteration,
                "size_bytes": row.size_bytes,
                "unix_ms": unix_ms(row.time),
            }
            for row in rows
        ]
    }


def read_values(connection: Connection, task_id: str) -> Json:
    """Return the numbers of the whole task, by name."""
    columns = schema.values.c
    rows = connection.execute(
        select(schema.values).where(columns.task == task_row_id(connection, task_id)).order_by(columns.name)
    )
    return {
        "values": [{"name": row.name, "value": json_number(row.value), "unix_ms": unix_ms(row.time)} for row in rows]
    }


def _count(connection: Connection, table: Table, task: int) -> int:
    return connection.execute(select(func.count()).select_from(table).where(table.c.task == task)).scalar_one()


def _task_row(connection: Connection, task_id: str) -> Row[Any]:
    row = connection.execute(select(schema.tasks).where(_tasks.task_id == task_id)).one_or_none()
    if row is None:
        raise NotFound(f"no task {task_id}")
    return row
