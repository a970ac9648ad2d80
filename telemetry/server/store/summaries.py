"""Summaries: what is known of each series, written in bulk for a task: what tables and queries sort and filter by.

They are written some seconds after their points, at the task's end and with each seal, only for the series that had
points since; `tasks.summed` says up to which frame they know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import orjson
from sqlalchemy import Connection, bindparam, insert, select, update

from telemetry.server.store import schema
from telemetry.server.store.memtable import SeriesName, TaskPoints
from telemetry.server.store.metrics import md5_columns
from telemetry.server.store.statistics import STATISTICS_DTYPE, Statistics

__all__ = ["MetricIds", "MetricKey", "WrittenSummary", "load_series", "write_summaries"]

# (kind, title, series)
MetricKey: TypeAlias = tuple[str, str, str]

# SQLite takes 32,766 parameters since 3.32; there is no gain beyond a few hundred.
_IN_LIST = 500
_MAX_KNOWN_METRICS = 200_000

_Item = TypeVar("_Item")


class MetricIds:
    """The ids of metrics, those that no task had before included. A cache of committed rows, as WriterCache is.

    Args:
        next_id: the next free one.
    """

    def __init__(self, next_id: int) -> None:
        self._known: dict[MetricKey, int] = {}
        self._next_id = next_id

    def find(self, connection: Connection, keys: Sequence[MetricKey]) -> list[int]:
        """Return the id of each; what is new is made."""
        if len(self._known) > _MAX_KNOWN_METRICS:
            self._known.clear()
        known, columns = self._known, schema.metrics.c
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for some in _slices(missing, _IN_LIST):
            # By the one column, not by three: SQLite reads the whole table for pairs and triples.
            named = [md5_columns(title, series)["md5"] for _, title, series in some]
            query = select(columns.id, columns.kind, columns.title, columns.series).where(columns.md5.in_(named))
            for identifier, kind, title, series in connection.execute(query):
                known[kind, title, series] = identifier
        rows = []
        for key in missing:
            if key not in known:
                known[key], self._next_id = self._next_id, self._next_id + 1
                kind, title, series = key
                names = {"kind": kind, "title": title, "series": series}
                rows.append({"id": known[key], **names, **md5_columns(title, series)})
        if rows:
            connection.execute(insert(schema.metrics), rows)
        return [known[key] for key in keys]


@dataclass(frozen=True, slots=True)
class WrittenSummary:
    """What was written of a task: valid once it is committed."""

    entry: TaskPoints
    position: int
    series: int

    def note(self) -> None:
        """Remember that it is committed."""
        with self.entry.lock:
            self.entry.summed = max(self.entry.summed, self.position)
            self.entry.stored_series = max(self.entry.stored_series, self.series)
            self.entry.unsummed_since = None


def write_summaries(connection: Connection, metrics: MetricIds, entries: Iterable[TaskPoints]) -> list[WrittenSummary]:
    """Write what is known of the series that had points since the last summary of each task."""
    written: list[WrittenSummary] = []
    new_series: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    totals: list[dict[str, Any]] = []
    for entry in entries:
        with entry.lock:
            statistics = entry.statistics()
            touched = np.flatnonzero(statistics["position"] > entry.summed)
            names = [entry.names[number] for number in touched.tolist()]
            units = entry.units[entry.stored_series :]
            ids = np.array(entry.ids, np.int64)
            some, position, count, stored = statistics[touched], entry.position, len(entry.names), entry.stored_series
            fresh = entry.names[stored:]
            recent = entry.recent()
        found = metrics.find(connection, [name[:3] for name in (*names, *fresh)])
        ranks = [name[3] for name in names]
        new_series += (
            {"task": entry.row, "id": identifier, "metric": metric, "rank": name[3], "unit": unit}
            for identifier, metric, name, unit in zip(
                ids[stored:].tolist(), found[len(names) :], fresh, units, strict=True
            )
        )
        rows += _rows(entry.row, ids[touched], found[: len(names)], ranks, some)
        totals.append({"b_id": entry.row, "summed": position, "recent_series": orjson.dumps(recent).decode()})
        written.append(WrittenSummary(entry, position, count))
    if new_series:
        connection.execute(insert(schema.series), new_series)
    if rows:
        # Past SQLAlchemy's own handling of parameters, which takes twice as long as SQLite does.
        connection.exec_driver_sql(_UPSERT_STATISTICS, rows)
    if totals:
        connection.execute(_UPDATE_SUMMED, totals)
    return written


def load_series(connection: Connection, task: int) -> tuple[list[tuple[SeriesName, str, int]], Statistics, int]:
    """Return a task's series as (name, unit, id) in the order of their ids, what is known of each, and up to where."""
    series, metrics, stats, tasks = schema.series.c, schema.metrics.c, schema.series_stats, schema.tasks.c
    summed = connection.execute(select(tasks.summed).where(tasks.id == task)).scalar() or 0
    query = (
        select(
            series.id,
            metrics.kind,
            metrics.title,
            metrics.series,
            series.rank,
            series.unit,
            *(stats.c[name] for name in _COLUMNS),
        )
        .join(schema.metrics, metrics.id == series.metric)
        .join(stats, (stats.c.task == series.task) & (stats.c.series == series.id))
        .where(series.task == task)
        .order_by(series.id)
    )
    rows = connection.execute(query).all()
    statistics = np.zeros(len(rows), STATISTICS_DTYPE)
    for number, name in enumerate(_COLUMNS, 6):
        column = [row[number] for row in rows]
        if name in _NULLABLE:
            # NULL: NaN, and for an iteration nothing that counts.
            column = [_NULLABLE[name] if value is None else value for value in column]
        statistics[name] = column
    statistics["position"] = summed
    known = [((row[1], row[2], row[3], row[4]), row[5], row[0]) for row in rows]
    return known, statistics, summed


def _rows(
    task: int, ids: Any, metrics: Sequence[int], ranks: Sequence[int], statistics: Statistics
) -> Iterator[tuple[Any, ...]]:
    columns: list[list[Any]] = []
    for name in _COLUMNS:
        column = statistics[name].tolist()
        if name in ("last", "min", "max"):
            column = [None if value != value else value for value in column]
        elif name in _NULLABLE:
            lost = np.isnan(statistics[name.removesuffix("_iteration")]).tolist()
            column = [None if none else value for value, none in zip(column, lost, strict=True)]
        columns.append(column)
    return ((task, *row) for row in zip(ids.tolist(), metrics, ranks, *columns, strict=True))


def _slices(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


_COLUMNS = tuple(name for name in STATISTICS_DTYPE.names or () if name != "position")
_NULLABLE = {"last": np.nan, "min": np.nan, "max": np.nan, "min_iteration": 0, "max_iteration": 0}
_ALL = ("task", "series", "metric", "rank", *_COLUMNS)
_UPSERT_STATISTICS = "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (task, series) DO UPDATE SET {}".format(
    schema.series_stats.name,
    ", ".join(f'"{name}"' for name in _ALL),
    ", ".join("?" * len(_ALL)),
    ", ".join(f'"{name}" = excluded."{name}"' for name in _COLUMNS),
)
_UPDATE_SUMMED = (
    update(schema.tasks)
    .where(schema.tasks.c.id == bindparam("b_id"))
    .values(summed=bindparam("summed"), recent_series=bindparam("recent_series"))
)
