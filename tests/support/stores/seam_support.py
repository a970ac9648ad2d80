"""What keeps the seams of the store: each suite of tests/store/contracts runs on all of these.

Another implementation is a function more in KEEPERS: it yields a `Kept` that begins empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import insert

from telemetry.server.store import schema
from telemetry.server.store.database import DATABASE_NAME, Database
from telemetry.server.store.log import SqlLog
from telemetry.server.store.record import columns_of
from telemetry.server.store.seams import FrameRanges, Log, SealedPoints, Transactions
from telemetry.server.store.sql_points import SqlPoints
from telemetry.server.store.sql_ranges import SqlRanges
from telemetry.server.store.state import TaskState

__all__ = ["KEEPERS", "Keeper", "Kept"]


@dataclass
class Kept:
    """One state of a store's seams; `reopen` gives what a start after a stop or a crash finds."""

    database: Transactions
    ranges: FrameRanges
    log: Log
    points: SealedPoints
    reopen: Callable[[], Kept]

    def add_task(self, task_id: str, row: int) -> None:
        """Add a task, which frames and points are of."""
        with self.database.transaction() as transaction:
            totals = TaskState(row, task_id).totals_row() | columns_of(task_id, {}) | {"recent_series": "[]"}
            totals["id"] = totals.pop("b_id")
            transaction.execute(insert(schema.tasks), {"task_id": task_id, **totals})


Keeper: TypeAlias = Callable[[Path], Iterator[Kept]]


def sqlite(directory: Path) -> Iterator[Kept]:
    opened: list[Database] = []

    def begin() -> Kept:
        for database in opened:
            database.close()
        opened.append(Database(directory / DATABASE_NAME))
        return Kept(opened[-1], SqlRanges(), SqlLog(), SqlPoints(), begin)

    yield begin()
    opened[-1].close()


KEEPERS: dict[str, Keeper] = {"sqlite": sqlite}
