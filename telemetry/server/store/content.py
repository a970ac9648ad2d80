"""A decoded frame made ready for the store, off the writer thread: checked, grouped by series, summed up.

`prepare` holds the limits that the wire format itself does not have (lengths of names, numbers of series);
types, ranges and nesting are checked by `wire.decode`. What either refuses is refused whole.
"""

from __future__ import annotations

from array import array
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

__all__ = ["FrameContent", "SeriesRun", "newer_points", "prepare", "series_run", "without_older"]

MAX_PATH_CHARS = 32_768
_Event = TypeVar("_Event", bound=FrameEvent)

# Each is a row that is kept in memory while the task runs; a name that holds a step number makes millions.
MAX_FRAME_SERIES = 50_000


@dataclass(frozen=True, slots=True)
class SeriesRun:
    """One series' points of a frame, in the order they were reported, with their summary.

    `min_*` and `max_*` are None without a finite value. `last_*` is the point with the greatest
    (time, iteration), the later of equals.
    """

    key: SeriesKey
    points: Points
    non_finite: int
    lowest_iteration: int
    highest_iteration: int
    last_unix_ns: int
    last_iteration: int
    last: float
    min: float | None
    min_iteration: int | None
    max: float | None
    max_iteration: int | None


@dataclass(slots=True)
class FrameContent:
    """What one frame adds to its task.

    Attributes:
        weight_bytes: about what it holds in memory; the writer's transactions are bounded by it.
        frame_bytes: the frame's length as it came; the limits of projects count it.
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
    weight_bytes: int
    frame_bytes: int
    projects: tuple[str, ...] | None = None
    runs: list[SeriesRun] = field(default_factory=list)
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
    """Check a decoded frame against the server's limits and group its points by series.

    Raises:
        FrameError: a name or number that the store cannot keep; says which.
    """
    if frame.sequence > INT64_MAX:
        raise FrameError(f"sequence number {frame.sequence} is beyond a signed 64-bit integer")
    weight_bytes = len(frame.data) + 24 * len(batch.columns) + 200 * len(batch.events)
    content = FrameContent(frame.writer_id, frame.sequence, batch.task_id, weight_bytes, len(frame.data))
    for event in batch.events:
        _check_event(event)
        _event_list(content, event).append(event)
    content.rank = batch.rank
    content.runs = _runs(batch.columns)
    _note_times(content, batch.events, _as_int64(batch.columns.times_unix_ns) if len(batch.columns) else None)
    return content


def without_older(content: FrameContent, since_unix_ns: int) -> FrameContent:
    """Return what of a frame is not older than `since_unix_ns`, for a task that was begun anew then."""
    if content.first_unix_ns is None or content.first_unix_ns >= since_unix_ns:
        return content

    def newer(events: list[_Event]) -> list[_Event]:
        return [event for event in events if not is_void(event.time_unix_ns, since_unix_ns)]

    found = [(run.key, newer_points(run.points, since_unix_ns)) for run in content.runs]
    runs = [series_run(key, points) for key, points in found if len(points)]
    kept = replace(
        content,
        runs=runs,
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
    times_unix_ns = [run.points.times_unix_ns for run in runs]
    _note_times(kept, events, np.concatenate(times_unix_ns) if times_unix_ns else None)
    return kept


def newer_points(points: Points, since_unix_ns: int) -> Points:
    """Return the points that are not older than `since_unix_ns`."""
    void = (points.times_unix_ns < since_unix_ns) & (points.times_unix_ns > 0)
    return points.take(~void) if void.any() else points


def series_run(key: SeriesKey, points: Points) -> SeriesRun:
    """Sum up some points of one series, at least one."""
    return _summaries([key], points, np.zeros(1, np.int64), np.array([len(points)], np.int64))[0]


def _note_times(content: FrameContent, events: Sequence[FrameEvent], column: npt.NDArray[np.int64] | None) -> None:
    """Note when the first and the last of a frame happened. `column`: the times of all its points."""
    times_unix_ns = [event.time_unix_ns for event in events if event.time_unix_ns > 0]
    if column is not None:
        positive = column[column > 0]
        if len(positive):
            times_unix_ns += [int(positive.min()), int(positive.max())]
    if times_unix_ns:
        content.first_unix_ns, content.last_unix_ns = min(times_unix_ns), max(times_unix_ns)
    active = [event.time_unix_ns for event in events if not _is_heartbeat(event)]
    active += [int(run.points.times_unix_ns.max()) for run in content.runs if run.key.kind == "scalar"]
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


def _as_int64(column: array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(column, np.int64)


def _runs(columns: ScalarColumns) -> list[SeriesRun]:
    if len(columns.series) > MAX_FRAME_SERIES:
        raise FrameError(f"a frame of {len(columns.series)} series is over the limit of {MAX_FRAME_SERIES}")
    for key in columns.series:
        _check_series(key)
    if len(set(columns.series)) != len(columns.series):
        columns = _merge_repeated(columns)
    if not len(columns):
        return []
    index = np.frombuffer(columns.series_index, np.uint32)
    points = Points(
        np.frombuffer(columns.iterations, np.int64),
        np.frombuffer(columns.times_unix_ns, np.int64),
        np.frombuffer(columns.values, np.float64),
    )
    # numpy sorts 16-bit integers by radix: 0.4 ms for 65,536 rows, where 32-bit ones take 3 ms.
    narrow = index.astype(np.uint16) if len(columns.series) <= 65_536 else index
    if len(columns.series) > 1:
        points = points.take(np.argsort(narrow, kind="stable"))
    counts = np.bincount(index, minlength=len(columns.series))
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    starts = ends - counts[present]
    return _summaries([columns.series[number] for number in present.tolist()], points, starts, ends)


def _check_series(key: SeriesKey) -> None:
    _check_name(key.title, "title")
    _check_name(key.series, "series name")
    _check_name(key.unit, "unit")


def _merge_repeated(columns: ScalarColumns) -> ScalarColumns:
    # Sound, if odd: a frame may name a series twice.
    numbers: dict[SeriesKey, int] = {}
    renamed = array("I", [numbers.setdefault(key, len(numbers)) for key in columns.series])
    index = np.frombuffer(renamed, np.uint32)[np.frombuffer(columns.series_index, np.uint32)]
    return ScalarColumns(
        list(numbers),
        array("I", index.astype(np.uint32).tobytes()),
        columns.iterations,
        columns.times_unix_ns,
        columns.values,
    )


def _summaries(
    keys: Sequence[SeriesKey], points: Points, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> list[SeriesRun]:
    """Sum up every run at once: a frame of a thousand short series costs what one long one does."""
    sizes = ends - starts
    iterations, times_unix_ns, values = points.iterations, points.times_unix_ns, points.values
    finite = np.isfinite(values)
    bad = np.add.reduceat(~finite, starts, dtype=np.int64).tolist()
    lowest = np.minimum.reduceat(iterations, starts).tolist()
    highest = np.maximum.reduceat(iterations, starts).tolist()
    last = _last_rows(points, starts, sizes)
    mins, min_iterations = _extreme(np.minimum, np.inf, points, finite, starts, sizes)
    maxs, max_iterations = _extreme(np.maximum, -np.inf, points, finite, starts, sizes)
    last_times_unix_ns, last_iterations = times_unix_ns[last].tolist(), iterations[last].tolist()
    last_values = values[last].tolist()
    runs = []
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        any_finite = bad[row] < end - start
        runs.append(
            SeriesRun(
                key=keys[row],
                points=points.take(slice(start, end)),
                non_finite=bad[row],
                lowest_iteration=lowest[row],
                highest_iteration=highest[row],
                last_unix_ns=last_times_unix_ns[row],
                last_iteration=last_iterations[row],
                last=last_values[row],
                min=mins[row] if any_finite else None,
                min_iteration=min_iterations[row] if any_finite else None,
                max=maxs[row] if any_finite else None,
                max_iteration=max_iterations[row] if any_finite else None,
            )
        )
    return runs


def _last_rows(points: Points, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    latest = points.times_unix_ns == np.repeat(np.maximum.reduceat(points.times_unix_ns, starts), sizes)
    floor = np.iinfo(np.int64).min
    best = np.maximum.reduceat(np.where(latest, points.iterations, floor), starts)
    chosen = latest & (points.iterations == np.repeat(best, sizes))
    rows: npt.NDArray[np.int64] = np.maximum.reduceat(np.where(chosen, np.arange(len(points)), -1), starts)
    return rows


def _extreme(
    choose: np.ufunc,
    neutral: float,
    points: Points,
    finite: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> tuple[list[float], list[int]]:
    """Per run the extreme finite value and the smallest iteration that has it."""
    best = choose.reduceat(np.where(finite, points.values, neutral), starts)
    chosen = finite & (points.values == np.repeat(best, sizes))
    ceiling = np.iinfo(np.int64).max
    at = np.minimum.reduceat(np.where(chosen, points.iterations, ceiling), starts)
    return best.tolist(), at.tolist()
