"""Views: how a Task reads what it, another process, or a run of last week has reported.

A view answers in the same words wherever the events are:

    ServerView    on a server, through its API
    SessionView   in a session folder or zip on this machine; nothing but the files is needed
    RunningView   in this process: its own changes over what one of the others knows
    NowhereView   while telemetry is disabled: what was set in this process, and no reports

The record is read through `fold()`, the reports (points, values, console, plots) through `reports()`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from telemetry.errors import ConfigurationError, JournalError, ServerError, ServerUnreachable
from telemetry.events import Batch, RecordChange
from telemetry.fold import Entry, RecordDict, RecordFold, newer_part
from telemetry.process import lifecycle
from telemetry.sessions.sources import has_blob, open_blob, open_session
from telemetry.storage.blobs import PIECE_BYTES
from telemetry.wire import Frame, decode

if TYPE_CHECKING:
    from telemetry.client import Client
    from telemetry.client.types import RecordRow
    from telemetry.sdk.reading.report_views import Reports

__all__ = [
    "NowhereView",
    "OnPiece",
    "RunningView",
    "ServerView",
    "SessionView",
    "Siblings",
    "View",
    "record_of",
    "section_of",
]

log = logging.getLogger(__name__)

OnPiece = Callable[[bytes], object]

# A record that was read from a server is good for this long: a script reads many fields in a row.
FRESH_S = 1.0

# As many as the server tells at once.
MAX_RECORDS = 500


class View(Protocol):
    """What a task's past looks like from here. Every method may block, on a network or a disk."""

    def fold(self) -> RecordFold:
        """Return the record's fold; not to be changed."""

    def reload(self) -> None:
        """Forget what was read; the next call reads again."""

    def reports(self) -> Reports:
        """Return what reads the reports; what this process reported before has arrived there when this returns.

        Raises:
            ConfigurationError: the task's events go where they can't be read back from.
        """

    def has_blob(self, sha256: str) -> bool:
        """Say whether a blob of the task can be read from here, as far as that can be found out."""

    def read_blob(self, sha256: str, on_piece: OnPiece) -> str:
        """Hand over a blob's bytes, piece by piece. Return "" once that is done, else why it is not here.

        Raises:
            ServerError, JournalError: it is here, and cannot be read.
        """

    def known_models(self) -> list[dict[str, Any]]:
        """Return the task's models as a server knows them; none where no server is asked."""


def section_of(view: View, name: str) -> dict[str, Any]:
    """Return a section of the record as it stands."""
    return view.fold().section(name)


def record_of(view: View) -> RecordDict:
    """Return the whole record as it stands."""
    return view.fold().record()


class Siblings:
    """The records of the tasks that one query has found: who asks for one gets those beside it read with it.

    Whoever looks at all of them asks the server once for 500. Whoever takes longer over each than a record is good
    for soon asks for few: twice as many as were of use the last time. Safe from any thread.
    """

    def __init__(self, task_ids: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ids = list(task_ids)
        self._places = {task_id: place for place, task_id in enumerate(self._ids)}
        self._clock = clock
        self._count = MAX_RECORDS
        self._taken = 0
        # Read and not taken yet, each with when it was read.
        self._waiting: dict[str, tuple[list[RecordRow], float]] = {}
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent's may have been reading."""
        self._lock = threading.Lock()

    def take(self, client: Client, task_id: str) -> tuple[list[RecordRow], float] | None:
        """Return a record, at most FRESH_S old, and when it was read; None if the server does not tell it.

        Raises:
            ServerUnreachable, ServerError: it could not be asked.
        """
        with self._lock:
            if not self._is_fresh(task_id):
                self._read(client, task_id)
            self._taken += 1
            return self._waiting.pop(task_id, None)

    def _is_fresh(self, task_id: str) -> bool:
        found = self._waiting.get(task_id)
        return found is not None and self._clock() - found[1] <= FRESH_S

    def _read(self, client: Client, first: str) -> None:
        waiting = {task_id: found for task_id, found in self._waiting.items() if self._is_fresh(task_id)}
        if self._taken:
            useful = self._taken if len(waiting) < len(self._waiting) else self._count
            self._count = min(MAX_RECORDS, 2 * useful)
        # A block, not the next ones: they may be looked at from the last to the first.
        place = self._places[first]
        block = self._ids[place - place % self._count :][: self._count]
        # The one that is wanted in front: what does not fit an answer is left out at its end.
        records = client.records(list(dict.fromkeys([first, *block])))
        read_at_s = self._clock()
        self._waiting = {**waiting, **{task_id: (rows, read_at_s) for task_id, rows in records.items()}}
        self._taken = 0


class ServerView:
    """A task on a server.

    Args:
        connect: gives the client, at the first question; the view does not close it.
        siblings: the tasks that were found with it; None: it was opened by itself.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        task_id: str,
        *,
        siblings: Siblings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self.task_id = task_id
        self._siblings = siblings
        self._clock = clock
        self._fold: RecordFold | None = None
        self._read_at_s = 0.0
        self._is_outdated = False

    @property
    def client(self) -> Client:
        """The client of the task's server."""
        return self._connect()

    def fold(self) -> RecordFold:
        """Return the record, at most a second old.

        Raises:
            ServerUnreachable, ServerError: 404 for a task of which the server has nothing.
        """
        if self._fold is None or self._clock() - self._read_at_s > FRESH_S:
            rows, self._read_at_s = self._read()
            fold = RecordFold()
            for section, key, time_unix_ns, writer, value in rows:
                fold.put(section, key, Entry(time_unix_ns, writer, 0, value))
            self._fold, self._is_outdated = fold, False
        return self._fold

    def reload(self) -> None:
        """Ask the server again at the next call, and for this task alone."""
        self._fold, self._is_outdated = None, True

    def _read(self) -> tuple[list[RecordRow], float]:
        # What was read with a sibling may be older than the change after which this was to be read again.
        if self._siblings is not None and not self._is_outdated:
            found = self._siblings.take(self.client, self.task_id)
            if found is not None:
                return found
        return self.client.record(self.task_id), self._clock()

    def reports(self) -> Reports:
        """See View. Each of its answers asks the server."""
        from telemetry.sdk.reading.report_views import ServerReports

        return ServerReports(self)

    def has_blob(self, sha256: str) -> bool:
        """See View. False where the server does not answer."""
        try:
            return self.client.blob_status(self.task_id, sha256).complete
        except ServerError:
            return False

    def read_blob(self, sha256: str, on_piece: OnPiece) -> str:
        """See View. Where the line breaks it goes on from there, as long as each try brings more of the blob."""
        received = 0

        def count(piece: bytes) -> None:
            nonlocal received
            on_piece(piece)
            received += len(piece)

        while True:
            before = received
            try:
                self.client.download_blob(self.task_id, sha256, count, start=received)
                return ""
            except ServerUnreachable as error:
                if received == before:
                    return str(error)
            except ServerError as error:
                if error.status not in (None, 404):
                    raise
                return str(error)

    def known_models(self) -> list[dict[str, Any]]:
        """See View.

        Raises:
            ServerUnreachable, ServerError: the server does not tell.
        """
        return self.client.find_models(task=self.task_id)


@dataclass(slots=True)
class _Story:
    """What the files of a session told when they were `signature`."""

    signature: tuple[tuple[str, int], ...]
    fold: RecordFold = field(default_factory=RecordFold)
    batches: list[tuple[Frame, Batch]] = field(default_factory=list)


class SessionView:
    """A task in session folders and zips on this machine, read again when they have grown.

    Args:
        places: where parts of the task may lie by now: the folder while it runs, the zips after it.
        task_id: frames of other tasks, which a folder may hold too, are passed over.
    """

    def __init__(self, places: Callable[[], Sequence[Path]], task_id: str) -> None:
        self._places = places
        self.task_id = task_id
        self._story: _Story | None = None

    def places(self) -> list[Path]:
        """Return the folders and zips in which the session lies, or may come to lie."""
        return list(self._places())

    def fold(self) -> RecordFold:
        """Return the record; damage in the files is passed over, as an importer does.

        Raises:
            JournalError: there is no session of this task here.
        """
        return self._read().fold

    def reload(self) -> None:
        """Read the files again at the next call."""
        self._story = None

    def batches(self) -> Iterator[tuple[Frame, Batch]]:
        """Yield each frame once with what it holds, by writer and in order."""
        yield from self._read().batches

    def reports(self) -> Reports:
        """See View. The files are read at its first answer, and when they have grown."""
        from telemetry.sdk.reading.report_views import SessionReports

        return SessionReports(self)

    def has_blob(self, sha256: str) -> bool:
        """See View."""
        return any(has_blob(place, sha256) for place in self.places())

    def read_blob(self, sha256: str, on_piece: OnPiece) -> str:
        """See View."""
        places = self.places()
        place = next((place for place in places if has_blob(place, sha256)), None)
        if place is None:
            return f"not in {', '.join(map(str, places)) or 'a session on this machine'}"
        with open_blob(place, sha256) as file:
            while piece := file.read(PIECE_BYTES):
                on_piece(piece)
        return ""

    def known_models(self) -> list[dict[str, Any]]:
        """Return none: the files are all that is asked."""
        return []

    def _read(self) -> _Story:
        places = [path for path in self._places() if path.exists()]
        signature = _signature(places)
        if self._story is None or self._story.signature != signature:
            self._story = self._tell(places, signature)
        return self._story

    def _tell(self, places: list[Path], signature: tuple[tuple[str, int], ...]) -> _Story:
        if not places:
            looked_for = " or ".join(map(str, self._places()))
            raise JournalError(f"no session of task {self.task_id} is on this machine: there is no {looked_for}")
        story = _Story(signature)
        seen: set[tuple[bytes, int]] = set()
        for path in places:
            for item in open_session(path).read():
                if not isinstance(item, Frame) or (item.writer_id, item.sequence) in seen:
                    continue
                seen.add((item.writer_id, item.sequence))
                batch = decode(item)
                if batch.task_id == self.task_id:
                    story.batches.append((item, batch))
        for frame, batch in story.batches:
            for event in batch.events:
                if isinstance(event, RecordChange):
                    story.fold.apply(event, frame.writer_id, frame.sequence)
        since = story.fold.reset_unix_ns
        if since:
            # What earlier runs under this id reported lies in the same folder.
            story.batches = [(frame, newer_part(batch, since)) for frame, batch in story.batches]
        return story


class NowhereView(SessionView):
    """A task while telemetry is disabled: a session without files.

    Attributes:
        own: the record as far as this process has set it.
    """

    def __init__(self, task_id: str, own: RecordFold | None = None) -> None:
        super().__init__(tuple, task_id)
        self.own = RecordFold() if own is None else own

    def _read(self) -> _Story:
        return _Story((), self.own)


class RunningView:
    """This process's own task: what was changed here, over what `base` knows.

    A task that began in this process is known here whole, so its record is read without asking anybody. One that
    an earlier run or another process began is read from `base` first.

    Args:
        own: the fold of this process's changes, which goes on growing.
        base: None where the events can't be read back (standard output, a sink of the user's).
        near: what lies on this machine, bytes that are on their way to `base` among it.
        settle: brings what was reported so far to where `base` reads; False if it did not within its time.
        began_elsewhere: other processes have a part in the record.
    """

    def __init__(
        self,
        own: RecordFold,
        base: View | None,
        *,
        near: View,
        settle: Callable[[], bool],
        began_elsewhere: bool,
    ) -> None:
        self._own = own
        self._base = base
        self._blob_views = [near] if base is None else [near, base]
        self._settle = settle
        self._asks_base = began_elsewhere

    def fold(self) -> RecordFold:
        """Return the record; without an answer from elsewhere, what this process knows of it."""
        merged = RecordFold()
        if self._asks_base and self._base is not None:
            try:
                merged.update(self._base.fold())
            except (ServerError, JournalError):
                # The program must not fail because a server is away: what it set itself it can read.
                log.debug("the record is read from this process alone", exc_info=True)
        merged.update(self._own)
        return merged

    def reload(self) -> None:
        """From now on read what other processes, and people on the pages, have changed."""
        self._asks_base = True
        if self._base is not None:
            self._settle()
            self._base.reload()

    def reports(self) -> Reports:
        """See View."""
        if self._base is None:
            raise ConfigurationError(
                "the reports of this task can't be read back: its events go to a sink that only takes. "
                "Give it a server (TELEMETRY_URL) or a session folder (the default)"
            )
        self._settle()
        return self._base.reports()

    def has_blob(self, sha256: str) -> bool:
        """See View. The nearest place is asked first."""
        return any(view.has_blob(sha256) for view in self._blob_views)

    def read_blob(self, sha256: str, on_piece: OnPiece) -> str:
        """See View. The nearest place is asked first."""
        reasons = []
        for view in self._blob_views:
            reason = view.read_blob(sha256, on_piece)
            if not reason:
                return ""
            reasons.append(reason)
        return "; ".join(reasons)

    def known_models(self) -> list[dict[str, Any]]:
        """Return none: what the program did itself, it knows without asking anybody."""
        return []


def _signature(places: Sequence[Path]) -> tuple[tuple[str, int], ...]:
    files = [item for path in places for item in ([path] if path.is_file() else sorted(path.rglob("*.frames")))]
    return tuple((str(path), path.stat().st_size) for path in files)
