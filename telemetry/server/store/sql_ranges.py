"""Which frames are there, in SQL: the table `frame_ranges`. Nobody else reads or writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from telemetry.server.store import schema
from telemetry.server.store.ranges import Ranges

__all__ = ["SqlRanges"]

_ranges = schema.frame_ranges.c


class SqlRanges:
    """Implements `seams.FrameRanges`."""

    def held(self, snapshot: Connection, writer_id: bytes) -> Ranges:
        query = select(_ranges.first, _ranges.last).where(_ranges.writer == writer_id)
        return Ranges((first, last) for first, last in snapshot.execute(query))

    def note(self, transaction: Connection, grown: Mapping[bytes, tuple[Ranges, Ranges]]) -> None:
        rows: list[dict[str, Any]] = []
        for writer, (before, now) in grown.items():
            old, new = set(before.pairs()), set(now.pairs())
            kept_firsts = {first for first, _ in new}
            for first, _ in old - new:
                if first not in kept_firsts:
                    transaction.execute(
                        delete(schema.frame_ranges).where(_ranges.writer == writer, _ranges.first == first)
                    )
            rows += [{"writer": writer, "first": first, "last": last} for first, last in new - old]
        if rows:
            transaction.execute(_UPSERT, rows)


_insert = upsert(schema.frame_ranges)
_UPSERT = _insert.on_conflict_do_update(
    index_elements=[_ranges.writer, _ranges.first], set_={"last": _insert.excluded.last}
)
