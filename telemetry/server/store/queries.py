"""Queries of tasks: who matches, in which order, and what was asked to be told of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from sqlalchemy import ColumnElement, Connection, Row, func, select

from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.columns import Column, is_column, parse_column, read_columns
from telemetry.server.store.conditions import has_tags
from telemetry.server.store.gate import project_condition
from telemetry.server.store.metrics import md5_of
from telemetry.server.store.patterns import Pattern
from telemetry.server.store.plain import Json, json_number, json_value
from telemetry.server.store.table import summaries
from telemetry.server.store.tag_query import TagExpression
from telemetry.server.store.task_filter import MAX_PAGE_SIZE, ParsedFilter, TextTest, parse_filter, text_column

__all__ = ["TaskQuery", "read_query"]

_tasks = schema.tasks.c
_SLICE = 500

# Other names of what the answer has of each task anyway, and of sections of its record.
_ALIASES = {
    "created": "created_unix_ms",
    "started": "started_unix_ms",
    "completed": "ended_unix_ms",
    "last_update": "last_update_unix_ms",
    "last_change": "last_change_unix_ms",
    "status_changed": "status_changed_unix_ms",
}
_SECTIONS = {"hyperparams": Section.PARAMETERS, "user_properties": Section.PROPERTIES}


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """What is asked for.

    Attributes:
        ids: only these, whatever else is asked; None for any.
        projects: exact names; None for any.
        name: a pattern, found anywhere in the name.
        exact_name: the whole name.
        filter: `task_filter`, see task_filter.py.
        fields: to be told of each task besides: dotted names.
        brief: without the latest scalars of each task; a page may then be larger.
        within: only tasks of these projects and of what is below them; None for all.
    """

    ids: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None
    name: str | None = None
    exact_name: str | None = None
    tags: TagExpression | None = None
    allow_archived: bool = True
    filter: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    brief: bool = False
    page: int = 0
    page_size: int = MAX_PAGE_SIZE
    within: tuple[str, ...] | None = None


def read_query(connection: Connection, query: TaskQuery, now_unix_ns: int) -> Json:
    """Return one page of the tasks that match, and how many there are on all pages.

    Without an order the last updated one comes first; equal ones are in the order of their ids.

    Raises:
        InvalidQuery: something asked for cannot be; says what.
    """
    parsed = parse_filter(connection, query.filter, now_unix_ns)
    fields = [*query.fields, *parsed.fields]
    for name in fields:
        _column(name)  # refuses what can be no column, also where no task is found
    conditions = [*_conditions(query), *parsed.conditions]
    tests = [*parsed.tests]
    if query.name is not None:
        tests.append(TextTest(("name",), Pattern(query.name, "name")))
    page = query.page if parsed.page is None else parsed.page
    page_size = query.page_size if parsed.page_size is None else parsed.page_size
    found, total = _matching(connection, conditions, tests, _order(parsed), page * page_size, page_size, now_unix_ns)
    rows = _rows(connection, found)
    tasks = summaries(connection, rows, now_unix_ns, scalars=not query.brief)
    if fields:
        for task, told in zip(tasks, _told(connection, rows, tasks, fields), strict=True):
            task["fields"] = told
    return {"tasks": tasks, "total": total, "page": page, "page_size": page_size}


def _conditions(query: TaskQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.within is not None:
        conditions.append(project_condition(query.within))
    if query.ids is not None:
        conditions.append(_tasks.task_id.in_(query.ids))
    if query.projects is not None:
        conditions.append(_tasks.project.in_(query.projects))
    if query.exact_name is not None:
        conditions.append(_tasks.name == query.exact_name)
    if query.tags is not None:
        conditions.append(has_tags(schema.TAG, query.tags))
    if not query.allow_archived:
        conditions.append(_tasks.archived == 0)
    return conditions


def _order(parsed: ParsedFilter) -> list[ColumnElement[Any]]:
    order = [
        # Without the metric or parameter: last either way.
        column.desc().nulls_last() if descending else column.asc().nulls_last()
        for column, descending in parsed.order
    ]
    return [*(order or [_tasks.last_update.desc()]), _tasks.task_id]


def _matching(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    tests: Sequence[TextTest],
    order: Sequence[ColumnElement[Any]],
    offset: int,
    limit: int,
    now_unix_ns: int,
) -> tuple[list[int], int]:
    """Return the row ids of a page of the tasks that match, and how many match in all."""
    if not tests:
        total = connection.execute(select(func.count()).select_from(schema.tasks).where(*conditions)).scalar_one()
        query = select(_tasks.id).where(*conditions).order_by(*order).offset(offset).limit(limit)
        return list(connection.execute(query).scalars()), total
    names = sorted({name for test in tests for name in test.fields})
    texts = [text_column(name, now_unix_ns).label(f"text_{name}") for name in names]
    rows = connection.execute(select(_tasks.id, *texts).where(*conditions).order_by(*order))
    found = [row.id for row in rows if all(test.passes(row) for test in tests)]
    return found[offset : offset + limit], len(found)


def _rows(connection: Connection, identifiers: Sequence[int]) -> list[Row[Any]]:
    found: dict[int, Row[Any]] = {}
    for start in range(0, len(identifiers), _SLICE):
        query = select(schema.tasks).where(_tasks.id.in_(identifiers[start : start + _SLICE]))
        found.update((row.id, row) for row in connection.execute(query))
    return [found[identifier] for identifier in identifiers]


# -- what is told besides


def _told(connection: Connection, rows: Sequence[Row[Any]], tasks: Sequence[Json], fields: Sequence[str]) -> list[Json]:
    """Return the asked fields of each task, by the names they were asked for; None where a task has none."""
    identifiers = [row.id for row in rows]
    told: list[Json] = [{} for _ in rows]
    for name in dict.fromkeys(fields):
        for part, value in zip(told, _values(connection, identifiers, tasks, name), strict=True):
            part[name] = value
    return told


def _values(connection: Connection, rows: Sequence[int], tasks: Sequence[Json], name: str) -> list[Any]:
    summary = _ALIASES.get(name, name)
    if not tasks or summary in tasks[0]:
        return [task[summary] for task in tasks]
    if name in ("last_metrics", "metrics"):
        metrics = _last_metrics(connection, rows)
        return [metrics.get(row, {}) for row in rows]
    column = _column(name)
    if column is not None:
        cells = read_columns(connection, rows, [column])
        return [cells[row][name] for row in rows]
    section, _, key = name.partition(".")
    return _records(connection, rows, _SECTIONS.get(section, section), key, split=section == "hyperparams")


def _column(name: str) -> Column | None:
    if not is_column(name) or (name.count(".") < 2 and ":" not in name):
        return None
    # The entry of a parameter is told whole: with its type it can be made what it was.
    return None if name.startswith("hyperparams.") else parse_column(name)


def _records(connection: Connection, rows: Sequence[int], section: str, key: str, *, split: bool) -> list[Any]:
    """Return a section of each task's record, or one key of it."""
    records = schema.records.c
    condition = [records.section == section, records.value.is_not(None)]
    if split and "." in key:
        # hyperparams.Args.lr
        condition.append(records.key == key.replace(".", "/", 1))
    elif split and key:
        condition.append(records.key.startswith(f"{key}/", autoescape=True))
    elif key:
        condition.append(records.key == key)
    whole = not key or (split and "." not in key)
    found: dict[int, Any] = {}
    for start in range(0, len(rows), _SLICE):
        some = rows[start : start + _SLICE]
        for task, name, value in connection.execute(
            select(records.task, records.key, records.value).where(records.task.in_(some), *condition)
        ):
            plain = json_value(msgpack.unpackb(value))
            if whole:
                found.setdefault(task, {})[name] = plain
            else:
                found[task] = plain
    return [found.get(row, {} if whole else None) for row in rows]


def _last_metrics(connection: Connection, rows: Sequence[int]) -> dict[int, Json]:
    """Return {md5 of title: {md5 of series: figures}} of each task's scalars."""
    stats, metrics = schema.series_stats.c, schema.metrics.c
    found: dict[int, Json] = {}
    for start in range(0, len(rows), _SLICE):
        query = (
            select(schema.series_stats, metrics.title, metrics.series.label("name"))
            .join(schema.metrics, metrics.id == stats.metric)
            .where(stats.task.in_(rows[start : start + _SLICE]), metrics.kind == "scalar")
            .order_by(stats.task, metrics.id, stats.rank.desc())
        )
        for row in connection.execute(query):
            found.setdefault(row.task, {}).setdefault(md5_of(row.title), {})[md5_of(row.name)] = {
                "metric": row.title,
                "variant": row.name,
                "value": json_number(row.last),
                "min_value": row.min,
                "min_value_iteration": row.min_iteration,
                "max_value": row.max,
                "max_value_iteration": row.max_iteration,
                "iteration": row.last_iteration,
                "count": row.count,
            }
    return found
