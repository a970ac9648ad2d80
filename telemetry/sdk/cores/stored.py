"""StoredTask: a task as a server or a session folder has it. This process reads it, and does not run it.

Its changes are sent at once, and whoever makes them hears of errors. They travel as a frame, as everything does: an
edit of a draft, a tag on a finished run and a clone's record are events like those of the run itself. Without a
server, a session on this machine can be read, not changed.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, ServerError, ServerUnreachable, SinkUnavailable, TelemetryError
from telemetry.events import Batch, ConsoleLine, Event, FrameEvent, Media, Plot, RecordChange, SingleValue, TaskHeader
from telemetry.ledger import Ledger
from telemetry.pipeline import Pipeline
from telemetry.process import lifecycle
from telemetry.protocols import TaskEmit
from telemetry.record import RUN_SECTIONS, Section, TaskKey, may_change
from telemetry.retry import until
from telemetry.sdk.bytes.depot import Depot, NowhereDepot, SendingDepot
from telemetry.sdk.bytes.parcel import SCRATCH
from telemetry.sdk.bytes.uploads import task_prefix
from telemetry.sdk.identity.references import Referred, key_of, references
from telemetry.sdk.identity.reuse import forbid_reuse, forbids_reuse
from telemetry.sdk.identity.sessions import local_places
from telemetry.sdk.models.book import ModelBook
from telemetry.sdk.parameters.connected import Connected
from telemetry.sdk.reading.servers import client_of, server_client, server_url
from telemetry.sdk.reading.view import NowhereView, ServerView, SessionView, Siblings, View, section_of
from telemetry.sdk.record.record import Record
from telemetry.sdk.record.status import Outcome
from telemetry.sdk.reports.logger import Logger
from telemetry.settings import Settings
from telemetry.wire import encode

__all__ = ["StoredTask", "begin_stored", "found_stored", "open_stored", "referred_stored"]


# What may be said of a task that another program runs; points belong to that program.
_SENT = (RecordChange, ConsoleLine, SingleValue, Plot, Media)


class _Sender:
    """Sends single frames to a server, one after another, as this process's second writer."""

    def __init__(self) -> None:
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: a writer of its own."""
        self._lock = threading.Lock()
        self._writer_id = Pipeline.new_writer_id()
        self._sequence = 0

    def send(self, task_id: str, events: Sequence[FrameEvent], settings: Settings, url: str) -> None:
        """Return when the server has committed the events, all of them.

        Raises:
            ServerUnreachable, ServerError: they are not known to be there.
        """
        with self._lock:
            sequence, self._sequence = self._sequence, self._sequence + 1
        frame = encode(
            Batch(task_id, events=list(events), events_logged=len(events)),
            writer_id=self._writer_id,
            sequence=sequence,
        )
        # On a thread of its own: a notebook's has an event loop running already.
        with ThreadPoolExecutor(1, "telemetry-change") as pool:
            refused = pool.submit(lambda: asyncio.run(_send(frame, url, settings))).result()
        if refused:
            raise ServerError(f"{url} refuses a change of task {task_id}: {refused}. Nothing was changed", status=422)


async def _send(frame: Any, url: str, settings: Settings) -> str:
    """Return why the server refuses the frame, "" if it took it. A server that is away is asked again for a while."""
    from telemetry.sinks.http import open_sink

    sink = open_sink(url, settings)
    await sink.connect()
    tries, may_be_there = until(settings.request_timeout_s), False
    try:
        while True:
            try:
                refused = await sink.send([frame])
                return next(iter(refused.values()), "")
            except SinkUnavailable as error:
                # Where no connection came about nothing was sent. The frame's number stays, so that trying is safe.
                may_be_there = may_be_there or getattr(error.__cause__, "os_error", None) is None
                if not await tries.pause(error.retry_after_s):
                    what = "Whether the change arrived is not known" if may_be_there else "Nothing was changed"
                    raise ServerUnreachable(f"{error}. {what}") from error
    finally:
        await sink.close()


_sender = _Sender()


class _SendingEmit:
    """An Emit whose events are on the server when the call returns. Scalars have no hot path here."""

    latest_iteration = 0

    def __init__(self, core: StoredTask) -> None:
        self.rows: list[Any] = []
        # Every scalar crosses: it is sent by itself.
        self.mark = 0
        self._core = core

    def __call__(self, event: Event) -> bool:
        self._core.send([event])
        return True

    def crossed(self) -> None:
        """Refuse scalars: points belong to the program that runs the task."""
        self.rows.clear()
        raise ConfigurationError("scalars are reported by the program that runs a task; this one is another's")

    def refuse(self, reason: str, message: str) -> None:
        """Raise: there is no loop here that must go on."""
        raise ConfigurationError(message)


class StoredTask(Referred):
    """See core.TaskCore."""

    def __init__(self, header: TaskHeader, settings: Settings, view: View, url: str | None) -> None:
        self.header = header
        self.settings = settings
        self.view = view
        self._url = url
        self.record = Record(send=self.send)
        self.emit: TaskEmit = _SendingEmit(self)
        self.logger = Logger(self.emit, header=header)
        self.connected = Connected(self.record, watch=False)
        self.depot: Depot = SendingDepot(
            self._send_blob, scratch=settings.state_dir / SCRATCH, prefix=task_prefix(header)
        )
        self.book = ModelBook(self)

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return references.task_class._referred_core, key_of(self.header)

    @property
    def begun_here(self) -> None:
        """None: whoever began it, it was not this process."""

    @property
    def is_running(self) -> bool:
        """False: whoever runs it, it is not this process."""
        return False

    @property
    def keeps_models(self) -> bool:
        """False: its program saves them, and no other."""
        return False

    def moved(self, iteration: int) -> int:
        """Return the iteration as it is: those of a task are moved on by the program that runs it."""
        return iteration

    @property
    def status(self) -> str:
        """Return the status as it is read now."""
        return str(section_of(self.view, Section.TASK).get(TaskKey.STATUS, ""))

    def send(self, events: Sequence[Event]) -> None:
        """Send events at once; they are committed when this returns.

        Raises:
            ConfigurationError: there is no server: the task is a session on this machine.
            ServerError: the server can't be reached or refuses them.
        """
        if self._url is None:
            raise ConfigurationError(
                f"task {self.header.task_id} is a session on this machine, and can be read but not changed. "
                "Import it to a server first: Task.import_offline_session(...) or `telemetry import`"
            )
        self._check_draft(events)
        travelling = [event for event in events if isinstance(event, _SENT)]
        travelling_events: list[FrameEvent] = list(travelling)
        _sender.send(self.header.task_id, travelling_events, self.settings, self._url)
        self.view.reload()
        if any(isinstance(event, RecordChange) and forbids_reuse(event, self.header) for event in travelling):
            forbid_reuse(self.settings, self.header.task_id)

    def _check_draft(self, events: Sequence[Event]) -> None:
        """Refuse to change what a task ran with, once it has run.

        Raises:
            ConfigurationError: it is a ValueError, too; nothing was changed.
        """
        sections = {event.section for event in events if isinstance(event, RecordChange)} & RUN_SECTIONS
        fixed = sorted(section for section in sections if not may_change(section, self.status))
        if fixed:
            raise ConfigurationError(
                f"task {self.header.task_id} can only be updated while it is created or in_progress, and it is "
                f"{self.status} [{', '.join(fixed)}]. Nothing was changed; Task.clone makes a draft of it"
            )

    def _send_blob(self, sha256: str, path: Path, size_bytes: int) -> None:
        assert self._url is not None, "the record came first"
        with path.open("rb") as file:
            client_of(self._url, self.settings).send_blob(self.header.task_id, sha256, file, size_bytes)

    def flush(self, timeout_s: float) -> bool:
        """Return True: nothing waits."""
        return True

    def end(self, outcome: Outcome, timeout_s: float | None = None) -> None:
        """Write the status that the task ends with."""
        self.record.change_all(Section.TASK, outcome.fields(unix_ns()))

    def ledger(self) -> Ledger:
        """Return empty counts: every change was committed or raised."""
        return Ledger(logged=0, delivered=0, on_disk=0, in_memory=0)


class _NowhereTask(StoredTask):
    """A stored task while telemetry is disabled: what is set can be read back from this object, and goes nowhere."""

    def __init__(self, header: TaskHeader, settings: Settings) -> None:
        view = NowhereView(header.task_id)
        super().__init__(header, settings, view, None)
        view.own = self.record.own
        self.depot = NowhereDepot()

    def send(self, events: Sequence[Event]) -> None:
        """Send nothing."""


def begin_stored(sections: Mapping[str, Mapping[str, Any]], settings: Settings, *, what: str) -> StoredTask:
    """Make a new task on the server, with this record; it is there whole or not at all.

    Raises:
        ConfigurationError: there is no server, or telemetry is offline; nothing was made.
        ServerError: the server can't be reached or refuses it.
    """
    if settings.mode != "disabled":
        server_client(settings, what)
    task_id, fields = secrets.token_hex(16), sections[Section.TASK]
    now_unix_ns = unix_ns()
    header = _header(task_id, fields)
    if settings.mode == "disabled":
        core = _NowhereTask(header, settings)
        core.record.change_sections(sections)
        return core
    url = server_url(settings)
    assert url is not None, "a server that is not set is an error"
    changes: list[FrameEvent] = [
        RecordChange(now_unix_ns, section, key, value)
        for section, values in sections.items()
        for key, value in values.items()
    ]
    _sender.send(task_id, changes, settings, url)
    return StoredTask(header, settings, ServerView(partial(client_of, url, settings), task_id), url)


def open_stored(task_id: str, settings: Settings, *, what: str) -> StoredTask:
    """Return the core of a task by its id, read from the server, or offline from this machine's sessions.

    While telemetry is disabled nothing is read: it is an empty task.

    Raises:
        ValueError: no such task.
        ConfigurationError: there is neither a server nor a session of it.
        ServerUnreachable: the server does not answer.
    """
    if not isinstance(task_id, str):
        raise ConfigurationError(
            f"a task's id is a str of 32 hexadecimal digits, not {type(task_id).__name__}: {task_id!r:.60}"
        )
    if settings.mode == "disabled":
        return _NowhereTask(TaskHeader(task_id, writer_id=bytes(16), project="", name=""), settings)
    url = server_url(settings)
    view: View
    if url is not None:
        view = ServerView(partial(client_of, url, settings), task_id)
    elif any(path.exists() for path in local_places(settings, task_id)):
        view = SessionView(lambda: local_places(settings, task_id), task_id)
    elif settings.mode == "offline":
        raise ConfigurationError(
            f"there is no session of task {task_id!r:.60} in {settings.state_dir}, and telemetry is in offline mode, "
            "in which no server is asked"
        )
    else:
        server_client(settings, what)
        raise AssertionError("a server that is not set is an error")
    try:
        fields = section_of(view, Section.TASK)
    except ServerError as error:
        if error.status in (400, 404):
            raise ConfigurationError(f"there is no task {task_id!r:.60} on {url}") from error
        raise
    except TelemetryError as error:
        raise ConfigurationError(f"the session of task {task_id} can't be read: {error}") from error
    header = _header(task_id, fields)
    return StoredTask(header, settings, view, url)


def _header(task_id: str, fields: Mapping[str, Any]) -> TaskHeader:
    """Return a header that says what the record does; nothing is written by the writer in it."""
    return TaskHeader(
        task_id,
        writer_id=bytes(16),
        project=str(fields.get("project", "")),
        name=str(fields.get("name", "")),
        type=str(fields.get("type", "training")),
    )


def referred_stored(header: TaskHeader, settings: Settings) -> StoredTask:
    """Return the core of a task that a copy refers to; nothing is asked for it until it is read."""
    if settings.mode == "disabled":
        return _NowhereTask(header, settings)
    url = server_url(settings)
    if url is not None:
        return StoredTask(header, settings, ServerView(partial(client_of, url, settings), header.task_id), url)
    places = partial(local_places, settings, header.task_id)
    return StoredTask(header, settings, SessionView(places, header.task_id), None)


def found_stored(
    task_id: str, project: str, name: str, type_: str, settings: Settings, url: str, siblings: Siblings | None = None
) -> StoredTask:
    """Return the core of a task that a query has found on a server; nothing is asked for it until it is read."""
    header = TaskHeader(task_id, writer_id=bytes(16), project=project, name=name, type=type_ or "training")
    view = ServerView(partial(client_of, url, settings), task_id, siblings=siblings)
    return StoredTask(header, settings, view, url)
