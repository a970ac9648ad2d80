"""Everything of a task, every bit of it, in pages: what `telemetry export` reads.

A page is read in one snapshot. Chunks are numbered in the order in which they were sealed and the tail is read
last, with the last chunks: so a task may grow while its pages are read, and no point is in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
from sqlalchemy import ColumnElement, Connection, Row, select

from telemetry.server.store import schema
from telemetry.server.store.blob_refs import held_blobs
from telemetry.server.store.chunks import Points, concat_points, unpack
from telemetry.server.store.errors import NotFound
from telemetry.server.store.gate import project_condition
from telemetry.server.store.reads import task_row_id
from telemetry.server.store.reports import read_media_rows

__all__ = ["Cursor", "read_console_page", "read_events", "read_points_page", "read_record", "read_records"]

# (series id, the last chunk of it that was read): where the next page begins.
Cursor: TypeAlias = tuple[int, int]

# 24 bytes each: an answer of 12 MB.
PAGE_POINTS = 500_000
# A page of many tiny series: SQLite takes 32,766 parameters, and the server's other readers wait meanwhile.
PAGE_SERIES = 1000

PAGE_CHARS = 4_000_000
# Of packed record values in one answer: those of 500 tasks with long configurations come in several.
PAGE_RECORD_BYTES = 8_000_000
_LINES_AT_ONCE = 5000


def read_points_page(connection: Connection, task_id: str, after: Cursor | None) -> dict[str, Any]:
    """Return runs of points, series by kind, title, name and rank, and the cursor of the next page or None.

    A run is [kind, title, series, unit, rank or None, iterations, times, values]; the columns are little-endian
    bytes. Its points are in the order in which they arrived.

    Raises:
        NotFound: no such task, or `after` names a series that is not one of its.
    """
    ordered = _ordered_series(connection, task_id)
    position, chunk = 0, 0
    if after is not None:
        identifiers = [row.id for row in ordered]
        if after[0] not in identifiers:
            raise NotFound(f"task {task_id} has no series {after[0]}")
        position, chunk = identifiers.index(after[0]), after[1]
    if position >= len(ordered):
        return {"runs": [], "next": None}
    group = _small_group(ordered, position) if not chunk else []
    if group:
        found = _read_whole(connection, [row.id for row in group])
        runs = [_run(row, concat_points(found[row.id])) for row in group if row.id in found]
        return {"runs": runs, "next": _start_of(ordered, position + len(group))}
    row = ordered[position]
    points, last = _read_part(connection, row.id, chunk)
    following = _start_of(ordered, position + 1) if last is None else [row.id, last]
    return {"runs": [_run(row, points)] if len(points) else [], "next": following}


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


def _ordered_series(connection: Connection, task_id: str) -> Sequence[Any]:
    metrics, series, stats = schema.metrics.c, schema.series.c, schema.series_stats.c
    query = (
        select(
            series.id, series.unit, series.rank, metrics.kind, metrics.title, metrics.series.label("name"), stats.count
        )
        .join(schema.metrics, metrics.id == series.metric)
        .join(schema.series_stats, stats.series == series.id)
        .where(series.task == task_row_id(connection, task_id))
        .order_by(metrics.kind, metrics.title, metrics.series, series.rank)
    )
    return connection.execute(query).all()


def _small_group(ordered: Sequence[Row[Any]], position: int) -> list[Row[Any]]:
    """Return the series from `position` on that fit a page whole; none if the first one does not."""
    group: list[Row[Any]] = []
    points = 0
    for row in ordered[position : position + PAGE_SERIES]:
        points += row._mapping["count"]
        if points > PAGE_POINTS:
            break
        group.append(row)
    return group


def _start_of(ordered: Sequence[Row[Any]], position: int) -> list[int] | None:
    return [ordered[position].id, 0] if position < len(ordered) else None


def _read_whole(connection: Connection, identifiers: list[int]) -> dict[int, list[Points]]:
    found: dict[int, list[Points]] = {}
    chunks, data, tails = schema.chunks.c, schema.chunk_data.c, schema.tails.c
    chunk_rows = (
        select(chunks.series, data.data)
        .join(schema.chunk_data, data.chunk == chunks.id)
        .where(chunks.series.in_(identifiers))
        .order_by(chunks.series, chunks.id)
    )
    tail_rows = select(tails.series, tails.data).where(tails.series.in_(identifiers)).order_by(tails.series, tails.id)
    for query in (chunk_rows, tail_rows):
        for series, packed in connection.execute(query):
            found.setdefault(series, []).append(unpack(packed))
    return found


def _read_part(connection: Connection, series: int, after_chunk: int) -> tuple[Points, int | None]:
    """Return a page of a long series, and the last chunk in it; None if the series ends here, tail included."""
    chunks, data, tails = schema.chunks.c, schema.chunk_data.c, schema.tails.c
    parts: list[Points] = []
    size = 0
    query = (
        select(chunks.id, chunks.count.label("size"))
        .where(chunks.series == series, chunks.id > after_chunk)
        .order_by(chunks.id)
    )
    wanted: list[int] = []
    rows = connection.execute(query).all()
    for row in rows:
        if wanted and size + row.size > PAGE_POINTS:
            break
        wanted.append(row.id)
        size += row.size
    packed_rows = select(data.data).where(data.chunk.in_(wanted)).order_by(data.chunk)
    parts += [unpack(packed) for packed in connection.execute(packed_rows).scalars()]
    if len(wanted) < len(rows):
        return concat_points(parts), wanted[-1]
    tail = select(tails.data).where(tails.series == series).order_by(tails.id)
    parts += [unpack(packed) for packed in connection.execute(tail).scalars()]
    return concat_points(parts), None


def _run(row: Row[Any], points: Points) -> list[Any]:
    return [
        row.kind,
        row.title,
        row.name,
        row.unit,
        None if row.rank == schema.NO_RANK else row.rank,
        np.ascontiguousarray(points.iterations, "<i8").tobytes(),
        np.ascontiguousarray(points.times_unix_ns, "<i8").tobytes(),
        np.ascontiguousarray(points.values, "<f8").tobytes(),
    ]
