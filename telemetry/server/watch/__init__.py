"""Watching folders: the sessions in them are shown as they grow, and taken once though read often.

A folder is looked at once a second. What costs is a directory listing and a stat for each session that moved
lately; an idle one is looked at less and less, every ten seconds at the least. Nothing else is asked of the file
system (no inotify, no lock), so NFS will do, and nothing is written, moved or removed. What is read goes the way of
all frames, so that a frame that also comes by HTTP, from a zip, or was read before a restart changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from telemetry.disk import DaemonExecutor
from telemetry.errors import FrameError, JournalError, TelemetryError
from telemetry.server.config import CONFIG, STORE
from telemetry.server.ingest import INGEST, BodyTooLarge, Ingest
from telemetry.server.shared.bus import BUS
from telemetry.server.store import BlobStore, TaskChange
from telemetry.server.watch.blobs import BlobTaker
from telemetry.server.watch.files import Block, Growth, Listing, Memory, Place, blocks_of, read_some
from telemetry.sessions.sources import is_foreign_zip, open_session
from telemetry.wire import Frame

__all__ = ["Watcher", "run_watch"]

_T = TypeVar("_T")

log = logging.getLogger("telemetry.server")

POLL_S = 1.0
# After a folder, the store or the writer said no.
_RETRY_S = 5.0
# After something unforeseen, which will most likely be the same again.
_PUZZLED_S = 60.0
# What is remembered for the next start; losing it costs reading everything again.
_REMEMBER_S = 10.0
MEMORY_FILE = "watch.json"


class Watcher:
    """Reads what appears in some folders, for as long as `run` runs.

    Args:
        folders: each is a session, or holds sessions and session zips at most two levels down. They need not be
            there yet.
        has_frame: says whether the store has a frame; so a memory that is newer than the store does no harm.
        memory_path: where the offsets are remembered.
        blobs: where to copy the sessions' blobs; None leaves them.
        on_blobs: called on the loop with the id of a task whose blobs have come.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        ingest: Ingest,
        has_frame: Callable[[bytes, int], bool],
        memory_path: Path,
        *,
        blobs: BlobStore | None = None,
        on_blobs: Callable[[str], None] = lambda task_id: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._ingest = ingest
        self._poll_s = poll_s
        self._memory = Memory(memory_path, has_frame)
        self._listing = Listing(folders, self._memory)
        # A folder on a dead file server holds its thread for ever, and neither the other nor the server's end.
        self._segment_disk = DaemonExecutor("telemetry-watch")
        self._zip_disk = DaemonExecutor("telemetry-watch-zips")
        self._blob_disk = DaemonExecutor("telemetry-watch-blobs")
        self._taker = None if blobs is None else BlobTaker(blobs, self._say_once)
        self._on_blobs = on_blobs
        self._said: set[str] = set()
        self._zips: list[Place] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            await self._call(self._segment_disk, self._memory.load)
            await asyncio.gather(self._watch_segments(), self._watch_zips(), self._watch_blobs())
        finally:
            self._segment_disk.shutdown(wait=False)
            self._zip_disk.shutdown(wait=False)
            self._blob_disk.shutdown(wait=False)
            # Here and not on the thread, which may hang: it is the last thing that this loop does.
            changes = self._memory.take_changes()
            if changes is not None:
                self._memory.write(changes)

    # -- sessions that grow

    async def _watch_segments(self) -> None:
        remembered_s = time.monotonic()
        pending: dict[Path, Place] = {}
        while True:
            begun_s = time.monotonic()
            try:
                found = await self._call(self._segment_disk, self._listing.look)
            except Exception as error:
                log.error("the watched folders could not be listed; they are tried again", exc_info=error)
                await asyncio.sleep(_RETRY_S)
                continue
            for path, refusal in found.errors:
                self._say_once(f"{path} cannot be watched: {refusal}; it is tried again")
            self._zips = found.zips
            for place in found.segments:
                pending[place.path] = place
            # Those that move now come first, and old ones must not keep them waiting: look again in between.
            while pending and time.monotonic() - begun_s < self._poll_s:
                await self._take_segments(pending)
            if not pending:
                await asyncio.sleep(max(0.0, begun_s + self._poll_s - time.monotonic()))
            if time.monotonic() - remembered_s > _REMEMBER_S:
                remembered_s = time.monotonic()
                changes = self._memory.take_changes()
                if changes is not None:
                    await self._call(self._segment_disk, self._memory.write, changes)

    async def _take_segments(self, pending: dict[Path, Place]) -> None:
        """Take a body of frames from the segments that moved last; what was read to its end leaves `pending`."""
        latest = sorted(pending.values(), key=lambda place: place.seen[1], reverse=True)
        read = await self._call(self._segment_disk, read_some, latest, time.monotonic())
        frames = [
            (place.path, frame) for place, growth in read if isinstance(growth, Growth) for frame in growth.frames
        ]
        taken = not frames or await self._take(frames)
        for place, growth in read:
            if not isinstance(growth, Growth):
                self._note_trouble(place, growth)
            elif growth.frames and not taken:
                place.retry_at_s = time.monotonic() + _RETRY_S
            else:
                place.advance(growth)
                self._memory.note(place)
                if growth.skipped:
                    self._say_once(f"{place.path}: {growth.skipped}")
                if not growth.ended:
                    continue
            # What is left out now is found again by a later look.
            del pending[place.path]

    # -- zips that appear

    async def _watch_zips(self) -> None:
        while True:
            zips, self._zips = self._zips, []
            for place in zips:
                # The listing goes on meanwhile and would name it again.
                place.busy = True
                try:
                    await self._take_zip(place)
                except Exception as error:  # noqa: BLE001  somebody else's file: whatever it does, the others go on
                    self._note_trouble(place, error)
                finally:
                    place.busy = False
            await asyncio.sleep(self._poll_s)

    async def _take_zip(self, place: Place) -> None:
        signature = place.seen
        try:
            session = await self._call(self._zip_disk, open_session, place.path)
            blocks = blocks_of(session)
            while (block := await self._call(self._zip_disk, _next_block, blocks)) is not None:
                for damage in block.damage:
                    self._say_once(f"{place.path}: {damage}")
                if block.frames and not await self._take([(place.path, frame) for frame in block.frames]):
                    place.retry_at_s = time.monotonic() + _RETRY_S
                    return
                place.note_last(block.frames)
            if self._taker is not None and session.blobs:
                self._note_blobs(await self._call(self._blob_disk, self._taker.take_zip, session))
        except JournalError as error:
            if not await self._call(self._zip_disk, place.path.exists):
                self._listing.forget(place)
                return
            if not await self._call(self._zip_disk, is_foreign_zip, place.path):
                self._say_once(f"{error}; it is tried again when it changes")
        place.taken = signature
        self._memory.note(place)

    # -- blobs

    async def _watch_blobs(self) -> None:
        taker = self._taker
        since_s = 0.0
        while taker is not None:
            begun_s = time.monotonic()
            for path, spool in self._listing.sessions(since_s):
                try:
                    self._note_blobs(await self._call(self._blob_disk, partial(taker.take_folder, path, spool=spool)))
                except FileNotFoundError:
                    continue  # its run has ended in this moment
                except (OSError, JournalError) as error:
                    self._say_once(f"the blobs of {path} cannot be read: {error}")
                except Exception as error:
                    log.error("the blobs of %s could not be taken", path, exc_info=error)
                    await asyncio.sleep(_PUZZLED_S)
            since_s = begun_s
            await asyncio.sleep(self._poll_s)

    def _note_blobs(self, task_id: str | None) -> None:
        if task_id is not None:
            self._on_blobs(task_id)

    # -- both

    def _note_trouble(self, place: Place, error: Exception) -> None:
        """Whatever is wrong with one file, the others go on."""
        if isinstance(error, FileNotFoundError):
            self._listing.forget(place)  # its run has ended, or somebody tidied up
        elif isinstance(error, OSError):
            place.retry_at_s = time.monotonic() + _RETRY_S
            self._say_once(f"{place.path} cannot be read: {error.strerror or error}; it is tried again")
        else:
            place.retry_at_s = time.monotonic() + _PUZZLED_S
            log.error("%s could not be read; it is tried again in a minute", place.path, exc_info=error)

    async def _take(self, frames: list[tuple[Path, Frame]]) -> bool:
        """Store frames, each with where it comes from; False if the server cannot take any now."""
        body = b"".join([frame.data for _, frame in frames])
        try:
            with self._ingest.admitted(len(body)):
                answers = await self._ingest.take(body)
        except (BodyTooLarge, FrameError) as error:
            if len(frames) == 1:
                self._say_once(f"{frames[0][0]}: a frame is refused: {error}")
                return True
            half = len(frames) // 2
            return await self._take(frames[:half]) and await self._take(frames[half:])
        except TelemetryError as error:
            log.debug("%d frames wait: %s", len(frames), error)  # busy, or a full disk: the writer says so itself
            return False
        for (path, _), answer in zip(frames, answers, strict=True):
            if answer["result"] == "rejected":
                self._say_once(f"{path}: a frame is refused: {answer['reason']}")
        return True

    def _say_once(self, message: str) -> None:
        if message not in self._said and len(self._said) < 1000:
            self._said.add(message)
            log.warning("%s", message)

    async def _call(self, executor: Executor, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def _next_block(blocks: Iterator[Block]) -> Block | None:
    return next(blocks, None)


async def run_watch(app: web.Application) -> AsyncIterator[None]:
    """Watch the configured folders for the application's life (a cleanup context)."""
    config = app[CONFIG]
    if not config.watch:
        yield
        return
    watcher = Watcher(
        config.watch,
        app[INGEST],
        app[STORE].has_frame,
        config.directory / MEMORY_FILE,
        blobs=app[STORE].blobs,
        on_blobs=lambda task_id: app[BUS].publish({task_id: TaskChange()}),
    )
    task = asyncio.create_task(watcher.run())
    task.add_done_callback(_log_end)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("folders are not watched any more", exc_info=error)
