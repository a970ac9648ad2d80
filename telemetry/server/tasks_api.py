"""`GET /tasks`: the table of tasks, with its filters and columns; `GET /choices`: what these may be."""

from __future__ import annotations

import re

from aiohttp import web

from telemetry.errors import InvalidQuery
from telemetry.server.access import access_of
from telemetry.server.api import read
from telemetry.server.params import choice, flag, integer, text, words
from telemetry.server.store import TASK_SORTS, Column, TasksQuery, is_column, parse_column
from telemetry.server.store.tag_query import TagExpression, parse_tags

__all__ = ["MAX_PAGE_SIZE", "add_routes"]

MAX_PAGE_SIZE = 500
_MAX_COLUMNS = 100
_MAX_WORDS = 100

# Names may hold commas: a column ends where the next one begins.
_NEXT_COLUMN = re.compile(r",(?=(?:param|property|last|min|max|count|value):)")
_ARCHIVED = {"0": False, "1": True, "all": None}


def add_routes(app: web.Application) -> None:
    """Add `GET /api/v1/tasks` and `GET /api/v1/choices`."""
    app.router.add_get("/api/v1/tasks", tasks)
    app.router.add_get("/api/v1/choices", choices)


async def tasks(request: web.Request) -> web.Response:
    """`GET /tasks?search=&project=&subprojects=1&status=&type=&tags=&archived=0|1|all&sort=&columns=&page=&page_size=`.

    `status`, `type` and `tags` may be given several times; each `tags` is a word of a tag expression.
    """
    sort = text(request, "sort") or "-last_update"
    query = TasksQuery(
        search=text(request, "search") or "",
        project=text(request, "project"),
        subprojects=flag(request, "subprojects"),
        statuses=words(request, "status", most=_MAX_WORDS),
        types=words(request, "type", most=_MAX_WORDS),
        tags=_tags(request),
        archived=_ARCHIVED[choice(request, "archived", tuple(_ARCHIVED)) or "0"],
        sort=_sort_key(sort),
        descending=sort.startswith("-"),
        columns=_columns(request),
        page=integer(request, "page", 0, high=10**9) or 0,
        page_size=integer(request, "page_size", 50, low=1, high=MAX_PAGE_SIZE) or 50,
        within=access_of(request).projects,
    )
    return await read(request, lambda store: store.tasks(query))


async def choices(request: web.Request) -> web.Response:
    """`GET /choices?project=&subprojects=1`."""
    project, subprojects, within = text(request, "project"), flag(request, "subprojects"), access_of(request).projects
    return await read(request, lambda store: store.choices(project, subprojects, within))


def _sort_key(sort: str) -> str:
    key = sort.removeprefix("-")
    if key in TASK_SORTS:
        return key
    if not is_column(key):
        raise web.HTTPBadRequest(
            text=f"sort is {sort!r:.60}; it must be one of {', '.join(TASK_SORTS)} or a column such as "
            'last:<title>/<series> or param:<section>/<name>, with "-" in front for descending'
        )
    return _parsed(key).written


def _tags(request: web.Request) -> TagExpression | None:
    given = [word for word in request.query.getall("tags", []) if word]
    if len(given) > _MAX_WORDS:
        raise web.HTTPBadRequest(text=f"tags has {len(given)} words; at most {_MAX_WORDS} are taken")
    try:
        return parse_tags(given) if given else None
    except InvalidQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _columns(request: web.Request) -> tuple[Column, ...]:
    written = [item for value in request.query.getall("columns", []) for item in _NEXT_COLUMN.split(value) if item]
    if len(written) > _MAX_COLUMNS:
        raise web.HTTPBadRequest(text=f"columns names {len(written)}; at most {_MAX_COLUMNS} are told at once")
    return tuple(_parsed(item) for item in dict.fromkeys(written))


def _parsed(column: str) -> Column:
    try:
        return parse_column(column)
    except InvalidQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error
