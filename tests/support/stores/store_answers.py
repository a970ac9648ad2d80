"""All that a store answers about its tasks, as JSON that can be compared: what is long by its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from telemetry.server.store import ConsoleQuery, PointsQuery, ReportsQuery, Store, TasksQuery, parse_column

# All; few samples of the whole; a cut in the middle; and both x, smoothed and not.
_CHARTS = {
    "all": PointsQuery(False, None, None, 20_000),
    "outline": PointsQuery(False, None, None, 200),
    "zoom": PointsQuery(False, 1000, 7000, 300, half_life=50.0),
    "by time": PointsQuery(True, None, None, 200),
    "every attempt": PointsQuery(True, None, None, 20_000, all_attempts=True),
}

# Longer answers are told by their digest.
_MAX_CHARS = 2000
_LAST = "last:loss/train"
_COLUMNS = (_LAST, "min:loss/train", "max:loss/train", "count:loss/train", "value:accuracy")


def answers_of(store: Store) -> dict[str, Any]:
    """Return the table, and of each task its page, its charts and its export."""
    table = store.tasks(TasksQuery(archived=None, sort="name", descending=False))
    found = {
        "table": table,
        "by a metric": store.tasks(TasksQuery(sort=_LAST, columns=tuple(map(parse_column, _COLUMNS)))),
        "projects": store.projects(),
    }
    for row in table["tasks"]:
        found |= {f"{row['name']}: {what}": answer for what, answer in _task(store, row["id"]).items()}
    return {what: _brief(answer) for what, answer in found.items()}


def _task(store: Store, task_id: str) -> dict[str, Any]:
    series = store.series(task_id)
    ids = [one["id"] for one in series["series"]]
    # A task of many has its charts drawn one by one, too; its export has all of them.
    ids = ids[:8] + ids[8::100]
    return {
        "page": store.task(task_id),
        "series": series,
        **{f"chart {name}": store.points(task_id, ids, query) for name, query in _CHARTS.items()},
        **{f"band {name}": store.bands(task_id, ids, query) for name, query in _CHARTS.items()},
        "console": store.console(task_id, ConsoleQuery()),
        "values": store.values(task_id),
        "models": store.models(task_id),
        "plots": store.plots(task_id, ReportsQuery()),
        "media": store.media(task_id, ReportsQuery()),
        "exported points": _pages(lambda after: store.export_points(task_id, after), "runs", None),
        "exported console": _pages(lambda after: store.export_console(task_id, after), "lines", 0),
        "exported plots": _pages(lambda after: store.export_plots(task_id, after), "plots", 0),
        "exported events": store.export_events(task_id),
    }


def _pages(read: Callable[[Any], dict[str, Any]], name: str, after: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        page = read(after)
        found += page[name]
        after = page["next"]
        if after is None:
            return found


def _brief(answer: Any) -> Any:
    plain = _plain(answer)
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    return plain if len(text) <= _MAX_CHARS else _plain(text.encode())


def _plain(value: Any) -> Any:
    """Return what JSON holds: it makes tuples lists, keys text and NaN a word, and long columns are a digest."""
    if isinstance(value, np.ndarray):
        return _plain(value.tobytes()) | {"dtype": value.dtype.str}
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
