"""Live pages: server-sent events about what the writer committed (feeds.py has who is told what, and when)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from telemetry.server.access import access_of
from telemetry.server.config import CONFIG, STORE
from telemetry.server.feeds import Hub, Viewer
from telemetry.server.live_events import HEARTBEAT, retry_event
from telemetry.server.params import task_id_of
from telemetry.server.shared.bus import BUS
from telemetry.server.store import StoreFailed, TaskChange

__all__ = ["HUB", "add_routes", "run_feeds", "run_status_watch"]

log = logging.getLogger("telemetry.server")

# Proxies and browsers give up on a silent connection after 30 s at the earliest.
HEARTBEAT_S = 15.0
# A viewer that does not take one piece of an update in this time is gone.
SEND_TIMEOUT_S = 30.0
# How soon a browser connects again, in ms; a restarted server should not look dead for long.
RECONNECT_MS = 2000
# How late a page may learn that a task has been silent for a minute.
STATUS_INTERVAL_S = 1.0

HUB = web.AppKey("hub", Hub)


async def run_feeds(app: web.Application) -> AsyncIterator[None]:
    """Read what viewers are told from the store for the application's life (a cleanup context)."""
    app[HUB].start(app[STORE])
    yield
    await app[HUB].stop()


async def run_status_watch(app: web.Application) -> AsyncIterator[None]:
    """Tell viewers of tasks that became stalled or lost: nothing is committed then (a cleanup context).

    They are this server's own viewers: every server looks for itself.
    """
    watch = asyncio.create_task(_watch_status(app))
    yield
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def _watch_status(app: web.Application) -> None:
    hub, store = app[HUB], app[STORE]
    _, since_unix_ns = await asyncio.to_thread(store.moved_by_time, app[CONFIG].clock())
    while True:
        await asyncio.sleep(STATUS_INTERVAL_S)
        if not len(hub):
            since_unix_ns = app[CONFIG].clock()
            continue
        try:
            moved, since_unix_ns = await asyncio.to_thread(store.moved_by_time, since_unix_ns)
        except StoreFailed as error:
            log.error("the status of silent tasks cannot be read: %s", error)
            continue
        if moved:
            hub.note({task_id: TaskChange() for task_id in moved})


def add_routes(app: web.Application) -> None:
    """Add `GET /api/v1/live` and the hub behind it."""
    app[HUB] = Hub()
    app[BUS].subscribe(app[HUB].note)
    app.on_shutdown.append(app[HUB].close)
    app.router.add_get("/api/v1/live", live, allow_head=False)


async def live(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/live?task=ID`: changes as they are committed, until the client goes or the server stops."""
    hub = request.app[HUB]
    task_id = task_id_of(request.query["task"]) if "task" in request.query else None
    if len(hub) >= request.app[CONFIG].limits.max_viewers:
        raise web.HTTPServiceUnavailable(
            text="too many pages are following this server", headers={hdrs.RETRY_AFTER: "10"}
        )
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream",
            hdrs.CACHE_CONTROL: "no-store",
            # nginx would hold events back until its buffer is full.
            "X-Accel-Buffering": "no",
            "X-Content-Type-Options": "nosniff",
        }
    )
    viewer = hub.join(task_id, access_of(request))
    try:
        await response.prepare(request)
        await _send(response, retry_event(RECONNECT_MS))
        if task_id is not None:
            await _send(response, await hub.summary(task_id))
        await _follow(response, viewer)
    except (ConnectionError, TimeoutError):
        # The viewer is gone, or as good as; there is nobody to tell.
        pass
    finally:
        hub.leave(task_id, viewer)
    return response


async def _follow(response: web.StreamResponse, viewer: Viewer) -> None:
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                pieces = await viewer.take()
        except TimeoutError:
            await _send(response, HEARTBEAT)
            continue
        if viewer.closed:
            return
        for piece in pieces:
            await _send(response, piece)
            # A socket that takes all does not make us wait; the other viewers, and the senders, come in between.
            await asyncio.sleep(0)


async def _send(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await response.write(data)
