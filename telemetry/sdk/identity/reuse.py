"""Which task a run is: a new one, that of the run before, begun anew, or that of an earlier run, which goes on.

What is known of earlier runs lies in small files in the state directory, one for each destination, project, name and
type. Nobody is asked, so Task.init never waits. There are no locks: a file is replaced by renaming, and a run that
wants to overwrite its predecessor takes the file away first, which of several that begin at once only one can.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from telemetry.clock import unix_ns
from telemetry.disk import make_private_folder
from telemetry.errors import ConfigurationError
from telemetry.events import RecordChange, TaskHeader
from telemetry.process.interrupts import is_interrupt
from telemetry.process.threads import start_daemon
from telemetry.record import Section, TaskKey
from telemetry.sdk.identity.identity import Attempt, process_started, this_machine
from telemetry.sdk.identity.membership import Membership
from telemetry.settings import Settings

__all__ = [
    "OFFLINE",
    "LastRun",
    "RunNote",
    "choose_run",
    "continued_id",
    "forbid_reuse",
    "forbids_reuse",
    "iteration_offset_of",
]

log = logging.getLogger(__name__)

# Where the events of offline runs go: each is a session of its own, which may go on and is never overwritten.
OFFLINE = "offline"

_HOUR_NS = 3600 * 1_000_000_000
# Files of runs; beyond this the oldest go. A machine with more kinds of runs loses nothing but a reuse.
_MAX_FILES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """What is known of the last run of a destination, project, name and type.

    Attributes:
        seen_unix_ns: when it ended, else when it began.
        pid, pid_started: of the process that leads it; see identity.process_started.
        keep: it has artifacts or models, or was archived, published or renamed: it is not to be overwritten.
    """

    task_id: str
    seen_unix_ns: int
    host: str
    pid: int
    pid_started: str
    keep: bool = False
    ended: bool = False
    attempt: int = 1

    @property
    def runs(self) -> bool:
        """Whether it is known to be running still, on this machine."""
        return not self.ended and self.host == this_machine() and process_started(self.pid) == self.pid_started


def choose_run(
    membership: Membership,
    sinks: Sequence[Any] | None,
    settings: Settings,
    *,
    key: Sequence[str],
    reuse: bool | str,
    continues: bool | str | int | None,
) -> Membership:
    """Return the membership of the task that this run is.

    Args:
        membership: of a new task; what a job or an ancestor began is never changed for another.
        sinks: as given to Task.init; where they are chosen for this run alone, no other can follow it.
        key: project, name and type.
        reuse, continues: as given to Task.init.
    """
    goes_on = continues is not None and continues is not False
    place = _place(sinks, settings)
    path = None if place is None or membership.has_job else _path(settings, place, key)
    membership = replace(membership, note=path, iteration_offset=iteration_offset_of(continues))
    asked = continued_id(reuse, continues)
    if asked is not None and goes_on:
        last = next((run for _, run in _runs(settings) if run.task_id == asked), None)
        return _continued(membership, asked, last)
    if membership.has_job:
        return membership
    if goes_on:
        last = None if path is None else _read(path)
        if last is None:
            return replace(membership, said="no earlier run of this task is known on this machine: this is a new task")
        if last.runs:
            return replace(membership, said=f"task {last.task_id} is still running: this is a new task")
        return _continued(membership, last.task_id, last)
    if reuse is False or (settings.task_no_reuse and not isinstance(reuse, str)):
        return membership
    return _overwriting(membership, path if place != OFFLINE else None, asked, settings)


def continued_id(reuse: bool | str, continues: bool | str | int | None) -> str | None:
    """Return the task id that the arguments of Task.init name; None if they name none.

    Raises:
        ConfigurationError: it is no task id, or an argument is of another type.
    """
    if not isinstance(reuse, (bool, str)):
        raise ConfigurationError(
            f"reuse_last_task_id={reuse!r:.80}: give True, False or a task id. No task was started"
        )
    if not isinstance(continues, (bool, str, int)) and continues is not None:
        raise ConfigurationError(
            f"continue_last_task={continues!r:.80}: give True, False, a task id, or an iteration offset. "
            "No task was started"
        )
    given = continues if isinstance(continues, str) else reuse
    if not isinstance(given, str):
        return None
    task_id = given.strip().lower().replace("-", "")
    if not _is_task_id(task_id):
        raise ConfigurationError(
            f"{given!r:.80} is no task id: that is 32 hexadecimal digits, as Task.id gives them. No task was started"
        )
    return task_id


def _place(sinks: Sequence[Any] | None, settings: Settings) -> str | None:
    """Return a word for where the events go, as far as later runs can go on there; None otherwise."""
    if sinks is not None or settings.mode == "disabled":
        return None
    if settings.mode == "offline":
        return OFFLINE
    if settings.url is None:
        return "local"
    return settings.url if settings.url.startswith(("http://", "https://")) else None


def _is_task_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def iteration_offset_of(continues: bool | str | int | None) -> int:
    """Return the offset that `continue_last_task` asks for; 0 unless it is a number."""
    return continues if isinstance(continues, int) and not isinstance(continues, bool) else 0


def _continued(membership: Membership, task_id: str, last: LastRun | None) -> Membership:
    attempt = 1 if last is None else last.attempt
    # Of what nothing is known here, nobody is to overwrite unseen what it may hold.
    keep = last is None or last.keep
    return replace(membership, task_id=task_id, continues=True, keep=keep, attempt=Attempt(attempt + 1))


def _overwriting(membership: Membership, path: Path | None, asked: str | None, settings: Settings) -> Membership:
    """Return the membership of the last run's task, begun anew, if that may be overwritten.

    Args:
        path: of the note of the last run; None where runs can't be overwritten.
    """
    if path is None:
        return membership if asked is None else _refused(membership, asked, "nothing is overwritten where events go")
    if asked is not None:
        path = next((found for found, run in _runs(settings) if run.task_id == asked), path)
    last = _read(path)
    if last is not None and asked is not None and last.task_id != asked:
        last = None
    reason = "nothing is known of it on this machine" if last is None else _why_not(last, membership, settings)
    if reason or last is None:
        return membership if asked is None else _refused(membership, asked, reason)
    taken = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.taken")
    try:
        path.rename(taken)
    except OSError as error:
        if is_interrupt(error):
            raise
        # Another run was quicker; or the disk is not ours to write.
        return membership if asked is None else _refused(membership, asked, "another run has just taken it")
    taken.unlink(missing_ok=True)
    return replace(membership, task_id=last.task_id, begins_anew=True)


def _refused(membership: Membership, asked: str, reason: str) -> Membership:
    return replace(membership, said=f"task {asked} is not overwritten: {reason}. This is a new task")


def _why_not(last: LastRun, membership: Membership, settings: Settings) -> str:
    """Return why a task may not be overwritten; "" if it may."""
    age_ns = membership.created_unix_ns - last.seen_unix_ns
    if last.keep:
        return "it has artifacts or models, or was archived, published or renamed"
    if last.host != this_machine():
        return f"it ran on {last.host}"
    if last.runs:
        return f"it is still running (process {last.pid})"
    if age_ns <= 0:
        return "the clock was set back since"
    if age_ns > settings.task_reuse_hours * _HOUR_NS:
        return f"it ran more than {settings.task_reuse_hours:g} hours ago"
    return ""


# ---- the files -------------------------------------------------------------------------------------


class RunNote:
    """Keeps the file of this run. Writing happens on threads of their own, but for the end."""

    def __init__(self, path: Path, membership: Membership) -> None:
        self._path = path
        self._run = LastRun(
            task_id=membership.task_id,
            seen_unix_ns=membership.created_unix_ns,
            host=this_machine(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()),
            attempt=membership.attempt.number,
            keep=membership.keep,
        )
        self._writing: threading.Thread | None = None

    def begin(self) -> None:
        """Note that the run has begun; returns at once."""
        self._writing = start_daemon(self._begin, "telemetry-note")
        if self._writing is None:
            self._begin()

    def end(self, *, keep: bool) -> None:
        """Note that the run has ended. `keep`: it holds what the next run must not overwrite."""
        if self._writing is not None:
            self._writing.join(1.0)
        known = _read(self._path)
        # A run that began since has its own.
        if known is not None and known.task_id == self._run.task_id:
            _write(self._path, replace(self._run, keep=keep or known.keep, ended=True, seen_unix_ns=unix_ns()))

    def _begin(self) -> None:
        _write(self._path, self._run)
        try:
            files = sorted(self._path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for old in files[: max(0, len(files) - _MAX_FILES)]:
                old.unlink(missing_ok=True)
        except OSError as error:
            if is_interrupt(error):
                raise
            log.debug("old notes of runs are left: %s", error)


def forbids_reuse(change: RecordChange, header: TaskHeader) -> bool:
    """Say whether a change gives its task something that the next run must not overwrite.

    Args:
        header: of the task, as it was called before.
    """
    if change.section in (Section.ARTIFACTS, Section.OUTPUT_MODELS):
        return change.value is not None
    if change.section != Section.TASK:
        return False
    names = {"name": header.name, "project": header.project, "type": header.type}
    if change.key in names:
        return bool(change.value != names[change.key])
    if change.key == TaskKey.SYSTEM_TAGS:
        return isinstance(change.value, list) and "archived" in change.value
    return change.key == TaskKey.PUBLISHED and change.value is True


def forbid_reuse(settings: Settings, task_id: str) -> None:
    """Note that a task is not to be overwritten by the next run, if it is one that a run here would overwrite."""
    for path, run in _runs(settings):
        if run.task_id == task_id and not run.keep:
            _write(path, replace(run, keep=True))


def _folder(settings: Settings) -> Path:
    return settings.state_dir / "runs"


def _path(settings: Settings, place: str, key: Sequence[str]) -> Path:
    words = json.dumps([place, *key])
    return _folder(settings) / f"{hashlib.sha256(words.encode('utf-8', 'backslashreplace')).hexdigest()[:32]}.json"


def _runs(settings: Settings) -> Iterator[tuple[Path, LastRun]]:
    try:
        paths = sorted(_folder(settings).glob("*.json"))
    except OSError as error:
        if is_interrupt(error):
            raise
        return
    for path in paths:
        run = _read(path)
        if run is not None:
            yield path, run


def _read(path: Path) -> LastRun | None:
    """Return what a file says; None where there is none, and for anything else than a run."""
    try:
        document: Any = json.loads(path.read_text("utf-8"))
        known = {item.name: document[item.name] for item in fields(LastRun)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_interrupt(error):
            raise
        return None
    kinds = (str, int, str, int, str, bool, bool, int)
    if not all(type(value) is kind for value, kind in zip(known.values(), kinds, strict=True)):
        return None
    return LastRun(**known) if _is_task_id(known["task_id"]) else None


def _write(path: Path, run: LastRun) -> None:
    """Write a file whole or not at all. A disk that refuses costs a reuse, and is no reason to harm the run."""
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part")
    try:
        make_private_folder(path.parent)
        with open(part, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            json.dump(asdict(run), file)
        part.replace(path)
    except OSError as error:
        if is_interrupt(error):
            raise
        log.debug("%s cannot be written: %s", path, error)
