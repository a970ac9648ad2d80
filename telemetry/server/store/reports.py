"""Plots and media: rows in, and what the pages, the SDK and exports read of them.

Of each (title, series, iteration) one row is kept, that with the greatest (time, writer, sequence), in whatever order
they come. Figures are deflated: plotly's JSON is text, and shrinks to a third and less.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, func, or_, select, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert

from telemetry.events import Media, Plot
from telemetry.record import BlobState
from telemetry.server.store import schema
from telemetry.server.store.content import FrameContent
from telemetry.server.store.plain import unix_ms
from telemetry.server.store.reads import task_row_id
from telemetry.storage.blobs import sha256_of_uri

__all__ = [
    "ReportsQuery",
    "add_reports",
    "blobs_of_reports",
    "read_media",
    "read_media_rows",
    "read_plots",
    "read_plots_page",
]

# One answer holds figures of so many bytes, and one figure at least; for the others the reader asks again.
ANSWER_BYTES = 16 * 1024 * 1024
PAGE_BYTES = 8 * 1024 * 1024
_PAGE_ROWS = 2000
# Media are small rows; a page that shows more at once shows nothing.
MAX_MEDIA = 10_000

_LEVEL = 6
_plots, _media = schema.plots.c, schema.media.c


@dataclass(frozen=True, slots=True)
class ReportsQuery:
    """Which plots or media of a task.

    Attributes:
        title, series, iteration: None for all.
        last: of each title and series only so many, those of the highest iterations.
    """

    title: str | None = None
    series: str | None = None
    iteration: int | None = None
    last: int | None = None


# ---- writing -------------------------------------------------------------------------------------


def add_reports(connection: Connection, task: int, content: FrameContent) -> None:
    """Take in a frame's plots and media. `task`: its row id."""
    if content.plots:
        connection.execute(_UPSERT_PLOT, [_plot_row(task, content, event) for event in content.plots])
    if content.media:
        connection.execute(_UPSERT_MEDIA, [_media_row(task, content, event) for event in content.media])


def _place(task: int, content: FrameContent, event: Plot | Media) -> dict[str, Any]:
    return {
        "task": task,
        "title": event.title,
        "series": event.series,
        "iteration": event.iteration,
        "time": event.time_unix_ns,
        "writer": content.writer_id,
        "sequence": content.sequence,
    }


def _plot_row(task: int, content: FrameContent, event: Plot) -> dict[str, Any]:
    figure = zlib.compress(event.figure.encode(), _LEVEL) if event.figure else None
    return {**_place(task, content, event), "figure": figure, "blob": event.blob}


def _media_row(task: int, content: FrameContent, event: Media) -> dict[str, Any]:
    return {
        **_place(task, content, event),
        "uri": event.uri,
        "filename": event.filename,
        "content_type": event.content_type,
        "size_bytes": event.size_bytes,
    }


def _latest_wins(table: Table, fields: Iterable[str]) -> Any:
    statement = upsert(table)
    old, new = table.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[table.c[name] for name in ("task", "title", "series", "iteration")],
        set_={name: new[name] for name in ("time", "writer", "sequence", *fields)},
        # Equal only within one frame, where the later event wins.
        where=tuple_(new.time, new.writer, new.sequence) >= tuple_(old.time, old.writer, old.sequence),
    )


_UPSERT_PLOT = _latest_wins(schema.plots, ("figure", "blob"))
_UPSERT_MEDIA = _latest_wins(schema.media, ("uri", "filename", "content_type", "size_bytes"))


# ---- reading -------------------------------------------------------------------------------------


def read_plots(connection: Connection, task_id: str, query: ReportsQuery, *, figures: bool = True) -> dict[str, Any]:
    """Return plots by title, series and iteration.

    Args:
        figures: with their figures, as far as one answer goes; the others say "omitted".
    """
    task = task_row_id(connection, task_id)
    # The figures are read one by one below: a list of names must not read megabytes.
    place = [_plots.id, _plots.title, _plots.series, _plots.iteration, _plots.time, _plots.blob]
    rows = connection.execute(_selected(select(*place), schema.plots, task, query)).all()
    room_bytes = ANSWER_BYTES
    found = []
    for row in rows:
        item = {
            "title": row.title,
            "series": row.series,
            "iteration": row.iteration,
            "unix_ms": unix_ms(row.time),
            "figure": None,
            "blob": row.blob,
            "omitted": False,
        }
        if figures and room_bytes > 0:
            text = _figure_text(connection, row.id)
            room_bytes -= len(text)
            item["figure"] = _figure(text)
        else:
            item["omitted"] = not row.blob
        found.append(item)
    return {"plots": found}


def read_media(connection: Connection, task_id: str, query: ReportsQuery, held: set[str] | None) -> dict[str, Any]:
    """Return media by title, series and iteration, and whether more match.

    Args:
        held: the blobs whose bytes are here; None if that is not known.
    """
    task = task_row_id(connection, task_id)
    rows = connection.execute(_selected(select(schema.media), schema.media, task, query).limit(MAX_MEDIA + 1)).all()
    return {
        "media": [
            {
                "title": row.title,
                "series": row.series,
                "iteration": row.iteration,
                "unix_ms": unix_ms(row.time),
                "uri": row.uri,
                "filename": row.filename,
                "content_type": row.content_type,
                "size_bytes": row.size_bytes,
                "state": _state(row.uri, held),
            }
            for row in rows[:MAX_MEDIA]
        ],
        "more": len(rows) > MAX_MEDIA,
    }


def _state(uri: str, held: set[str] | None) -> str:
    sha256 = sha256_of_uri(uri)
    return BlobState.STORED if sha256 is None or (held is not None and sha256 in held) else BlobState.PENDING


def _selected(statement: Select[Any], table: Table, task: int, query: ReportsQuery) -> Select[Any]:
    columns = table.c
    conditions: list[ColumnElement[bool]] = [columns.task == task]
    for name in ("title", "series", "iteration"):
        value = getattr(query, name)
        if value is not None:
            conditions.append(columns[name] == value)
    if query.last is not None:
        # Numbered from the end within each title and series; the unique index has them in this order.
        place = func.row_number().over(partition_by=(columns.title, columns.series), order_by=columns.iteration.desc())
        numbered = select(columns.id, place.label("place")).where(*conditions).subquery()
        conditions = [columns.id.in_(select(numbered.c.id).where(numbered.c.place <= query.last))]
    return statement.where(*conditions).order_by(columns.title, columns.series, columns.iteration)


def _figure_text(connection: Connection, identifier: int) -> bytes:
    packed = connection.execute(select(_plots.figure).where(_plots.id == identifier)).scalar()
    return b"" if packed is None else zlib.decompress(packed)


def _figure(text: bytes) -> Any:
    """Return the figure; None for what is no JSON, which whoever sent it must answer for."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


# ---- exporting -----------------------------------------------------------------------------------


def read_plots_page(connection: Connection, task_id: str, after: int) -> dict[str, Any]:
    """Return plots [title, series, iteration, time, writer, figure, blob] by their names, and the next page's `after`.

    Args:
        after: the row id of the last plot of the page before; 0 for the first page.
    """
    task = task_row_id(connection, task_id)
    order = (_plots.title, _plots.series, _plots.iteration)
    place = [_plots.id, *order, _plots.time, _plots.writer, _plots.blob]
    statement = select(*place).where(_plots.task == task).order_by(*order)
    if after:
        last = connection.execute(select(*order).where(_plots.id == after, _plots.task == task)).one_or_none()
        if last is not None:
            title, series, iteration = last
            # Written out: a comparison of tuples takes no index in SQLite when names repeat.
            statement = statement.where(
                or_(
                    _plots.title > title,
                    (_plots.title == title) & (_plots.series > series),
                    (_plots.title == title) & (_plots.series == series) & (_plots.iteration > iteration),
                )
            )
    found: list[list[Any]] = []
    size = 0
    for row in connection.execute(statement.limit(_PAGE_ROWS)).all():
        figure = _figure_text(connection, row.id).decode()
        found.append([row.title, row.series, row.iteration, row.time, row.writer, figure, row.blob])
        size += len(figure)
        after = row.id
        if size >= PAGE_BYTES:
            break
    return {"plots": found, "next": after if found and (size >= PAGE_BYTES or len(found) == _PAGE_ROWS) else None}


def read_media_rows(connection: Connection, task: int) -> list[list[Any]]:
    """Return a task's media as [title, series, iteration, time, writer, uri, filename, content type, bytes]."""
    order = (_media.title, _media.series, _media.iteration)
    wanted = (_media.time, _media.writer, _media.uri, _media.filename, _media.content_type, _media.size_bytes)
    rows = connection.execute(select(*order, *wanted).where(_media.task == task).order_by(*order))
    return [list(row) for row in rows]


def blobs_of_reports(connection: Connection, task: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield (sha256, filename, content type, bytes or 0) of each blob that a task's plots and media name."""
    for blob in connection.execute(select(_plots.blob).where(_plots.task == task, _plots.blob != "")).scalars():
        yield blob, "figure.json", "application/json", 0
    rows = select(_media.uri, _media.filename, _media.content_type, _media.size_bytes).where(_media.task == task)
    for uri, filename, content_type, size_bytes in connection.execute(rows):
        sha256 = sha256_of_uri(uri)
        if sha256 is not None:
            yield sha256, filename, content_type, size_bytes or 0
