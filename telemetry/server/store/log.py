"""The log in SQL: the table `frames`, whose ids are the positions. Nobody else reads or writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, delete, func, insert, select

from telemetry.server.store import schema
from telemetry.server.store.seams import LogFrame, NewFrame

__all__ = ["FIRST_POSITION", "SqlLog"]

# Positions begin here; lower ones are those of points that an older version of the store has sealed.
FIRST_POSITION = 16
# Frames read at once.
_PAGE_FRAMES = 500
# Of a deleted task at once: some 20 ms of the writer's time.
_DROP_FRAMES = 1000

_frames = schema.frames.c


class SqlLog:
    """Implements `seams.Log`."""

    def __init__(self) -> None:
        # The next position, once it is known. It also rises where a transaction fails, which leaves a gap.
        self._next: int | None = None

    def append(self, transaction: Connection, frames: Sequence[NewFrame]) -> Sequence[int]:
        first = self.claim(transaction, len(frames))
        rows = [
            {"id": position, "task": frame.task, "points": frame.points, "data": frame.data}
            for position, frame in enumerate(frames, first)
        ]
        if rows:
            transaction.execute(insert(schema.frames), rows)
        return range(first, first + len(rows))

    def claim(self, transaction: Connection, count: int) -> int:
        if self._next is None:
            # Also when all of it is sealed, and beyond what the figures of series know of.
            tasks = schema.tasks.c
            highest = [select(func.max(column)) for column in (_frames.id, tasks.sealed, tasks.summed)]
            self._next = max(FIRST_POSITION, *(1 + (transaction.execute(query).scalar() or 0) for query in highest))
        first, self._next = self._next, self._next + count
        return first

    def read(self, snapshot: Connection, task: int, after: int) -> Iterator[LogFrame]:
        while True:
            query = select(_frames.id, _frames.data).where(_frames.task == task, _frames.id > after)
            found = snapshot.execute(query.order_by(_frames.id).limit(_PAGE_FRAMES)).all()
            for position, data in found:
                yield LogFrame(position, data)
            if len(found) < _PAGE_FRAMES:
                return
            after = found[-1].id

    def tasks(self, snapshot: Connection) -> list[tuple[str, int]]:
        tasks = schema.tasks.c
        query = select(tasks.task_id, _frames.task).join(schema.tasks, tasks.id == _frames.task).distinct()
        return [(task_id, row) for task_id, row in snapshot.execute(query)]

    def trim(self, transaction: Connection, task: int, upto: int) -> None:
        transaction.execute(delete(schema.frames).where(_frames.task == task, _frames.id <= upto))

    def drop(self, transaction: Connection, task: int) -> bool:
        some = select(_frames.id).where(_frames.task == task).limit(_DROP_FRAMES)
        return transaction.execute(delete(schema.frames).where(_frames.id.in_(some))).rowcount >= _DROP_FRAMES
