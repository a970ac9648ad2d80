"""`telemetry sync` and `telemetry import`: send session folders and session zips to a server.

What is sent are the same frames that would have travelled at once, so sending twice changes nothing and an
interrupted run is simply started again. The source is only read: it is left as it was.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.errors import ConfigurationError, SinkRejected, SinkUnavailable
from telemetry.journal import SegmentDamage
from telemetry.protocols import Sink
from telemetry.retry import delay_s
from telemetry.sessions import Session, find_sessions
from telemetry.settings import Settings
from telemetry.sinks.http import HttpSink
from telemetry.terminal import ProgressLine, size_text
from telemetry.wire import Frame

__all__ = ["Report", "run", "send_sessions"]

# One request: large enough to be efficient, small enough to be retried whole.
WRITE_BYTES = 4 * 1024 * 1024
WRITE_FRAMES = 256


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
