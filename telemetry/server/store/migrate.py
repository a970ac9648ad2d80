"""Bringing an older store up to date: the statements of schema.MIGRATIONS, and what SQL alone cannot compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, Table, UniqueConstraint, bindparam, func, inspect, select, update
from sqlalchemy.schema import CreateColumn

from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.fold import refold
from telemetry.server.store.metrics import md5_columns
from telemetry.server.store.moving import begin_move, different_tables

__all__ = ["mend", "migrate"]


def migrate(connection: Connection, version: int) -> list[str]:
    """Make the tables of `version` those of today; new tables are there already. What is long is only begun.

    Returns:
        What they lack for it, in words; the transaction is to be rolled back then. Empty if they are done.
    """
    for number in range(version + 1, schema.SCHEMA_VERSION + 1):
        different = _CHECKS[number](connection) if number in _CHECKS else []
        if different:
            return different
        for statement in schema.MIGRATIONS[number]:
            connection.exec_driver_sql(statement)
        if number in _STEPS:
            _STEPS[number](connection)
    connection.execute(update(schema.schema_info).values(version=schema.SCHEMA_VERSION))
    return []


def mend(connection: Connection) -> list[str]:
    """Make the tables what this version expects, where nothing but a column that may be empty is missing.

    Returns:
        What else is different, in words; empty if the tables are what they should be.
    """
    different: list[str] = []
    refill = False
    for table in schema.metadata.sorted_tables:
        there = {column["name"]: column for column in inspect(connection).get_columns(table.name)}
        different += [
            f"the table {table.name} has a column {name} that this version would leave empty"
            for name, column in there.items()
            if name not in table.c and not column["nullable"] and column["default"] is None
        ]
        for column in table.c:
            if column.name in there:
                continue
            if not _add_column(connection, table, column):
                different.append(f"the table {table.name} has no column {column.name}")
            refill |= table.name in ("tasks", "metrics")
        keys = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
        if keys != [column.name for column in table.primary_key]:
            different.append(f"the key of the table {table.name} is {', '.join(keys) or 'missing'}")
        different += _missing_unique(connection, table)
    if not different:
        for table in schema.metadata.sorted_tables:
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        if refill:
            _fill_metrics(connection)
            _fill_version_4(connection)
    return different


def _add_column(connection: Connection, table: Table, column: Column[Any]) -> bool:
    """Add a column whose rows need no value; False where they do."""
    if column.primary_key or (not column.nullable and column.server_default is None):
        return False
    definition = CreateColumn(column).compile(connection)
    connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
    return True


def _missing_unique(connection: Connection, table: Table) -> list[str]:
    """Return in words what must be unique for a row to be replaced, and is not."""
    there = [set(found["column_names"]) for found in inspect(connection).get_unique_constraints(table.name)]
    wanted = [
        [column.name for column in constraint.columns]
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    ]
    return [
        f"in the table {table.name} {', '.join(names)} are not unique" for names in wanted if set(names) not in there
    ]


def _fill_metrics(connection: Connection) -> None:
    metrics = schema.metrics
    found = connection.execute(select(metrics.c.id, metrics.c.title, metrics.c.series)).all()
    rows = [{"b_id": identifier, **md5_columns(title, series)} for identifier, title, series in found]
    if rows:
        statement = update(metrics).where(metrics.c.id == bindparam("b_id")).values(md5=bindparam("md5"))
        connection.execute(statement, rows)


def _begin_version_5(connection: Connection) -> None:
    _fill_metrics(connection)
    begin_move(connection)


def _fill_version_4(connection: Connection) -> None:
    tasks, records = schema.tasks, schema.records.c
    latest = (
        select(func.max(records.time))
        .where(records.task == tasks.c.id, records.section != Section.HEARTBEATS, records.time > 0)
        .scalar_subquery()
    )
    connection.execute(update(tasks).values(last_change=latest))
    for task, task_id in connection.execute(select(tasks.c.id, tasks.c.task_id)).all():
        refold(connection, task, task_id)


_CHECKS: dict[int, Callable[[Connection], list[str]]] = {5: different_tables}
_STEPS: dict[int, Callable[[Connection], None]] = {4: _fill_version_4, 5: _begin_version_5}
