"""The journal: frames appended to segments on disk, and the session folder that holds them.

    <folder>/session.json                         whose frames these are
    <folder>/segments/<writer>-000001.frames      frames, one after another; rolled by size
    <folder>/quarantine/<writer>-<sequence>.frame refused frames, each with a .reason.txt

Only append, rename and fsync are needed: no locks, no mmap, so that NFS and Lustre will do. Each writer has
segments of its own, so processes never share a file. A reader skips damage by the frame's magic number
and says what it skipped.

The Journal class runs on the pipeline's loop and does its file calls on the disk thread; the reading
functions below it are plain and synchronous, for importers.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.os

from telemetry.disk import make_private_folder
from telemetry.errors import JournalError
from telemetry.events import TaskHeader
from telemetry.sessions.segments import (
    Segment,
    frames_from,
    frames_of,
    holds,
    is_taken_away,
    open_private,
    path_of,
    scan_file,
)
from telemetry.storage.blobs import BLOBS
from telemetry.wire import Damage, Frame

__all__ = [
    "SESSION_FILE",
    "Journal",
    "SegmentDamage",
    "read_segments",
    "read_session",
    "remove_if_empty",
    "server_mark",
]

log = logging.getLogger(__name__)

SESSION_FILE = "session.json"
SESSION_FORMAT = 1
# Names of at most a thousand characters; a folder from elsewhere may hold anything.
MAX_SESSION_BYTES = 1024 * 1024
SEGMENTS = "segments"
QUARANTINE = "quarantine"

_fsync = aiofiles.os.wrap(os.fsync)

# A folder that could not be made is not tried again sooner: each try is several calls, and the disk may be slow.
OPEN_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class SegmentDamage:
    """What a reader skipped, and where."""

    path: str
    damage: Damage

    def __str__(self) -> str:
        return f"{self.path}: {self.damage.length} bytes at {self.damage.offset} skipped: {self.damage.reason}"


class Journal:
    """Appends one writer's frames; reads them back in order; forgets what was delivered.

    Args:
        folder: the session folder; made at open, 0700.
        executor: the disk thread.
        segment_bytes: a segment at least this large is closed and the next begun.
        fsync_interval_s: an appended frame is on disk at most this much later.
        commit: fsync each append before it returns.
        max_bytes: what the segments may take together; beyond it an append fails as on a full disk.
        server: the address of the server that the frames are for; "" if they are for none.
        keep_bytes: of delivered frames at least so many stay until the end, where `max_bytes` leaves room: a server may
            lose what it has.
    """

    def __init__(
        self,
        folder: Path,
        executor: Executor,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        fsync_interval_s: float = 1.0,
        commit: bool = False,
        max_bytes: int | None = None,
        server: str = "",
        keep_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self._server = server
        self._keep_bytes = keep_bytes
        self._commit = commit
        self._max_bytes = max_bytes
        self._executor = executor
        self._segment_bytes = segment_bytes
        self._fsync_interval_s = fsync_interval_s
        self._segments: list[Segment] = []
        self._file: Any = None
        self._task: TaskHeader | None = None
        self._open_error: OSError | None = None
        self._open_tried_at = 0.0
        self._writer_hex = ""
        self._next_index = 1
        self._delivered = -1
        self._sync_task: asyncio.Task[None] | None = None
        self._synced_at = 0.0
        self._cursor: tuple[Path, int, int] | None = None  # segment, offset of a frame, its sequence
        self.error: OSError | None = None
        # One at a time: appending, and making anew what was taken away.
        self._lock = asyncio.Lock()
        self._taken_away = False
        self._made_anew_at = 0.0
        # Return the frames that memory holds as well; and be told of those that are lost: events by sequence number.
        self.copies: Callable[[], Sequence[Frame]] = lambda: ()
        self.on_lost: Callable[[Mapping[int, int]], None] = lambda lost: None

    async def open(self, task: TaskHeader) -> None:
        """Make the folder and the first segment.

        Raises:
            JournalError: the folder cannot be made or written. Each append tries again, once a second at most.
        """
        self._task, self._writer_hex = task, task.writer_id.hex()
        try:
            await self._open(task)
        except OSError as error:
            raise JournalError(f"no journal can be written in {self.folder}: {error}") from error

    @property
    def opened(self) -> bool:
        return self._task is not None and self._open_error is None

    async def _open(self, task: TaskHeader) -> None:
        self._open_tried_at = time.monotonic()
        try:
            await self._call(_make_session, self.folder, task, self._server)
            await self._roll()
        except OSError as error:
            self._open_error = error
            raise
        self._open_error = None

    async def append(self, frames: Sequence[Frame]) -> None:
        """Append frames; when it returns they survive this process, and within a second this machine.

        Raises:
            OSError: the disk is full or gone, the folder could not be made yet, or `max_bytes` is reached. What
                was half written is skipped by every reader.
        """
        if self._max_bytes is not None and self.size + sum(map(len, frames)) > self._max_bytes:
            await self._remove_delivered(0)
        if self._max_bytes is not None and self.size + sum(map(len, frames)) > self._max_bytes:
            raise OSError(errno.EDQUOT, f"the journal has reached its {self._max_bytes:,} bytes (max_journal_bytes)")
        async with self._lock:
            await self._append(frames)
        if self._commit:
            await self.sync()
        else:
            self._schedule_sync()

    async def _append(self, frames: Sequence[Frame]) -> None:
        if self._open_error is not None and self._task is not None:
            if time.monotonic() - self._open_tried_at < OPEN_RETRY_S:
                raise self._open_error.with_traceback(None)
            await self._open(self._task)
        if self._taken_away:
            await self._make_anew()
        if self._file is not None and self._segments[-1].size >= self._segment_bytes:
            # While it is open: of a closed file that was deleted nothing can be had.
            await self._look()
        if self._file is None or self._segments[-1].size >= self._segment_bytes:
            await self._roll()
        segment = self._segments[-1]
        data = frames[0].data if len(frames) == 1 else b"".join([frame.data for frame in frames])
        view = memoryview(data)
        try:
            while view:
                # An unbuffered write may stop short, on a full disk above all.
                written = await self._file.write(view)
                segment.size += written
                view = view[written:]
        except OSError:
            # Nothing more goes behind a half frame. Where nothing was written the segment is still good, or a
            # full disk would collect an empty file for each try.
            if len(view) < len(data):
                await self._close_file()
            raise
        segment.note(frames)

    @property
    def size(self) -> int:
        """Bytes in the segments that are still kept."""
        return sum(segment.size for segment in self._segments)

    async def sync(self) -> None:
        """Return when everything appended so far is on stable storage, in a file that is there."""
        if self._sync_task is not None:
            self._sync_task.cancel()
            self._sync_task = None
        await self._sync_file()
        async with self._lock:
            await self._look()

    async def _sync_file(self) -> None:
        if self._file is not None:
            await _fsync(self._file.fileno(), executor=self._executor)
            self._synced_at = time.monotonic()

    async def read_after(self, sequence: int, max_bytes: int) -> list[Frame]:
        """Return frames with a greater sequence number, oldest first, until `max_bytes` are passed."""
        frames: list[Frame] = await self._call(
            self._read_after, sequence, max_bytes, [item.path for item in self._segments]
        )
        return frames

    async def forget(self, sequence: int) -> None:
        """Everything up to `sequence` was delivered: segments that hold nothing newer are removed, but for the last."""
        self._delivered = max(self._delivered, sequence)
        await self._remove_delivered(self._keep_bytes)

    def owe_again(self, sequence: int) -> None:
        """The far side has lost this frame, and may have lost those after it: none of them may be forgotten."""
        self._delivered = min(self._delivered, sequence - 1)

    async def _remove_delivered(self, keep_bytes: int) -> None:
        while len(self._segments) > 1 and self._segments[0].last_sequence <= self._delivered:
            if self.size - self._segments[0].size < keep_bytes:
                break
            segment = self._segments.pop(0)
            try:
                await aiofiles.os.unlink(segment.path, executor=self._executor)
            except OSError as error:
                # Somebody else removed it, or may not be removed: a delivered segment is no reason to stop.
                log.debug("the delivered segment %s could not be removed: %s", segment.path, error)

    @property
    def full_segments(self) -> list[Path]:
        """Segments of this writer, oldest first, to which nothing will be appended any more."""
        return [segment.path for segment in self._segments[: None if self._file is None else -1]]

    async def give_away(self, paths: Collection[Path]) -> None:
        """Remove full segments whose frames somebody else has taken over."""
        await self._call(_unlink_all, paths)
        self._segments = [segment for segment in self._segments if segment.path not in paths]

    async def quarantine(self, frame: Frame, reason: str) -> Path:
        """Keep a frame that the far side refused, with its reason beside it."""
        folder = self.folder / QUARANTINE
        path = folder / f"{frame.writer_id.hex()}-{frame.sequence:08d}.frame"

        def write() -> None:
            folder.mkdir(mode=0o700, exist_ok=True)
            _write_private(path, frame.data)
            _write_private(path.with_suffix(".reason.txt"), f"{reason}\n".encode("utf-8", "backslashreplace"))

        await self._call(write)
        return path

    async def close(self, *, remove_if_delivered: bool = False) -> None:
        """Sync and close. With `remove_if_delivered`, this writer's segments go if nothing in them is owed."""
        self._made_anew_at = 0.0
        try:
            await self.sync()
        finally:
            await self._close_file()
            await self._count_what_is_there()
        owed = any(segment.last_sequence > self._delivered for segment in self._segments)
        if owed and self._task is not None:
            # A segment without it is found by no importer.
            await self._call(_make_session, self.folder, self._task, self._server)
        if remove_if_delivered and not owed:
            await self._call(_remove_session, self.folder, [segment.path for segment in self._segments])
            self._segments.clear()

    # ---- inside ----------------------------------------------------------------------------------

    async def _call(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    async def _roll(self) -> None:
        if self._file is not None:
            await self._sync_file()
            await self._close_file()
        path = self.folder / SEGMENTS / f"{self._writer_hex}-{self._next_index:06d}.frames"
        try:
            file = await self._open_file(path)
        except FileNotFoundError:
            # The folder was taken away. What it held is counted at the next look, the frames to come have a place.
            if self._task is None:
                raise
            await self._call(_make_session, self.folder, self._task, self._server)
            file = await self._open_file(path)
        self._file = file
        self._next_index += 1
        self._segments.append(Segment(path))

    async def _open_file(self, path: Path) -> Any:
        # Readable, too: of a file that was deleted while it is open everything can still be had.
        return await aiofiles.open(path, "a+b", buffering=0, executor=self._executor, opener=open_private)

    async def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await file.close()

    def _schedule_sync(self) -> None:
        if self._sync_task is None or self._sync_task.done():
            self._sync_task = asyncio.get_running_loop().create_task(self._sync_soon())

    async def _sync_soon(self) -> None:
        delay = self._synced_at + self._fsync_interval_s - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        file = self._file
        if file is None or file.closed:
            return
        try:
            await _fsync(file.fileno(), executor=self._executor)
            async with self._lock:
                await self._look()
            self.error = None
        except OSError as error:
            # The next append meets the same disk and reports it; here there is nobody to raise to.
            self.error = error
        self._synced_at = time.monotonic()

    # ---- what is taken away ----------------------------------------------------------------------

    async def _look(self) -> None:
        """Notice that the open segment is not any more where it was made; make it anew.

        Raises:
            OSError: it cannot be made; each append and each look tries again, once a second at most.
        """
        if self._file is None or not self._segments:
            return
        segment = self._segments[-1]
        if self._taken_away or await self._call(is_taken_away, self._file.fileno(), segment.path, segment.size):
            self._taken_away = True
            await self._make_anew()

    async def _make_anew(self) -> None:
        """Give the journal a folder and segment again, with what memory and the open file still hold."""
        if time.monotonic() - self._made_anew_at < OPEN_RETRY_S:
            raise OSError(errno.ENOENT, f"{self.folder} was taken away")
        assert self._task is not None
        file = self._file
        path = self.folder / SEGMENTS / f"{self._writer_hex}-{self._next_index:06d}.frames"
        held = [frame for frame in self.copies() if frame.sequence > self._delivered]
        try:
            saved = await self._call(self._save, path, None if file is None else file.fileno(), held)
            fresh = await self._open_file(path)
        except OSError:
            self._made_anew_at = time.monotonic()
            raise
        segment, gone, moved_to = saved
        await self._close_file()
        self._file, self._cursor, self._taken_away = fresh, None, False
        self._next_index += 1
        lost: dict[int, int] = {}
        for one in gone:
            lost |= one.events_after(self._delivered)
        lost = {sequence: count for sequence, count in lost.items() if sequence not in set(segment.sequences)}
        self._segments = [*(one for one in self._segments if one not in gone), segment]
        log.warning(
            "%s was deleted, moved or replaced while the program runs. It was made anew with %d frames; %s%s",
            gone[-1].path,
            len(segment.sequences),
            f"{sum(lost.values()):,} events are lost" if lost else "nothing is lost",
            f". What it held lies in {moved_to}" if moved_to else "",
        )
        if lost:
            self.on_lost(lost)

    def _save(
        self, path: Path, descriptor: int | None, held: Sequence[Frame]
    ) -> tuple[Segment, list[Segment], Path | None]:
        """Write a segment with what is left of those that are gone. On the disk thread.

        Returns:
            The new segment; those that are gone; where the open one has been moved to, if that can be known.
        """
        assert self._task is not None
        _make_session(self.folder, self._task, self._server)
        closed = self._segments if descriptor is None else self._segments[:-1]
        gone = [segment for segment in closed if not holds(segment.path, segment.size)]
        gone += self._segments[len(closed) :]
        wanted = {sequence for segment in gone for sequence in segment.sequences}
        segment = Segment(path)
        with open(path, "wb", opener=open_private) as target:
            open_frames = iter(()) if descriptor is None else frames_of(descriptor)
            for frame in chain(sorted(held, key=lambda frame: frame.sequence), open_frames):
                if frame.sequence in wanted:
                    wanted.discard(frame.sequence)
                    target.write(frame.data)
                    segment.size += len(frame)
                    segment.note([frame])
            target.flush()
            os.fsync(target.fileno())
        return segment, gone, None if descriptor is None else path_of(descriptor)

    async def _count_what_is_there(self) -> None:
        """At the end: what is counted as on disk is on disk, and is found there."""
        segments = list(self._segments)
        gone = await self._call(lambda: [one for one in segments if not holds(one.path, one.size)])
        lost: dict[int, int] = {}
        for segment in gone:
            lost |= segment.events_after(self._delivered)
            self._segments.remove(segment)
        if lost:
            log.warning("%s was taken away: %s events are lost", self.folder, f"{sum(lost.values()):,}")
            self.on_lost(lost)

    def disown(self, sequences: Collection[int]) -> None:
        """These frames can no longer be read, which is counted: they are not lost once more with their segment."""
        for segment in self._segments:
            for position, sequence in enumerate(segment.sequences):
                if sequence in sequences:
                    segment.events[position] = 0

    def expected(self, after: int, through: int) -> dict[int, int]:
        """Return the number of events of each frame that was appended, from `after` (not included) to `through`."""
        found: dict[int, int] = {}
        for segment in self._segments:
            if segment.last_sequence > after:
                found |= segment.events_after(after)
        return {sequence: events for sequence, events in found.items() if sequence <= through}

    def _read_after(self, sequence: int, max_bytes: int, paths: list[Path]) -> list[Frame]:
        found: list[Frame] = []
        size = 0
        # Where the last read began; reading on is the rule, going back starts over.
        path, offset, at = self._cursor or (None, 0, 0)
        start = paths.index(path) if path in paths and at <= sequence else 0
        for index, current in enumerate(paths[start:], start):
            resumed = index == start and current == path and at <= sequence
            for position, frame in frames_from(current, offset if resumed else 0):
                if frame.sequence <= sequence:
                    self._cursor = (current, position, frame.sequence)
                    continue
                found.append(frame)
                size += len(frame)
                if size >= max_bytes:
                    return found
        return found


def _unlink_all(paths: Collection[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _write_private(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=open_private) as file:
        file.write(data)


def server_mark(address: str) -> str:
    """Return what session.json holds of an address, which may have a password in it: enough to know it again."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _make_session(folder: Path, task: TaskHeader, server: str) -> None:
    make_private_folder(folder / SEGMENTS)
    folder.chmod(0o700)
    session = folder / SESSION_FILE
    if session.exists():
        return
    document = {
        "format": SESSION_FORMAT,
        "task_id": task.task_id,
        "project": task.project,
        "name": task.name,
        "type": task.type,
        "created_unix_ns": task.created_unix_ns,
    }
    if server:
        document["server"] = server_mark(server)
    # Written aside and renamed: a reader never sees half of it.
    part = folder / f".{SESSION_FILE}.{task.writer_id.hex()}"
    with open(part, "w", encoding="utf-8", opener=open_private) as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(session)


def _remove_session(folder: Path, segments: list[Path]) -> None:
    """Remove a writer's segments, and the folder with them once it is empty but for session.json."""
    for path in segments:
        path.unlink(missing_ok=True)
    try:
        (folder / SEGMENTS).rmdir()
    except OSError:
        return  # another writer's segments are still there
    remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a session folder in which there is nothing but session.json."""
    # Blobs that are still to be sent are found by it as well.
    if any((folder / name).exists() for name in (SEGMENTS, QUARANTINE, BLOBS)):
        return
    (folder / SESSION_FILE).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return  # somebody keeps files of their own in it


def read_session(folder: Path) -> dict[str, Any]:
    """Return session.json's content.

    Raises:
        JournalError: there is none, or it is not one of ours.
    """
    try:
        with (folder / SESSION_FILE).open("rb") as file:
            data = file.read(MAX_SESSION_BYTES + 1)
        if len(data) > MAX_SESSION_BYTES:
            raise ValueError(f"its {SESSION_FILE} is over the limit of {MAX_SESSION_BYTES} bytes")
        document = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise JournalError(f"{folder} is not a session folder: {error}") from error
    if not isinstance(document, dict) or document.get("format") != SESSION_FORMAT:
        raise JournalError(f"{folder / SESSION_FILE} is not of format {SESSION_FORMAT}")
    return document


def read_segments(folder: Path) -> Iterator[Frame | SegmentDamage]:
    """Yield every sound frame of a session folder, by writer and in order, and what had to be skipped.

    Last come the frames that a server has refused before: it may take them by now. A growing session may be read at
    any time; a frame that is still being written shows as damage at the end.
    """
    for path in (*sorted((folder / SEGMENTS).glob("*.frames")), *sorted((folder / QUARANTINE).glob("*.frame"))):
        for _, item in scan_file(path):
            yield item if isinstance(item, Frame) else SegmentDamage(path.name, item)
