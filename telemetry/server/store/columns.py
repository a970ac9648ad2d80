"""Named columns of tasks: what tables show and sort by beyond the fields of `tasks` itself.

    param:Section/name   hyperparams.Section.name            a parameter
    property:name                                            a user property
    last:title/series    last_metrics.MD5.MD5.value          a metric's last value; also min:, max: and count:
    value:name           last_metrics.MD5("Summary").MD5.value   a single value

MD5 of the exact title and series. Of several ranks of a series the lowest stands for the task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from sqlalchemy import ColumnElement, Connection, Float, Select, cast, func, null, select

from telemetry.errors import InvalidQuery
from telemetry.record import Section
from telemetry.server.store import schema
from telemetry.server.store.metrics import keys_of_path, md5_key, md5_of
from telemetry.server.store.plain import json_number, json_value
from telemetry.values import text_of, value_of

__all__ = [
    "Column",
    "is_column",
    "parse_column",
    "read_columns",
    "record_number_or_text",
    "record_of_column",
    "record_text",
    "sort_value",
]

# The title under which single values are known to queries.
SUMMARY = "Summary"

_SECTIONS = {"param": Section.PARAMETERS, "property": Section.PROPERTIES}
_STATISTICS = {"last": "last", "min": "min", "max": "max", "count": "count"}
_VALUE_TYPES = {"value": "last", "min_value": "min", "max_value": "max", "count": "count"}
_SLICE = 500
_MD5 = re.compile(r"[0-9a-f]{32}")
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column by name.

    Attributes:
        written: as it was asked for, and is answered under.
        kind: "record", "metric" or "value".
        names: (section, key), (path,) or two MD5s, (name,).
        statistic: of a metric, the column of `series_stats`.
    """

    written: str
    kind: str
    names: tuple[str, ...]
    statistic: str = "last"


def is_column(text: str) -> bool:
    """Say whether a text names a column, as far as its beginning tells."""
    return text.partition(":")[0] in (*_SECTIONS, *_STATISTICS, "value") or text.startswith(
        ("hyperparams.", "last_metrics.")
    )


def parse_column(text: str) -> Column:
    """Return the column that a text names.

    Raises:
        InvalidQuery: it names none; says what it must look like.
    """
    kind, _, rest = text.partition(":")
    if kind == "param" and "/" in rest:
        return Column(text, "record", (_SECTIONS[kind], rest))
    if kind == "property" and rest:
        return Column(text, "record", (_SECTIONS[kind], rest))
    if kind in _STATISTICS and "/" in rest:
        return Column(text, "metric", (rest,), _STATISTICS[kind])
    if kind == "value" and rest:
        return Column(text, "value", (rest,))
    if text.startswith("hyperparams."):
        section, _, name = text.removeprefix("hyperparams.").partition(".")
        if section and name:
            return Column(text, "record", (Section.PARAMETERS, f"{section}/{name}"))
        raise InvalidQuery(f"{text!r:.100} is not a parameter: write hyperparams.<section>.<name>")
    if text.startswith("last_metrics."):
        return _hashed_metric(text)
    raise InvalidQuery(
        f"{text!r:.100} is not a column: write param:<section>/<name>, property:<name>, last:<title>/<series>, "
        "min:…, max:…, or value:<name>"
    )


def _hashed_metric(text: str) -> Column:
    parts = text.split(".")
    if len(parts) != 4 or not _MD5.fullmatch(parts[1]) or not _MD5.fullmatch(parts[2]):
        raise InvalidQuery(
            f"{text!r:.150} is not a metric: write last_metrics.<MD5 of the title>.<MD5 of the series>.value; "
            'in Python hashlib.md5("loss".encode()).hexdigest()'
        )
    if parts[3] not in _VALUE_TYPES:
        raise InvalidQuery(f"{text!r:.150} ends in {parts[3]!r:.30}; it must be one of {', '.join(_VALUE_TYPES)}")
    return Column(text, "metric", (parts[1], parts[2]), _VALUE_TYPES[parts[3]])


def record_of_column(column: Column) -> tuple[str, str]:
    """Return the section and key of a parameter's or property's column."""
    section, key = column.names
    return section, key


def sort_value(connection: Connection, column: Column) -> ColumnElement[Any]:
    """Return a column as an expression over a row of `tasks`, to sort and compare by; NULL where a task has none."""
    tasks = schema.tasks.c
    column = _resolved(connection, column)
    if column.kind == "record":
        records = schema.records.c
        section, key = column.names
        return (
            select(func.telemetry_sort_value(records.value))
            .where(records.task == tasks.id, records.section == section, records.key == key)
            .scalar_subquery()
        )
    if column.kind == "value":
        values = schema.values.c
        return select(values.value).where(values.task == tasks.id, values.name == column.names[0]).scalar_subquery()
    metric, stats = _metric(connection, column), schema.series_stats.c
    if metric is None:
        return cast(null(), Float)
    series = schema.series.c
    # By the key of `series`, which has its ranks in order: the figures have no index of their own for this.
    lead = (
        select(series.id)
        .where(series.task == tasks.id, series.metric == metric)
        .order_by(series.rank)
        .limit(1)
        .scalar_subquery()
    )
    return select(stats[column.statistic]).where(stats.task == tasks.id, stats.series == lead).scalar_subquery()


def read_columns(connection: Connection, rows: Sequence[int], columns: Sequence[Column]) -> dict[int, dict[str, Any]]:
    """Return the values of some columns by task (row id) and by the name they were asked for; None where there is none.

    A parameter is the value as it was stored, typed; a metric that is not finite is "NaN", "Infinity" or "-Infinity".
    """
    found: dict[int, dict[str, Any]] = {row: {column.written: None for column in columns} for row in rows}
    for column in columns:
        resolved = _resolved(connection, column)
        for row, value in _cells(connection, rows, resolved):
            found[row][column.written] = value
    return found


def _cells(connection: Connection, rows: Sequence[int], column: Column) -> Iterator[tuple[int, Any]]:
    metric = _metric(connection, column) if column.kind == "metric" else None
    for start in range(0, len(rows), _SLICE):
        some = rows[start : start + _SLICE]
        for task, value in _rows_of(connection, some, column, metric):
            if column.kind == "record":
                yield task, _shown(value)
            elif column.statistic in ("min", "max", "count"):
                yield task, value
            else:
                yield task, json_number(value)


def _rows_of(connection: Connection, tasks: Sequence[int], column: Column, metric: int | None) -> list[Any]:
    query: Select[Any]
    if column.kind == "record":
        records = schema.records.c
        section, key = column.names
        query = select(records.task, records.value).where(
            records.task.in_(tasks), records.section == section, records.key == key
        )
    elif column.kind == "value":
        values = schema.values.c
        query = select(values.task, values.value).where(values.task.in_(tasks), values.name == column.names[0])
    elif metric is None:
        return []
    else:
        stats = schema.series_stats.c
        # The lowest rank comes last, and stays.
        series = schema.series
        query = (
            select(stats.task, stats[column.statistic])
            .join(series, (series.c.task == stats.task) & (series.c.id == stats.series))
            .where(series.c.task.in_(tasks), series.c.metric == metric)
            .order_by(stats.task, stats.rank.desc())
        )
    return list(connection.execute(query).all())


def _resolved(connection: Connection, column: Column) -> Column:
    """Return a single value that is asked for as if it were a metric as what it is."""
    if column.kind != "metric" or len(column.names) == 1 or column.names[0] != md5_of(SUMMARY):
        return column
    if column.statistic == "count" or _metric(connection, column) is not None:
        return column
    for name in connection.execute(select(schema.values.c.name).distinct()).scalars():
        if md5_of(name) == column.names[1]:
            return Column(column.written, "value", (name,))
    return column


def _metric(connection: Connection, column: Column) -> int | None:
    metrics = schema.metrics.c
    keys = keys_of_path(column.names[0]) if len(column.names) == 1 else [md5_key(*column.names)]
    # Two metrics may share a path ("a/b" + "c", "a" + "b/c"); the first one seen is meant. Scalars before resources.
    query = select(metrics.id).where(metrics.md5.in_(keys)).order_by(metrics.kind.desc(), metrics.id).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def _shown(packed: bytes | None) -> Any:
    kept = None if packed is None else msgpack.unpackb(packed)
    return json_value(kept["value"] if isinstance(kept, dict) and "value" in kept else kept)


def record_number_or_text(packed: bytes | None) -> int | float | str | None:
    """Return a value of the record (msgpack) to sort by: numbers as numbers, everything else as text."""
    if packed is None:
        return None
    value = value_of(msgpack.unpackb(packed))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if abs(value) <= _INT64_MAX else float(value) if abs(value) < 10**300 else None
    if isinstance(value, float):
        return None if value != value else value
    return None if value is None else text_of(value)


def record_text(packed: bytes | None) -> str | None:
    """Return the text of a value of the record (msgpack), as filters name it."""
    return None if packed is None else text_of(value_of(msgpack.unpackb(packed)))
