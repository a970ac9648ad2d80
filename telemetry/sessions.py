"""Sessions at rest: finding, opening and reading session folders and session zips.

Everything here is synchronous, reads only, and is safe from any thread. Nothing is unpacked to disk.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.errors import JournalError
from telemetry.events import TaskHeader
from telemetry.journal import SESSION_FILE, SegmentDamage, read_segments, read_session
from telemetry.wire import Frame, scan

__all__ = ["Session", "find_sessions", "open_session"]

# A segment is rolled at 64 MiB by default; a member that claims far more is damage, or an attack.
MAX_MEMBER_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Session:
    """A task's frames at rest.

    Attributes:
        size_bytes: of all segments, as a progress bar needs it.
        read: yields every sound frame by writer and in order, and what had to be skipped.
    """

    path: Path
    header: TaskHeader
    size_bytes: int
    read: Callable[[], Iterator[Frame | SegmentDamage]]


def find_sessions(paths: Iterable[Path]) -> list[Session]:
    """Return the sessions at `paths`: session folders, session zips, and folders that hold either.

    Raises:
        JournalError: a path does not exist, or is named and neither a session nor a folder with one.
    """
    found: list[Session] = []
    for path in paths:
        if not path.exists():
            raise JournalError(f"there is no {path}")
        if path.is_file() or (path / SESSION_FILE).is_file():
            found.append(open_session(path))
            continue
        # Two levels: the state directory holds sessions/ and spool/, and those hold the sessions.
        inside = [*path.glob(f"*/{SESSION_FILE}"), *path.glob(f"*/*/{SESSION_FILE}")]
        zips = [*path.glob("*.zip"), *path.glob("*/*.zip")]
        found += [open_session(item.parent) for item in sorted(inside)]
        found += [open_session(item) for item in sorted(zips) if _is_session_zip(item)]
    return found


def open_session(path: Path) -> Session:
    """Return the session in a folder or zip.

    Raises:
        JournalError: it is no session, or its session.json cannot be read.
    """
    if path.is_dir():
        sizes = [segment.stat().st_size for segment in (path / "segments").glob("*.frames")]
        return Session(path, _header(path, read_session(path)), sum(sizes), lambda: read_segments(path))
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read(SESSION_FILE))
            sizes = [member.file_size for member in _segments(archive)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise JournalError(f"{path} is not a session zip: {error}") from error
    return Session(path, _header(path, document), sum(sizes), lambda: _read_zip(path))


def _header(path: Path, document: Any) -> TaskHeader:
    try:
        return TaskHeader(
            task_id=str(document["task_id"]),
            writer_id=bytes(16),
            project=str(document["project"]),
            name=str(document["name"]),
            type=str(document.get("type", "training")),
            created_unix_ns=int(document.get("created_unix_ns", 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(f"the {SESSION_FILE} of {path} is malformed: {error!r}") from error


def _is_session_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return SESSION_FILE in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # somebody else's file in the same folder


def _segments(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [item for item in archive.infolist() if item.filename.endswith(".frames")]
    return sorted(members, key=lambda item: item.filename)


def _read_zip(path: Path) -> Iterator[Frame | SegmentDamage]:
    """Read the segments out of a zip. Nothing is unpacked to disk, so no member can escape."""
    with zipfile.ZipFile(path) as archive:
        for member in _segments(archive):
            if member.file_size > MAX_MEMBER_BYTES:
                raise JournalError(f"{path}: the member {member.filename} claims {member.file_size} bytes")
            try:
                # A bomb is cut off at the size it declares; zipfile checks the CRC at the end.
                data = archive.read(member)
            except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
                raise JournalError(f"{path}: the member {member.filename} cannot be read: {error}") from error
            for _, item in scan(data):
                yield item if isinstance(item, Frame) else SegmentDamage(member.filename, item)
