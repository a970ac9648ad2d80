"""Records as programs read them, every bit, in MessagePack: of one task, or of those that a query has found at once."""

from __future__ import annotations

from typing import Any

import msgpack
from aiohttp import web

from telemetry.errors import InvalidQuery
from telemetry.server.access import access_of
from telemetry.server.api import read
from telemetry.server.export_api import CONTENT_TYPE
from telemetry.server.params import json_object, task_id_of
from telemetry.server.query_api import texts

__all__ = ["add_routes"]

_MAX_IDS = 500


def add_routes(app: web.Application) -> None:
    """Add `GET /api/v1/tasks/{id}/record` and `POST /api/v1/tasks/records`."""
    app.router.add_get("/api/v1/tasks/{task_id}/record", record)
    app.router.add_post("/api/v1/tasks/records", records)


async def record(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/record`."""
    task_id = task_id_of(request.match_info["task_id"])
    return await read(request, lambda store: store.record(task_id), encode=_packed, content_type=CONTENT_TYPE)


async def records(request: web.Request) -> web.Response:
    """`POST /tasks/records` `{"ids"}`: those that the sender may read, in this order, as many as fit an answer."""
    body = await json_object(request, ("ids",))
    try:
        ids = texts(body, "ids", _MAX_IDS) or ()
    except InvalidQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    within = access_of(request).projects
    return await read(request, lambda store: store.records(ids, within), encode=_packed, content_type=CONTENT_TYPE)


def _packed(value: Any) -> bytes:
    body: bytes = msgpack.packb(value)
    return body
