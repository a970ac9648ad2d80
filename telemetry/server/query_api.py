"""`POST /tasks/query`: what `Task.get_tasks` and `query_tasks` ask."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from telemetry.errors import InvalidQuery
from telemetry.server.access import access_of
from telemetry.server.api import read
from telemetry.server.params import json_object
from telemetry.server.store import TaskQuery, check_words
from telemetry.server.store.tag_query import parse_tags
from telemetry.server.tasks_api import MAX_PAGE_SIZE

__all__ = ["add_routes", "texts"]

_KEYS = (
    "ids",
    "projects",
    "name",
    "exact_name",
    "tags",
    "allow_archived",
    "filter",
    "fields",
    "brief",
    "page",
    "page_size",
)
_MAX_IDS = 5000
_MAX_FIELDS = 100
# Some 600 bytes each.
_MAX_BRIEF_PAGE_SIZE = 5000


def add_routes(app: web.Application) -> None:
    """Add `POST /api/v1/tasks/query`."""
    app.router.add_post("/api/v1/tasks/query", query)


async def query(request: web.Request) -> web.Response:
    """`POST /tasks/query`; docs/server.md has the body."""
    body = await json_object(request, _KEYS)
    try:
        asked = _task_query(body, access_of(request).projects)
    except InvalidQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return await read(request, lambda store: store.query(asked))


def _task_query(body: dict[str, Any], within: tuple[str, ...] | None) -> TaskQuery:
    given = body.get("filter") or {}
    if not isinstance(given, dict):
        raise InvalidQuery(f"filter must be an object, not {given!r:.80}")
    if body.get("tags") is not None and given.get("tags") is not None:
        raise InvalidQuery("tags are given twice: once beside the filter and once in it")
    tags = body.get("tags")
    check_words(tags, "tags")
    brief = _flag(body, "brief", False)
    return TaskQuery(
        ids=texts(body, "ids", _MAX_IDS),
        projects=texts(body, "projects", _MAX_IDS),
        name=_text(body, "name"),
        exact_name=_text(body, "exact_name"),
        tags=None if tags is None else parse_tags(tags),
        allow_archived=_flag(body, "allow_archived", True),
        filter=given,
        fields=texts(body, "fields", _MAX_FIELDS) or (),
        brief=brief,
        page=_integer(body, "page", 0, 0, 10**9),
        page_size=_integer(body, "page_size", MAX_PAGE_SIZE, 1, _MAX_BRIEF_PAGE_SIZE if brief else MAX_PAGE_SIZE),
        within=within,
    )


def texts(body: dict[str, Any], name: str, most: int) -> tuple[str, ...] | None:
    """Return a list of at most so many texts from a body; None where it is absent.

    Raises:
        InvalidQuery: it is something else.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidQuery(f"{name} must be a list of texts, not {value!r:.80}")
    if len(value) > most:
        raise InvalidQuery(f"{name} has {len(value)} entries; at most {most} are taken at once")
    return tuple(value)


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidQuery(f"{name} must be a text, not {value!r:.80}")
    return value or None


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidQuery(f"{name} must be true or false, not {value!r:.60}")
    return value


def _integer(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQuery(f"{name} is {value!r:.60}; it must be a whole number from {low} to {high}")
    return value
