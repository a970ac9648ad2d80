"""A decoded frame made ready for the store, off the writer thread: checked, and its points as columns.

`prepare` holds the limits that the wire format itself does not have (lengths of names, numbers of series);
types, ranges and nesting are checked by `wire.decode`. What either refuses is refused whole. Nothing here is done
for each series but the check of names, and that once for a table of series that comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from telemetry.errors import FrameError
from telemetry.events import (
    INT64_MAX,
    MAX_NAME_CHARS,
    Batch,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
)
from telemetry.fold import is_void
from telemetry.record import Section
from telemetry.server.store.chunks import Points
from telemetry.wire import Frame

__all__ = ["FrameContent", "FramePoints", "newer_points", "prepare", "without_older"]

MAX_PATH_CHARS = 32_768
_Event = TypeVar("_Event", bound=FrameEvent)

# Each is a row that is kept in memory while the task runs; a name that holds a step number makes millions.
MAX_FRAME_SERIES = 50_000
# Tables of series whose names have been checked: a writer sends the same one again and again.
_MAX_KNOWN_TABLES = 4096


@dataclass(frozen=True, slots=True)
class FramePoints:
    """The points of a frame in the order they were reported.

    Attributes:
        table: the frame's series; one object for frames that bring the very same table.
        series: uint32[n], which of the table each point is of.
        points: n of them.
        scalars: bool[len(table)], which are scalars and no resource readings; None where all are.
    """

    table: Sequence[SeriesKey]
    series: npt.NDArray[np.uint32]
    points: Points
    scalars: npt.NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.points)

    def take(self, which: npt.NDArray[Any]) -> FramePoints:
        """Return the points that an index array or mask picks."""
        return replace(self, series=self.series[which], points=self.points.take(which))

    def of_scalars(self) -> Points:
        """Return the points that are no resource readings."""
        return self.points if self.scalars is None else self.points.take(self.scalars[self.series])


@dataclass(slots=True)
class FrameContent:
    """What one frame adds to its task.

    Attributes:
        data: the frame as it came.
        weight_bytes: about what it holds in memory; the writer's transactions are bounded by it.
        frame_bytes: the frame's length as it came; the limits of projects count it.
        points: None where it has none.
        projects: those that its sender may write to, with what is below them; None for all.
        first_time, last_time: over everything in the frame with a positive time; None if there is none.
        active_unix_ns: the last time of anything but heartbeats and resource samples.
        rank: the writer's; None where the task has one process.
        sent_unix_ns: the sender's clock when it sent the frame, to tell an old frame from a wrong clock.
        alive: it is a sign of life of the task's programs.
    """

    writer_id: bytes
    sequence: int
    task_id: str
    data: bytes
    weight_bytes: int
    frame_bytes: int
    projects: tuple[str, ...] | None = None
    points: FramePoints | None = None
    console: list[ConsoleLine] = field(default_factory=list)
    models: list[ModelSaved] = field(default_factory=list)
    values: list[SingleValue] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    records: list[RecordChange] = field(default_factory=list)
    first_unix_ns: int | None = None
    last_unix_ns: int | None = None
    active_unix_ns: int | None = None
    rank: int | None = None
    sent_unix_ns: int | None = None
    alive: bool = True


def prepare(frame: Frame, batch: Batch) -> FrameContent:
    """Check a decoded frame against the server's limits.

    Raises:
        FrameError: a name or number that the store cannot keep; says which.
    """
    if frame.sequence > INT64_MAX:
        raise FrameError(f"sequence number {frame.sequence} is beyond a signed 64-bit integer")
    weight_bytes = len(frame.data) + 28 * len(batch.columns) + 200 * len(batch.events)
    content = FrameContent(
        frame.writer_id, frame.sequence, batch.task_id, frame.data, weight_bytes, len(frame.data), rank=batch.rank
    )
    for event in batch.events:
        _check_event(event)
        _event_list(content, event).append(event)
    content.points = points_of(batch.columns)
    _note_times(content, batch.events)
    return content


def points_of(columns: ScalarColumns) -> FramePoints | None:
    """Return a frame's points as the store holds them; None where there are none.

    Raises:
        FrameError: too many series, or a name that is too long.
    """
    scalars = _scalars_of(columns.series)
    if not len(columns):
        return None
    return FramePoints(
        columns.series,
        np.frombuffer(columns.series_index, np.uint32),
        Points(
            np.frombuffer(columns.iterations, np.int64),
            np.frombuffer(columns.times_unix_ns, np.int64),
            np.frombuffer(columns.values, np.float64),
        ),
        scalars,
    )


# By the identity of a table, with the table itself, so that the identity stays its own.
_known_tables: dict[int, tuple[Sequence[SeriesKey], npt.NDArray[np.bool_] | None]] = {}


def _scalars_of(table: Sequence[SeriesKey]) -> npt.NDArray[np.bool_] | None:
    """Check the names of a table, once; return which are scalars, None where all are."""
    known = _known_tables.get(id(table))
    if known is not None and known[0] is table:
        return known[1]
    if len(table) > MAX_FRAME_SERIES:
        raise FrameError(f"a frame of {len(table)} series is over the limit of {MAX_FRAME_SERIES}")
    for key in table:
        _check_series(key)
    scalars = np.fromiter((key.kind == "scalar" for key in table), np.bool_, len(table))
    found = None if scalars.all() else scalars
    if len(_known_tables) >= _MAX_KNOWN_TABLES:
        _known_tables.clear()
    _known_tables[id(table)] = (table, found)
    return found


def without_older(content: FrameContent, since_unix_ns: int) -> FrameContent:
    """Return what of a frame is not older than `since_unix_ns`, for a task that was begun anew then."""
    if content.first_unix_ns is None or content.first_unix_ns >= since_unix_ns:
        return content

    def newer(events: list[_Event]) -> list[_Event]:
        return [event for event in events if not is_void(event.time_unix_ns, since_unix_ns)]

    kept = replace(
        content,
        points=None if content.points is None else newer_points(content.points, since_unix_ns),
        console=newer(content.console),
        models=newer(content.models),
        values=newer(content.values),
        plots=newer(content.plots),
        media=newer(content.media),
        records=newer(content.records),
        first_unix_ns=None,
        last_unix_ns=None,
        active_unix_ns=None,
    )
    events: list[FrameEvent] = [*kept.console, *kept.models, *kept.values, *kept.plots, *kept.media, *kept.records]
    _note_times(kept, events)
    return kept


def newer_points(points: FramePoints, since_unix_ns: int) -> FramePoints | None:
    """Return the points that are not older than `since_unix_ns`; None where there are none."""
    times_unix_ns = points.points.times_unix_ns
    kept = (times_unix_ns >= since_unix_ns) | (times_unix_ns <= 0)
    if kept.all():
        return points
    return points.take(kept) if kept.any() else None


def _note_times(content: FrameContent, events: Sequence[FrameEvent]) -> None:
    """Note when the first and the last of a frame happened."""
    times_unix_ns = [event.time_unix_ns for event in events if event.time_unix_ns > 0]
    active = [event.time_unix_ns for event in events if not _is_heartbeat(event)]
    if content.points is not None:
        column = content.points.points.times_unix_ns
        first, last = int(column.min()), int(column.max())
        if first <= 0 < last:
            first = int(column[column > 0].min())
        if first > 0:
            times_unix_ns += [first, last]
        scalars = content.points.of_scalars().times_unix_ns
        if len(scalars):
            active.append(int(scalars.max()))
    if times_unix_ns:
        content.first_unix_ns, content.last_unix_ns = min(times_unix_ns), max(times_unix_ns)
    content.active_unix_ns = max((time_unix_ns for time_unix_ns in active if time_unix_ns > 0), default=None)


def _is_heartbeat(event: FrameEvent) -> bool:
    return isinstance(event, RecordChange) and event.section == Section.HEARTBEATS


def _event_list(content: FrameContent, event: FrameEvent) -> list[Any]:
    if isinstance(event, ConsoleLine):
        return content.console
    if isinstance(event, ModelSaved):
        return content.models
    if isinstance(event, SingleValue):
        return content.values
    if isinstance(event, Plot):
        return content.plots
    if isinstance(event, Media):
        return content.media
    return content.records


def _check_event(event: FrameEvent) -> None:
    if isinstance(event, ConsoleLine):
        _check_name(event.stream, "stream")
    elif isinstance(event, ModelSaved):
        _check_name(event.name, "model name")
        _check_name(event.framework, "framework")
        _check_name(event.path, "path", MAX_PATH_CHARS)
    elif isinstance(event, SingleValue):
        _check_name(event.name, "value name")
    elif isinstance(event, (Plot, Media)):
        _check_name(event.title, "title")
        _check_name(event.series, "series name")
        if isinstance(event, Media):
            _check_name(event.filename, "file name")
            _check_name(event.content_type, "content type")
    else:
        _check_name(event.section, "section")
        _check_name(event.key, "key")


def _check_name(name: str, what: str, limit: int = MAX_NAME_CHARS) -> None:
    if len(name) > limit:
        raise FrameError(f"a {what} of {len(name)} characters is over the limit of {limit}: {name!r:.60}…")


def _check_series(key: SeriesKey) -> None:
    _check_name(key.title, "title")
    _check_name(key.series, "series name")
    _check_name(key.unit, "unit")
