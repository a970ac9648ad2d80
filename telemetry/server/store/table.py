"""The table of tasks: a page of it, filtered and sorted, with the columns that its viewer chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from telemetry.events import MAX_TAGS
from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.columns import Column, parse_column, read_columns, sort_value
from telemetry.server.store.conditions import has_tags, matches_search
from telemetry.server.store.gate import project_condition
from telemetry.server.store.metrics import keys_of_path
from telemetry.server.store.plain import Json, json_number, unix_ms
from telemetry.server.store.status import status_at, status_of
from telemetry.server.store.tag_query import TagExpression

__all__ = ["METRIC_SORT", "TASK_SORTS", "TasksQuery", "read_choices", "read_tasks", "sort_column", "summaries"]

_tasks = schema.tasks.c

_SECOND_NS = 1_000_000_000

# Sort keys of the table of tasks, besides columns such as `last:<title>/<series>`.
TASK_SORTS: dict[str, Any] = {
    "status": None,  # follows from the time, see status_at
    "name": _tasks.name,
    "project": _tasks.project,
    "type": _tasks.type,
    "progress": _tasks.progress,
    "started": _tasks.started,
    "created": _tasks.created,
    "completed": _tasks.ended,
    "last_update": _tasks.last_update,
    "last_change": _tasks.last_change,
    "status_changed": _tasks.status_changed,
    "last_iteration": _tasks.last_iteration,
    # In seconds; of a task that goes on up to its last event.
    "active_duration": (func.coalesce(_tasks.ended, _tasks.last_update) - _tasks.started) * 1.0 / _SECOND_NS,
    "comment": _tasks.comment,
    "parent": _tasks.parent,
    "id": _tasks.task_id,
}
METRIC_SORT = "last:"

# What can be chosen is looked up in this many of the latest tasks of a project.
_CHOICE_TASKS = 200


@dataclass(frozen=True, slots=True)
class TasksQuery:
    """A page of the table of tasks.

    Attributes:
        project: the exact name; with `subprojects` also all below it.
        statuses, types: one of these; empty for all.
        tags: what the tags must be; None for anything.
        archived: True: only archived ones, False: only the others, None: all.
        sort: a key of TASK_SORTS or a column (columns.py).
        columns: to be told of each task besides.
        within: only tasks of these projects and of what is below them; None for all.
    """

    search: str = ""
    project: str | None = None
    subprojects: bool = False
    statuses: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    tags: TagExpression | None = None
    archived: bool | None = False
    sort: str = "last_update"
    descending: bool = True
    page: int = 0
    page_size: int = 50
    columns: tuple[Column, ...] = ()
    within: tuple[str, ...] | None = None


def read_tasks(connection: Connection, query: TasksQuery, now_unix_ns: int) -> Json:
    """Return one page of tasks and how many there are on all pages. `now_unix_ns`: for their status."""
    conditions = _conditions(query, now_unix_ns)
    total = connection.execute(select(func.count()).select_from(schema.tasks).where(*conditions)).scalar_one()
    if query.sort.startswith(METRIC_SORT):
        rows = _page_by_metric(connection, query, conditions)
    else:
        column = sort_column(connection, query.sort, now_unix_ns)
        # No NULLS LAST where the index already has it so: SQLite would sort the whole table for it.
        order = column.desc() if query.descending else column.asc().nulls_last()
        rows = _page(connection, select(schema.tasks).where(*conditions).order_by(order, _tasks.id.desc()), query)
    tasks = summaries(connection, rows, now_unix_ns)
    if query.columns:
        cells = read_columns(connection, [row.id for row in rows], query.columns)
        for row, task in zip(rows, tasks, strict=True):
            task["columns"] = cells[row.id]
    return {"tasks": tasks, "total": total, "page": query.page, "page_size": query.page_size}


def sort_column(connection: Connection, name: str, now_unix_ns: int) -> ColumnElement[Any]:
    """Return what a sort key stands for, as an expression over a row of `tasks`.

    Raises:
        InvalidQuery: there is no such key or column.
    """
    if name == "status":
        return status_at(now_unix_ns)
    if name in TASK_SORTS:
        found: ColumnElement[Any] = TASK_SORTS[name]
        return found
    return sort_value(connection, parse_column(name))


def read_choices(
    connection: Connection, project: str | None, subprojects: bool, within: tuple[str, ...] | None
) -> Json:
    """Return what the table can be filtered by, and the columns that it can show: of the latest tasks only."""
    query = TasksQuery(project=project, subprojects=subprojects, within=within, archived=None)
    conditions = _conditions(query, 0)
    latest = select(_tasks.id).where(*conditions).order_by(_tasks.last_update.desc()).limit(_CHOICE_TASKS).subquery()
    tasks = list(connection.execute(select(latest.c.id)).scalars())
    tags, records = schema.task_tags.c, schema.records.c
    metrics, stats, values = schema.metrics.c, schema.series_stats.c, schema.values.c

    def distinct(statement: Select[Any]) -> list[Any]:
        return list(connection.execute(statement.distinct()).scalars())

    def keys(section: str) -> list[str]:
        return distinct(
            select(records.key)
            .where(records.task.in_(tasks), records.section == section, records.value.is_not(None))
            .order_by(records.key)
        )

    shown = select(stats.metric).where(stats.task.in_(tasks))
    paths = (
        select(metrics.title + "/" + metrics.series)
        .where(metrics.id.in_(shown), metrics.kind == "scalar")
        .order_by(metrics.title, metrics.series)
    )
    mine = select(_tasks.id).where(*conditions)
    return {
        "tags": distinct(select(tags.tag).where(tags.kind == schema.TAG, tags.task.in_(mine)).order_by(tags.tag)),
        "types": distinct(select(_tasks.type).where(*conditions).order_by(_tasks.type)),
        "parameters": keys(Section.PARAMETERS),
        "properties": keys(Section.PROPERTIES),
        "metrics": list(connection.execute(paths).scalars()),
        "values": distinct(select(values.name).where(values.task.in_(tasks)).order_by(values.name)),
    }


def _conditions(query: TasksQuery, now_unix_ns: int) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.search:
        conditions.append(matches_search(query.search))
    if query.within is not None:
        conditions.append(project_condition(query.within))
    if query.project is not None:
        below = project_condition((query.project,)) if query.subprojects else _tasks.project == query.project
        conditions.append(below)
    if query.statuses:
        conditions.append(status_at(now_unix_ns).in_(query.statuses))
    if query.types:
        conditions.append(_tasks.type.in_(query.types))
    if query.tags is not None:
        conditions.append(has_tags(schema.TAG, query.tags))
    if query.archived is not None:
        conditions.append(_tasks.archived == int(query.archived))
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
        select(func.min(metrics.id)).where(metrics.md5.in_(keys_of_path(path)), metrics.kind == "scalar")
    ).scalar()
    other = schema.series.alias().c
    # Of several ranks the lowest stands for the task.
    leads = (
        ~select(other.task)
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
    without = ~select(other.id).where(other.task == _tasks.id, other.metric == metric).exists()
    rest = select(schema.tasks).where(*conditions, without).order_by(_tasks.id)
    return rows + _span(connection, rest, max(0, start - count), query.page_size - len(rows))


def summaries(
    connection: Connection, rows: Sequence[Row[Any]], now_unix_ns: int, *, scalars: bool = True
) -> list[Json]:
    """Return rows of `tasks` as the API tells them.

    Args:
        now_unix_ns: the server's clock, for their status.
        scalars: with the latest scalars of each, which are most of the work.
    """
    recent = {row.id: [series for series, _ in orjson.loads(row.recent_series)] if scalars else [] for row in rows}
    wanted = [(row, series) for row, group in recent.items() for series in group]
    stats, metrics = schema.series_stats.c, schema.metrics.c
    found: dict[tuple[int, int], Json] = {}
    for start in range(0, len(wanted), 1000):
        query = (
            select(
                stats.task, stats.series, metrics.title, metrics.series.label("name"), stats.last, stats.last_iteration
            )
            .join(schema.metrics, metrics.id == stats.metric)
            # Not pairs: SQLite would read the whole table for them.
            .where(
                stats.task.in_({task for task, _ in wanted[start : start + 1000]}),
                stats.series.in_({series for _, series in wanted[start : start + 1000]}),
            )
        )
        for task, series, title, name, last, iteration in connection.execute(query):
            found[task, series] = {
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
            "status": status_of(row.status, row.seen, row.active, now_unix_ns),
            "status_reason": row.status_reason,
            "progress": row.progress,
            **_tags_shown(orjson.loads(row.tags)),
            "system_tags": system_tags.get(row.id, []),
            "comment": row.comment,
            "parent": row.parent,
            "published": bool(row.published),
            "created_unix_ms": unix_ms(row.created),
            "started_unix_ms": unix_ms(row.started),
            "ended_unix_ms": unix_ms(row.ended),
            "last_update_unix_ms": unix_ms(row.last_update),
            "last_change_unix_ms": unix_ms(row.last_change),
            "status_changed_unix_ms": unix_ms(row.status_changed),
            "last_seen_unix_ms": unix_ms(row.seen),
            "last_iteration": row.last_iteration,
            "points": row.points,
            "writers": row.writers,
            "host": row.host,
            # By name, so that a row does not jump about while two series take turns.
            "last_scalars": sorted(
                (found[row.id, series] for series in recent[row.id]), key=lambda item: (item["title"], item["series"])
            ),
        }
        for row in rows
    ]


def _tags_shown(tags: list[str]) -> Json:
    shown = [tag for tag in tags[:MAX_TAGS] if tag]
    return {"tags": shown, "more_tags": len(tags) > MAX_TAGS}


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
