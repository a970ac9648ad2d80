"""Everything of a task, every bit of it, in pages: what `telemetry export` reads.

A page is read in one snapshot. The points of a series are read in the order they came, which stays the same wherever
they lie; a page begins at so many of them. So a task may grow, be sealed and be merged while its pages are read, and no
point is in two of them or in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
from sqlalchemy import ColumnElement, Connection, select

from telemetry.server.store import schema
from telemetry.server.store.blob_refs import held_blobs
from telemetry.server.store.blocks import PlacedRun
from telemetry.server.store.chunks import Points
from telemetry.server.store.gate import project_condition
from telemetry.server.store.parts import KnownSeries, TaskParts
from telemetry.server.store.reads import task_row_id
from telemetry.server.store.reports import read_media_rows
from telemetry.server.store.seams import ChunkPlace

__all__ = ["Cursor", "read_console_page", "read_events", "read_points_page", "read_record", "read_records"]

# (series id, how many points of it were read): where the next page begins.
Cursor: TypeAlias = tuple[int, int]

# 24 bytes each: an answer of 12 MB.
PAGE_POINTS = 500_000
# A page of many tiny series: SQLite takes 32,766 parameters, and the server's other readers wait meanwhile.
PAGE_SERIES = 1000

PAGE_CHARS = 4_000_000
# Of packed record values in one answer: those of 500 tasks with long configurations come in several.
PAGE_RECORD_BYTES = 8_000_000
_LINES_AT_ONCE = 5000


def read_points_page(parts: TaskParts, after: Cursor | None) -> dict[str, Any]:
    """Return runs of points, series by kind, title, name and rank, and the cursor of the next page or None.

    A run is [kind, title, series, unit, rank or None, iterations, times, values]; the columns are little-endian
    bytes. Its points are in the order in which they arrived.

    Raises:
        NotFound: `after` names a series that is not one of the task's.
    """
    ordered = parts.series()
    position, read = 0, 0
    if after is not None:
        parts.check([after[0]])
        position, read = [one.id for one in ordered].index(after[0]), after[1]
    runs: list[list[Any]] = []
    points_held = 0
    while position < len(ordered):
        group = ordered[position : position + PAGE_SERIES]
        chunks = parts.chunks_of([one.id for one in group])
        loose = parts.loose([one.id for one in group])
        for one in group:
            points, more = _page_of(
                parts, chunks.get(one.id, ()), loose.get(one.id, ()), read, PAGE_POINTS - points_held
            )
            if len(points):
                runs.append(_run(one, points))
                points_held += len(points)
            if more:
                return {"runs": runs, "next": [one.id, read + len(points)]}
            read = 0
            position += 1
        if position < len(ordered):
            return {"runs": runs, "next": [ordered[position].id, 0]}
    return {"runs": runs, "next": None}


def read_console_page(connection: Connection, task_id: str, after: int) -> dict[str, Any]:
    """Return lines [time, writer, sequence, stream, level, text] as they arrived, and the next page's `after`."""
    columns = schema.console.c
    condition = columns.task == task_row_id(connection, task_id)
    lines: list[list[Any]] = []
    chars = 0
    while chars < PAGE_CHARS:
        query = select(schema.console).where(condition, columns.id > after).order_by(columns.id).limit(_LINES_AT_ONCE)
        rows = connection.execute(query).all()
        for row in rows:
            lines.append([row.time, row.writer or b"", row.sequence or 0, row.stream, row.level, row.text])
            chars += len(row.text)
            after = row.id
            if chars >= PAGE_CHARS:
                break
        if len(rows) < _LINES_AT_ONCE and (not rows or rows[-1].id == after):
            return {"lines": lines, "next": None}
    return {"lines": lines, "next": after}


def read_events(connection: Connection, task_id: str) -> dict[str, Any]:
    """Return the record's fold, single values, models and media, in an order that arrival does not change."""
    task = task_row_id(connection, task_id)
    values, models = schema.values.c, schema.models.c
    value_rows = connection.execute(
        select(values.name, values.time, values.value).where(values.task == task).order_by(values.name)
    )
    order = [models.time, models.name, models.path, models.framework, models.iteration, models.size_bytes]
    model_rows = connection.execute(select(*order).where(models.task == task).order_by(*order))
    return {
        "record": _unpacked(_record_rows(connection, task)),
        # NULL is NaN: SQLite has no other way to hold it.
        "values": [[name, time, float("nan") if value is None else value] for name, time, value in value_rows],
        "models": [list(row) for row in model_rows],
        "media": read_media_rows(connection, task),
        # Which of the record's "blob:" uris have their bytes here.
        "blobs": sorted(held_blobs(connection, task)),
    }


def read_record(connection: Connection, task_id: str) -> dict[str, Any]:
    """Return {"record": [[section, key, time, writer, value], ...]}, the fold of the task's record."""
    return {"record": _unpacked(_record_rows(connection, task_row_id(connection, task_id)))}


def read_records(connection: Connection, task_ids: Sequence[str], within: tuple[str, ...] | None) -> dict[str, Any]:
    """Return {"records": {id: as `record` of read_record}}, in the order asked, the first ones that fit an answer.

    Args:
        within: only tasks of these projects and of what is below them; None for all. Others are left out, as those
            that are not there.
    """
    tasks = schema.tasks.c
    condition: list[ColumnElement[bool]] = [tasks.task_id.in_(task_ids)]
    if within is not None:
        condition.append(project_condition(within))
    rows: dict[str, int] = {
        one: row for row, one in connection.execute(select(tasks.id, tasks.task_id).where(*condition))
    }
    found: dict[str, list[list[Any]]] = {}
    size = 0
    for task_id in dict.fromkeys(task_ids):
        if task_id not in rows:
            continue
        record = _record_rows(connection, rows[task_id])
        size += sum(len(row.value) for row in record)
        if found and size > PAGE_RECORD_BYTES:
            break
        found[task_id] = _unpacked(record)
    return {"records": found}


def _record_rows(connection: Connection, task: int) -> Sequence[Any]:
    records = schema.records.c
    query = (
        select(records.section, records.key, records.time, records.writer, records.value)
        .where(records.task == task, records.value.is_not(None))
        .order_by(records.section, records.key)
    )
    return connection.execute(query).all()


def _unpacked(rows: Sequence[Any]) -> list[list[Any]]:
    return [[row.section, row.key, row.time, row.writer, msgpack.unpackb(row.value)] for row in rows]


def _page_of(
    parts: TaskParts, chunks: Sequence[ChunkPlace], runs: Sequence[PlacedRun], read: int, most: int
) -> tuple[Points, bool]:
    """Return the points of a series after the first `read` ones, at most `most`, and whether there are more."""
    every: list[ChunkPlace | PlacedRun] = [*chunks, *runs]
    every.sort(key=lambda part: (part.position, part.id if isinstance(part, ChunkPlace) else 0))
    start = 0
    wanted_chunks: list[ChunkPlace] = []
    wanted_runs: list[PlacedRun] = []
    skipped: int | None = None
    end = read + most
    for part in every:
        size = part.size if isinstance(part, ChunkPlace) else len(part.points)
        if start < end and start + size > read:
            skipped = start if skipped is None else skipped
            if isinstance(part, ChunkPlace):
                wanted_chunks.append(part)
            else:
                wanted_runs.append(part)
        start += size
    first = read - (skipped or 0)
    points = parts.read(wanted_chunks, wanted_runs).take(slice(first, first + most))
    return points, start > end


def _run(series: KnownSeries, points: Points) -> list[Any]:
    kind, title, name, rank = series.name
    return [
        kind,
        title,
        name,
        series.unit,
        None if rank == schema.NO_RANK else rank,
        np.ascontiguousarray(points.iterations, "<i8").tobytes(),
        np.ascontiguousarray(points.times_unix_ns, "<i8").tobytes(),
        np.ascontiguousarray(points.values, "<f8").tobytes(),
    ]
