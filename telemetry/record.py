"""The words of a task's record: its sections, the task's own fields, where a task stands, and what may change when.

A record is two levels of names, section and key, each with a value (fold.py says which of two changes counts). The
sections and the keys of section "task" have their one home here, and so do the statuses with the ways from one to the
other. The plain strings are what is on the wire (docs/wire.md) and in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = [
    "ARCHIVED",
    "PROGRAM_SECTIONS",
    "RUN_SECTIONS",
    "TRANSITIONS",
    "BlobState",
    "Section",
    "ShownStatus",
    "TaskKey",
    "TaskStatus",
    "may_become",
    "may_change",
]


# The system tag of a task that is put away: lists leave it out.
ARCHIVED: Final = "archived"


class Section:
    """The sections of a record."""

    TASK: Final = "task"
    """The task's own fields; see TaskKey."""
    WRITERS: Final = "writers"
    """By writer id: what each of the task's processes says of itself."""
    HEARTBEATS: Final = "heartbeats"
    """By writer id: Unix ns at which a silent writer said that it lives."""
    PARAMETERS: Final = "parameters"
    """By "section/name": {"value", "type", "description"}."""
    PROPERTIES: Final = "properties"
    """By name: the user's properties, in the form of parameters."""
    CONFIGURATION: Final = "configuration"
    """By name: {"text", "type", "description"}."""
    LABELS: Final = "labels"
    """By label: the number that stands for it."""
    INPUT_MODELS: Final = "input_models"
    """By model id: what the task uses."""
    OUTPUT_MODELS: Final = "output_models"
    """By model id: what the task made."""
    ARTIFACTS: Final = "artifacts"
    """By name: what the task has uploaded beside its reports."""
    SCRIPT: Final = "script"
    """The program: its file, repository, commit, differences and packages."""
    CONTAINER: Final = "container"
    """The image that the task is to run in."""


class TaskKey:
    """The keys of section "task" that have a meaning for more than the one who wrote them."""

    NAME: Final = "name"
    PROJECT: Final = "project"
    TYPE: Final = "type"
    TAGS: Final = "tags"
    SYSTEM_TAGS: Final = "system_tags"
    COMMENT: Final = "comment"
    PARENT: Final = "parent"
    PUBLISHED: Final = "published"
    STATUS: Final = "status"
    STATUS_REASON: Final = "status_reason"
    STATUS_MESSAGE: Final = "status_message"
    PROGRESS: Final = "progress"
    HOST: Final = "host"
    ATTEMPT: Final = "attempt"
    INITIAL_ITERATION: Final = "initial_iteration"
    STARTED: Final = "started_unix_ns"
    ENDED: Final = "ended_unix_ns"
    RESET: Final = "reset_unix_ns"
    """The Unix ns before which nothing of this task counts."""
    CONTINUED: Final = "continued_unix_ns"
    """When a later run went on with the task, Unix ns; in the entries of its writers, too."""


class TaskStatus(StrEnum):
    """Where a task stands. One sentence each."""

    CREATED = "created"
    """A draft: made by Task.create or Task.clone, and not run yet."""
    QUEUED = "queued"
    """It waits in a task queue for somebody to run it."""
    IN_PROGRESS = "in_progress"
    """The program runs, or was killed in a way that nobody could record (SIGKILL, power)."""
    COMPLETED = "completed"
    """The program came to its end, or said so."""
    FAILED = "failed"
    """An exception that nobody caught, an exit code other than 0, or mark_failed()."""
    STOPPED = "stopped"
    """Somebody ended it: Ctrl-C, SIGTERM or another signal that kills, or mark_stopped()."""
    PUBLISHED = "published"
    """It ended, and is not to be changed any more."""
    PREEMPTED = "preempted"
    """The scheduler ended it (SIGTERM) and is likely to start it again: the next attempt goes on in the same task."""


class ShownStatus(StrEnum):
    """What the silence of a task that is in_progress means by now. Read, never recorded."""

    STALLED = "stalled"
    """It lives, and nothing came for a while but heartbeats and resource samples."""
    LOST = "lost"
    """Nothing at all has come for a while."""


class BlobState:
    """Where the bytes are that an entry of "artifacts" or of a section of models names."""

    PENDING: Final = "pending"
    """On their way: on the machine of the program, or in a session."""
    STORED: Final = "stored"
    """Where the uri says."""
    FAILED: Final = "failed"
    """They could not be stored; "error" says why."""


_ENDS = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.STOPPED})
# A task that has ended is corrected, begun anew, gone on with, or handed out once more.
_AFTER_THE_END = _ENDS | {TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS}

# From where to where a task may go. docs/lifecycle.md draws it.
TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.CREATED: _ENDS | {TaskStatus.QUEUED, TaskStatus.IN_PROGRESS},
    TaskStatus.QUEUED: _ENDS | {TaskStatus.CREATED, TaskStatus.IN_PROGRESS},
    TaskStatus.IN_PROGRESS: _ENDS | {TaskStatus.PREEMPTED},
    TaskStatus.PREEMPTED: _ENDS | {TaskStatus.QUEUED, TaskStatus.IN_PROGRESS},
    TaskStatus.COMPLETED: _AFTER_THE_END - {TaskStatus.COMPLETED} | {TaskStatus.PUBLISHED},
    TaskStatus.STOPPED: _AFTER_THE_END - {TaskStatus.STOPPED} | {TaskStatus.PUBLISHED},
    TaskStatus.FAILED: _AFTER_THE_END - {TaskStatus.FAILED},
    TaskStatus.PUBLISHED: frozenset(),
}

# What a task ran, or is to run, with.
RUN_SECTIONS = frozenset(
    {
        Section.PARAMETERS,
        Section.CONFIGURATION,
        Section.LABELS,
        Section.INPUT_MODELS,
        Section.SCRIPT,
        Section.CONTAINER,
    }
)
# What the programs tell of themselves.
PROGRAM_SECTIONS = frozenset({Section.WRITERS, Section.HEARTBEATS})
# "" is a task of which nothing but an id is known yet.
_OPEN = frozenset({"", TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS})


def may_become(status: str, following: str) -> bool:
    """Say whether a task that stands at `status` may go to `following`; to stay where it stands it always may.

    Nobody has said yet where it stands ("") is as good as a draft; a word of which we know nothing holds nobody up,
    but for publishing, which is not taken back.
    """
    known = next((found for found in TaskStatus if found == (status or TaskStatus.CREATED)), None)
    if known is None:
        return following != TaskStatus.PUBLISHED
    return status == following or following in TRANSITIONS[known]


def may_change(section: str, status: str, *, by_hand: bool = False) -> bool:
    """Say whether somebody else than the program that runs a task may change a section of its record.

    What a task ran with stays as it was once it has ended. The server enforces it for what is changed by hand, and the
    SDK says it before anything is sent.

    Args:
        status: where the task stands; "" if nobody has said yet.
        by_hand: on a page or by a call of the API rather than by another program through the SDK: the program that
            runs does not see it, so that only a draft can be changed.
    """
    if section in PROGRAM_SECTIONS:
        return False
    if section not in RUN_SECTIONS:
        return True
    return status == TaskStatus.CREATED if by_hand else status in _OPEN
