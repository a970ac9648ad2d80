"""A task's status as it is read: what it said last, and what its silence means by now. Never stored.

| status shown | when |
|---|---|
| `lost` | it said `in_progress`, and nothing at all has come for 75 s: no event and no heartbeat |
| `stalled` | it said `in_progress` and is alive, but for 60 s nothing came but heartbeats and resource samples |
| what it said | otherwise |

Both times are by the server's clock (columns `seen` and `active` of `tasks`), so a late frame moves a status back
by itself, and a session that a killed process left is `lost` as soon as it is imported.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from telemetry.record import ShownStatus, TaskStatus
from telemetry.server.store import schema

__all__ = [
    "IN_PROGRESS",
    "LOST",
    "LOST_AFTER_NS",
    "STALLED",
    "STALLED_AFTER_NS",
    "moved_by_time",
    "status_at",
    "status_of",
]

IN_PROGRESS, STALLED, LOST = TaskStatus.IN_PROGRESS.value, ShownStatus.STALLED.value, ShownStatus.LOST.value

# Five heartbeats of 15 s.
LOST_AFTER_NS = 75_000_000_000
STALLED_AFTER_NS = 60_000_000_000

_tasks = schema.tasks.c


def status_of(said: str, seen_unix_ns: int | None, active_unix_ns: int | None, now_unix_ns: int) -> str:
    """Return the status to show at `now_unix_ns` (by the server's clock, as `seen_unix_ns` and `active_unix_ns`)."""
    if said != IN_PROGRESS:
        return said
    if (seen_unix_ns or 0) < now_unix_ns - LOST_AFTER_NS:
        return LOST
    return STALLED if (active_unix_ns or 0) < now_unix_ns - STALLED_AFTER_NS else IN_PROGRESS


def status_at(now_unix_ns: int) -> ColumnElement[str]:
    """Return the same as a column of `tasks`, to filter and sort by."""
    return case(
        (_tasks.status != IN_PROGRESS, _tasks.status),
        (func.coalesce(_tasks.seen, 0) < now_unix_ns - LOST_AFTER_NS, LOST),
        (func.coalesce(_tasks.active, 0) < now_unix_ns - STALLED_AFTER_NS, STALLED),
        else_=IN_PROGRESS,
    )


def moved_by_time(connection: Connection, since_unix_ns: int, now_unix_ns: int) -> list[str]:
    """Return the ids of the tasks whose status has changed between the two moments by nothing but time."""

    def passed(column: ColumnElement[Any], limit: int) -> ColumnElement[bool]:
        return and_(column >= since_unix_ns - limit, column < now_unix_ns - limit)

    moved = or_(passed(_tasks.seen, LOST_AFTER_NS), passed(_tasks.active, STALLED_AFTER_NS))
    query = select(_tasks.task_id).where(_tasks.status == IN_PROGRESS, moved)
    return list(connection.execute(query).scalars())
