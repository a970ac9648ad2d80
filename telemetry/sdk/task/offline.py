"""Task.import_offline_session: one session folder or zip to the server."""

from __future__ import annotations

import os
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telemetry.errors import ConfigurationError, JournalError
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.masking import mask_url
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.launch.announce import Announcer
from telemetry.sessions.readdress import NewAddress
from telemetry.sessions.sources import SessionSource, other_halves
from telemetry.settings import Settings

__all__ = ["import_offline_session"]


def import_offline_session(
    session_folder_zip: str | os.PathLike[str] | None, previous_task_id: str | None = None, iteration_offset: int = 0
) -> str:
    """See Task.import_offline_session."""
    settings = load_settings()
    if settings.mode == "disabled":
        return ""
    if session_folder_zip is None:
        raise ConfigurationError(
            "there is no session to import: None was given. Task.get_offline_mode_folder() is None unless the task was "
            "begun offline: Task.set_offline(True) before Task.init. Nothing was sent"
        )
    sources = _sources(Path(session_folder_zip))
    if settings.url is None or not settings.url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"importing {sources[0].path} needs a server, and TELEMETRY_URL is {mask_url(settings.url or 'not set')}. "
            "Nothing was sent. Set it to the server's address, such as http://127.0.0.1:8008"
        )
    # On a thread of its own: a notebook's has an event loop running already.
    with ThreadPoolExecutor(1, "telemetry-import") as pool:
        new_address = _new_address(previous_task_id, iteration_offset, settings)
        task_id, said = pool.submit(_send, sources, settings.url, settings, new_address).result()
    Announcer(quiet=settings.quiet).say(said)
    return task_id


def _sources(path: Path) -> list[SessionSource]:
    path = path.expanduser()
    zipped = path.with_name(f"{path.name}.zip")
    if not path.exists() and zipped.is_file():
        # The folder of a task that has ended since became the zip beside it, or several where it went on later.
        return [_source(item) for item in (zipped, *sorted(path.parent.glob(f"{path.name}-[0-9]*.zip")))]
    return [_source(path)]


def _source(path: Path) -> SessionSource:
    try:
        found = path.stat()
    except OSError as error:
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"there is no session folder or zip at {path}: {error.strerror}. Nothing was sent"
        ) from error
    return SessionSource(path, 0 if stat.S_ISDIR(found.st_mode) else found.st_size, named=True)


def _new_address(previous_task_id: str | None, iteration_offset: int, settings: Settings) -> NewAddress | None:
    """Return what task the session is sent as; None for its own, as it is."""
    if previous_task_id is None and not iteration_offset:
        return None
    if previous_task_id is not None:
        open_stored(previous_task_id, settings, what="import_offline_session")
    return NewAddress(previous_task_id, int(iteration_offset))


def _send(
    sources: list[SessionSource], url: str, settings: Settings, new_address: NewAddress | None
) -> tuple[str, str]:
    """Return the task's id and what to tell the user."""
    import asyncio

    from telemetry.sessions.importing import import_sources
    from telemetry.sinks.http import HttpSink, open_sink

    def make_sink() -> HttpSink:
        return open_sink(url, settings)

    report = asyncio.run(
        import_sources(sources, make_sink, timeout_s=settings.request_timeout_s, new_address=new_address)
    )
    if report.stopped_by is not None:
        raise report.stopped_by
    lines: list[str] = []
    for outcome in report.outcomes:
        path = outcome.source.path
        if outcome.error:
            raise JournalError(f"{path} could not be imported: {outcome.error}")
        page = f"{mask_url(url).rstrip('/')}/tasks/{outcome.task_id}"
        lines.append(f"telemetry: imported {outcome.events:,} events of {path} -> {page}")
        lines += [f"telemetry: {path}: {fault}" for fault in outcome.faults()]
    for path in other_halves(sources):
        lines.append(f"telemetry: there is more of the same task: telemetry import {shlex.quote(str(path))}")
    return report.outcomes[0].task_id, "\n".join(lines)
