"""The commands `telemetry sync` and `telemetry import`: a progress line, a list of what failed, an exit code."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from telemetry.errors import ConfigurationError, ServerError
from telemetry.network.credentials import with_scheme
from telemetry.process.terminal import ProgressLine, size_text
from telemetry.sessions.importing import ImportReport, import_sources
from telemetry.sessions.readdress import NewAddress
from telemetry.sessions.sources import SessionSource, find_sources, other_halves
from telemetry.settings import Settings
from telemetry.sinks.http import HttpSink, open_sink

__all__ = ["resolve_address", "run"]


def run(
    paths: Iterable[Path], *, url: str, settings: Settings, timeout_s: float, new_address: NewAddress | None = None
) -> int:
    """Send what lies at `paths` to the server at `url`, with a progress line; return the exit code.

    0: everything that was found is on the server. 1: something is missing, damaged, refused, or could not be
    sent; each source of which that is true is listed on the standard error.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{url!r} is not a server's address; give one with --url {with_scheme(url) or 'http://HOST:8008'}"
        )
    paths = list(paths)
    sources, missing = find_sources(paths)
    if not sources and not missing:
        print(f"nothing to send in {', '.join(map(str, paths or [settings.state_dir]))}")
        return 0
    report = ImportReport()
    if sources:
        report = _run_with_progress(sources, url=url, settings=settings, timeout_s=timeout_s, new_address=new_address)
    report.missing = missing
    code = _print_report(report)
    for path in other_halves(source for source in sources if source.named):
        print(f"there is more of the same task: telemetry import {shlex.quote(str(path))}", file=sys.stderr)
    return code


def resolve_address(url: str, settings: Settings, previous_task_id: str | None, iteration_offset: int) -> NewAddress:
    """Return which task sessions are to be sent as.

    Raises:
        ConfigurationError: the server has no such task; nothing was sent.
        ServerUnreachable: it does not answer.
    """
    from telemetry.client import Client

    if previous_task_id is not None:
        with Client(
            url, token=settings.token or "", token_file=settings.token_file, trust_env=settings.trust_env
        ) as client:
            try:
                client.task(previous_task_id)
            except ServerError as error:
                if error.status not in (400, 404):
                    raise
                raise ConfigurationError(
                    f"there is no task {previous_task_id!r:.60} on {url} to continue. Nothing was sent"
                ) from error
    return NewAddress(previous_task_id, iteration_offset)


def _run_with_progress(
    sources: Sequence[SessionSource], *, url: str, settings: Settings, timeout_s: float, new_address: NewAddress | None
) -> ImportReport:
    total_bytes = sum(source.size_bytes for source in sources)
    print(f"sending {_count(len(sources), 'session')}, {size_text(total_bytes)}, to {url}", flush=True)
    line = ProgressLine(total_bytes, sys.stderr)

    def make_sink() -> HttpSink:
        return open_sink(url, settings)

    def on_progress(done_bytes: int, label: str) -> None:
        line.show(done_bytes, f"{size_text(done_bytes)}  {label}")

    try:
        return asyncio.run(
            import_sources(sources, make_sink, timeout_s=timeout_s, on_progress=on_progress, new_address=new_address)
        )
    finally:
        line.close()


def _print_report(report: ImportReport) -> int:
    frames = sum(item.frames for item in report.outcomes)
    events = sum(item.events for item in report.outcomes)
    tasks = len({item.task_id for item in report.outcomes if item.frames})
    blobs = sum(item.blobs for item in report.outcomes)
    with_blobs = f", and {_count(blobs, 'file')}" if blobs else ""
    said = f"{_count(events, 'event')} in {_count(frames, 'frame')} of {_count(tasks, 'task')}{with_blobs}"
    print(f"{said} are on the server")
    for outcome in report.outcomes:
        for cut in outcome.cut:
            print(f"{outcome.source.path}: ends inside a frame (a kill, or it still grows): {cut}", file=sys.stderr)
        for loss in outcome.losses():
            print(f"lost: {outcome.source.path}: {loss}", file=sys.stderr)
    for item in report.missing:
        print(f"failed: {item.path}: {item.reason}", file=sys.stderr)
    for outcome in report.failed:
        for fault in outcome.faults():
            path = str(outcome.source.path)
            print(f"failed: {fault if str(fault).startswith(path) else f'{path}: {fault}'}", file=sys.stderr)
    if report.stopped_by is not None:
        print(f"stopped: {report.stopped_by}. The same command goes on where this one ended", file=sys.stderr)
    return 0 if report.complete else 1


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
