"""A task's record: what is written into it at the start, and every change after.

The record is the fold of RecordChange events, so writing it is emitting; what was written here is folded here as well.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from telemetry.clock import unix_ns
from telemetry.events import INT64_MAX, RecordChange, TaskHeader
from telemetry.fold import RecordFold
from telemetry.record import Section, TaskKey, TaskStatus
from telemetry.sdk.identity.identity import Attempt, Ranks
from telemetry.sdk.identity.masking import mask_command
from telemetry.sdk.identity.membership import Membership
from telemetry.sdk.record.status import Outcome

__all__ = ["Record", "WriterRecord", "start_fields", "writer_entry"]


class Record:
    """Writes changes of one task's record into its stream. Safe from any thread.

    Every change is younger than the one before it, also when the clock is set back in between: the
    fold takes the youngest, and a task that ended must not stay in_progress.
    There is no lock, which a fork could leave held: two threads that change one field at the same
    instant have no order to keep.

    Args:
        emit: takes the changes one by one.
        send: takes those of one call together, for a task whose changes are sent at once; instead of `emit`.

    Attributes:
        own: the fold of what was written here, up to the end.
        listen: is told of each change after it was written; must return at once.
    """

    def __init__(
        self,
        emit: Callable[[RecordChange], object] | None = None,
        *,
        send: Callable[[Sequence[RecordChange]], None] | None = None,
        clock: Callable[[], int] = unix_ns,
    ) -> None:
        self._emit = emit
        self._send = send
        self._clock = clock
        self._last_unix_ns = 0
        self._ended = False
        self.own = RecordFold()
        self.listen: Callable[[RecordChange], object] = _nothing

    def end(self) -> None:
        """From now on changes are only counted as dropped, not folded: nobody else will ever see them."""
        self._ended = True

    def tell_again(self) -> None:
        """Write all that was written here once more, each change as old as it is: who has it already loses nothing."""
        for change in self.own.changes():
            if self._emit is not None:
                self._emit(change)

    def change(self, section: str, key: str, value: Any) -> None:
        """Give one field a new value; None removes it."""
        self.change_all(section, {key: value})

    def default_all(self, section: str, values: Mapping[str, Any], *, weight: int = 0) -> None:
        """Give fields a value that any change ever made has preference over: it is as old as time itself.

        Args:
            weight: of two defaults the heavier one counts; a few units, which are nanoseconds of 1970.
        """
        self._write([RecordChange(weight, section, key, value) for key, value in values.items()])

    def change_all(self, section: str, values: Mapping[str, Any]) -> None:
        """Give several fields of a section new values, all of the same instant; None removes a field."""
        self.change_sections({section: values})

    def change_sections(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Give fields of several sections new values, all of the same instant."""
        self._last_unix_ns = now_unix_ns = min(max(self._clock(), self._last_unix_ns + 1), INT64_MAX)
        self._write(
            [
                RecordChange(now_unix_ns, section, key, value)
                for section, values in sections.items()
                for key, value in values.items()
            ]
        )

    def _write(self, changes: list[RecordChange]) -> None:
        if self._send is not None and changes:
            self._send(changes)
        for change in changes:
            if self._emit is not None:
                self._emit(change)
            if not self._ended:
                self.own.apply(change)
                self.listen(change)


def _nothing(change: RecordChange) -> None:
    """Nobody listens."""


def start_fields(header: TaskHeader, *, tags: list[str]) -> dict[str, Any]:
    """Return the fields of section "task" at the start: who runs what, where, since when."""
    return {
        TaskKey.NAME: header.name,
        TaskKey.PROJECT: header.project,
        TaskKey.TYPE: header.type,
        TaskKey.STATUS: TaskStatus.IN_PROGRESS.value,
        TaskKey.STARTED: header.created_unix_ns,
        TaskKey.TAGS: tags,
        TaskKey.HOST: socket.gethostname(),
        "python": platform.python_version(),
        # orig_argv has the interpreter and -m, which argv has lost.
        "command": mask_command(sys.orig_argv or sys.argv),
        "cwd": _working_directory(),
    }


class WriterRecord:
    """Writes one process's entry in section "writers": at its start, at its end, and for each forked child."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._owner_pid = os.getpid()
        self._record: Record | None = None
        self._key = ""
        self._entry: dict[str, Any] = {}

    def begin(self, record: Record, header: TaskHeader, fields: dict[str, Any]) -> None:
        """Tell of this process, and of its task as far as that is its to tell.

        Args:
            fields: of section "task" at the start.
        """
        self._record = record
        membership = self._membership
        if membership.begins_anew:
            # Before anything else of this run: nothing older counts.
            record.change_all(Section.TASK, {TaskKey.RESET: header.created_unix_ns, **fields})
        elif membership.continues:
            self._continue(record, fields)
        elif not membership.leads_from_start:
            # So that the task has a name even if the process that leads it never reaches the server.
            record.default_all(Section.TASK, fields)
        elif membership.attempt.number == 1 and not membership.attempt.restarts:
            record.change_all(Section.TASK, fields)
        else:
            # The task goes on, as long as it has been running; of the end of the attempt before nothing stays.
            record.default_all(Section.TASK, {TaskKey.STARTED: fields.pop(TaskKey.STARTED)})
            ends = dict.fromkeys((TaskKey.STATUS_REASON, TaskKey.STATUS_MESSAGE, TaskKey.ENDED))
            record.change_all(Section.TASK, {**fields, **ends, TaskKey.ATTEMPT: membership.attempt.number})
        began = unix_ns() if membership.joined else header.created_unix_ns
        self._enter(header.writer_id, began, os.getppid() if membership.follows else None)

    def _continue(self, record: Record, fields: dict[str, Any]) -> None:
        """Go on with a task that another run began: it runs again, and is called what it was called."""
        if not self._membership.leads:
            record.default_all(Section.TASK, fields)
            return
        kept = (TaskKey.NAME, TaskKey.PROJECT, TaskKey.TYPE, TaskKey.STARTED, TaskKey.TAGS)
        known = {key: fields.pop(key) for key in kept}
        record.default_all(Section.TASK, known)
        ends = dict.fromkeys((TaskKey.STATUS_REASON, TaskKey.STATUS_MESSAGE, TaskKey.ENDED))
        further = {
            TaskKey.ATTEMPT: self._membership.attempt.number,
            TaskKey.CONTINUED: self._membership.created_unix_ns,
        }
        record.change_all(Section.TASK, {**fields, **ends, **further})

    def tell_of_fork(self, header: TaskHeader, begins: bool) -> None:
        """In a forked child: it begins to report, or is about to close."""
        if begins:
            self._enter(header.writer_id, unix_ns(), self._owner_pid)
        else:
            self._write({"ended_unix_ns": unix_ns()})

    def end(self, outcome: Outcome) -> None:
        """Tell how this process ended. Of a task with one process the task's own status says it all."""
        ended_unix_ns = unix_ns()
        further = {"status": outcome.status.value, "status_reason": outcome.reason}
        self._write({"ended_unix_ns": ended_unix_ns, **({} if self._membership.leads else further)})
        if self._record is not None and not self._membership.leads and not self._membership.joined:
            # A rank that was started alone, with what is left of another job in its environment: no other will tell.
            weight = 1 if outcome.status is TaskStatus.COMPLETED else 2
            self._record.default_all(Section.TASK, outcome.fields(ended_unix_ns), weight=weight)

    def _enter(self, writer_id: bytes, began_unix_ns: int, parent_pid: int | None) -> None:
        self._key = writer_id.hex()
        membership = self._membership
        self._entry = writer_entry(
            began_unix_ns, ranks=membership.ranks, attempt=membership.attempt, parent_pid=parent_pid
        )
        if membership.continues:
            # Of two runs that took themselves for the second attempt, on two machines, each is one.
            self._entry[TaskKey.CONTINUED] = membership.created_unix_ns
        self._write({})

    def _write(self, further: dict[str, Any]) -> None:
        if self._record is not None:
            self._record.change(Section.WRITERS, self._key, {**self._entry, **further})


def writer_entry(
    started_unix_ns: int, *, ranks: Ranks | None = None, attempt: Attempt | None = None, parent_pid: int | None = None
) -> dict[str, Any]:
    """Return this process's entry in section "writers".

    Args:
        parent_pid: of a child, the process that it joined; only in its entry. The attempt stands in an entry
            where it is not the first.
    """
    ranks, attempt = ranks or Ranks(), attempt or Attempt()
    entry = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "started_unix_ns": started_unix_ns,
        "python": platform.python_version(),
    }
    further = {"local_rank": ranks.local_rank, "node_rank": ranks.node_rank, "parent_pid": parent_pid}
    entry |= {key: value for key, value in further.items() if value is not None}
    if attempt.number > 1:
        entry["attempt"] = attempt.number
    if attempt.restarts:
        entry["restarts"] = attempt.restarts
    return entry


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a string, and pathlib is not needed for it
    except OSError:
        return ""  # the directory was deleted under the program, which runs on all the same
