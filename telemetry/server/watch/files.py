"""What a watched folder holds, what of it is new, and where reading it ended. Blocking: for the watcher's threads."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from telemetry.journal import SEGMENTS, SESSION_FILE, SegmentDamage
from telemetry.sessions.sources import Session
from telemetry.wire import MAX_FRAME_BYTES, Damage, Frame, scan_source

__all__ = ["Block", "Found", "Growth", "Listing", "Memory", "Place", "blocks_of", "read_growth", "read_some"]

log = logging.getLogger("telemetry.server")

# One visit reads this much; large enough to be efficient, small enough that others have their turn.
BLOCK_BYTES = 4 * 1024 * 1024
_MAX_PLACES = 256
# A session that moved within the last ten seconds is looked at in each poll, one that has been idle for an hour
# in every tenth: what starts again is seen within 15 s.
_IDLE_SHARE = 0.1
_MAX_IDLE_S = 10.0
# What was not yet there when we read may be a write on its way over NFS, so damage is read again for this long.
_DAMAGE_GRACE_S = 10.0
# A zip may still be copied: its size must stand for this long, unless it is older than the other.
_ZIP_STILL_S = 2.0
_ZIP_OLD_S = 10.0
# A spool's frames are on their way to a server; they are read when that takes long, or has ended.
_SPOOL_CALM_S = 5.0
_SPOOL_READ_S = 10.0
# sessions/<task>/segments: two levels of folders are opened to find one.
_MAX_DEPTH = 2

# Size in bytes and modification time in ns: what a stat says of a file's content.
Signature = tuple[int, int]


@dataclass(slots=True)
class Place:
    """A segment or zip and how far it was taken. Times are monotonic seconds.

    Attributes:
        offset: everything before it is in the store; of a segment.
        taken: the signature with which it was read to its end; None before.
        seen, seen_s: the last look's signature, and since when it has been that.
        last: writer id and sequence of the last frame taken.
        busy: being read now.
    """

    path: Path
    spool: bool = False
    offset: int = 0
    taken: Signature | None = None
    seen: Signature = (-1, 0)
    seen_s: float = 0.0
    read_s: float = 0.0
    retry_at_s: float = 0.0
    damaged_s: float | None = None
    last: tuple[bytes, int] | None = None
    busy: bool = False

    def note_last(self, frames: Sequence[Frame]) -> None:
        """Remember the last of these frames, which are now stored."""
        if frames:
            self.last = (frames[-1].writer_id, frames[-1].sequence)

    def advance(self, growth: Growth) -> None:
        """Take over where a reading ended, once its frames are stored."""
        self.note_last(growth.frames)
        self.offset, self.damaged_s, self.read_s = growth.offset, growth.damaged_s, growth.read_s
        if growth.ended and growth.damaged_s is None:
            self.taken = growth.signature


@dataclass(frozen=True, slots=True)
class Growth:
    """What one visit found behind a place's offset.

    Attributes:
        offset: where the next visit begins.
        ended: the end of the file as it was then; a half frame may lie behind `offset`.
        damaged_s: since when there has been damage that may still heal; None without.
        skipped: what damage was given up, in words.
    """

    frames: list[Frame]
    offset: int
    ended: bool
    signature: Signature
    read_s: float
    damaged_s: float | None = None
    skipped: str = ""


@dataclass(slots=True)
class Found:
    """What one look found: places with something new, the latest first, and what could not be looked at."""

    segments: list[Place] = field(default_factory=list)
    zips: list[Place] = field(default_factory=list)
    errors: list[tuple[Path, OSError]] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    """A folder that was found: when it is due and was looked at, its depth below the watched one, and its segments if
    it is a session."""

    depth: int
    spool: bool
    is_session: bool = False
    due_s: float = 0.0
    looked_s: float = 0.0
    places: dict[str, Place] = field(default_factory=dict)


class Memory:
    """Where reading ended, kept in a file from one start of the server to the next. A lost one costs time alone.

    Args:
        has_frame: says whether the store has a frame. An entry whose last frame it does not have is not believed:
            somebody has put an older store in place.
    """

    def __init__(self, path: Path, has_frame: Callable[[bytes, int], bool]) -> None:
        self._path = path
        self._has_frame = has_frame
        # path: offset, size, mtime ns, writer hex, sequence
        self._entries: dict[str, tuple[int, int, int, str, int]] = {}
        self._changed = False

    def load(self) -> None:
        """Read the file, if it is there and sound."""
        try:
            entries = orjson.loads(self._path.read_bytes())
            self._entries = {
                str(path): (int(a), int(b), int(c), str(d), int(e)) for path, (a, b, c, d, e) in entries.items()
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s); what is watched is read from its beginning", self._path, error)

    def recall(self, place: Place) -> None:
        """Put a place where it was when the server ended, as far as that can be believed."""
        entry = self._entries.get(str(place.path))
        if entry is None:
            return
        offset, size, mtime_ns, writer, sequence = entry
        try:
            last = (bytes.fromhex(writer), sequence)
            known = self._has_frame(*last)
        except ValueError:
            known = False
        if known:
            place.offset, place.taken, place.last = offset, (size, mtime_ns), last

    def note(self, place: Place) -> None:
        """Remember where a place is now."""
        if place.taken is not None and place.last is not None:
            writer, sequence = place.last
            self._entries[str(place.path)] = (place.offset, *place.taken, writer.hex(), sequence)
            self._changed = True

    def forget(self, path: Path) -> None:
        """Forget a file that is gone."""
        self._changed = self._entries.pop(str(path), None) is not None or self._changed

    def take_changes(self) -> bytes | None:
        """Return what is to be written; None if nothing changed since the last call."""
        if not self._changed:
            return None
        self._changed = False
        return orjson.dumps(self._entries)

    def write(self, data: bytes) -> None:
        """Replace the file. If that fails, the next start reads more than it must."""
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(data)
            part.replace(self._path)
        except OSError as error:
            log.debug("%s could not be written: %s", self._path, error)


class Listing:
    """Knows the folders below the watched ones; says which of their files have changed."""

    def __init__(self, folders: Sequence[Path], memory: Memory) -> None:
        self._memory = memory
        self._roots = [(folder, _is_spool(folder)) for folder in folders]
        self._folders: dict[Path, _Folder] = {}
        self._zips: dict[Path, Place] = {}

    def look(self) -> Found:
        """Look at all folders that are due. Reads listings and stats, and the memory of what is new.

        On one thread at a time; `forget` may be called meanwhile, from another.
        """
        now_s, wall_s = time.monotonic(), time.time()
        found = Found()
        for root, spool in self._roots:
            self._folders.setdefault(root, _Folder(0, spool))
        # The list grows while it is walked: a folder that was just found is looked into at once.
        due = [path for path, folder in self._folders.items() if folder.due_s <= now_s]
        for path in due:
            folder = self._folders[path]
            try:
                newest_s = self._look_into(path, folder, found, due, now_s, wall_s)
            except FileNotFoundError:
                self._forget_folder(path, folder)
                continue
            except OSError as error:
                found.errors.append((path, error))
                folder.due_s = now_s + _MAX_IDLE_S
                continue
            idle_s = min(_MAX_IDLE_S, max(0.0, wall_s - newest_s) * _IDLE_SHARE)
            folder.due_s = now_s if folder.depth == 0 else now_s + idle_s
        found.segments.sort(key=lambda place: place.seen[1], reverse=True)
        found.zips = [place for place in list(self._zips.values()) if _zip_is_due(place, now_s, wall_s)]
        return found

    def sessions(self, since_s: float) -> list[tuple[Path, bool]]:
        """Return the session folders that were looked at since then, each with whether it lies in a spool; from any
        thread."""
        folders = list(self._folders.items())
        return [(path, folder.spool) for path, folder in folders if folder.is_session and folder.looked_s >= since_s]

    def forget(self, place: Place) -> None:
        """A file is gone."""
        self._memory.forget(place.path)
        self._zips.pop(place.path, None)
        folder = self._folders.get(place.path.parent.parent)
        if folder is not None:
            folder.places.pop(place.path.name, None)

    def _look_into(
        self, path: Path, folder: _Folder, found: Found, due: list[Path], now_s: float, wall_s: float
    ) -> float:
        """Note what a folder holds; return when it last changed, in Unix seconds."""
        if folder.is_session:
            return self._look_at_session(path, folder, found, now_s, wall_s)
        with os.scandir(path) as entries:
            listed = list(entries)
        if any(entry.name == SESSION_FILE for entry in listed):
            folder.is_session = True
            return self._look_at_session(path, folder, found, now_s, wall_s)
        for entry in listed:
            child = Path(entry.path)
            # A hidden name is being written or copied, and so is a session that has only its segments yet.
            if entry.name.startswith(".") or entry.name == SEGMENTS:
                continue
            if entry.name.endswith(".zip"):
                self._look_at_zip(child, now_s)
            elif folder.depth < _MAX_DEPTH and child not in self._folders and entry.is_dir():
                self._folders[child] = _Folder(folder.depth + 1, folder.spool or _is_spool(child))
                due.append(child)
        return path.stat().st_mtime

    def _look_at_session(self, path: Path, folder: _Folder, found: Found, now_s: float, wall_s: float) -> float:
        folder.looked_s = now_s
        newest_ns = (path / SEGMENTS).stat().st_mtime_ns
        with os.scandir(path / SEGMENTS) as entries:
            for entry in entries:
                if not entry.name.endswith(".frames"):
                    continue
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                place = folder.places.get(entry.name)
                if place is None:
                    place = Place(Path(entry.path), folder.spool, read_s=now_s)
                    folder.places[entry.name] = place
                    self._memory.recall(place)
                _note_signature(place, (status.st_size, status.st_mtime_ns), now_s)
                newest_ns = max(newest_ns, status.st_mtime_ns)
                if place.seen != place.taken and _segment_is_due(place, now_s, wall_s):
                    found.segments.append(place)
        return newest_ns / 1e9

    def _look_at_zip(self, path: Path, now_s: float) -> None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return  # gone again between the listing and here
        if stat.S_ISREG(status.st_mode):
            place = self._zips.get(path)
            if place is None:
                place = self._zips[path] = Place(path)
                self._memory.recall(place)
            _note_signature(place, (status.st_size, status.st_mtime_ns), now_s)

    def _forget_folder(self, path: Path, folder: _Folder) -> None:
        del self._folders[path]
        for place in list(folder.places.values()):
            self._memory.forget(place.path)


def _is_spool(folder: Path) -> bool:
    # The state directory's; what lies in it is on its way to a server.
    return folder.name == "spool"


def _note_signature(place: Place, signature: Signature, now_s: float) -> None:
    if signature != place.seen:
        place.seen, place.seen_s = signature, now_s


def _segment_is_due(place: Place, now_s: float, wall_s: float) -> bool:
    if place.retry_at_s > now_s:
        return False
    calm = wall_s - place.seen[1] / 1e9 > _SPOOL_CALM_S
    return not place.spool or calm or now_s - place.read_s > _SPOOL_READ_S


def _zip_is_due(place: Place, now_s: float, wall_s: float) -> bool:
    if place.busy or place.seen == place.taken or place.retry_at_s > now_s:
        return False
    return now_s - place.seen_s >= _ZIP_STILL_S or wall_s - place.seen[1] / 1e9 > _ZIP_OLD_S


def read_growth(place: Place, now_s: float) -> Growth:
    """Read what lies behind a place's offset: every sound frame, up to a block of them.

    Raises:
        OSError: the file is gone or cannot be read.
    """
    # Not to hang on a pipe that was put in the place of a segment.
    with open(place.path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a file")
        signature = (status.st_size, status.st_mtime_ns)
        # Shorter than it was: another file is in its place.
        offset = place.offset if place.offset <= status.st_size else 0
        file.seek(offset)
        items = scan_source(file.read, offset=offset)
        return _growth_of(items, offset, signature, now_s, place.damaged_s)


def read_some(places: Sequence[Place], now_s: float) -> list[tuple[Place, Growth | Exception]]:
    """Read from one place after the other until it is enough for a transaction; at least from one.

    Returns:
        For each that was read what it had, or what was wrong with it.
    """
    found: list[tuple[Place, Growth | Exception]] = []
    size = 0
    for place in places[:_MAX_PLACES]:
        try:
            growth = read_growth(place, now_s)
        except Exception as error:  # noqa: BLE001  somebody else's file: whatever it does, the others go on
            found.append((place, error))
            continue
        found.append((place, growth))
        size += sum(map(len, growth.frames))
        if size >= BLOCK_BYTES:
            break
    return found


def _growth_of(
    items: Iterator[tuple[int, Frame | Damage]],
    offset: int,
    signature: Signature,
    now_s: float,
    damaged_s: float | None,
) -> Growth:
    frames: list[Frame] = []
    size = 0
    damage: Damage | None = None
    # At the end it is what is being written now; only what has something behind it is damage.
    last: Damage | None = None
    ended = True
    for position, item in items:
        damage = damage or last
        last = item if isinstance(item, Damage) else None
        if isinstance(item, Frame):
            frames.append(item)
            offset = position + len(item)
            size += len(item)
            if size >= BLOCK_BYTES:
                ended = False
                break
        elif item.length >= MAX_FRAME_BYTES and damage is None:
            # Nothing that is being written is that long: it is left behind a piece at a time.
            return Growth(frames, position + item.length, False, signature, now_s, skipped=_skipped(item))
    if damage is None:
        return Growth(frames, offset, ended, signature, now_s)
    since_s = now_s if damaged_s is None else damaged_s
    old = time.time() - signature[1] / 1e9 > _DAMAGE_GRACE_S
    if old or now_s - since_s > _DAMAGE_GRACE_S:
        return Growth(frames, offset, ended, signature, now_s, skipped=_skipped(damage))
    return Growth(frames, damage.offset, True, signature, now_s, damaged_s=since_s)


def _skipped(damage: Damage) -> str:
    return f"{damage.length} bytes at {damage.offset} skipped: {damage.reason}"


@dataclass(slots=True)
class Block:
    """Frames of a zip, and the damage between them."""

    frames: list[Frame] = field(default_factory=list)
    damage: list[SegmentDamage] = field(default_factory=list)


def blocks_of(session: Session) -> Iterator[Block]:
    """Read a session block by block.

    Raises:
        JournalError: it cannot be read any further.
    """
    block, size = Block(), 0
    for item in session.read():
        if isinstance(item, SegmentDamage):
            block.damage.append(item)
            continue
        block.frames.append(item)
        size += len(item)
        if size >= BLOCK_BYTES:
            yield block
            block, size = Block(), 0
    if block.frames or block.damage:
        yield block
