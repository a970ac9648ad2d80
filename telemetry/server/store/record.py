"""The task's own record fields as columns: what the table of tasks shows, sorts and searches.

Whoever reports a field may report anything under it, so each column takes only what it can show and is
otherwise as if the field were not there; the record itself keeps the value as it came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from telemetry.events import INT64_MAX, INT64_MIN, MAX_TAG_CHARS, MAX_TAGS
from telemetry.record import ARCHIVED, TaskKey
from telemetry.shapes import texts

__all__ = ["RECORD_COLUMNS", "columns_of", "tags_of"]

# Beyond this a comment is not searched: one of megabytes would slow down every search.
_MAX_SEARCHED_CHARS = 20_000

# Keys of section "task" that have a column in `tasks`, or decide what counts.
RECORD_COLUMNS = (
    TaskKey.NAME,
    TaskKey.PROJECT,
    TaskKey.TYPE,
    TaskKey.STATUS,
    TaskKey.STATUS_REASON,
    TaskKey.PROGRESS,
    TaskKey.TAGS,
    TaskKey.SYSTEM_TAGS,
    TaskKey.COMMENT,
    TaskKey.PARENT,
    TaskKey.PUBLISHED,
    TaskKey.HOST,
    TaskKey.STARTED,
    TaskKey.ENDED,
    TaskKey.RESET,
)


def columns_of(task_id: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `tasks` that follow from section "task" of the record."""
    tags = tags_of(record, TaskKey.TAGS)
    more = len(texts(record.get(TaskKey.TAGS))) > len(tags)
    name, project = _text(record.get(TaskKey.NAME)) or "", _text(record.get(TaskKey.PROJECT)) or ""
    comment = _text(record.get(TaskKey.COMMENT))
    return {
        "name": name,
        "project": project,
        "type": _text(record.get(TaskKey.TYPE)) or "",
        "status": _text(record.get(TaskKey.STATUS)) or "",
        "status_reason": _text(record.get(TaskKey.STATUS_REASON)),
        "progress": _progress(record.get(TaskKey.PROGRESS)),
        # One more than is shown says that there are more.
        "tags": orjson.dumps([*tags, *[""] * (1 + MAX_TAGS - len(tags))] if more else tags).decode(),
        "comment": comment,
        "parent": _text(record.get(TaskKey.PARENT)),
        "published": int(record.get(TaskKey.PUBLISHED) is True),
        "archived": int(ARCHIVED in texts(record.get(TaskKey.SYSTEM_TAGS))),
        "host": _text(record.get(TaskKey.HOST)),
        "started": _time(record.get(TaskKey.STARTED)),
        "ended": _time(record.get(TaskKey.ENDED)),
        # Newlines keep a search from matching across two fields.
        "search_text": "\n".join((name, project, task_id, *tags, (comment or "")[:_MAX_SEARCHED_CHARS])).casefold(),
    }


def tags_of(record: Mapping[str, Any], key: str) -> list[str]:
    """Return the texts of "tags" or "system_tags", each once, in the order given: as many as a task may have."""
    return [tag for tag in texts(record.get(key)) if len(tag) <= MAX_TAG_CHARS][:MAX_TAGS]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX:
        return value
    return None


def _progress(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return min(100.0, max(0.0, float(value)))
