"""What the writer keeps in memory between transactions: tasks, series and metrics it has met.

It is only a cache of committed rows: after a failed transaction it is thrown away and read again.
Touched by the writer thread alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from telemetry.record import Section
from telemetry.server.store.chunks import Points
from telemetry.server.store.content import FrameContent, SeriesRun

__all__ = ["RECENT_SERIES", "MetricKey", "SeriesState", "TaskSeriesKey", "TaskState"]

# (kind, title, series)
MetricKey: TypeAlias = tuple[str, str, str]
# The same and the rank.
TaskSeriesKey: TypeAlias = tuple[str, str, str, int]

# Shown in a row of the table of tasks.
RECENT_SERIES = 6


@dataclass(slots=True)
class SeriesState:
    """A row of `series_stats`, and what this transaction appends to the series.

    Every figure is a minimum, maximum or sum, so the order in which frames arrive does not matter.
    """

    id: int
    task: int
    metric: int
    key: TaskSeriesKey
    count: int = 0
    non_finite: int = 0
    lowest_iteration: int = 0
    highest_iteration: int = 0
    last_unix_ns: int = 0
    last_iteration: int = 0
    last: float | None = None
    min: float | None = None
    min_iteration: int | None = None
    max: float | None = None
    max_iteration: int | None = None
    tail_points: int = 0
    tail_rows: int = 0
    is_new: bool = False
    pending: list[Points] = field(default_factory=list)

    def add(self, run: SeriesRun) -> None:
        """Take a run of points into the figures and keep it to be appended."""
        last = None if run.last != run.last else run.last
        if not self.count:
            self.lowest_iteration, self.highest_iteration = run.lowest_iteration, run.highest_iteration
            self.last_unix_ns, self.last_iteration, self.last = run.last_unix_ns, run.last_iteration, last
        else:
            self.lowest_iteration = min(self.lowest_iteration, run.lowest_iteration)
            self.highest_iteration = max(self.highest_iteration, run.highest_iteration)
            if (run.last_unix_ns, run.last_iteration) >= (self.last_unix_ns, self.last_iteration):
                self.last_unix_ns, self.last_iteration, self.last = run.last_unix_ns, run.last_iteration, last
        if run.min is not None and (self.min is None or (run.min, run.min_iteration) < (self.min, self.min_iteration)):
            self.min, self.min_iteration = run.min, run.min_iteration
        # The largest value, and of equals the smallest iteration.
        if run.max is not None and (
            self.max is None
            or run.max > self.max
            or (run.max == self.max and (run.max_iteration or 0) < (self.max_iteration or 0))
        ):
            self.max, self.max_iteration = run.max, run.max_iteration
        self.count += len(run.points)
        self.non_finite += run.non_finite
        self.pending.append(run.points)

    def row(self) -> dict[str, Any]:
        """Return the row as `series_stats` holds it."""
        return {
            "series": self.id,
            "task": self.task,
            "metric": self.metric,
            "rank": self.key[3],
            "count": self.count,
            "non_finite": self.non_finite,
            "lowest_iteration": self.lowest_iteration,
            "highest_iteration": self.highest_iteration,
            "last_time": self.last_unix_ns,
            "last_iteration": self.last_iteration,
            "last": self.last,
            "min": self.min,
            "min_iteration": self.min_iteration,
            "max": self.max,
            "max_iteration": self.max_iteration,
            "tail_points": self.tail_points,
            "tail_rows": self.tail_rows,
        }


@dataclass(slots=True)
class TaskState:
    """A task's totals, its series and its writers. `reset`: when it was begun anew last, Unix ns; 0: never."""

    id: int
    task_id: str
    created: int | None = None
    last_update: int | None = None
    seen: int | None = None
    active: int | None = None
    last_iteration: int | None = None
    last_change: int | None = None
    points: int = 0
    resource_points: int = 0
    console_lines: int = 0
    models: int = 0
    frames: int = 0
    reset: int = 0
    recent: list[tuple[int, int]] = field(default_factory=list)
    writers: set[bytes] = field(default_factory=set)
    series: dict[TaskSeriesKey, SeriesState] = field(default_factory=dict)
    series_by_id: dict[int, SeriesState] = field(default_factory=dict)
    # Of each metric the series of the lowest rank, which stands for all of them in a table.
    leads: dict[MetricKey, SeriesState] = field(default_factory=dict)

    def add_series(self, series: SeriesState) -> None:
        """Take in a series of this task."""
        self.series[series.key] = self.series_by_id[series.id] = series
        lead = self.leads.get(series.key[:3])
        if lead is None or series.key < lead.key:
            self.leads[series.key[:3]] = series

    def add(self, content: FrameContent, now_unix_ns: int) -> None:
        """Take a frame into the totals; its series and events are the writer's business. `now_unix_ns`: ours."""
        self.frames += 1
        self.console_lines += len(content.console)
        self.models += len(content.models)
        if content.first_unix_ns is not None and content.last_unix_ns is not None:
            self.note_times(content.first_unix_ns, content.last_unix_ns)
            if content.alive:
                self._note_life(content.last_unix_ns, content.active_unix_ns, content.sent_unix_ns, now_unix_ns)
        for event in content.records:
            if event.section != Section.HEARTBEATS and event.time_unix_ns > 0:
                self.last_change = _greatest(self.last_change, event.time_unix_ns)
        self.add_points(content.runs)

    def note_times(self, first_unix_ns: int, last_unix_ns: int) -> None:
        """Take in when something of the task happened."""
        self.created = _least(self.created, first_unix_ns)
        self.last_update = _greatest(self.last_update, last_unix_ns)

    def add_points(self, runs: Iterable[SeriesRun]) -> None:
        """Take runs of points into the totals."""
        for run in runs:
            if run.key.kind == "scalar":
                self.points += len(run.points)
                self.last_iteration = _greatest(self.last_iteration, run.highest_iteration)
            else:
                self.resource_points += len(run.points)

    def _note_life(
        self, last_unix_ns: int, active_unix_ns: int | None, sent_unix_ns: int | None, now_unix_ns: int
    ) -> None:
        # By the sender's own clock how old it is: a clock that is wrong is wrong in both.
        sent_unix_ns = now_unix_ns if sent_unix_ns is None else sent_unix_ns
        self.seen = _greatest(self.seen, now_unix_ns - max(0, sent_unix_ns - last_unix_ns))
        if active_unix_ns is not None:
            self.active = _greatest(self.active, now_unix_ns - max(0, sent_unix_ns - active_unix_ns))

    def note_recent(self, touched: Iterable[SeriesState]) -> None:
        """Keep the scalar series with the latest points; equal times are settled by name."""
        known = [self.series_by_id[identifier] for identifier, _ in self.recent]
        # The rank that leads stands for the others: six ranks of one loss would be no news.
        leads = [self.leads[series.key[:3]] for series in (*touched, *known) if series.key[0] == "scalar"]
        candidates = {series.id: series for series in leads}
        best = heapq.nsmallest(
            RECENT_SERIES, candidates.values(), key=lambda series: (-series.last_unix_ns, series.key)
        )
        self.recent = [(series.id, series.last_unix_ns) for series in best]

    def totals_row(self) -> dict[str, Any]:
        """Return the columns of `tasks` that every frame changes; `b_id` names the row."""
        return {
            "b_id": self.id,
            "created": self.created,
            "last_update": self.last_update,
            "seen": self.seen,
            "active": self.active,
            "last_iteration": self.last_iteration,
            "last_change": self.last_change,
            "points": self.points,
            "resource_points": self.resource_points,
            "console_lines": self.console_lines,
            "models": self.models,
            "frames": self.frames,
            "writers": len(self.writers),
            "recent_series": orjson.dumps(self.recent).decode(),
        }


def _least(old: int | None, new: int) -> int:
    return new if old is None else min(old, new)


def _greatest(old: int | None, new: int) -> int:
    return new if old is None else max(old, new)
