"""`telemetry sync` and `telemetry import`: send session folders and session zips to a server.

What is sent are the same frames that would have travelled at once, so sending twice changes nothing and an
interrupted run is simply started again. The source is only read: it is left as it was.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telemetry.errors import ConfigurationError, JournalError, SinkRejected, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.journal import SESSION_FILE, SegmentDamage, read_segments, read_session
from telemetry.protocols import Sink
from telemetry.retry import delay_s
from telemetry.settings import Settings
from telemetry.sinks.http import HttpSink
from telemetry.terminal import ProgressLine, size_text
from telemetry.wire import Frame, scan

__all__ = ["Report", "Session", "find_sessions", "open_session", "run", "send_sessions"]

# One request: large enough to be efficient, small enough to be retried whole.
WRITE_BYTES = 4 * 1024 * 1024
WRITE_FRAMES = 256

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


@dataclass(slots=True)
class Report:
    """What became of the frames of one session or of all."""

    frames: int = 0
    events: int = 0
    rejected: list[str] = field(default_factory=list)
    damage: list[SegmentDamage] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if everything that the session holds is on the server."""
        return not self.rejected and not self.damage


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


async def send_sessions(
    sessions: Iterable[Session],
    sink: Sink,
    *,
    timeout_s: float,
    on_progress: Callable[[Session, int], None] = lambda session, sent_bytes: None,
) -> Report:
    """Send every frame of the sessions; return what became of them.

    Args:
        timeout_s: how long one write may be refused before giving up.
        on_progress: called with the session and the bytes of it that were sent.
    Raises:
        SinkUnavailable: the server could not be reached for `timeout_s`; what was sent until then is there.
        JournalError: a session cannot be read any further.
    """
    report = Report()
    for session in sessions:
        await sink.open(session.header)
        try:
            await _send_session(session, sink, report, timeout_s, on_progress)
        finally:
            await sink.close()
    return report


async def _send_session(
    session: Session,
    sink: Sink,
    report: Report,
    timeout_s: float,
    on_progress: Callable[[Session, int], None],
) -> None:
    sent_bytes = 0
    waiting: list[Frame] = []
    waiting_bytes = 0
    for item in session.read():
        if isinstance(item, SegmentDamage):
            report.damage.append(item)
            sent_bytes += item.damage.length
            continue
        # One writer in a write: a refusal names frames by their sequence number alone.
        full = waiting_bytes >= WRITE_BYTES or len(waiting) >= WRITE_FRAMES
        if waiting and (full or waiting[0].writer_id != item.writer_id):
            await _write(sink, waiting, report, timeout_s)
            sent_bytes += waiting_bytes
            on_progress(session, sent_bytes)
            waiting, waiting_bytes = [], 0
        waiting.append(item)
        waiting_bytes += len(item)
    if waiting:
        await _write(sink, waiting, report, timeout_s)
    on_progress(session, session.size_bytes)


async def _write(sink: Sink, frames: list[Frame], report: Report, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    attempt = 0
    while True:
        try:
            await sink.write(frames)
        except SinkUnavailable as error:
            wait_s = delay_s(attempt, retry_after_s=error.retry_after_s)
            if time.monotonic() + wait_s > deadline_s:
                raise
            attempt += 1
            await asyncio.sleep(wait_s)
        except SinkRejected as refusal:
            writer = frames[0].writer_id.hex()
            report.rejected += [f"frame {number} of writer {writer}: {why}" for number, why in refusal.reasons.items()]
            accepted = [frame for frame in frames if frame.sequence not in refusal.reasons]
            break
        else:
            accepted = frames
            break
    report.frames += len(accepted)
    report.events += sum(frame.events for frame in accepted)


def run(paths: Iterable[Path], *, url: str, settings: Settings, timeout_s: float) -> int:
    """Send what lies at `paths` to the server at `url`, with a progress line; return the exit code.

    0: everything that was found is on the server. 1: something was damaged, refused, or could not be sent.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is not a server's address; give one with --url http://HOST:8008")
    paths = list(paths)
    sessions = find_sessions(paths)
    if not sessions:
        print(f"nothing to send in {', '.join(map(str, paths or [settings.state_dir]))}")
        return 0
    total_bytes = sum(session.size_bytes for session in sessions)
    print(f"sending {_count(len(sessions), 'session')}, {size_text(total_bytes)}, to {url}")
    line = ProgressLine(total_bytes, sys.stderr)
    done: dict[Path, int] = {}

    def on_progress(session: Session, sent_bytes: int) -> None:
        done[session.path] = sent_bytes
        line.show(sum(done.values()), f"{len(done)}/{len(sessions)} {session.header.project}/{session.header.name}")

    sink = HttpSink(url, token=settings.token, timeout_s=settings.request_timeout_s)
    try:
        report = asyncio.run(send_sessions(sessions, sink, timeout_s=timeout_s, on_progress=on_progress))
    finally:
        line.close()
    print(f"{_count(report.events, 'event')} in {_count(report.frames, 'frame')} are on the server")
    for damage in report.damage:
        print(f"skipped: {damage}", file=sys.stderr)
    for refusal in report.rejected:
        print(f"refused: {refusal}", file=sys.stderr)
    return 0 if report.complete else 1


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
