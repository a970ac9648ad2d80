"""The blobs of watched sessions: copied when the task's record names them and the store has not got them.

A blob is written before the frame that names it, so by then it is whole. Blocking: for the watcher's threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from telemetry.errors import BlobError, JournalError
from telemetry.journal import read_session
from telemetry.server.store import BlobRefused, BlobStore, NotFound, StoreUnavailable
from telemetry.sessions.sources import Session, open_blob, open_session
from telemetry.storage.blobs import BLOBS, Blob, BlobFolder

__all__ = ["BlobTaker"]

# What no record names yet is asked about again after this, and ever less often.
_RETRY_S = 2.0
_MAX_RETRY_S = 60.0
# A spool's blobs are on their way to a server; they are copied when that takes long, or has ended.
_SPOOL_CALM_S = 60.0


class BlobTaker:
    """Copies blobs into the store, each once.

    Args:
        say: told what cannot be taken, and why.
    """

    def __init__(self, blobs: BlobStore, say: Callable[[str], None]) -> None:
        self._blobs = blobs
        self._say = say
        self._done: dict[Path, set[str]] = {}
        self._retry: dict[Path, tuple[float, float]] = {}

    def take_folder(self, path: Path, *, spool: bool) -> str | None:
        """Copy what is new in a session folder; return the task's id if anything was.

        Raises:
            OSError: the folder cannot be read. JournalError: it is no session.
        """
        folder = BlobFolder(path / BLOBS)
        done = self._done.get(path, set())
        new = [blob for blob in folder.list() if blob.sha256 not in done]
        retry_at_s, wait_s = self._retry.get(path, (0.0, _RETRY_S))
        if not new or time.monotonic() < retry_at_s:
            return None
        if spool:
            new = [blob for blob in new if time.time() - folder.path(blob.sha256).stat().st_mtime > _SPOOL_CALM_S]
        taken, left = self._take_all(open_session(path), str(read_session(path).get("task_id")), new)
        self._done.setdefault(path, set()).update(blob.sha256 for blob in new if blob not in left)
        if left:
            self._retry[path] = (time.monotonic() + wait_s, min(_MAX_RETRY_S, 2 * wait_s))
        else:
            self._retry.pop(path, None)
        return taken

    def take_zip(self, session: Session) -> str | None:
        """Copy what a zip has, once its frames were taken; return the task's id if anything was."""
        return self._take_all(session, session.header.task_id, list(session.blobs))[0]

    def _take_all(self, session: Session, task_id: str, blobs: list[Blob]) -> tuple[str | None, list[Blob]]:
        """Return the task's id if any was copied, and those that are not wanted yet."""
        try:
            wanted = {ref.sha256 for ref in self._blobs.wanted(task_id)}
        except NotFound:
            return None, blobs
        left: list[Blob] = []
        taken: str | None = None
        for blob in blobs:
            if blob.sha256 not in wanted:
                if not self._blobs.holds(task_id, blob.sha256):
                    left.append(blob)
                continue
            try:
                self._take(session, task_id, blob)
                taken = task_id
            except (BlobError, BlobRefused, JournalError, NotFound) as error:
                # For good, as far as this file goes.
                self._say(f"{session.path}: the blob {blob.sha256} is not taken: {error}")
            except (OSError, StoreUnavailable) as error:
                left.append(blob)
                self._say(f"{session.path}: the blob {blob.sha256} cannot be taken: {error}; it is tried again")
        return taken, left

    def _take(self, session: Session, task_id: str, blob: Blob) -> None:
        if not self._blobs.may_send(task_id, blob.sha256, blob.size_bytes):
            return
        if self._blobs.share(task_id, blob.sha256, blob.size_bytes, None):
            return
        if not self._blobs.files.room_for(blob.size_bytes):
            raise StoreUnavailable("the disk has no room for it")
        parts = BlobFolder(self._blobs.files.parts)
        with open_blob(session.path, blob.sha256) as file:
            copy = parts.add_stream(file, str(session.path))
        if copy.sha256 != blob.sha256:
            parts.remove(copy.sha256)
            raise BlobError("it is damaged: its sha256 is another one")
        self._blobs.take(task_id, copy.sha256, copy.size_bytes, parts.path(copy.sha256))
