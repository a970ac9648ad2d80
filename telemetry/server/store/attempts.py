"""Attempts: which points of a requeued or restarted job a later attempt has taken the place of.

A job that starts again goes on from its last checkpoint, and reports the steps after it a second time. So of each
series the points from before an attempt's start and from its first iteration on are hidden. Nothing is stored for it:
when each attempt started stands in the record, and the rest follows from the points, in whatever order they came.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from sqlalchemy import Connection, select

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.record import Section, TaskKey
from telemetry.server.store import schema
from telemetry.server.store.chunks import IntArray, Points
from telemetry.server.store.parts import TaskParts
from telemetry.server.store.seams import ChunkPlace

__all__ = ["Cut", "cuts_by_series", "visible"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Points from before `time_unix_ns` are hidden from `iteration` on: a later attempt reports them anew."""

    time_unix_ns: int
    iteration: int


def visible(points: Points, cuts: Sequence[Cut]) -> Points:
    """Return the points that no cut hides."""
    hidden = np.zeros(len(points), np.bool_)
    for cut in cuts:
        hidden |= (points.times_unix_ns < cut.time_unix_ns) & (points.iterations >= cut.iteration)
    return points.take(np.flatnonzero(~hidden)) if hidden.any() else points


def cuts_by_series(parts: TaskParts, series: Sequence[int]) -> dict[int, list[Cut]]:
    """Return the cuts of those of these series that have some.

    An attempt's first iteration is that of its first rank: a rank that is not there any more is cut as the others are.
    """
    starts = _starts(parts.connection, parts.task)
    found: dict[int, list[Cut]] = {}
    if not starts:
        return found
    for ranks in parts.ranks_of(series):
        if ranks[0] not in found and (cuts := _cuts(parts, ranks, starts)):
            found.update(dict.fromkeys(ranks, cuts))
    return found


def _starts(connection: Connection, task: int) -> list[int]:
    """Return when each attempt but the first began, Unix ns, ascending; by the entries of its processes."""
    columns = schema.records.c
    query = select(columns.value).where(columns.task == task, columns.value.is_not(None))
    # Written by an attempt that is not the first: nearly all tasks have none, and some have thousands of writers.
    if connection.execute(query.where(columns.section == Section.TASK, columns.key == TaskKey.ATTEMPT)).first() is None:
        return []
    begins: dict[tuple[int, int, int], int] = {}
    for value in connection.execute(query.where(columns.section == Section.WRITERS)).scalars():
        entry = msgpack.unpackb(value, strict_map_key=False)
        if not isinstance(entry, dict):
            continue
        attempt, restarts = _whole(entry.get("attempt"), 1), _whole(entry.get("restarts"), 0)
        started = _whole(entry.get("started_unix_ns"), 0)
        if started > 0 and (attempt > 1 or restarts > 0):
            which = (attempt, restarts, _whole(entry.get(TaskKey.CONTINUED), 0))
            begins[which] = min(started, begins.get(which, started))
    return sorted(set(begins.values()))


def _whole(value: Any, otherwise: int) -> int:
    """Return an int64 as it is; whoever reports a record may report anything in it."""
    return value if type(value) is int and INT64_MIN <= value <= INT64_MAX else otherwise


def _cuts(parts: TaskParts, series: Sequence[int], starts: Sequence[int]) -> list[Cut]:
    """Find the lowest iteration that each attempt has reported of a metric; chunks of one attempt are not unpacked."""
    lowest = np.full(len(starts), INT64_MAX, np.int64)
    reported = np.zeros(len(starts), np.bool_)

    def note(iterations: IntArray, times_unix_ns: IntArray) -> None:
        attempts = np.searchsorted(starts, times_unix_ns, side="right") - 1
        later = attempts >= 0
        np.minimum.at(lowest, attempts[later], iterations[later])
        reported[attempts[later]] = True

    mixed: list[ChunkPlace] = []
    for chunks in parts.chunks_of(series, by_time=True, low=starts[0]).values():
        for chunk in chunks:
            if bisect_right(starts, chunk.lowest_time) == bisect_right(starts, chunk.highest_time):
                note(np.array([chunk.lowest_iteration], np.int64), np.array([chunk.lowest_time], np.int64))
            else:
                mixed.append(chunk)
    runs = [run for of_series in parts.loose(series).values() for run in of_series]
    # Of several series, in any order: only the lowest iterations are looked for.
    points = parts.read(mixed, runs)
    note(points.iterations, points.times_unix_ns)
    return [Cut(start, int(lowest[number])) for number, start in enumerate(starts) if reported[number]]
