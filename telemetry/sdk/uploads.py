"""Uploads: the bytes of artifacts, models and media, carried off the caller's thread.

    submit() -> reader thread: source -> blobs/<sha256> of the session folder -> on_blob (the caller writes the record)
             -> carrier thread: blob -> server, or the task's storage           -> on_stored

Two threads, so that a server that is away keeps nobody's file from being read. What was read survives the process: it
lies beside the events and goes the way they go, with `telemetry sync` or an import. Both threads are daemons that
start with the first upload; nothing here raises into the program.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from telemetry import lifecycle
from telemetry.blobs import BLOBS, Blob, BlobFolder, is_shortage
from telemetry.errors import BlobError
from telemetry.events import TaskHeader
from telemetry.retry import until
from telemetry.sdk.carrier import Abandoned, Carrier
from telemetry.settings import Settings
from telemetry.storage_target import Target
from telemetry.threads import start_daemon

__all__ = ["Left", "Source", "Upload", "Uploads", "task_prefix"]

log = logging.getLogger(__name__)

# A path, the bytes themselves, or what makes the file (packing a folder), which then runs on the reader thread.
Source = Path | bytes | Callable[[], Path]
OnBlob = Callable[[Blob], None]
OnFailed = Callable[[str], None]

# The pipeline opens its folders within milliseconds of its start; a disk that hangs gets this long, in seconds.
FOLDER_TIMEOUT_S = 30.0
# What the record may take to the disk or the server before its blob is carried or an old one goes.
SETTLE_TIMEOUT_S = 10.0
# A machine that is out of descriptors or room gets this long to have some again, in seconds.
SHORTAGE_S = 10.0
# A file that is being read at the end is waited for as long as bytes of it come at least this often.
STALL_S = 5.0


def task_prefix(header: TaskHeader) -> str:
    """Return a task's folder below a storage's address: "<project>/<name>.<id>"."""
    parts = [*header.project.split("/"), f"{header.name}.{header.task_id}"]
    # What would be another folder, or none, at some storage.
    return "/".join(re.sub(r"[^\w .+=@-]", "_", part).strip(" .") or "_" for part in parts)


class Upload:
    """One submitted upload, as its caller sees it. Safe from any thread.

    Attributes:
        label: what it is, for lines that a person reads: "artifact 'data'".
        blob: its bytes' name and size, once they were read; with the final uri once they are stored.
        error: why it failed; "" while it has not.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.blob: Blob | None = None
        self.error = ""
        self._kept = threading.Event()
        self._ended = threading.Event()

    @property
    def kept(self) -> bool:
        """True once the bytes are in the session folder: the source is not needed any more."""
        return self._kept.is_set()

    @property
    def done(self) -> bool:
        """True once it is stored or has failed."""
        return self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is stored at its final place; False if it failed or the time ran out."""
        return self._ended.wait(timeout_s) and not self.error

    def wait_kept(self, timeout_s: float | None = None) -> bool:
        """Wait until its bytes are in the session folder; False if it failed or the time ran out."""
        return self._kept.wait(timeout_s) and not (self.error and self.blob is None)

    def _note_kept(self, blob: Blob) -> None:
        self.blob = blob
        self._kept.set()

    def _end(self, error: str = "") -> None:
        self.error = error
        self._kept.set()
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Left:
    """What was not stored when the task ended.

    Attributes:
        count, size_bytes: of uploads whose bytes wait in `folder`, to be carried by `telemetry sync`.
        unread: labels of those whose source was not read in time: their bytes are nowhere of ours.
        failed: (label, why) of those that failed at any time.
    """

    count: int = 0
    size_bytes: int = 0
    folder: Path | None = None
    unread: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        from telemetry.terminal import size_text

        parts = []
        if self.count:
            parts.append(
                f"{self.count} file{'' if self.count == 1 else 's'} ({size_text(self.size_bytes)}) still to be sent"
            )
        if self.unread:
            parts.append(f"not read in time, and lost unless their files are still there: {', '.join(self.unread)}")
        parts += [f"{label} failed: {why}" for label, why in self.failed[:3]]
        if len(self.failed) > 3:
            parts.append(f"{len(self.failed) - 3} more uploads failed")
        return "; ".join(parts)


@dataclass(slots=True)
class Job:
    """What is to be done with one source; the carrier knows its second half."""

    upload: Upload
    source: Source
    filename: str
    on_blob: OnBlob
    on_stored: OnBlob
    on_failed: OnFailed
    remove_source: bool
    target: Target | None
    key: str
    slot: str
    # The session folders it was put into, with their sinks.
    places: Sequence[tuple[Any, BlobFolder]] = ()
    # A later upload has taken its slot: nobody will ask for its bytes.
    is_replaced: bool = False


class Uploads:
    """Carries the bytes of one process's part of a task.

    Args:
        task_id: whose bytes.
        folders: gives each sink that has one with its session folder, waiting so many seconds for those that are
            just being opened (Pipeline.session_folders). None: telemetry is disabled, and every upload fails quietly.
        target: where bytes go that are not asked to go elsewhere; None is the server, or the session that becomes one.
        prefix: the task's folder below a target: "<project>/<name>.<id>".
        settle: brings what was reported so far to the server, or to disk while that is away (Pipeline.flush).
        stream: where progress bars are drawn, if it is a terminal; None draws none.
    """

    def __init__(
        self,
        task_id: str,
        folders: Callable[[float], Sequence[tuple[Any, Path]]] | None,
        *,
        settings: Settings,
        target: Target | None = None,
        prefix: str = "",
        settle: Callable[[float], bool] = lambda timeout_s: True,
        stream: TextIO | None = None,
    ) -> None:
        self.target = target
        self._task_id = task_id
        self._folders = folders
        self._settings = settings
        self._prefix = prefix
        self._settle = settle
        self._stream = None if settings.quiet else stream
        self._failed: list[tuple[str, str]] = []
        self._at_server = 0  # uploads that a server has taken
        self._forked = False
        self._begin()
        lifecycle.watch_forks(self)

    def _begin(self) -> None:
        # Re-entrant: a signal handler may end the task while its thread submits.
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[int, Job] = {}
        self._to_read: SimpleQueue[Job] = SimpleQueue()
        self._to_carry: SimpleQueue[Job] = SimpleQueue()
        self._started = False
        self._running: set[str] = set()
        self._moved_at_s = time.monotonic()
        self._pid = os.getpid()
        # By sha256: uploads that need the blob where it is; and by slot: the sha256 that is in it.
        self._users: Counter[str] = Counter()
        self._slots: dict[str, str] = {}
        self._carrier = Carrier(self._task_id, self._settings, prefix=self._prefix, stream=self._stream)

    def reset_after_fork(self) -> None:
        """In a forked child: no threads, and the uploads that wait are the parent's."""
        for job in list(self._open.values()):
            # Its threads, and the callbacks to come, are in the parent.
            job.upload = Upload(job.upload.label)
        self._failed = []
        self._forked = True
        self._begin()

    # ---- the caller's side -----------------------------------------------------------------------

    def submit(
        self,
        source: Source,
        *,
        filename: str,
        on_blob: OnBlob = lambda blob: None,
        on_stored: OnBlob = lambda blob: None,
        on_failed: OnFailed = lambda why: None,
        label: str = "",
        remove_source: bool = False,
        target: Target | bool | None = None,
        key: str = "",
        slot: str = "",
    ) -> Upload:
        """Take a source to be stored, and return at once.

        The callbacks run on threads of ours, one at a time and in this order: `on_blob` when the bytes are safe in the
        session folder, with uri "blob:<sha256>", for the record; `on_stored` when they are at their final place, with
        its uri; or `on_failed` with the reason, once, at any point.

        Args:
            source: a file, bytes, or a function that makes the file. A file is copied, and may change after that.
            filename: its name at the target, and of copies that are downloaded.
            label: for a person: "artifact 'data'".
            remove_source: delete the source once its bytes are safe in the session folder.
            target: None for the task's own, True for the server, or another storage.
            key: the path below the task's folder at a target; default: the file's name.
            slot: of two uploads with the same slot the later replaces the earlier, whose bytes are then removed from
                the session folder: "artifacts/data".
        """
        upload = Upload(label or filename)
        if self._folders is None:
            upload._end("telemetry is disabled")
            return upload
        chosen = self.target if target is None else None if isinstance(target, bool) else target
        job = Job(upload, source, filename, on_blob, on_stored, on_failed, remove_source, chosen, key or filename, slot)
        with self._changed:
            self._open[id(job)] = job
            starts, self._started = not self._started, True
        self._to_read.put(job)
        if starts:
            if self._forked:
                # A worker ends without the task's end, which is its parent's. The pipeline begins first, so that it
                # is closed last.
                self._folders(0.0)
                limit = self._settings.close_timeout_s
                lifecycle.at_worker_exit(lambda timeout_s: self.drain(limit if timeout_s is None else timeout_s))
            self._start_threads()
        return upload

    def _start_threads(self) -> None:
        """Start what is not running; where there is no thread to be had, the next upload or the end tries again."""
        for name, run in (("telemetry-blobs", self._read_jobs), ("telemetry-uploads", self._carry_jobs)):
            if name not in self._running and start_daemon(run, name) is not None:
                self._running.add(name)
        self._started = len(self._running) == 2

    @property
    def idle(self) -> bool:
        """True when every upload is stored or has failed."""
        return not self._open

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every upload is stored or has failed; False if the time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def wait_stored(self, upload: Upload, *, stall_s: float) -> bool:
        """Wait until an upload is stored; False if it failed, or when nothing has moved for `stall_s` seconds.

        Nobody whose server is away waits for ever; the upload goes on.
        """
        began_s = time.monotonic()
        while not upload.wait(min(1.0, stall_s)):
            moved_at_s = max(began_s, self._moved_at_s, self._carrier.moved_at_s)
            if upload.done or time.monotonic() - moved_at_s > stall_s:
                return False
        return True

    def drain(self, timeout_s: float, *, patient: bool = False) -> Left:
        """Wait at the end of the task; what is not stored by then stays in the session folder.

        Args:
            patient: a source that is being read is waited for beyond the time, as long as bytes of it come: what is
                not read is lost.
        """
        deadline_s = time.monotonic() + timeout_s
        if self._open and not self._started:
            self._start_threads()
        with self._changed:
            self._carrier.close(deadline_s)
            # Nothing moves without threads: what waits is told of at once.
            while self._open and self._started and (left_s := self._left_s(deadline_s, patient)) > 0:
                self._changed.wait(left_s)
            self._carrier.abandon()
            lifecycle.forget_forks(self)
            return self._left_over()

    def note_server_lost(self) -> None:
        """A server has lost data that it had taken: files that it had taken may be among them."""
        count, self._at_server = self._at_server, 0
        if count:
            what = f"{count} stored file{'' if count == 1 else 's'}"
            self._failed.append((what, "the server has lost data since it took them"))

    def _left_s(self, deadline_s: float, patient: bool) -> float:
        now_s = time.monotonic()
        if patient and any(not job.upload.kept for job in self._open.values()):
            deadline_s = max(deadline_s, self._moved_at_s + STALL_S)
        return deadline_s - now_s

    def _left_over(self) -> Left:
        kept = [job for job in self._open.values() if job.upload.kept]
        # The folder may have been taken away with the bytes in it.
        waiting = [job for job in kept if _is_there(job)]
        gone = [
            (job.upload.label, "its bytes were removed from the session folder") for job in kept if job not in waiting
        ]
        unread = [job.upload.label for job in self._open.values() if not job.upload.kept]
        folders = [folder.folder.parent for job in waiting for _, folder in job.places]
        return Left(
            len(waiting),
            sum(job.upload.blob.size_bytes for job in waiting if job.upload.blob is not None),
            folders[0] if folders else None,
            tuple(unread),
            (*self._failed, *gone),
        )

    # ---- the reader thread -----------------------------------------------------------------------

    def _read_jobs(self) -> None:
        while True:
            job = self._to_read.get()
            self._moved_at_s = time.monotonic()
            try:
                self._read_patiently(job)
            except BlobError as error:
                self._fail(job, str(error))
            except Exception as error:  # top of the thread, and a source may be anybody's function
                log.debug("an upload could not be read", exc_info=error)
                self._fail(job, f"{type(error).__name__}: {error}")

    def _read_patiently(self, job: Job) -> None:
        """Read a job's source; where the machine is short of something, again for a while."""
        tries = until(SHORTAGE_S, max_wait_s=1.0)
        while True:
            try:
                self._read(job)
                return
            except (BlobError, OSError) as error:
                wait_s = tries.next_wait_s() if is_shortage(error) else None
                if wait_s is None:
                    raise
                log.debug("%s is tried again: %s", job.upload.label, error)
            time.sleep(wait_s)

    def _read(self, job: Job) -> None:
        found = [] if self._folders is None else self._folders(FOLDER_TIMEOUT_S)
        places = [(sink, BlobFolder(folder / BLOBS)) for sink, folder in found]
        if not places:
            raise BlobError(
                "there is no session folder to keep its bytes in: no sink of this task has one, or none can be "
                "written (TELEMETRY_DIR)"
            )
        # Made once, however often it is read.
        source = job.source = job.source() if callable(job.source) else job.source
        blob: Blob | None = None
        for _, folder in places:
            if blob is not None:
                folder.add_file(places[0][1].path(blob.sha256), self._note_move)
            elif isinstance(source, bytes):
                blob = folder.add_bytes(source)
            else:
                blob = folder.add_file(source, self._note_move)
        assert blob is not None
        job.places = places
        replaced = self._take_slot(job.slot, blob.sha256)
        job.on_blob(blob)
        job.upload._note_kept(blob)
        with self._changed:
            self._changed.notify_all()
        # Bytes in memory are not needed any more.
        job.source = b""
        if job.remove_source and isinstance(source, Path):
            _remove(source)
        self._to_carry.put(job)
        if replaced:
            self._forget(replaced, places)

    def _take_slot(self, slot: str, sha256: str) -> str:
        """Note who needs a blob; return the sha256 of one that nobody needs any more, "" if there is none."""
        with self._changed:
            self._users[sha256] += 1
            if not slot:
                return ""
            before, self._slots[slot] = self._slots.get(slot, ""), sha256
            if before:
                self._users[before] -= 1
            for job in self._open.values():
                job.is_replaced |= job.slot == slot and job.upload.kept
            return before if before and self._users[before] <= 0 else ""

    def _forget(self, sha256: str, places: Sequence[tuple[Any, BlobFolder]]) -> None:
        """Remove a replaced blob, once the record that replaced it is on disk: a kill must not come in between."""
        if not self._settle(SETTLE_TIMEOUT_S) or self._is_wanted(sha256):
            return
        for _, folder in places:
            try:
                folder.remove(sha256)
            except BlobError as error:
                log.debug("%s", error)

    def _note_move(self, done_bytes: int) -> None:
        self._moved_at_s = time.monotonic()

    # ---- the carrier thread ----------------------------------------------------------------------

    def _carry_jobs(self) -> None:
        carrier, jobs = self._carrier, self._to_carry
        with carrier:
            while True:
                job = jobs.get()
                try:
                    self._carry(carrier, job)
                except Abandoned:
                    continue  # the task has ended; drain has said what is left
                except BlobError as error:
                    if job.is_replaced:
                        # Its bytes went when the later ones came, in the middle of this: nobody asks for them.
                        self._finish(job)
                    else:
                        self._fail(job, str(error))
                except Exception as error:  # top of the thread
                    log.debug("an upload failed on something unforeseen", exc_info=error)
                    self._fail(job, f"{type(error).__name__}: {error}")

    def _carry(self, carrier: Carrier, job: Job) -> None:
        blob = job.upload.blob
        assert blob is not None
        if job.is_replaced:
            self._forget(blob.sha256, job.places)
            self._finish(job)
            return
        if any(sink.spool for sink, _ in job.places) and job.target is None:
            # The server takes bytes of tasks that it knows; and who reads the record finds them on their way.
            self._settle(SETTLE_TIMEOUT_S)
        stored = carrier.carry(blob, job.places, target=job.target, key=job.key, label=job.upload.label)
        job.on_stored(stored)
        job.upload.blob = stored
        if job.target is None and any(sink.spool for sink, _ in job.places):
            self._at_server += 1
        if job.target is not None:
            # The record must not name a blob that is gone from here.
            self._settle(SETTLE_TIMEOUT_S)
        # A session keeps its blobs; a spool only those that others still wait for.
        for sink, folder in job.places:
            if (sink.spool or job.target is not None) and not self._is_wanted(blob.sha256, besides=job):
                folder.remove(blob.sha256)
        # Last: whoever waits for the uploads then removes the folder.
        self._finish(job)

    def _is_wanted(self, sha256: str, besides: Job | None = None) -> bool:
        """Say whether an upload that is not over needs a blob where it is."""
        with self._changed:
            blobs = [job.upload.blob for job in self._open.values() if not job.is_replaced and job is not besides]
        return any(blob is not None and blob.sha256 == sha256 for blob in blobs)

    # ---- both ------------------------------------------------------------------------------------

    def _fail(self, job: Job, why: str) -> None:
        log.warning("%s was not stored: %s", job.upload.label, why)
        try:
            job.on_failed(why)
        except Exception as error:
            log.error("the record of a failed upload could not be written: %s: %s", type(error).__name__, error)
            log.debug("how that came", exc_info=error)
        self._failed.append((job.upload.label, why))
        self._finish(job, why)

    def _finish(self, job: Job, error: str = "") -> None:
        with self._changed:
            self._open.pop(id(job), None)
            job.upload._end(error)
            self._changed.notify_all()


def _is_there(job: Job) -> bool:
    """Say whether the bytes of an upload that waits are where they were put."""
    blob = job.upload.blob
    return blob is not None and any(folder.exists(blob.sha256) for _, folder in job.places)


def _remove(source: Path) -> None:
    try:
        source.unlink()
    except OSError as error:
        log.warning("%s was stored but could not be deleted: %s", source, error)
