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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from telemetry.disk import DaemonExecutor
from telemetry.errors import FrameError, JournalError, TelemetryError
from telemetry.server.config import CONFIG, STORE
from telemetry.server.ingest import INGEST, BodyTooLarge, Ingest
from telemetry.server.watch_files import Block, Listing, Memory, Place, blocks_of, read_growth
from telemetry.sessions import is_foreign_zip, open_session
from telemetry.wire import Frame

__all__ = ["Watcher", "run_watch"]

_T = TypeVar("_T")

log = logging.getLogger("telemetry.server")

POLL_S = 1.0
# Of one session before the next has its turn: a run that moves now must not wait for ten gigabytes of an old one.
_TURN_BLOCKS = 4
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
    """

    def __init__(
        self,
        folders: Sequence[Path],
        ingest: Ingest,
        has_frame: Callable[[bytes, int], bool],
        memory_path: Path,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._ingest = ingest
        self._poll_s = poll_s
        self._memory = Memory(memory_path, has_frame)
        self._listing = Listing(folders, self._memory)
        # A folder on a dead file server holds its thread for ever, and neither the other nor the server's end.
        self._segment_disk = DaemonExecutor("telemetry-watch")
        self._zip_disk = DaemonExecutor("telemetry-watch-zips")
        self._said: set[str] = set()
        self._zips: list[Place] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            await self._call(self._segment_disk, self._memory.load)
            await asyncio.gather(self._watch_segments(), self._watch_zips())
        finally:
            self._segment_disk.shutdown(wait=False)
            self._zip_disk.shutdown(wait=False)
            # Here and not on the thread, which may hang: it is the last thing that this loop does.
            changes = self._memory.take_changes()
            if changes is not None:
                self._memory.write(changes)

    # -- sessions that grow

    async def _watch_segments(self) -> None:
        remembered_s = time.monotonic()
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
                await self._guard(place, self._take_segment(place))
                # Those that move now come first in each look, so look again before the old ones take long.
                if time.monotonic() - begun_s > self._poll_s:
                    break
            else:
                await asyncio.sleep(max(0.0, begun_s + self._poll_s - time.monotonic()))
            if time.monotonic() - remembered_s > _REMEMBER_S:
                remembered_s = time.monotonic()
                changes = self._memory.take_changes()
                if changes is not None:
                    await self._call(self._segment_disk, self._memory.write, changes)

    async def _take_segment(self, place: Place) -> None:
        for _ in range(_TURN_BLOCKS):
            growth = await self._call(self._segment_disk, read_growth, place, time.monotonic())
            if growth.frames and not await self._take(place.path, growth.frames):
                place.retry_at_s = time.monotonic() + _RETRY_S
                return
            place.advance(growth)
            self._memory.note(place)
            if growth.skipped:
                self._say_once(f"{place.path}: {growth.skipped}")
            if growth.ended:
                return

    # -- zips that appear

    async def _watch_zips(self) -> None:
        while True:
            zips, self._zips = self._zips, []
            for place in zips:
                # The listing goes on meanwhile and would name it again.
                place.busy = True
                try:
                    await self._guard(place, self._take_zip(place))
                finally:
                    place.busy = False
            await asyncio.sleep(self._poll_s)

    async def _take_zip(self, place: Place) -> None:
        signature = place.seen
        try:
            blocks = blocks_of(await self._call(self._zip_disk, open_session, place.path))
            while (block := await self._call(self._zip_disk, _next_block, blocks)) is not None:
                for damage in block.damage:
                    self._say_once(f"{place.path}: {damage}")
                if block.frames and not await self._take(place.path, block.frames):
                    place.retry_at_s = time.monotonic() + _RETRY_S
                    return
                place.note_last(block.frames)
        except JournalError as error:
            if not await self._call(self._zip_disk, place.path.exists):
                self._listing.forget(place)
                return
            if not await self._call(self._zip_disk, is_foreign_zip, place.path):
                self._say_once(f"{error}; it is tried again when it changes")
        place.taken = signature
        self._memory.note(place)

    # -- both

    async def _guard(self, place: Place, work: Coroutine[Any, Any, None]) -> None:
        """Await one piece of work. Whatever is wrong with one file, the others go on."""
        try:
            await work
        except FileNotFoundError:
            self._listing.forget(place)  # its run has ended, or somebody tidied up
        except OSError as error:
            place.retry_at_s = time.monotonic() + _RETRY_S
            self._say_once(f"{place.path} cannot be read: {error.strerror or error}; it is tried again")
        except Exception as error:
            place.retry_at_s = time.monotonic() + _PUZZLED_S
            log.error("%s could not be read; it is tried again in a minute", place.path, exc_info=error)

    async def _take(self, path: Path, frames: list[Frame]) -> bool:
        """Store frames; False if the server cannot take any now."""
        body = b"".join([frame.data for frame in frames])
        try:
            with self._ingest.admitted(len(body)):
                answers = await self._ingest.take(body)
        except BodyTooLarge as error:
            if len(frames) == 1:
                self._say_once(f"{path}: a frame is refused: {error}")
                return True
            half = len(frames) // 2
            return await self._take(path, frames[:half]) and await self._take(path, frames[half:])
        except FrameError as error:
            self._say_once(f"{path}: frames are refused: {error}")
            return True
        except TelemetryError as error:
            log.debug("%s waits: %s", path, error)  # busy, or the disk is full: the writer has said so itself
            return False
        for answer in answers:
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
    watcher = Watcher(config.watch, app[INGEST], app[STORE].has_frame, config.directory / MEMORY_FILE)
    task = asyncio.create_task(watcher.run())
    task.add_done_callback(_log_end)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("folders are not watched any more", exc_info=error)
