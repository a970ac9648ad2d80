"""From the rows of a task's record to what is found, sorted and shown by: columns of `tasks`, and its tags."""

from __future__ import annotations

from typing import Any

import msgpack
from sqlalchemy import Connection, delete, insert, select, update

from telemetry.fold import is_void, reset_moment
from telemetry.record import Section, TaskKey
from telemetry.server.store import schema
from telemetry.server.store.record import RECORD_COLUMNS, columns_of, tags_of

__all__ = ["refold"]

_tags = schema.task_tags.c


def refold(connection: Connection, task: int, task_id: str) -> None:
    """Write anew what follows from section "task" of a task's record. `task`: its row id."""
    columns = schema.records.c
    query = select(columns.key, columns.value, columns.time).where(
        columns.task == task, columns.section == Section.TASK, columns.key.in_(RECORD_COLUMNS)
    )
    rows = {
        key: (time_unix_ns, None if value is None else msgpack.unpackb(value))
        for key, value, time_unix_ns in connection.execute(query)
    }
    changed_unix_ns, reset = rows.get(TaskKey.RESET, (0, None))
    since_unix_ns = reset_moment(reset, changed_unix_ns)
    # As telemetry/fold.py has it: what is older than the reset does not count, but for defaults.
    record: dict[str, Any] = {
        key: value
        for key, (time_unix_ns, value) in rows.items()
        if value is not None and not is_void(time_unix_ns, since_unix_ns)
    }
    changed, _ = rows.get(TaskKey.STATUS, (0, None))
    status_changed = changed if changed > 0 else None
    connection.execute(
        update(schema.tasks)
        .where(schema.tasks.c.id == task)
        .values(status_changed=status_changed, **columns_of(task_id, record))
    )
    _write_tags(connection, task, record)


def _write_tags(connection: Connection, task: int, record: dict[str, Any]) -> None:
    wanted = {(schema.TAG, tag) for tag in tags_of(record, TaskKey.TAGS)}
    wanted |= {(schema.SYSTEM_TAG, tag) for tag in tags_of(record, TaskKey.SYSTEM_TAGS)}
    there = {(kind, tag) for kind, tag in connection.execute(select(_tags.kind, _tags.tag).where(_tags.task == task))}
    # Nearly always nothing: the record changes with every step of the progress.
    if there == wanted:
        return
    connection.execute(delete(schema.task_tags).where(_tags.task == task))
    if wanted:
        rows = [{"kind": kind, "tag": tag, "task": task} for kind, tag in sorted(wanted)]
        connection.execute(insert(schema.task_tags), rows)
