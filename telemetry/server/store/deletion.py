"""Deleting tasks: gone from every answer at once, and from the disk slice by slice, so that writing goes on.

The tombstone in `deleted_tasks` stays: frames that writers of the task send later are taken and thrown away, since
they would send them for ever if they were refused. While rows are left it holds the task's row id, so that a server
that starts again goes on with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, tuple_, update

from telemetry.server.store import schema
from telemetry.server.store.errors import NotFound
from telemetry.server.store.seams import Log, SealedPoints

__all__ = ["NOBODY", "bury", "deleted_task_ids", "highest_buried_row", "next_buried", "remove_slice"]

# A slice holds up the writer for some 20 ms.
_SLICE_ROWS = 5000

# What the id in a tombstone begins with where the task is there again: under another row.
NOBODY = "#"

# Those of the log and of sealed points, and what a task holds of blobs.
_APART = (schema.frames, schema.chunks, schema.blocks, schema.task_blobs)

_buried = schema.deleted_tasks.c


def bury(connection: Connection, task_id: str) -> int:
    """Take a task out of the store's answers and leave the tombstone; return its row id.

    Raises:
        NotFound: there is no such task.
    """
    tasks = schema.tasks.c
    row = connection.execute(select(tasks.id).where(tasks.task_id == task_id)).scalar()
    if row is None:
        raise NotFound(f"no task {task_id}")
    connection.execute(insert(schema.deleted_tasks), {"task_id": task_id, "row": row})
    connection.execute(delete(schema.tasks).where(tasks.id == row))
    connection.execute(delete(schema.task_tags).where(schema.task_tags.c.task == row))
    return int(row)


def deleted_task_ids(connection: Connection) -> set[str]:
    """Return the ids of all tasks that were ever deleted."""
    return set(connection.execute(select(_buried.task_id)).scalars())


def highest_buried_row(connection: Connection) -> int:
    """Return the highest row id of which rows are left; no new task may get it. 0 where there are none."""
    return int(connection.execute(select(func.max(_buried.row))).scalar() or 0)


def next_buried(connection: Connection) -> int | None:
    """Return the row id of a deleted task of which rows are left; None where there is none."""
    return connection.execute(select(_buried.row).where(_buried.row.is_not(None)).limit(1)).scalar()


def remove_slice(connection: Connection, task: int, apart: Iterable[Log | SealedPoints]) -> None:
    """Remove some of what a deleted task left behind; with the last of it it is noted that nothing is left.

    `apart`: who keeps something of a task beside the records.
    """
    if any(one.drop(connection, task) for one in apart):
        return
    for table in _tables():
        if _remove_rows(connection, table, table.c.task == task, _SLICE_ROWS):
            return
    # That of a task which is there again stands for the rows only, and their number may be given again.
    connection.execute(delete(schema.deleted_tasks).where(_buried.row == task, _buried.task_id.startswith(NOBODY)))
    connection.execute(update(schema.deleted_tasks).where(_buried.row == task).values(row=None))


def _tables() -> list[Table]:
    """Return every table that holds rows of a task, but for those that are dropped by whoever keeps them."""
    return [table for table in schema.metadata.sorted_tables if "task" in table.c and table not in _APART]


def _remove_rows(connection: Connection, table: Table, which: Any, most: int) -> bool:
    """Remove some rows; False if fewer than `most` were left, and so none are."""
    key = list(table.primary_key)
    some = select(*key).where(which).limit(most)
    condition = key[0].in_(some) if len(key) == 1 else tuple_(*key).in_(some)
    return connection.execute(delete(table).where(condition)).rowcount >= most
