"""Stores that are broken on purpose: what looks for lost and doubled frames must find these, or it finds nothing.

Each is a function that a server calls with its folder before it starts. Most change what becomes of the bodies that are
posted, so that they fit any store; two change the database, as a start that goes wrong would.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

from hasty_server import UNSEALED_TABLE

from telemetry.events import Batch
from telemetry.server.ingest import Ingest
from telemetry.server.store.database import DATABASE_NAME
from telemetry.wire import Frame, decode, encode, scan

__all__ = ["SPOILERS"]

# One body in so many is spoiled, chosen by what is in it: a server that lives briefly spoils as many.
_EVERY = 10
# How much too early an acknowledgement is.
_LATE_S = 0.3

_Take: TypeAlias = Callable[..., Any]


def _frames(body: bytes) -> list[Frame]:
    return [item for _, item in scan(body) if isinstance(item, Frame)]


def forget_points(_directory: Path) -> None:
    """Now and then acknowledge frames and keep all of them but the points."""

    def without_points(frame: Frame) -> bytes:
        batch = decode(frame)
        bare = Batch(batch.task_id, events=batch.events, events_logged=batch.events_logged, rank=batch.rank)
        return encode(bare, writer_id=frame.writer_id, sequence=frame.sequence).data

    def spoiled(take: _Take) -> _Take:
        async def instead(self: Ingest, body: bytes, **options: Any) -> Any:
            if zlib.crc32(body) % _EVERY == 0:
                body = b"".join(map(without_points, _frames(body)))
            return await take(self, body, **options)

        return instead

    _spoil(spoiled)


def take_twice(_directory: Path) -> None:
    """Now and then keep frames twice, the second time as if another process had sent them."""

    def as_another(frame: Frame) -> bytes:
        other = hashlib.sha256(frame.writer_id).digest()[:16]
        return encode(decode(frame), writer_id=other, sequence=frame.sequence).data

    def spoiled(take: _Take) -> _Take:
        async def instead(self: Ingest, body: bytes, **options: Any) -> Any:
            if zlib.crc32(body) % _EVERY == 0:
                await take(self, b"".join(map(as_another, _frames(body))), **options)
            return await take(self, body, **options)

        return instead

    _spoil(spoiled)


def acknowledge_before_commit(_directory: Path) -> None:
    """Answer at once, and store a little later."""
    late: set[asyncio.Task[None]] = set()

    def spoiled(take: _Take) -> _Take:
        async def instead(self: Ingest, body: bytes, **options: Any) -> Any:
            async def store() -> None:
                await asyncio.sleep(_LATE_S)
                await take(self, body, **options)

            late.add(task := asyncio.create_task(store()))
            task.add_done_callback(late.discard)
            frames = [
                {"writer": frame.writer_id.hex(), "sequence": frame.sequence, "result": "stored"}
                for frame in _frames(body)
            ]
            return {"frames": frames, "store": self._store.store_id, "writers": {one["writer"]: [] for one in frames}}

        return instead

    _spoil(spoiled)


def lose_at_start(directory: Path) -> None:
    """Begin without the points that came last."""
    _change_last_points(directory, "DELETE FROM {table} WHERE id = {last}")


def repeat_at_start(directory: Path) -> None:
    """Begin with the points that came last once more, as if they were sealed and then still read from the log."""
    _change_last_points(directory, "INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE id = {last}")


def _change_last_points(directory: Path, statement: str) -> None:
    """Run a statement on the last row of the table of points that are not sealed, if there is a row."""
    if not (directory / DATABASE_NAME).exists():
        return
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection, connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({UNSEALED_TABLE})") if row[1] != "id"]
        if columns:
            last = f"(SELECT max(id) FROM {UNSEALED_TABLE})"
            connection.execute(statement.format(table=UNSEALED_TABLE, columns=", ".join(columns), last=last))


def _spoil(spoiled: Callable[[_Take], _Take]) -> None:
    Ingest.receipt = spoiled(Ingest.receipt)  # type: ignore[method-assign]


SPOILERS: dict[str, Callable[[Path], None]] = {
    spoiler.__name__: spoiler
    for spoiler in (forget_points, take_twice, acknowledge_before_commit, lose_at_start, repeat_at_start)
}
