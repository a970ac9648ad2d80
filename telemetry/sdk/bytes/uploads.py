"""Uploads: the bytes of artifacts, models and media, carried off the caller's thread.

    submit() -> reader thread: source -> blobs/<sha256> of the session folder  -> tell (the record names the blob)
             -> carrier thread: blob -> server, or a storage (tell)            -> on_stored

Two threads, so that a server that is away keeps nobody's file from being read. What was read survives the process: it
lies beside the events and goes the way they go, with `telemetry sync` or an import. Both threads are daemons that
start with the first upload; nothing here raises into the program.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from telemetry.errors import BlobError
from telemetry.events import TaskHeader
from telemetry.journal import remove_if_empty
from telemetry.process import lifecycle
from telemetry.process.threads import start_daemon
from telemetry.record import BlobState
from telemetry.retry import until
from telemetry.sdk.bytes.carrier import Abandoned, Carrier
from telemetry.sdk.bytes.deposit import Deposit, Upload, fields_of
from telemetry.sdk.bytes.taken import TakenFile, TakenFiles
from telemetry.settings import Settings
from telemetry.storage.blobs import BLOBS, Blob, BlobFolder, is_shortage
from telemetry.storage.target import Target

__all__ = ["Left", "Uploads", "task_prefix"]

log = logging.getLogger(__name__)

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
        from telemetry.process.terminal import size_text

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
        self._forked = False
        self._begin()
        lifecycle.watch_forks(self)

    def _begin(self) -> None:
        # Re-entrant: a signal handler may end the task while its thread submits.
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[Upload, None] = {}  # in the order in which they came
        self._to_read: SimpleQueue[Upload] = SimpleQueue()
        self._to_carry: SimpleQueue[Upload | None] = SimpleQueue()  # None: a server has lost data
        self._started = False
        self._running: set[str] = set()
        self._taken = TakenFiles()
        # How often a server's loss of data is still to be looked into.
        self._losses = 0
        self._moved_at_s = time.monotonic()
        # By sha256: uploads that need the blob where it is; and by slot: the sha256 that is in it.
        self._users: Counter[str] = Counter()
        self._slots: dict[str, str] = {}
        self._carrier = Carrier(self._task_id, self._settings, prefix=self._prefix, stream=self._stream)

    def reset_after_fork(self) -> None:
        """In a forked child: no threads, and the uploads that wait are the parent's."""
        for upload in list(self._open):
            upload.reset_after_fork()
        self._failed = []
        self._forked = True
        self._begin()

    # ---- the caller's side -----------------------------------------------------------------------

    def submit(self, deposit: Deposit) -> Upload:
        """Take a deposit to be stored, and return at once. A file is copied, and may change after that."""
        upload = Upload(deposit)
        self.start(upload)
        return upload

    def start(self, upload: Upload) -> None:
        """Take an upload of its maker's."""
        if self._folders is None:
            upload.end("telemetry is disabled")
            return
        upload.target = upload.deposit.storage(self.target)
        with self._changed:
            self._open[upload] = None
            starts, self._started = not self._started, True
        self._to_read.put(upload)
        if starts:
            if self._forked:
                # A worker ends without the task's end, which is its parent's. The pipeline begins first, so that it
                # is closed last.
                self._folders(0.0)
                limit = self._settings.close_timeout_s
                lifecycle.at_worker_exit(lambda timeout_s: self._end_worker(limit if timeout_s is None else timeout_s))
            self._start_threads()

    def _start_threads(self) -> None:
        """Start what is not running; where there is no thread to be had, the next upload or the end tries again."""
        for name, run in (("telemetry-blobs", self._read_all), ("telemetry-uploads", self._carry_all)):
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
            while self._is_busy and self._started and (left_s := self._left_s(deadline_s, patient)) > 0:
                self._changed.wait(left_s)
            if self._is_busy:
                self._carrier.abandon()
            lifecycle.forget_forks(self)
            return self._left_over()

    @property
    def _is_busy(self) -> bool:
        return bool(self._open or self._losses)

    @property
    def looks_for_losses(self) -> bool:
        """True while a server's loss of data is looked into."""
        return self._losses > 0

    def note_server_lost(self) -> None:
        """A server has lost data that it had taken, and files may be among them: send what is here, say what is not."""
        with self._changed:
            if self._taken:
                self._losses += 1
                self._to_carry.put(None)

    def let_go(self) -> None:
        """Remove what is kept here of files that a server has: the task has ended, nothing is sent any more."""
        if not self._is_busy:
            files = self._taken.let_go()
            self._remove(files)
            for folder in {file.folder.folder.parent for file in files}:
                try:
                    remove_if_empty(folder)
                except OSError as error:
                    log.debug("%s is left there: %s", folder, error)

    def _end_worker(self, timeout_s: float) -> None:
        self.drain(timeout_s)
        self.let_go()

    def _left_s(self, deadline_s: float, patient: bool) -> float:
        now_s = time.monotonic()
        if patient and any(not upload.kept for upload in self._open):
            deadline_s = max(deadline_s, self._moved_at_s + STALL_S)
        return deadline_s - now_s

    def _left_over(self) -> Left:
        kept = [upload for upload in self._open if upload.kept]
        # The folder may have been taken away with the bytes in it.
        waiting = [upload for upload in kept if _is_there(upload)]
        gone = [
            (upload.label, "its bytes were removed from the session folder") for upload in kept if upload not in waiting
        ]
        unread = [upload.label for upload in self._open if not upload.kept]
        folders = [folder.folder.parent for upload in waiting for _, folder in upload.places]
        return Left(
            len(waiting),
            sum(upload.blob.size_bytes for upload in waiting if upload.blob is not None),
            folders[0] if folders else None,
            tuple(unread),
            (*self._failed, *gone),
        )

    # ---- the reader thread -----------------------------------------------------------------------

    def _read_all(self) -> None:
        while True:
            upload = self._to_read.get()
            self._moved_at_s = time.monotonic()
            try:
                self._read_patiently(upload)
            except BlobError as error:
                self._fail(upload, str(error))
            except Exception as error:  # top of the thread, and a source may be anybody's function
                log.debug("an upload could not be read", exc_info=error)
                self._fail(upload, f"{type(error).__name__}: {error}")

    def _read_patiently(self, upload: Upload) -> None:
        """Read an upload's source; where the machine is short of something, again for a while."""
        tries = until(SHORTAGE_S, max_wait_s=1.0)
        while True:
            try:
                self._read(upload)
                return
            except (BlobError, OSError) as error:
                wait_s = tries.next_wait_s() if is_shortage(error) else None
                if wait_s is None:
                    raise
                log.debug("%s is tried again: %s", upload.label, error)
            time.sleep(wait_s)

    def _read(self, upload: Upload) -> None:
        found = [] if self._folders is None else self._folders(FOLDER_TIMEOUT_S)
        places = [(sink, BlobFolder(folder / BLOBS)) for sink, folder in found]
        if not places:
            raise BlobError(
                "there is no session folder to keep its bytes in: no sink of this task has one, or none can be "
                "written (TELEMETRY_DIR)"
            )
        # Made once, however often it is read.
        source = upload.source = upload.source() if callable(upload.source) else upload.source
        assert source is not None
        blob: Blob | None = None
        for _, folder in places:
            if blob is not None:
                folder.add_file(places[0][1].path(blob.sha256), self._note_move)
            elif isinstance(source, bytes):
                blob = folder.add_bytes(source)
            else:
                blob = folder.add_file(source, self._note_move)
        assert blob is not None
        upload.places = places
        replaced = self._take_slot(upload.slot, blob.sha256)
        upload.deposit.tell(fields_of(blob, BlobState.PENDING))
        upload.note_kept(blob)
        with self._changed:
            self._changed.notify_all()
        if upload.deposit.parcel.removes_source and isinstance(source, Path):
            _remove(source)
        self._to_carry.put(upload)
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
            for upload in self._open:
                upload.is_replaced |= upload.slot == slot and upload.kept
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

    def _carry_all(self) -> None:
        carrier, uploads = self._carrier, self._to_carry
        with carrier:
            while True:
                upload = uploads.get()
                if upload is None:
                    self._look_for_losses(carrier)
                    continue
                try:
                    self._carry(carrier, upload)
                except Abandoned:
                    continue  # the task has ended; drain has said what is left
                except BlobError as error:
                    if upload.is_replaced:
                        # Its bytes went when the later ones came, in the middle of this: nobody asks for them.
                        self._finish(upload)
                    else:
                        self._fail(upload, str(error))
                except Exception as error:  # top of the thread
                    log.debug("an upload failed on something unforeseen", exc_info=error)
                    self._fail(upload, f"{type(error).__name__}: {error}")

    def _carry(self, carrier: Carrier, upload: Upload) -> None:
        blob, deposit = upload.blob, upload.deposit
        assert blob is not None
        if upload.is_replaced:
            self._forget(blob.sha256, upload.places)
            self._finish(upload)
            return
        goes_to_server = upload.target is None and any(sink.spool for sink, _ in upload.places)
        if goes_to_server:
            # The server takes bytes of tasks that it knows; and who reads the record finds them on their way.
            self._settle(SETTLE_TIMEOUT_S)
        stored = carrier.carry(upload)
        if upload.target is not None:
            deposit.tell(fields_of(stored, BlobState.STORED))
        if deposit.on_stored is not None:
            deposit.on_stored()
        upload.blob = stored
        if upload.target is not None:
            # The record must not name a blob that is gone from here.
            self._settle(SETTLE_TIMEOUT_S)
        # A session keeps its blobs; a spool only those that others still wait for.
        for sink, folder in upload.places:
            if sink.spool and upload.target is None:
                self._remove(self._taken.add(TakenFile(blob, upload.label, sink, folder)), besides=upload)
            elif upload.target is not None and not self._is_wanted(blob.sha256, besides=upload):
                folder.remove(blob.sha256)
        # Last: whoever waits for the uploads then removes the folder.
        self._finish(upload)

    def _look_for_losses(self, carrier: Carrier) -> None:
        """Ask which files the server has lost; send those again whose bytes are here, and note the others."""
        try:
            # What the record names of them has to be there first: it may be gone as well.
            self._settle(SETTLE_TIMEOUT_S)
            for sink in self._taken.sinks():
                lost = carrier.wanted(sink)
                for sha256, file in self._taken.of_sink(sink.name).items():
                    if sha256 in lost:
                        self._send_again(carrier, file)
        except Abandoned:
            log.debug("the task has ended before it was known which files the server has lost")
        except Exception as error:  # top of the thread
            log.warning("which files the server has lost could not be found out: %s", error)
            log.debug("how that came", exc_info=error)
        finally:
            with self._changed:
                self._losses -= 1
                self._changed.notify_all()

    def _send_again(self, carrier: Carrier, file: TakenFile) -> None:
        try:
            carrier.send(file.sink, file.folder, file.blob)
        except BlobError as error:
            log.debug("%s cannot be sent again: %s", file.label, error)
            self._taken.forget(file)
            self._failed.append((file.label, "the server has lost it since it took it, and its bytes are not here"))
            log.warning("the server has lost %s, which it had taken, and its bytes are not here any more", file.label)
        else:
            log.warning("the server has lost %s, which it had taken; it was sent again", file.label)

    def _remove(self, files: Iterable[TakenFile], besides: Upload | None = None) -> None:
        for file in files:
            if not self._is_wanted(file.blob.sha256, besides=besides):
                try:
                    file.folder.remove(file.blob.sha256)
                except BlobError as error:
                    log.debug("%s", error)

    def _is_wanted(self, sha256: str, besides: Upload | None = None) -> bool:
        """Say whether an upload that is not over needs a blob where it is."""
        with self._changed:
            blobs = [upload.blob for upload in self._open if not upload.is_replaced and upload is not besides]
        return any(blob is not None and blob.sha256 == sha256 for blob in blobs)

    # ---- both ------------------------------------------------------------------------------------

    def _fail(self, upload: Upload, why: str) -> None:
        log.warning("%s was not stored: %s", upload.label, why)
        try:
            upload.deposit.tell({"uri": "", "state": BlobState.FAILED, "error": why})
        except Exception as error:
            log.error("the record of a failed upload could not be written: %s: %s", type(error).__name__, error)
            log.debug("how that came", exc_info=error)
        self._failed.append((upload.label, why))
        self._finish(upload, why)

    def _finish(self, upload: Upload, error: str = "") -> None:
        with self._changed:
            self._open.pop(upload, None)
            upload.end(error)
            self._changed.notify_all()


def _is_there(upload: Upload) -> bool:
    """Say whether the bytes of an upload that waits are where they were put."""
    blob = upload.blob
    return blob is not None and any(folder.exists(blob.sha256) for _, folder in upload.places)


def _remove(source: Path) -> None:
    try:
        source.unlink()
    except OSError as error:
        log.warning("%s was stored but could not be deleted: %s", source, error)
