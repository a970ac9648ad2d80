"""Live pages: server-sent events about what the writer committed.

Each viewer has one pending change, to which commits are merged; it is sent at most a few times a
second. So a slow viewer gets fewer, larger updates, and never holds more memory than the task it
watches has series.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
from aiohttp import hdrs, web
from sqlalchemy.exc import SQLAlchemyError

from telemetry.server.access import EVERYTHING, Access, access_of, may_read_project
from telemetry.server.config import CONFIG, STORE
from telemetry.server.params import task_id_of
from telemetry.server.store import NotFound, SeriesChange, Store, TaskChange, json_number

__all__ = ["HUB", "Hub", "add_routes", "run_status_watch"]

log = logging.getLogger("telemetry.server")

# A chart redrawn four times a second looks alive; a table that reorders more than twice cannot be read.
TASK_INTERVAL_S = 0.25
TABLE_INTERVAL_S = 0.5
# Proxies and browsers give up on a silent connection after 30 s at the earliest.
HEARTBEAT_S = 15.0
# A viewer that does not take one update in this time is gone.
SEND_TIMEOUT_S = 30.0
# How soon a browser connects again, in ms; a restarted server should not look dead for long.
RECONNECT_MS = 2000
# How late a page may learn that a task has been silent for a minute.
STATUS_INTERVAL_S = 1.0
# More changed tasks than any page shows; a page that is told of these many reads its rows again anyway.
MAX_PENDING_TASKS = 1000


class Viewer:
    """One open stream. `task_id` None: the table of tasks, as far as `access` reaches."""

    def __init__(self, task_id: str | None, access: Access = EVERYTHING) -> None:
        self.task_id = task_id
        self.access = access
        self.wakeup = asyncio.Event()
        self.closed = False
        self._tasks: dict[str, None] = {}
        self._change: TaskChange | None = None

    def offer(self, changes: Mapping[str, TaskChange]) -> None:
        """Merge what was committed into what is pending."""
        if self.task_id is None:
            self._tasks.update(dict.fromkeys(changes))
            while len(self._tasks) > MAX_PENDING_TASKS:
                del self._tasks[next(iter(self._tasks))]
        elif self.task_id in changes:
            change = changes[self.task_id]
            self._change = change if self._change is None else self._change.merged(change)
        else:
            return
        self.wakeup.set()

    def close(self) -> None:
        """End the stream at its next step."""
        self.closed = True
        self.wakeup.set()

    def take(self) -> tuple[list[str], TaskChange | None]:
        """Return what is pending, the ids of tasks and the change of the watched task, and forget it."""
        self.wakeup.clear()
        tasks, change = list(self._tasks), self._change
        self._tasks, self._change = {}, None
        return tasks, change


class Hub:
    """All viewers. Lives on the event loop; every method is called there."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()
        # Others on the event loop who want to hear of every commit.
        self.listeners: list[Callable[[Mapping[str, TaskChange]], None]] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    def publish(self, changes: Mapping[str, TaskChange]) -> None:
        """Tell every viewer what a committed group changed."""
        for viewer in self._viewers:
            viewer.offer(changes)
        for listen in self.listeners:
            listen(changes)

    def join(self, task_id: str | None, access: Access = EVERYTHING) -> Viewer:
        """Return a new viewer, which hears of every commit from now on."""
        viewer = Viewer(task_id, access)
        if self._closed:
            viewer.close()
        self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        self._viewers.discard(viewer)

    def close_unless(self, allowed: Callable[[Access], bool]) -> None:
        """End the streams of those who may not look any more."""
        for viewer in self._viewers:
            if not allowed(viewer.access):
                viewer.close()

    async def close(self, _app: web.Application | None = None) -> None:
        """End all streams, so that the server can stop."""
        self._closed = True
        for viewer in self._viewers:
            viewer.close()


HUB = web.AppKey("hub", Hub)


async def run_status_watch(app: web.Application) -> AsyncIterator[None]:
    """Tell viewers of tasks that became stalled or lost: nothing is committed then (a cleanup context)."""
    watch = asyncio.create_task(_watch_status(app))
    yield
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def _watch_status(app: web.Application) -> None:
    hub, store = app[HUB], app[STORE]
    _, since = await asyncio.to_thread(store.moved_by_time, app[CONFIG].clock())
    while True:
        await asyncio.sleep(STATUS_INTERVAL_S)
        if not len(hub):
            since = app[CONFIG].clock()
            continue
        try:
            moved, since = await asyncio.to_thread(store.moved_by_time, since)
        except SQLAlchemyError as error:
            log.error("the status of silent tasks cannot be read: %s", error)
            continue
        if moved:
            hub.publish({task_id: TaskChange() for task_id in moved})


def add_routes(app: web.Application) -> None:
    """Add `GET /api/v1/live` and the hub behind it."""
    app[HUB] = Hub()
    app.on_shutdown.append(app[HUB].close)
    app.router.add_get("/api/v1/live", live, allow_head=False)


async def live(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/live?task=ID`: changes as they are committed, until the client goes or the server stops."""
    hub, store = request.app[HUB], request.app[STORE]
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
        await _send(response, f"retry: {RECONNECT_MS}\n\n".encode())
        if task_id is not None:
            await _send(response, await _task_event(store, task_id))
        await _follow(response, viewer, store)
    except (ConnectionError, TimeoutError):
        # The viewer is gone, or as good as; there is nobody to tell.
        pass
    finally:
        hub.leave(viewer)
    return response


async def _follow(response: web.StreamResponse, viewer: Viewer, store: Store) -> None:
    interval_s = TABLE_INTERVAL_S if viewer.task_id is None else TASK_INTERVAL_S
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await viewer.wakeup.wait()
        except TimeoutError:
            await _send(response, b": still here\n\n")
            continue
        if viewer.closed:
            return
        tasks, change = viewer.take()
        if viewer.access.projects is not None:
            tasks = await _reached(store, viewer.access, tasks)
            if viewer.task_id is not None and not await _reached(store, viewer.access, [viewer.task_id]):
                return
        if tasks:
            await _send(response, _event("tasks", {"ids": tasks}))
        if change is not None and viewer.task_id is not None:
            await _send(response, _change_events(change) + await _task_event(store, viewer.task_id))
        # Let changes gather; what comes meanwhile is merged and sent next time.
        await asyncio.sleep(interval_s)


async def _reached(store: Store, access: Access, task_ids: list[str]) -> list[str]:
    """Return those of the tasks whose project the viewer may look at; a task may change its project."""
    projects = await asyncio.to_thread(store.projects_of, task_ids)
    return [item for item in task_ids if item in projects and may_read_project(access, projects[item])]


async def _send(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await response.write(data)


async def _task_event(store: Store, task_id: str) -> bytes:
    try:
        return _event("task", await asyncio.to_thread(store.task_summary, task_id))
    except NotFound:
        # A page may be opened before the task's first frame is here.
        return b""


def _change_events(change: TaskChange) -> bytes:
    events = [_event("reset", {})] if change.reset else []
    if change.series:
        series = {str(identifier): _series_json(state) for identifier, state in change.series.items()}
        events.append(_event("points", {"series": series}))
    if change.console_last_id is not None:
        events.append(_event("console", {"last_id": change.console_last_id}))
    if change.models:
        events.append(_event("models", {}))
    if change.plots:
        events.append(_event("plots", {}))
    if change.media:
        events.append(_event("media", {}))
    return b"".join(events)


def _series_json(state: SeriesChange) -> dict[str, Any]:
    return {
        "count": state.count,
        "last": json_number(state.last),
        "last_iteration": state.last_iteration,
        "last_unix_ms": state.last_time // 1_000_000,
    }


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
