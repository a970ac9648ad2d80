"""What earlier runs left in the spool: the next run that has their server sends it, beside its own events.

A run is taken for ended when nothing has been written to its session folder for a while. To be wrong in this costs a
request and no more: the server knows each frame, and a folder is only removed a day after its last frame.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.errors import JournalError
from telemetry.journal import QUARANTINE, SEGMENTS, SESSION_FILE, read_session, server_mark
from telemetry.process import lazy
from telemetry.process.threads import start_daemon
from telemetry.storage.blobs import BLOBS, BlobFolder

if TYPE_CHECKING:
    from telemetry.protocols import ForwardsFrames

__all__ = ["Leftovers"]

log = logging.getLogger(__name__)

# A run that lives writes a heartbeat each 15 s, and is called lost after 75.
QUIET_S = 90.0
LOOK_AGAIN_S = 60.0
KEEP_S = 24 * 3600.0
# How long one request may be refused before this is put off to the next look.
REQUEST_PATIENCE_S = 30.0
# Names and sizes of what was sent, a file for each folder, so that it is not sent by every run from now on.
SENT = ".sent"


class Leftovers:
    """Looks into the spool now and then, on a thread of its own, and sends what ended runs left for this server.

    Args:
        spool: the folder of session folders.
        sink: of this run; each connection is made by a clone of it.
        own_folder: returns this run's own session folder, once there is one.
    """

    def __init__(self, spool: Path, sink: ForwardsFrames, own_folder: Callable[[], Path | None]) -> None:
        self._spool = spool
        self._sink = sink
        self._own_folder = own_folder
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._sending: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        start_daemon(self._run, "telemetry-leftovers")  # without one they are left to the next run

    def stop(self) -> None:
        """Send nothing more; what is not sent stays for the next run. Waits for nothing."""
        self._stopped.set()
        with self._lock:
            if self._sending is not None:
                loop, task = self._sending
                loop.call_soon_threadsafe(task.cancel)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception as error:  # top of the thread: what earlier runs left must not harm this one
                why = f"{type(error).__name__}: {error}"
                log.error("what earlier runs left in %s could not be sent: %s", self._spool, why)
                log.debug("how that came", exc_info=error)
                return
            self._stopped.wait(LOOK_AGAIN_S)

    def look(self) -> None:
        """Send what there is now; on this thread."""
        mark = server_mark(self._sink.url)
        try:
            folders = sorted(path.parent for path in self._spool.glob(f"*/{SESSION_FILE}"))
        except OSError:
            return  # it may not be looked into: `telemetry sync` says so
        own = self._own_folder()
        for folder in folders:
            if self._stopped.is_set():
                return
            try:
                if folder != own and read_session(folder).get("server") == mark and not self._take(folder):
                    return
            except (OSError, JournalError) as error:
                log.debug("%s is left alone: %s", folder, error)

    def _take(self, folder: Path) -> bool:
        """Send one folder, or remove it if that was done a day ago; False if the server cannot be reached."""
        sizes, written_at = _segments(folder)
        quiet_s = time.time() - written_at
        if not sizes or quiet_s < QUIET_S:
            return True
        note = self._spool / SENT / f"{folder.name}.json"
        sent = _read(note)
        # What was sent to another store than the one that is there now is to be sent to it, too.
        store_id = self._sink.store_id
        if not isinstance(sent, dict) or sent.get("sizes") != sizes or sent.get("store") != store_id:
            report = self._send(folder)
            if report is None or report.stopped_by is not None:
                return False
            if report.complete:
                log.info("what an earlier run left in %s has been sent", folder)
            else:
                log.warning("what an earlier run left in %s could not all be sent; `telemetry sync` says why", folder)
            for loss in (loss for outcome in report.outcomes for loss in outcome.losses()):
                log.warning("of what an earlier run left in %s %s", folder, loss)
            note.parent.mkdir(mode=0o700, exist_ok=True)
            # Blobs that were sent are there no more.
            note.write_text(json.dumps({"sizes": _segments(folder)[0], "store": store_id}), "utf-8")
        elif quiet_s > KEEP_S and {entry.name for entry in folder.iterdir()} == {SEGMENTS, SESSION_FILE}:
            shutil.rmtree(folder)
            note.unlink()
        return True

    def _send(self, folder: Path) -> Any:
        """Return the import's report; None if it was stopped."""
        importing = lazy.import_module("telemetry.sessions.importing")
        sessions = lazy.import_module("telemetry.sessions.sources")
        source = sessions.SessionSource(folder, sum(_segments(folder)[0].values()), named=True)

        async def send() -> Any:
            task = asyncio.ensure_future(
                importing.import_sources([source], self._sink.clone, timeout_s=REQUEST_PATIENCE_S)
            )
            with self._lock:
                self._sending = (asyncio.get_running_loop(), task)
            if self._stopped.is_set():
                task.cancel()
            try:
                return await task
            finally:
                with self._lock:
                    self._sending = None

        try:
            return asyncio.run(send())
        except asyncio.CancelledError:
            return None


def _segments(folder: Path) -> tuple[dict[str, int], float]:
    """Return the size of each file of frames, those refused once included, and each blob; and when the last was
    written (Unix s)."""
    blobs = [BlobFolder(folder / BLOBS).path(blob.sha256) for blob in BlobFolder(folder / BLOBS).list()]
    files = [*(folder / SEGMENTS).glob("*.frames"), *(folder / QUARANTINE).glob("*.frame"), *blobs]
    found = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: stat.st_size for name, stat in sorted(found.items())}, max(
        (stat.st_mtime for stat in found.values()), default=0.0
    )


def _read(note: Path) -> Any:
    try:
        return json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return None
