"""`POST /api/v1/backup`: the server makes a backup of itself in a folder of its machine, and tells how far it is.

Only for commands with the key of the server's directory (address.py): a token that came over the network must not
have the server write to its disks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.server.config import STORE
from telemetry.server.params import json_object
from telemetry.server.store import BackupMade, Store
from telemetry.server.upkeep.address import is_local

__all__ = ["add_routes"]

log = logging.getLogger("telemetry.server")

# How often whoever waits hears how far it is.
_TELL_S = 0.2


class _Ended(Exception):
    """Nobody waits for the backup any more, or the server stops."""


class _BackupUnderWay:
    """A backup that is being made on a thread."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._end = threading.Event()
        self._at: tuple[str, int, int] = ("database", 0, 0)

    def make(self) -> BackupMade:
        """Make it; on a thread."""
        return self._store.backup(self._folder, self._note)

    def end(self) -> None:
        """Have it end at its next step."""
        self._end.set()

    def line(self) -> bytes:
        """Return how far it is, as a line of JSON."""
        what, done_bytes, total_bytes = self._at
        return _line({"what": what, "done_bytes": done_bytes, "total_bytes": total_bytes})

    def _note(self, what: str, done_bytes: int, total_bytes: int) -> None:
        self._at = (what, done_bytes, total_bytes)
        if self._end.is_set():
            raise _Ended


class Backups:
    """At most one backup at a time."""

    def __init__(self) -> None:
        self.current: tuple[_BackupUnderWay, asyncio.Task[BackupMade]] | None = None

    def begin(self, store: Store, folder: Path) -> tuple[_BackupUnderWay, asyncio.Task[BackupMade]]:
        """Begin a backup.

        Raises:
            web.HTTPConflict: another one is being made.
        """
        if self.current is not None and not self.current[1].done():
            raise web.HTTPConflict(text="a backup is being made already; wait for its end")
        backup = _BackupUnderWay(store, folder)
        self.current = backup, asyncio.create_task(asyncio.to_thread(backup.make))
        return self.current


_BACKUPS = web.AppKey("backups", Backups)


def add_routes(app: web.Application) -> None:
    """Add the route of backups."""
    app[_BACKUPS] = Backups()
    app.on_shutdown.append(_end_backup)
    app.router.add_post("/api/v1/backup", backup)


async def _end_backup(app: web.Application) -> None:
    """The server stops: end what is being made, before the requests under way are waited for."""
    current = app[_BACKUPS].current
    if current is not None:
        current[0].end()
        await asyncio.gather(current[1], return_exceptions=True)


async def backup(request: web.Request) -> web.StreamResponse:
    """`POST /backup` `{"folder"}`: lines of JSON, how far it is, and at last `{"made"}` or `{"error"}`."""
    if not is_local(request):
        raise web.HTTPForbidden(text="a backup is asked for on the server's machine: telemetry backup DIR")
    folder = (await json_object(request, ("folder",))).get("folder")
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise web.HTTPBadRequest(text="folder must be an absolute path on the server's machine")
    made, making = request.app[_BACKUPS].begin(request.app[STORE], Path(folder))
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        await response.prepare(request)
        while not making.done():
            await response.write(made.line())
            await asyncio.wait([making], timeout=_TELL_S)
        await response.write(_line(_result(making, folder)))
        await response.write_eof()
    except OSError:
        # Whoever asked for it has gone away: Ctrl-C.
        log.info("the backup in %s is given up: nobody waits for it", folder)
    finally:
        made.end()
        await asyncio.gather(making, return_exceptions=True)
    return response


def _result(making: asyncio.Task[BackupMade], folder: str) -> dict[str, Any]:
    try:
        made = making.result()
    except TelemetryError as error:
        log.error("%s", error)
        return {"error": str(error), "wrong_folder": isinstance(error, ConfigurationError)}
    except _Ended:
        return {"error": "the server stops; the backup was not finished"}
    except Exception as error:
        log.error("the backup in %s failed", folder, exc_info=error)
        return {"error": f"the server failed on it, and its log says why: {error!r:.200}"}
    log.info("a backup was made in %s: %d tasks", folder, made.backup.tasks)
    return {"made": asdict(made)}


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"
