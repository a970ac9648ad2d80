"""What `telemetry export` reads: a task's points, console lines and events, every bit, in MessagePack pages.

The pages read by people and charts are JSON, in milliseconds and outlines (api.py); these are for programs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
from aiohttp import web

from telemetry.server.config import STORE
from telemetry.server.params import integer, task_id_of
from telemetry.server.store import NotFound, Store

__all__ = ["CONTENT_TYPE", "add_routes", "run_exporter"]

CONTENT_TYPE = "application/vnd.msgpack"

# One: an export takes its time, and must leave the charts theirs.
_EXPORTER = web.AppKey("exporter", ThreadPoolExecutor)


def add_routes(app: web.Application) -> None:
    """Add the GET routes below /api/v1/tasks/{id}/export."""
    router = app.router
    router.add_get("/api/v1/tasks/{task_id}/export/points", points)
    router.add_get("/api/v1/tasks/{task_id}/export/console", console)
    router.add_get("/api/v1/tasks/{task_id}/export/plots", plots)
    router.add_get("/api/v1/tasks/{task_id}/export/events", events)


async def run_exporter(app: web.Application) -> AsyncIterator[None]:
    """Run the thread that reads for exports for the application's life (a cleanup context)."""
    app[_EXPORTER] = ThreadPoolExecutor(1, "telemetry-export")
    yield
    app[_EXPORTER].shutdown()


async def points(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/export/points?after=SERIES,CHUNK`."""
    task_id = task_id_of(request.match_info["task_id"])
    cursor: tuple[int, int] | None = None
    if request.query.get("after"):
        # The two may be equal, which a list of ids may not.
        parts = request.query["after"].split(",")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
            raise web.HTTPBadRequest(text="after must be what `next` of the page before says: two whole numbers")
        cursor = int(parts[0]), int(parts[1])
    return await _read(request, lambda store: store.export_points(task_id, cursor))


async def console(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/export/console?after=ID`."""
    task_id = task_id_of(request.match_info["task_id"])
    after = integer(request, "after", 0) or 0
    return await _read(request, lambda store: store.export_console(task_id, after))


async def plots(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/export/plots?after=ID`."""
    task_id = task_id_of(request.match_info["task_id"])
    after = integer(request, "after", 0) or 0
    return await _read(request, lambda store: store.export_plots(task_id, after))


async def events(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/export/events`: record, single values, models, media."""
    task_id = task_id_of(request.match_info["task_id"])
    return await _read(request, lambda store: store.export_events(task_id))


async def _read(request: web.Request, read: Callable[[Store], dict[str, Any]]) -> web.Response:
    store = request.app[STORE]

    def answer() -> bytes:
        packed: bytes = msgpack.packb(read(store))
        return packed

    try:
        body = await asyncio.get_running_loop().run_in_executor(request.app[_EXPORTER], answer)
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    return web.Response(body=body, content_type=CONTENT_TYPE)
