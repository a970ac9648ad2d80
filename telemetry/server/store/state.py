"""What the writer keeps in memory between transactions: the totals of the tasks it has met.

It is only a cache of committed rows: after a failed transaction it is thrown away and read again.
Touched by the writer thread alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, func, select

from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.content import FrameContent, FramePoints
from telemetry.server.store.deletion import deleted_task_ids, highest_buried_row
from telemetry.server.store.gate import Usage
from telemetry.server.store.summaries import MetricIds

__all__ = ["LoggedPoints", "TaskState", "WriterCache"]


class LoggedPoints(NamedTuple):
    """Points of a frame that went into the log at `position`. `is_new`: the task had none before."""

    task_id: str
    row: int
    position: int
    points: FramePoints
    rank: int
    is_new: bool


@dataclass(slots=True)
class TaskState:
    """A task's totals and its writers. `reset`: when it was begun anew last, Unix ns; 0: never."""

    id: int
    task_id: str
    created: int | None = None
    last_update: int | None = None
    seen: int | None = None
    active: int | None = None
    last_iteration: int | None = None
    last_change: int | None = None
    points: int = 0
    resource_points: int = 0
    console_lines: int = 0
    models: int = 0
    frames: int = 0
    reset: int = 0
    writers: set[bytes] = field(default_factory=set)
    is_new: bool = False

    def add(self, content: FrameContent, now_unix_ns: int) -> None:
        """Take a frame into the totals; its events are the writer's business. `now_unix_ns`: ours."""
        self.frames += 1
        self.console_lines += len(content.console)
        self.models += len(content.models)
        if content.first_unix_ns is not None and content.last_unix_ns is not None:
            self.note_times(content.first_unix_ns, content.last_unix_ns)
            if content.alive:
                self._note_life(content.last_unix_ns, content.active_unix_ns, content.sent_unix_ns, now_unix_ns)
        for event in content.records:
            if event.section != Section.HEARTBEATS and event.time_unix_ns > 0:
                self.last_change = _greatest(self.last_change, event.time_unix_ns)
        if content.points is not None:
            self.add_points(content.points)

    def note_times(self, first_unix_ns: int, last_unix_ns: int) -> None:
        """Take in when something of the task happened."""
        self.created = _least(self.created, first_unix_ns)
        self.last_update = _greatest(self.last_update, last_unix_ns)

    def add_points(self, points: FramePoints) -> None:
        """Take points into the totals."""
        scalars = points.of_scalars()
        self.points += len(scalars)
        self.resource_points += len(points) - len(scalars)
        if len(scalars):
            self.last_iteration = _greatest(self.last_iteration, int(scalars.iterations.max()))

    def _note_life(
        self, last_unix_ns: int, active_unix_ns: int | None, sent_unix_ns: int | None, now_unix_ns: int
    ) -> None:
        # By the sender's own clock how old it is: a clock that is wrong is wrong in both.
        sent_unix_ns = now_unix_ns if sent_unix_ns is None else sent_unix_ns
        self.seen = _greatest(self.seen, now_unix_ns - max(0, sent_unix_ns - last_unix_ns))
        if active_unix_ns is not None:
            self.active = _greatest(self.active, now_unix_ns - max(0, sent_unix_ns - active_unix_ns))

    def totals_row(self) -> dict[str, Any]:
        """Return the columns of `tasks` that every frame changes; `b_id` names the row."""
        return {
            "b_id": self.id,
            "created": self.created,
            "last_update": self.last_update,
            "seen": self.seen,
            "active": self.active,
            "last_iteration": self.last_iteration,
            "last_change": self.last_change,
            "points": self.points,
            "resource_points": self.resource_points,
            "console_lines": self.console_lines,
            "models": self.models,
            "frames": self.frames,
            "writers": len(self.writers),
        }


class WriterCache:
    """Committed totals by task, and the next free row ids. Thrown away when a transaction fails."""

    def __init__(self, connection: Connection) -> None:
        self.tasks: dict[str, TaskState] = {}
        # By project, where projects have limits.
        self.usage: dict[str, Usage] = {}
        self.deleted = deleted_task_ids(connection)
        self._next_id = {
            table.name: 1 + (connection.execute(select(func.max(table.c.id))).scalar() or 0)
            for table in (schema.tasks, schema.console)
        }
        self.metrics = MetricIds(1 + (connection.execute(select(func.max(schema.metrics.c.id))).scalar() or 0))
        # Rows of a deleted task may be left.
        tasks = schema.tasks.name
        self._next_id[tasks] = max(self._next_id[tasks], 1 + highest_buried_row(connection))

    def next_id(self, table: Table) -> int:
        """Return a fresh row id: there is one writer, so it can count by itself."""
        identifier = self._next_id[table.name]
        self._next_id[table.name] = identifier + 1
        return identifier

    def trim(self, max_entries: int, keep: Iterable[str]) -> None:
        """Forget all tasks but those to `keep` when there are many of them."""
        if len(self.tasks) > max_entries:
            self.tasks = {task_id: self.tasks[task_id] for task_id in keep if task_id in self.tasks}


def _least(old: int | None, new: int) -> int:
    return new if old is None else min(old, new)


def _greatest(old: int | None, new: int) -> int:
    return new if old is None else max(old, new)
