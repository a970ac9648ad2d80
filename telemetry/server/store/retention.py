"""Retention: which tasks have been kept for long enough, by age and by the size of their project.

A task counts from its end: `ended`, or the last that was heard of it. Only those are removed that have ended, or that
have been silent for more than a day; never a draft, never what waits in a queue or runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection, func, select

from telemetry.record import TaskStatus
from telemetry.server.store import schema
from telemetry.server.store.gate import project_condition
from telemetry.server.store.status import LOST, status_of

__all__ = ["KEEP_TAG", "Retention", "RetentionPlan", "RetentionTask", "plan_retention"]

# A task with this tag stays, unless somebody asks for it by name.
KEEP_TAG = "keep"

_ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.STOPPED, TaskStatus.PUBLISHED})
# A program that was suspended over night may come back.
_SILENT_NS = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long, and how much of a project is kept. None: any.

    Attributes:
        older_than_s: tasks that ended longer ago go.
        keep_bytes: of a project and all below it; beyond it the tasks that ended first go.
        published, kept: also those that are published, or tagged "keep".
    """

    older_than_s: float | None = None
    keep_bytes: int | None = None
    published: bool = False
    kept: bool = False

    def __bool__(self) -> bool:
        return self.older_than_s is not None or self.keep_bytes is not None


@dataclass(frozen=True, slots=True)
class RetentionTask:
    """A task as retention sees it.

    Attributes:
        size_bytes: of its frames as they came, and of its files; a file that two tasks have counts in each.
        stays: why it is not removed whatever its age; "" if it may be.
        reason: why it goes; "" if it does not.
    """

    id: str
    name: str
    project: str
    status: str
    ended_unix_ns: int
    size_bytes: int
    stays: str = ""
    reason: str = ""


@dataclass(slots=True)
class RetentionPlan:
    """What is to be removed, the one that ended first at the head; and all there is, for a table by project."""

    remove: list[RetentionTask] = field(default_factory=list)
    tasks: list[RetentionTask] = field(default_factory=list)


def plan_retention(
    connection: Connection, project: str | None, retention: Retention, now_unix_ns: int
) -> RetentionPlan:
    """Return what of a project and all below it is to be removed; None: of each top-level project by itself."""
    plan = RetentionPlan(tasks=_read_tasks(connection, project, retention, now_unix_ns))
    groups: dict[str, list[RetentionTask]] = {}
    for task in plan.tasks:
        groups.setdefault(task.project.partition("/")[0] if project is None else project, []).append(task)
    for tasks in groups.values():
        plan.remove += _choose(tasks, retention, now_unix_ns)
    plan.remove.sort(key=_by_end)
    return plan


def _choose(tasks: Sequence[RetentionTask], retention: Retention, now_unix_ns: int) -> list[RetentionTask]:
    left_bytes = sum(task.size_bytes for task in tasks)
    chosen: list[RetentionTask] = []
    for task in sorted((task for task in tasks if not task.stays), key=_by_end):
        age_s = (now_unix_ns - task.ended_unix_ns) / 1e9
        if retention.older_than_s is not None and age_s > retention.older_than_s:
            reason = "age"
        elif retention.keep_bytes is not None and left_bytes > retention.keep_bytes:
            reason = "size"
        else:
            continue
        left_bytes -= task.size_bytes
        chosen.append(
            RetentionTask(
                task.id, task.name, task.project, task.status, task.ended_unix_ns, task.size_bytes, reason=reason
            )
        )
    return chosen


def _by_end(task: RetentionTask) -> tuple[int, str]:
    return task.ended_unix_ns, task.id


def _read_tasks(
    connection: Connection, project: str | None, retention: Retention, now_unix_ns: int
) -> list[RetentionTask]:
    tasks, weights, held = schema.tasks, schema.task_bytes, schema.task_blobs
    columns = tasks.c
    blob_bytes = select(held.c.task, func.sum(held.c.size_bytes).label("size_bytes")).group_by(held.c.task).subquery()
    query = select(
        columns.task_id,
        columns.name,
        columns.project,
        columns.status,
        columns.tags,
        columns.published,
        columns.ended,
        columns.last_update,
        columns.seen,
        columns.active,
        (func.coalesce(weights.c.frame_bytes, 0) + func.coalesce(blob_bytes.c.size_bytes, 0)).label("size_bytes"),
    ).select_from(
        tasks.outerjoin(weights, weights.c.task == columns.id).outerjoin(blob_bytes, blob_bytes.c.task == columns.id)
    )
    if project is not None:
        query = query.where(project_condition((project,)))
    found = []
    for row in connection.execute(query):
        status = status_of(row.status, row.seen, row.active, now_unix_ns)
        silent = status == LOST and (row.seen or 0) < now_unix_ns - _SILENT_NS
        stays = ""
        if status not in _ENDED and not silent:
            stays = status or "unknown"
        elif (row.published or status == TaskStatus.PUBLISHED) and not retention.published:
            stays = TaskStatus.PUBLISHED.value
        elif KEEP_TAG in orjson.loads(row.tags) and not retention.kept:
            stays = f"tagged {KEEP_TAG}"
        # A lost task may have an end of an attempt before.
        heard_unix_ns = row.last_update or 0
        ended_unix_ns = heard_unix_ns if silent else row.ended or heard_unix_ns
        found.append(
            RetentionTask(row.task_id, row.name, row.project, status, ended_unix_ns, int(row.size_bytes), stays)
        )
    return found
