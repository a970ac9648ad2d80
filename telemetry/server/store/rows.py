"""Rows of the store's tables, made of events, and the statements that write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from sqlalchemy import Table, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert

from telemetry.events import RecordChange, SingleValue
from telemetry.server.store import schema
from telemetry.server.store.content import FrameContent

__all__ = ["ADD_BYTES", "UPSERT_RECORD", "UPSERT_VALUE", "record_row", "value_row"]


def value_row(task: int, content: FrameContent, event: SingleValue) -> dict[str, Any]:
    return {
        "task": task,
        "name": event.name,
        "time": event.time_unix_ns,
        "writer": content.writer_id,
        "sequence": content.sequence,
        "value": None if event.value != event.value else event.value,
    }


def record_row(task: int, content: FrameContent, event: RecordChange) -> dict[str, Any]:
    return {
        "task": task,
        "section": event.section,
        "key": event.key,
        "time": event.time_unix_ns,
        "writer": content.writer_id,
        "sequence": content.sequence,
        "value": None if event.value is None else msgpack.packb(event.value),
    }


def _last_writer_wins(table: Table, identity: Iterable[str]) -> Any:
    statement = upsert(table)
    old, new = table.c, statement.excluded
    changed = ("time", "writer", "sequence", "value")
    return statement.on_conflict_do_update(
        index_elements=[table.c[name] for name in identity],
        set_={name: new[name] for name in changed},
        # Equal only within one frame, where the later event wins.
        where=tuple_(new.time, new.writer, new.sequence) >= tuple_(old.time, old.writer, old.sequence),
    )


UPSERT_RECORD = _last_writer_wins(schema.records, ("task", "section", "key"))
UPSERT_VALUE = _last_writer_wins(schema.values, ("task", "name"))

_bytes_insert = upsert(schema.task_bytes)
ADD_BYTES = _bytes_insert.on_conflict_do_update(
    index_elements=[schema.task_bytes.c.task],
    set_={"frame_bytes": schema.task_bytes.c.frame_bytes + _bytes_insert.excluded.frame_bytes},
)
