"""Bringing an older store up to date: the statements of schema.MIGRATIONS, and what SQL alone cannot compute."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, func, select, update

from telemetry.events import HEARTBEATS
from telemetry.server.store import schema
from telemetry.server.store.fold import refold
from telemetry.server.store.metrics import md5_columns

__all__ = ["migrate"]


def migrate(connection: Connection, version: int) -> None:
    """Make the tables of `version` those of today; new tables are there already."""
    for number in range(version + 1, schema.SCHEMA_VERSION + 1):
        for statement in schema.MIGRATIONS[number]:
            connection.exec_driver_sql(statement)
        if number in _STEPS:
            _STEPS[number](connection)
    connection.execute(update(schema.schema_info).values(version=schema.SCHEMA_VERSION))


def _fill_version_4(connection: Connection) -> None:
    metrics, tasks, records = schema.metrics, schema.tasks, schema.records.c
    for identifier, title, series in connection.execute(select(metrics.c.id, metrics.c.title, metrics.c.series)).all():
        connection.execute(update(metrics).where(metrics.c.id == identifier).values(md5_columns(title, series)))
    latest = (
        select(func.max(records.time))
        .where(records.task == tasks.c.id, records.section != HEARTBEATS, records.time > 0)
        .scalar_subquery()
    )
    connection.execute(update(tasks).values(last_change=latest))
    for task, task_id in connection.execute(select(tasks.c.id, tasks.c.task_id)).all():
        refold(connection, task, task_id)


_STEPS: dict[int, Callable[[Connection], None]] = {4: _fill_version_4}
