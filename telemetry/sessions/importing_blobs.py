"""The second half of an import: the blobs of the sources, after all of their frames.

The frames name them, and a blob may lie in another part of a run's zips than the frame that names it; so the frames of
all sources go first, then every blob that the server has not, and then it is asked what it still misses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.errors import BlobError, JournalError, ServerError, SinkUnavailable
from telemetry.journal import SEGMENTS, SESSION_FILE
from telemetry.retry import until
from telemetry.sessions.importing_report import ImportOutcome
from telemetry.sessions.sources import Session, open_blob
from telemetry.storage.blobs import BLOBS, Blob, BlobFolder, sha256_and_size

if TYPE_CHECKING:
    from telemetry.protocols import BlobClient

__all__ = ["BlobImport"]

# Refusals that say something about this blob; every other says something about the server, or about now.
_REFUSALS = frozenset({400, 403, 404, 410, 413})

# Called with the outcome, and the bytes of it that are done since the last call.
OnBytes = Callable[[ImportOutcome, int], None]


class BlobImport:
    """Carries the blobs of an import, one at a time: a single one fills the line.

    Args:
        timeout_s: how long one request may be refused before giving up.
    """

    def __init__(self, client: BlobClient, *, timeout_s: float, on_bytes: OnBytes) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._on_bytes = on_bytes

    async def run(self, outcomes: Sequence[ImportOutcome]) -> None:
        """Send what the server has not, and note in the outcomes what it could not be sent.

        Raises:
            SinkUnavailable: the server does not answer any more.
        """
        for outcome in outcomes:
            if outcome.session is not None and not outcome.error:
                for blob in outcome.session.blobs:
                    await self._carry(outcome, outcome.session, blob)
        by_task: dict[str, list[ImportOutcome]] = {}
        for outcome in outcomes:
            if outcome.session is not None and outcome.task_id:
                by_task.setdefault(outcome.task_id, []).append(outcome)
        for task_id, of_task in by_task.items():
            await self._note_missing(task_id, of_task)

    async def _carry(self, outcome: ImportOutcome, session: Session, blob: Blob) -> None:
        done_bytes = 0

        def on_progress(there_bytes: int) -> None:
            nonlocal done_bytes
            if there_bytes > done_bytes:
                self._on_bytes(outcome, there_bytes - done_bytes)
                done_bytes = there_bytes

        damaged = await self._send(outcome, session, blob, on_progress)
        if damaged:
            outcome.damaged_blobs[blob.sha256] = damaged
        on_progress(blob.size_bytes)

    async def _send(
        self, outcome: ImportOutcome, session: Session, blob: Blob, on_progress: Callable[[int], None]
    ) -> str:
        """Return why a blob cannot be sent, "" if it is there."""
        tries = until(self._timeout_s)
        while True:
            try:
                with open_blob(session.path, blob.sha256) as file:
                    await self._client.send_blob(outcome.task_id, blob.sha256, file, blob.size_bytes, on_progress)
            except ServerError as error:
                if error.status in _REFUSALS:
                    return str(error)
                if error.status == 422 and not await asyncio.to_thread(_is_sound, session, blob):
                    return "it is damaged: its sha256 is another one"
                if not await tries.pause(error.retry_after_s):
                    raise SinkUnavailable(str(error)) from error
            except (BlobError, JournalError, OSError) as error:
                # A spool's is removed by its own run once it is sent.
                there = await self._is_there(outcome.task_id, blob.sha256)
                return "" if there else f"it cannot be read: {error!s:.200}"
            else:
                outcome.blobs += 1
                _remove_from_spool(session.path, blob.sha256)
                return ""

    async def _is_there(self, task_id: str, sha256: str) -> bool:
        try:
            return (await self._client.blob_status(task_id, sha256)).complete
        except ServerError:
            return False

    async def _note_missing(self, task_id: str, outcomes: Iterable[ImportOutcome]) -> None:
        outcomes = list(outcomes)
        damaged = {sha256: why for outcome in outcomes for sha256, why in outcome.damaged_blobs.items()}
        try:
            wanted = await self._client.wanted_blobs(task_id)
        except ServerError as error:
            if any(outcome.session is not None and outcome.session.blobs for outcome in outcomes):
                outcomes[-1].lost_blobs.append(f"which blobs are missing could not be asked: {error}")
            return
        for item in wanted:
            size = f"{item.size_bytes:,} bytes, sha256 {item.sha256}"
            why = damaged.pop(item.sha256, "") or "its bytes are in none of what was sent"
            outcomes[-1].lost_blobs.append(f"{item.label} ({size}): {why}")
        # What no record names, but was in a source and could not be read.
        outcomes[-1].lost_blobs += [f"blob {sha256}: {why}" for sha256, why in damaged.items()]


def _is_sound(session: Session, blob: Blob) -> bool:
    try:
        with open_blob(session.path, blob.sha256) as file:
            return sha256_and_size(file) == (blob.sha256, blob.size_bytes)
    except (JournalError, OSError):
        return False


def _remove_from_spool(path: Path, sha256: str) -> None:
    """What the server has need not lie in a spool any more; any other source is left as it is."""
    if path.parent.name != "spool" or not path.is_dir():
        return
    try:
        BlobFolder(path / BLOBS).remove(sha256)
        if not (path / BLOBS).exists() and not (path / SEGMENTS).exists() and len(list(path.iterdir())) == 1:
            # Its frames went before, and session.json stayed for the blobs alone.
            (path / SESSION_FILE).unlink(missing_ok=True)
            path.rmdir()
    except (OSError, BlobError):
        return  # somebody else is at it, or may not remove it: it is sent all the same
