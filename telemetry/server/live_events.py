"""What live pages are told, as the bytes of server-sent events. Made on a thread, once for all who look."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from telemetry.server.store import NotFound, SeriesChange, Store, TaskChange, json_number

__all__ = ["HEARTBEAT", "RESYNC", "change_events", "packed", "retry_event", "task_event", "tasks_event"]

HEARTBEAT = b": still here\n\n"
# For a viewer that was too slow: what it missed is not kept, it reads anew what it shows.
RESYNC = b"event: resync\ndata: {}\n\n"

# Some 40 kB: a browser takes it without a pause, and a send buffer with one.
_SERIES_IN_EVENT = 500
_WRITE_BYTES = 64 * 1024


def retry_event(after_ms: int) -> bytes:
    """Return how soon to connect again."""
    return f"retry: {after_ms}\n\n".encode()


def tasks_event(task_ids: Sequence[str]) -> bytes:
    """Return which tasks changed."""
    return _event("tasks", {"ids": task_ids})


def task_event(store: Store, task_id: str) -> bytes:
    """Return what the table shows of a task; nothing, if no frame of it is here yet."""
    try:
        return _event("task", store.task_summary(task_id))
    except NotFound:
        # A page may be opened before the task's first frame is here.
        return b""


def change_events(change: TaskChange, series: Mapping[int, SeriesChange]) -> Iterator[bytes]:
    """Yield what was committed in a task, event by event; many series come in several.

    Args:
        series: those that had points, as they are now.
    """
    if change.reset:
        yield _event("reset", {})
    states = iter(series.items())
    while some := list(islice(states, _SERIES_IN_EVENT)):
        yield _event("points", {"series": {str(identifier): _series_json(state) for identifier, state in some}})
        # Let go of the interpreter: the event loop should not wait for 20,000 series.
        time.sleep(0)
    if change.console_last_id is not None:
        yield _event("console", {"last_id": change.console_last_id})
    for name in ("models", "plots", "media"):
        if getattr(change, name):
            yield _event(name, {})


def packed(events: Iterable[bytes]) -> list[bytes]:
    """Return the same bytes in as few pieces as make one write each."""
    pieces: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for event in events:
        if waiting and size + len(event) > _WRITE_BYTES:
            pieces.append(b"".join(waiting))
            waiting, size = [], 0
        waiting.append(event)
        size += len(event)
    return [*pieces, b"".join(waiting)] if size else pieces


def _series_json(state: SeriesChange) -> dict[str, Any]:
    return {
        "count": state.count,
        "last": json_number(state.last),
        "last_iteration": state.last_iteration,
        "last_unix_ms": state.last_unix_ns // 1_000_000,
    }


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
