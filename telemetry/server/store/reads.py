"""What the pages and the API read, apart from points: tasks, projects, series, console, models, values.

Each function reads within the caller's snapshot and returns plain JSON-ready data in the API's words
(docs/server.md); times are Unix milliseconds there.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from telemetry.server.store import schema
from telemetry.server.store.errors import NotFound
from telemetry.server.store.gate import project_condition
from telemetry.server.store.status import status_at, status_of

__all__ = [
    "METRIC_SORT",
    "TASK_SORTS",
    "ConsoleQuery",
    "TasksQuery",
    "json_number",
    "ranks_of_series",
    "read_console",
    "read_models",
    "read_projects",
    "read_projects_of",
    "read_series",
    "read_summary",
    "read_task",
    "read_tasks",
    "read_values",
    "task_row_id",
]

Json: TypeAlias = dict[str, Any]

_tasks = schema.tasks.c

# Sort keys of the table of tasks, besides `last:<title>/<series>`.
TASK_SORTS: dict[str, Any] = {
    "status": None,  # follows from the time, see status_at
    "name": _tasks.name,
    "project": _tasks.project,
    "progress": _tasks.progress,
    "started": _tasks.started,
    "created": _tasks.created,
    "last_update": _tasks.last_update,
}
METRIC_SORT = "last:"

# One answer of console lines ends here, even when fewer lines than asked for fit.
_CONSOLE_ANSWER_CHARS = 4_000_000


@dataclass(frozen=True, slots=True)
class TasksQuery:
    """A page of the table of tasks.

    Attributes:
        sort: a key of TASK_SORTS or `last:<title>/<series>`.
        within: only tasks of these projects and of what is below them; None for all.
    """

    search: str = ""
    project: str | None = None
    status: str | None = None
    sort: str = "last_update"
    descending: bool = True
    page: int = 0
    page_size: int = 50
    within: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ConsoleQuery:
    """Console lines between two ids (exclusive); `from_end`: the last `limit` of them, not the first."""

    after: int | None = None
    before: int | None = None
    limit: int = 1000
    from_end: bool = False
    stream: str | None = None
    search: str = ""


def json_number(value: float | None) -> float | str:
    """Return a float as JSON can carry it; None stands for NaN, as in the store's own columns."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def task_row_id(connection: Connection, task_id: str) -> int:
    """Return the row id of a task.

    Raises:
        NotFound: no frame of this task has been stored.
    """
    found = connection.execute(select(_tasks.id).where(_tasks.task_id == task_id)).scalar()
    if found is None:
        raise NotFound(f"no task {task_id}")
    return int(found)


def read_tasks(connection: Connection, query: TasksQuery, now: int) -> Json:
    """Return one page of tasks and how many there are on all pages. `now`: the server's clock, for their status."""
    conditions = _conditions(query, now)
    total = connection.execute(select(func.count()).select_from(schema.tasks).where(*conditions)).scalar_one()
    if query.sort.startswith(METRIC_SORT):
        rows = _page_by_metric(connection, query, conditions)
    else:
        column = status_at(now) if query.sort == "status" else TASK_SORTS[query.sort]
        # No NULLS LAST where the index already has it so: SQLite would sort the whole table for it.
        order = column.desc() if query.descending else column.asc().nulls_last()
        rows = _page(connection, select(schema.tasks).where(*conditions).order_by(order, _tasks.id.desc()), query)
    return {
        "tasks": _summaries(connection, rows, now),
        "total": total,
        "page": query.page,
        "page_size": query.page_size,
    }


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


def read_summary(connection: Connection, task_id: str, now: int) -> Json:
    """Return a task as the table of tasks shows it."""
    return _summaries(connection, [_task_row(connection, task_id)], now)[0]


def read_task(connection: Connection, task_id: str, now: int) -> Json:
    """Return a task's summary, its whole record and its counts."""
    row = _task_row(connection, task_id)
    columns = schema.records.c
    record: dict[str, Json] = {}
    for section, key, value in connection.execute(
        select(columns.section, columns.key, columns.value)
        .where(columns.task == row.id, columns.value.is_not(None))
        .order_by(columns.section, columns.key)
    ):
        record.setdefault(section, {})[key] = _json_value(msgpack.unpackb(value))
    return _summaries(connection, [row], now)[0] | {
        "record": record,
        "counts": {
            "points": row.points,
            "resource_points": row.resource_points,
            "console_lines": row.console_lines,
            "models": row.models,
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
        .join(series, series.c.id == stats.c.series)
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
                "last_unix_ms": _ms(row.last_time),
                "min": row.min,
                "min_iteration": row.min_iteration,
                "max": row.max,
                "max_iteration": row.max_iteration,
                "first_iteration": row.lowest_iteration,
                "non_finite": row.non_finite,
            }
            for row in connection.execute(query)
        ]
    }


def ranks_of_series(connection: Connection, task: int, series: int) -> list[int]:
    """Return the ids of the same series of every rank, by rank.

    Raises:
        NotFound: the series is not one of this task's.
    """
    columns = schema.series.c
    metric = select(columns.metric).where(columns.id == series, columns.task == task).scalar_subquery()
    query = select(columns.id).where(columns.task == task, columns.metric == metric).order_by(columns.rank)
    found = list(connection.execute(query).scalars())
    if not found:
        raise NotFound(f"this task has no series {series}")
    return found


def read_console(connection: Connection, task_id: str, query: ConsoleQuery) -> Json:
    """Return console lines in the order they arrived, and whether more match beyond them."""
    task = task_row_id(connection, task_id)
    columns = schema.console.c
    statement = select(schema.console).where(columns.task == task)
    if query.after is not None:
        statement = statement.where(columns.id > query.after)
    if query.before is not None:
        statement = statement.where(columns.id < query.before)
    if query.stream is not None:
        statement = statement.where(columns.stream == query.stream)
    if query.search:
        statement = statement.where(columns.text.icontains(query.search, autoescape=True))
    order = columns.id.desc() if query.from_end else columns.id.asc()
    lines: list[Json] = []
    chars = 0
    more = False
    for row in connection.execute(statement.order_by(order).limit(query.limit + 1)):
        chars += len(row.text)
        if len(lines) == query.limit or (lines and chars > _CONSOLE_ANSWER_CHARS):
            more = True
            break
        lines.append(
            {
                "id": row.id,
                "unix_ms": _ms(row.time),
                "stream": row.stream,
                "level": row.level,
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
                "unix_ms": _ms(row.time),
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
    return {"values": [{"name": row.name, "value": json_number(row.value), "unix_ms": _ms(row.time)} for row in rows]}


def _task_row(connection: Connection, task_id: str) -> Row[Any]:
    row = connection.execute(select(schema.tasks).where(_tasks.task_id == task_id)).one_or_none()
    if row is None:
        raise NotFound(f"no task {task_id}")
    return row


def _conditions(query: TasksQuery, now: int) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.search:
        # autoescape: % and _ are what the user typed, not wildcards.
        conditions.append(_tasks.search_text.contains(query.search.casefold(), autoescape=True))
    if query.within is not None:
        conditions.append(project_condition(query.within))
    if query.project is not None:
        conditions.append(_tasks.project == query.project)
    if query.status is not None:
        conditions.append(status_at(now) == query.status)
    return conditions


def _page(connection: Connection, statement: Select[Any], query: TasksQuery) -> list[Row[Any]]:
    return _span(connection, statement, query.page * query.page_size, query.page_size)


def _span(connection: Connection, statement: Select[Any], offset: int, limit: int) -> list[Row[Any]]:
    return list(connection.execute(statement.offset(offset).limit(limit)).all()) if limit > 0 else []


def _page_by_metric(
    connection: Connection, query: TasksQuery, conditions: Sequence[ColumnElement[bool]]
) -> list[Row[Any]]:
    """Tasks with the metric by its last value, read along its index; then the tasks without it."""
    path = query.sort.removeprefix(METRIC_SORT)
    metrics, stats = schema.metrics.c, schema.series_stats.c
    # Two metrics may share a path ("a/b" + "c", "a" + "b/c"); the first one seen is meant.
    metric = connection.execute(
        select(func.min(metrics.id)).where(metrics.path == path, metrics.kind == "scalar")
    ).scalar()
    other = schema.series_stats.alias().c
    # Of several ranks the lowest stands for the task.
    leads = (
        ~select(other.series)
        .where(other.task == stats.task, other.metric == stats.metric, other.rank < stats.rank)
        .exists()
    )
    joined = select(schema.tasks).join(
        schema.series_stats, and_(stats.task == _tasks.id, stats.metric == metric, leads)
    )
    # NaN is NULL: with the smallest when ascending, with the largest when descending, never on top.
    order = stats.last.desc().nulls_last() if query.descending else stats.last.asc().nulls_last()
    having = joined.where(*conditions)
    count = connection.execute(select(func.count()).select_from(having.subquery())).scalar_one()
    start = query.page * query.page_size
    rows = _span(connection, having.order_by(order, _tasks.id), start, min(query.page_size, max(0, count - start)))
    without = ~select(stats.series).where(stats.task == _tasks.id, stats.metric == metric).exists()
    rest = select(schema.tasks).where(*conditions, without).order_by(_tasks.id)
    return rows + _span(connection, rest, max(0, start - count), query.page_size - len(rows))


def _summaries(connection: Connection, rows: Sequence[Row[Any]], now: int) -> list[Json]:
    recent = {row.id: [series for series, _ in orjson.loads(row.recent_series)] for row in rows}
    wanted = [series for group in recent.values() for series in group]
    stats, metrics = schema.series_stats.c, schema.metrics.c
    found: dict[int, Json] = {}
    for start in range(0, len(wanted), 1000):
        query = (
            select(stats.series, metrics.title, metrics.series.label("name"), stats.last, stats.last_iteration)
            .join(schema.metrics, metrics.id == stats.metric)
            .where(stats.series.in_(wanted[start : start + 1000]))
        )
        for series, title, name, last, iteration in connection.execute(query):
            found[series] = {
                "title": title,
                "series": name,
                "value": json_number(last),
                "iteration": iteration,
            }
    system_tags = _system_tags(connection, [row.id for row in rows])
    return [
        {
            "id": row.task_id,
            "name": row.name,
            "project": row.project,
            "type": row.type,
            "status": status_of(row.status, row.seen, row.active, now),
            "status_reason": row.status_reason,
            "progress": row.progress,
            "tags": orjson.loads(row.tags),
            "system_tags": system_tags.get(row.id, []),
            "comment": row.comment,
            "parent": row.parent,
            "published": bool(row.published),
            "created_unix_ms": _ms(row.created),
            "started_unix_ms": _ms(row.started),
            "ended_unix_ms": _ms(row.ended),
            "last_update_unix_ms": _ms(row.last_update),
            "last_change_unix_ms": _ms(row.last_change),
            "status_changed_unix_ms": _ms(row.status_changed),
            "last_seen_unix_ms": _ms(row.seen),
            "last_iteration": row.last_iteration,
            "points": row.points,
            "writers": row.writers,
            "host": row.host,
            # By name, so that a row does not jump about while two series take turns.
            "last_scalars": sorted(
                (found[series] for series in recent[row.id]), key=lambda item: (item["title"], item["series"])
            ),
        }
        for row in rows
    ]


def _system_tags(connection: Connection, rows: Sequence[int]) -> dict[int, list[str]]:
    columns = schema.task_tags.c
    found: dict[int, list[str]] = {}
    for start in range(0, len(rows), 1000):
        query = select(columns.task, columns.tag).where(
            columns.task.in_(rows[start : start + 1000]), columns.kind == schema.SYSTEM_TAG
        )
        for task, tag in connection.execute(query.order_by(columns.tag)):
            found.setdefault(task, []).append(tag)
    return found


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else json_number(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return value


def _ms(time_unix_ns: int | None) -> int | None:
    return None if time_unix_ns is None else time_unix_ns // 1_000_000
