"""Changes from pages and scripts: `POST /tasks/{id}/changes` and `POST /tasks/{id}/delete`.

A change is an event like those of the program itself: the server makes a frame of it, as a writer of its own, and the
frame goes the way of all frames. A deletion takes the task away at once; its rows go in the background.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from telemetry.errors import FrameError, InvalidEvent
from telemetry.events import INT64_MAX, MAX_NAME_CHARS, Batch, RecordChange
from telemetry.record import PROGRAM_SECTIONS, Section, TaskKey, TaskStatus, may_become, may_change
from telemetry.server.access import access_of
from telemetry.server.api import json_response
from telemetry.server.config import CONFIG, STORE
from telemetry.server.ingest import INGEST, Ingest, ServerBusy, unavailable
from telemetry.server.params import json_object, task_id_of
from telemetry.server.shared.bus import BUS
from telemetry.server.store import NotFound, Store, StoreFailed, StoreUnavailable, TaskChange
from telemetry.wire import decode, encode

__all__ = ["add_routes", "run_edits"]

log = logging.getLogger("telemetry.server")

_MAX_CHANGES = 10_000
# Sections whose values are maps, and the key that each must have.
_MAPS = {Section.PARAMETERS: "value", Section.PROPERTIES: "value", Section.CONFIGURATION: "text"}
_TEXTS = frozenset(
    {
        *(TaskKey.NAME, TaskKey.PROJECT, TaskKey.TYPE, TaskKey.COMMENT, TaskKey.PARENT),
        *(TaskKey.STATUS, TaskKey.STATUS_REASON, TaskKey.STATUS_MESSAGE),
    }
)
_LISTS = frozenset({TaskKey.TAGS, TaskKey.SYSTEM_TAGS})

_PAUSE_AFTER_TROUBLE_S = 10.0
_PAUSE_FOR_OTHERS_S = 0.05


class Edits:
    """The server as a writer of its own: one for each process, as every program is one."""

    def __init__(self) -> None:
        self._writer_id = secrets.token_bytes(16)
        self._sequence = 0
        # Set when a task was deleted.
        self.deleted = asyncio.Event()

    def note(self, changes: Mapping[str, TaskChange]) -> None:
        """Hear of a commit: a task that was begun anew leaves behind what it was."""
        if any(change.reset for change in changes.values()):
            self.deleted.set()

    def frame(self, task_id: str, changes: list[RecordChange]) -> bytes:
        """Return the next frame, with these changes.

        Raises:
            InvalidEvent, FrameError: a value that no frame can carry.
        """
        batch = Batch(task_id, events=changes, events_logged=len(changes))
        frame = encode(batch, writer_id=self._writer_id, sequence=self._sequence)
        # What cannot be read back is refused here, where it is the sender's mistake.
        decode(frame)
        self._sequence += 1
        return frame.data


EDITS = web.AppKey("edits", Edits)


def add_routes(app: web.Application) -> None:
    """Add the routes of changes and deletions."""
    app.router.add_post("/api/v1/tasks/{task_id}/changes", changes)
    app.router.add_post("/api/v1/tasks/{task_id}/delete", delete)


async def run_edits(app: web.Application) -> AsyncIterator[None]:
    """Remove what deleted tasks left behind, for the application's life (a cleanup context)."""
    app[EDITS] = Edits()
    # What a server that was stopped in the middle of it had to do.
    app[EDITS].deleted.set()
    app[BUS].subscribe(app[EDITS].note)
    removing = asyncio.create_task(_remove_deleted(app[STORE], app[INGEST], app[EDITS].deleted))
    yield
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)


async def changes(request: web.Request) -> web.Response:
    """`POST /tasks/{id}/changes`: `{"changes": [{"section", "key", "value"}]}`; answered after the commit."""
    task_id, store = task_id_of(request.match_info["task_id"]), request.app[STORE]
    wanted = _wanted((await json_object(request, ("changes",))).get("changes"))
    status, latest = await asyncio.to_thread(_stands, store, task_id, wanted)
    _check_status(status, wanted)
    # Later than what it replaces, even if that came from a machine whose clock is ahead.
    now_unix_ns = min(max(request.app[CONFIG].clock(), latest + 1), INT64_MAX)
    events = [RecordChange(now_unix_ns, section, key, value) for section, key, value in wanted]
    answer = await _write(request, task_id, events)
    if answer["result"] != "stored" or "reason" in answer:
        raise web.HTTPForbidden(text=f"{answer.get('reason', answer['result'])}; nothing was changed")
    return json_response(orjson.dumps({"changed": len(events), "unix_ms": now_unix_ns // 1_000_000}))


def _check_status(status: str, wanted: list[tuple[str, str, Any]]) -> None:
    """Refuse what a task that stands at `status` cannot take; see telemetry/record.py.

    Raises:
        web.HTTPConflict
    """
    fixed = sorted({section for section, _, _ in wanted if not may_change(section, status, by_hand=True)})
    if fixed:
        raise web.HTTPConflict(
            text=f"the task is {status or 'no draft'}: its {' and '.join(fixed)} can only be changed while it is "
            f"{TaskStatus.CREATED}, before it runs. Nothing was changed; clone it to run it with others"
        )
    for section, key, value in wanted:
        if (section, key) == (Section.TASK, TaskKey.STATUS) and not may_become(status, str(value or "")):
            raise web.HTTPConflict(
                text=f"a task that is {status or 'no draft'} cannot become {value}. Nothing was changed"
            )


async def delete(request: web.Request) -> web.Response:
    """`POST /tasks/{id}/delete`: it is gone when this is answered; what its writers still send is thrown away."""
    task_id = task_id_of(request.match_info["task_id"])
    try:
        await asyncio.to_thread(request.app[STORE].delete_task, task_id)
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except StoreUnavailable as error:
        raise unavailable(error) from error
    request.app[EDITS].deleted.set()
    request.app[BUS].publish({task_id: TaskChange()})
    return json_response(orjson.dumps({"deleted": task_id}))


def _stands(store: Store, task_id: str, wanted: list[tuple[str, str, Any]]) -> tuple[str, int]:
    try:
        return store.stands(task_id, [(section, key) for section, key, _ in wanted])
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error


async def _write(request: web.Request, task_id: str, events: list[RecordChange]) -> dict[str, Any]:
    ingest = request.app[INGEST]
    try:
        data = request.app[EDITS].frame(task_id, events)
        with ingest.admitted(len(data)):
            (answer,) = await ingest.take(data, projects=access_of(request).projects, alive=False)
    except (InvalidEvent, FrameError) as error:
        raise web.HTTPBadRequest(text=f"{error}; nothing was changed") from error
    except (ServerBusy, StoreUnavailable) as error:
        raise unavailable(error) from error
    return answer


def _wanted(given: Any) -> list[tuple[str, str, Any]]:
    if not isinstance(given, list) or not given:
        raise web.HTTPBadRequest(text='changes must be a list of {"section", "key", "value"}')
    if len(given) > _MAX_CHANGES:
        raise web.HTTPBadRequest(text=f"there are {len(given)} changes; at most {_MAX_CHANGES} are taken at once")
    return [_checked(change) for change in given]


def _checked(change: Any) -> tuple[str, str, Any]:
    if not isinstance(change, dict) or set(change) != {"section", "key", "value"}:
        raise web.HTTPBadRequest(text=f'a change must be {{"section", "key", "value"}}, not {change!r:.100}')
    section, key, value = change["section"], change["key"], change["value"]
    for name in (section, key):
        if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARS:
            raise web.HTTPBadRequest(text=f"a section and a key are texts of 1 to {MAX_NAME_CHARS} characters")
    if section in PROGRAM_SECTIONS:
        raise web.HTTPBadRequest(text=f"section {section!r} is what the programs tell of themselves")
    if value is not None and not _fits(section, key, value):
        raise web.HTTPBadRequest(text=f"{value!r:.100} is not what {section}/{key:.100} can be; nothing was changed")
    return section, key, value


def _fits(section: str, key: str, value: Any) -> bool:
    if section in _MAPS:
        return isinstance(value, Mapping) and _MAPS[section] in value
    if section != Section.TASK:
        return True
    if key in _LISTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key == TaskKey.STATUS:
        return value in list(TaskStatus)
    return isinstance(value, bool) if key == TaskKey.PUBLISHED else key not in _TEXTS or isinstance(value, str)


async def _remove_deleted(store: Store, ingest: Ingest, deleted: asyncio.Event) -> None:
    while True:
        await deleted.wait()
        deleted.clear()
        await _slice_by_slice(store.remove_deleted, "what deleted tasks left behind cannot be removed yet")
        # After the last of them only: what is given back in between would be moved in the file again and again.
        await _slice_by_slice(
            store.give_back, "the space of deleted tasks cannot be given back yet", lambda: ingest.waiting_jobs > 0
        )


async def _slice_by_slice(
    step: Callable[[], bool], trouble: str, others_wait: Callable[[], bool] = lambda: False
) -> None:
    """Call `step` until it says that there is no more to do, and leave as long in between to who writes frames."""
    more = True
    while more:
        if others_wait():
            await asyncio.sleep(_PAUSE_FOR_OTHERS_S)
            continue
        begin_s = time.perf_counter()
        try:
            # Shielded: the store is closed only after a slice that has begun.
            more = await _finished(asyncio.create_task(asyncio.to_thread(step)))
        except (StoreUnavailable, StoreFailed) as error:
            log.error("%s: %s", trouble, error)
            await asyncio.sleep(_PAUSE_AFTER_TROUBLE_S)
        await asyncio.sleep(time.perf_counter() - begin_s)


async def _finished(step: asyncio.Task[bool]) -> bool:
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.gather(step, return_exceptions=True)
        raise
