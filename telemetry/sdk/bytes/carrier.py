"""Carrier: blobs from a session folder to the server or a storage, tried again until they are there.

It lives on the uploads' own thread, with an event loop of its own: at exit the loops and pools of others are gone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from telemetry.errors import BlobError, ServerError
from telemetry.pipeline import loop_factory
from telemetry.process.terminal import ProgressLine, size_text
from telemetry.protocols import BlobClient, BlobSender, Sink, StoresBlobs
from telemetry.retry import Tries
from telemetry.sdk.bytes.deposit import Upload
from telemetry.settings import Settings
from telemetry.storage.blobs import Blob, BlobFolder, is_shortage, sha256_and_size
from telemetry.storage.target import Target

__all__ = ["Abandoned", "Carrier"]

log = logging.getLogger(__name__)

# A smaller upload is over before a bar would tell anybody anything.
BAR_BYTES = 64 * 1024 * 1024
# Statuses that say something about this blob; every other says something about the server, or about now.
_REFUSALS = frozenset({400, 413, 415})
# What arrives damaged is sent again this often; then something else is wrong.
DAMAGED_TRIES = 3


class Abandoned(Exception):
    """The task's end did not wait for this blob any longer."""


class Carrier:
    """Carries one blob at a time. `with` it on its thread; `close` and `abandon` come from any other.

    Args:
        stream: a terminal for progress bars; None, or anything else, gets none.
    """

    def __init__(self, task_id: str, settings: Settings, *, prefix: str = "", stream: TextIO | None = None) -> None:
        self._task_id = task_id
        self._settings = settings
        self._prefix = prefix
        self._stream = stream if stream is not None and _is_terminal(stream) else None
        self._hurry = threading.Event()
        self._deadline_s: float | None = None
        self._abandoned = False
        self.moved_at_s = time.monotonic()  # a byte arrived somewhere
        self._said: set[str] = set()
        self._runner: asyncio.Runner | None = None
        self._clients: dict[str, BlobSender] = {}

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.close()

    def close(self, deadline_s: float) -> None:
        """From now on give up at `deadline_s` (monotonic seconds)."""
        self._deadline_s = deadline_s
        self._hurry.set()

    def abandon(self) -> None:
        """Give up what is under way."""
        self._abandoned = True

    def carry(self, upload: Upload) -> Blob:
        """Return the blob of an upload at its final uri, when it is there.

        Raises:
            BlobError: it is refused for good.
            Abandoned: the task has ended meanwhile.
        """
        blob = upload.blob
        assert blob is not None, "it was read"
        bar = self._bar(blob)
        furthest_bytes = 0

        def on_progress(done_bytes: int) -> None:
            nonlocal furthest_bytes
            # A try that begins where the last one ended has moved nothing.
            if done_bytes > furthest_bytes:
                furthest_bytes, self.moved_at_s = done_bytes, time.monotonic()
            if self._abandoned:
                raise Abandoned
            if bar is not None:
                bar.show(done_bytes, f"{size_text(done_bytes)} of {size_text(blob.size_bytes)}  {upload.label}")

        try:
            if upload.target is not None:
                file = upload.places[0][1].path(blob.sha256)
                return blob.at(self._put(upload.target, upload.deposit.path, file, on_progress))
            for sink, folder in upload.places:
                if sink.spool:
                    self._send(sink, folder, blob, on_progress)
            return blob
        finally:
            if bar is not None:
                bar.close()

    def send(self, sink: Sink, folder: BlobFolder, blob: Blob) -> None:
        """Send a blob that lies in a folder to a sink's server.

        Raises:
            BlobError, Abandoned: as `carry` does.
        """

        def on_progress(done_bytes: int) -> None:
            if self._abandoned:
                raise Abandoned

        self._send(sink, folder, blob, on_progress)

    def wanted(self, sink: Sink) -> set[str]:
        """Return the sha256 of what the task's record names and the sink's server has not; empty if it cannot say.

        Raises:
            Abandoned: the task has ended meanwhile.
        """
        client = self._client(sink)
        if not isinstance(client, BlobClient):
            return set()
        assert self._runner is not None
        tries = Tries()
        while True:
            try:
                return {blob.sha256 for blob in self._runner.run(client.wanted_blobs(self._task_id))}
            except ServerError as error:
                self._wait_to_retry(tries, str(error), error.retry_after_s)

    def _client(self, sink: Sink) -> BlobSender | None:
        if not isinstance(sink, StoresBlobs):
            return None
        if sink.name not in self._clients:
            self._clients[sink.name] = sink.blob_client()
        return self._clients[sink.name]

    def _bar(self, blob: Blob) -> ProgressLine | None:
        if self._stream is None or blob.size_bytes < BAR_BYTES:
            return None
        return ProgressLine(blob.size_bytes, self._stream)

    def _put(self, target: Target, path: str, file: Path, on_progress: Any) -> str:
        path = "/".join(part for part in (self._prefix, path) if part)
        tries = Tries()
        while True:
            try:
                return target.put(path, file, on_progress)
            except BlobError as error:
                self._wait_to_retry(tries, str(error), None)

    def _send(self, sink: Sink, folder: BlobFolder, blob: Blob, on_progress: Any) -> None:
        client = self._client(sink)
        if client is None:
            raise BlobError(f"the sink {sink.name} carries events only, no bytes; they are kept in {folder.folder}")
        assert self._runner is not None
        tries, damaged = Tries(), 0
        while True:
            try:
                opened = folder.open(blob.sha256)
            except BlobError as error:
                if not is_shortage(error):
                    raise
                self._wait_to_retry(tries, str(error), None)
                continue
            with opened as file:
                try:
                    self._runner.run(client.send_blob(self._task_id, blob.sha256, file, blob.size_bytes, on_progress))
                    return
                except ServerError as error:
                    if error.status in _REFUSALS:
                        raise BlobError(f"{error}. The bytes are kept in {folder.folder}") from error
                    damaged += error.status == 422
                    if damaged:
                        _check(folder, blob)
                    if damaged >= DAMAGED_TRIES:
                        raise BlobError(f"{error}, {damaged} times. The bytes are kept in {folder.folder}") from error
                    self._wait_to_retry(tries, str(error), error.retry_after_s)

    def _wait_to_retry(self, tries: Tries, why: str, retry_after_s: float | None) -> None:
        """Wait as the lanes do; at the task's end only as long as it has time.

        Raises:
            Abandoned: it has none.
        """
        if not tries.failures and why not in self._said:
            # Once for each trouble, not for each file of a task.
            self._said.add(why)
            log.warning("uploads wait: %s. They are tried again", why.rstrip("."))
        # Closing begins in the middle of a long wait: then there is one more try at once.
        tries.deadline_s = self._deadline_s
        wait_s = tries.next_wait_s(retry_after_s)
        if wait_s is None or self._abandoned:
            raise Abandoned
        if tries.deadline_s is None:
            self._hurry.wait(wait_s)
        else:
            time.sleep(min(wait_s, 1.0))


def _check(folder: BlobFolder, blob: Blob) -> None:
    """Raise BlobError if the blob is not any more what it was."""
    with folder.open(blob.sha256) as file:
        found = sha256_and_size(file)
    if found != (blob.sha256, blob.size_bytes):
        raise BlobError(f"the blob {blob.sha256} in {folder.folder} is damaged on this machine's disk")


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False  # a tee of the program's own that has no such method, or closed
