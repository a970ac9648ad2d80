"""Moving the points of a store of version 4: from chunks and tails by series to chunks and blocks by task.

The first transaction makes the store one of version 5, which older programs refuse: the old tables get other names,
the new ones are empty, and the table `moving` says how much there is. Then slice after slice goes over, each in a
transaction that takes rows out of the old tables and puts them into the new ones. So the old tables are what is still
to move: who was stopped at whatever moment goes on with them, the room that they leave serves the new rows, and the
store is open when they are empty and gone.

All of it lies before the first position of the log (state.py): chunks in the order of their ids at CHUNKS_POSITION, and
what was in no chunk yet, which came after them, at TAILS_POSITION.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)

from telemetry.server.store import schema
from telemetry.server.store.chunks import Points, concat_points, unpack
from telemetry.server.store.errors import MoveStopped
from telemetry.server.store.sealing import arrange
from telemetry.server.store.sql_points import write_parts

__all__ = ["begin_move", "different_tables", "finish_move", "is_moving"]

log = logging.getLogger("telemetry.server")

CHUNKS_POSITION, TAILS_POSITION = 0, 1

# Of one transaction, which takes some 0.2 s. A row of chunks is some 3 kB, a point of a tail 24 bytes.
SLICE_CHUNKS = 2000
SLICE_SERIES = 2000
SLICE_POINTS = 300_000

PROGRESS_S = 1.0

# What is counted in `moving`; and how long moving a chunk's row and a series take, one against the other.
_TASKS, _SERIES, _CHUNKS, _POINTS = "tasks", "series", "chunks", "points"
_WORK = {_CHUNKS: 1, _SERIES: 3}

# The old tables, as far as they are read; MIGRATIONS gives them these names.
_old = MetaData()


def _old_table(name: str, columns: Mapping[str, Any]) -> Table:
    return Table(name, _old, *(Column(column, kind) for column, kind in columns.items()))


_series = _old_table("series_4", {"id": Integer, "task": Integer, "metric": Integer, "rank": Integer, "unit": Text})
_stats = _old_table(
    "series_stats_4", {column.name: column.type for column in schema.series_stats.c} | {"tail_points": Integer}
)
_chunks = _old_table(
    "chunks_4", {column.name: column.type for column in schema.chunks.c if column.name not in ("task", "position")}
)
_tails = _old_table("tails", {"id": Integer, "series": Integer, "data": LargeBinary})
_moving = Table(
    "moving",
    MetaData(),
    Column("what", Text, primary_key=True),
    Column("total", Integer, nullable=False),
    Column("moved", Integer, nullable=False),
)


def different_tables(connection: Connection) -> list[str]:
    """Return in words what a store of version 4 lacks to be moved; nothing is changed."""
    different: list[str] = []
    for table in _old.sorted_tables:
        name = table.name.removesuffix("_4")
        if not inspect(connection).has_table(name):
            different.append(f"there is no table {name}")
            continue
        there = {column["name"] for column in inspect(connection).get_columns(name)}
        different += [f"the table {name} has no column {column.name}" for column in table.c if column.name not in there]
    return different


def begin_move(connection: Connection) -> None:
    """Make the new tables and count what is to be moved; the old ones have their other names already."""
    schema.metadata.create_all(connection, [schema.series, schema.series_stats, schema.chunks])
    _moving.create(connection)
    totals = {
        _TASKS: select(func.count(_series.c.task.distinct())),
        _SERIES: select(func.count()).select_from(_series),
        _CHUNKS: select(func.count()).select_from(_chunks),
        _POINTS: select(func.coalesce(func.sum(_stats.c.count), 0)),
    }
    rows = [{"what": what, "total": connection.execute(query).scalar_one()} for what, query in totals.items()]
    connection.execute(insert(_moving).values(moved=0), rows)


def is_moving(connection: Connection) -> bool:
    """Say whether something is still to be moved."""
    return inspect(connection).has_table(_moving.name)


def finish_move(
    transaction: Callable[[], AbstractContextManager[Connection]], stopping: Callable[[], bool] | None = None
) -> None:
    """Move what is still to be moved, slice by slice, and say on the log how far it is.

    Args:
        stopping: asked after each slice; True: no more of them.

    Raises:
        MoveStopped: because of `stopping`.
        StoreUnavailable: the disk is full or failing; what is moved is moved, and the rest is where it was.
    """
    move_log = _MoveLog()
    while True:
        with transaction() as connection:
            if not is_moving(connection):
                break
            move_log.note(connection)
            moved = _move_chunks(connection) or _move_series(connection)
            if moved:
                rows = [{"b_what": what, "more": count} for what, count in moved.items()]
                connection.execute(_ADD_MOVED, rows)
            else:
                _drop_old_tables(connection)
        if stopping is not None and stopping():
            raise MoveStopped("the move of the store is stopped; the next start goes on with it")
    move_log.end()


def _move_chunks(connection: Connection) -> Counter[str]:
    """Give some rows of chunks their task; the packed points (chunk_data) stay where they are."""
    some = select(_chunks.c.id).order_by(_chunks.c.id).limit(SLICE_CHUNKS).subquery()
    last = connection.execute(select(func.max(some.c.id))).scalar()
    moved: Counter[str] = Counter()
    if last is None:
        return moved
    which = _chunks.c.id <= last
    moved[_CHUNKS], moved[_POINTS] = connection.execute(
        select(func.count(), func.sum(_chunks.c.count)).where(which)
    ).one()
    names = [column.name for column in _chunks.c]
    rows = select(*_chunks.c, _series.c.task, literal(CHUNKS_POSITION)).where(which)
    rows = rows.join(_series, _series.c.id == _chunks.c.series)
    connection.execute(insert(schema.chunks).from_select([*names, "task", "position"], rows))
    connection.execute(delete(_chunks).where(which))
    return moved


def _move_series(connection: Connection) -> Counter[str]:
    """Move some series, task by task, and what of them is in no chunk."""
    moved: Counter[str] = Counter()
    chunk_ids = _chunk_ids(connection)
    task = _next_task(connection)
    while task is not None and moved[_SERIES] < SLICE_SERIES and moved[_POINTS] < SLICE_POINTS:
        tail_points = func.coalesce(_stats.c.tail_points, 0)
        query = (
            select(_series.c.id, tail_points)
            .outerjoin(_stats, _stats.c.series == _series.c.id)
            .where(_series.c.task == task)
            .order_by(_series.c.id)
            .limit(SLICE_SERIES - moved[_SERIES])
        )
        some: list[int] = []
        for identifier, points in connection.execute(query).all():
            if moved[_POINTS] >= SLICE_POINTS:
                break
            some.append(identifier)
            moved[_POINTS] += points
        _move_some(connection, task, some, chunk_ids)
        moved[_SERIES] += len(some)
        following = _next_task(connection)
        moved[_TASKS] += following != task
        task = following
    return moved


def _next_task(connection: Connection) -> int | None:
    return connection.execute(select(func.min(_series.c.task))).scalar()


def _chunk_ids(connection: Connection) -> Iterator[int]:
    return itertools.count(1 + (connection.execute(select(func.max(schema.chunks.c.id))).scalar() or 0))


def _move_some(connection: Connection, task: int, series: Sequence[int], chunk_ids: Iterator[int]) -> None:
    """Move series of a task by id, ascending; with their statistics, which are exact."""
    for old, key, new in ((_series, _series.c.id, schema.series), (_stats, _stats.c.series, schema.series_stats)):
        which = key.in_(series)
        rows = select(*(old.c[column.name] for column in new.c)).where(which)
        connection.execute(insert(new).from_select([column.name for column in new.c], rows))
        connection.execute(delete(old).where(which))
    which = _tails.c.series.in_(series)
    found: dict[int, list[Points]] = {}
    unreadable: list[int] = []
    query = select(_tails.c.id, _tails.c.series, _tails.c.data).where(which).order_by(_tails.c.series, _tails.c.id)
    for identifier, one, data in connection.execute(query):
        try:
            found.setdefault(one, []).append(unpack(data))
        except ValueError as error:
            # A disk's doing; the server before this one failed when it read that series.
            log.error("points of series %d are left in the table tails, row %d: %s", one, identifier, error)
            unreadable.append(identifier)
    connection.execute(delete(_tails).where(which, _tails.c.id.not_in(unreadable)))
    runs = {one: concat_points(parts) for one, parts in found.items()}
    numbers = np.repeat(np.arange(len(runs), dtype=np.uint32), [len(run) for run in runs.values()])
    points = concat_points(list(runs.values()))
    parts = arrange(list(runs), numbers, points, TAILS_POSITION, TAILS_POSITION)
    write_parts(connection, task, parts, chunk_ids)


def _drop_old_tables(connection: Connection) -> None:
    for table in (_moving, _series, _stats, _chunks):
        table.drop(connection)
    if connection.execute(select(_tails.c.id).limit(1)).first() is None:
        _tails.drop(connection)


class _MoveLog:
    """Says every second how far the move is and how long it will take."""

    def __init__(self) -> None:
        self._began_at = self._said_at = time.monotonic()
        self._counts: dict[str, tuple[int, int]] = {}
        self._done_before = 0

    def note(self, connection: Connection) -> None:
        """Read how far it is; say it if that is due."""
        query = select(_moving.c.what, _moving.c.moved, _moving.c.total)
        first = not self._counts
        self._counts = {what: (moved, total) for what, moved, total in connection.execute(query)}
        if first:
            self._done_before = self._work(0)
            log.warning(
                "the store is of an older version and is moved to version %d now, once: %s. It may be stopped at any "
                "moment: nothing is lost, and the next start goes on with it",
                schema.SCHEMA_VERSION,
                self._how_far(),
            )
        elif time.monotonic() - self._said_at >= PROGRESS_S:
            self._said_at = time.monotonic()
            log.warning("moving the store: %s%s", self._how_far(), self._how_long())

    def end(self) -> None:
        """Say that it is done."""
        points, tasks = self._counts[_POINTS][1], self._counts[_TASKS][1]
        seconds = time.monotonic() - self._began_at
        log.warning("the store is moved: %s points of %s tasks; %.1f s", f"{points:,}", f"{tasks:,}", seconds)

    def _work(self, which: int) -> int:
        return sum(share * self._counts[what][which] for what, share in _WORK.items())

    def _how_far(self) -> str:
        return ", ".join("{:,} of {:,} {}".format(*self._counts[what], what) for what in (_POINTS, _SERIES, _TASKS))

    def _how_long(self) -> str:
        done, total = self._work(0), self._work(1)
        if done <= self._done_before:
            return ""
        seconds = (time.monotonic() - self._began_at) / (done - self._done_before) * (total - done)
        return f"; about {seconds:.0f} s still"


_ADD_MOVED = (
    update(_moving).where(_moving.c.what == bindparam("b_what")).values(moved=_moving.c.moved + bindparam("more"))
)
