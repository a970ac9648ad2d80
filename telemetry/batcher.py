"""The batcher: EventQueue -> Batch -> Frame -> each sink's lane.

It runs on the pipeline's loop. Work on scalars goes in slices of C calls (strided slices, zip, array, zlib),
each a few milliseconds at most, because whoever holds the GIL stops the training thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

from telemetry.clock import unix_ns
from telemetry.errors import FrameError, InvalidEvent
from telemetry.events import (
    INT64_MAX,
    ROW_SLOTS,
    Batch,
    Event,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ResourceSample,
    ScalarColumns,
    SeriesKey,
    SingleValue,
    clean_name,
    to_float,
    to_iteration,
    write_out,
)
from telemetry.iterations import IterationOffset
from telemetry.lane import Lane
from telemetry.ledger import Book, DropReason
from telemetry.queue import EventQueue
from telemetry.record import Section
from telemetry.wire import Frame, encode, pack_series

__all__ = ["Batcher", "RunSeries", "columns_of"]

log = logging.getLogger(__name__)

# Objects (console text above all) of one frame; far below the frame's limit.
FRAME_OBJECT_BYTES = 4 * 1024 * 1024

# Names seen: each is checked once. A program that makes up names for ever must not fill memory with them.
MAX_KNOWN_SERIES = 100_000

# Of one step; the rows of one with more are looked up one by one.
MAX_PERIOD = 1_024


class RunSeries(dict[tuple[Any, Any], int]):
    """(title, series) -> the number of that series in this run; a new pair gets the next as it is looked up.

    Frames name their series in the order of these numbers. So two frames with the same series have the same table,
    whatever was reported first in each: who reads frames can know it again by its bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_order: list[SeriesKey] = []
        self._resources: dict[SeriesKey, int] = {}
        self._packed: list[bytes] = []
        # The series of the last frame, its table, and the place in it of each; None if that is the number itself.
        self._present: list[int] = []
        self._table: list[SeriesKey] = []
        self._places: dict[int, int] | None = None

    def __missing__(self, pair: tuple[Any, Any]) -> int:
        clean = (clean_name(pair[0]), clean_name(pair[1]))
        if clean == pair:
            number = len(self._in_order)
            key = SeriesKey("scalar", *clean)
            self._in_order.append(key)
            self._packed.append(pack_series(key))
        else:
            number = self[clean]
        self[pair] = number
        return number

    def indexed(self, titles: list[Any], series: list[Any]) -> tuple[list[SeriesKey], array[int]]:
        """Return the table of these rows' series, and uint32[n], each row's place in it.

        Raises:
            InvalidEvent, TypeError, ValueError: some row has a title or series that is no string.
        """
        period = _period_of(titles, series) or len(titles)
        table, index = self.table_of(
            array("I", map(self.__getitem__, zip(titles[:period], series[:period], strict=True)))
        )
        if period < len(titles):
            index = (index * (len(titles) // period + 1))[: len(titles)]
        return table, index

    def table_of(self, numbers: array[int]) -> tuple[list[SeriesKey], array[int]]:
        """Return the table of these numbers' series, not to be changed, and for each number its place in it."""
        present = sorted(set(numbers))
        if present != self._present:
            self._present = present
            self._table = list(map(self._in_order.__getitem__, present))
            dense = not present or present[-1] == len(present) - 1
            self._places = None if dense else dict(zip(present, range(len(present)), strict=True))
        places = self._places
        return self._table, numbers if places is None else array("I", map(places.__getitem__, numbers))

    def packed(self, table: list[SeriesKey]) -> bytes | None:
        """Return the bytes of this table if it is that of the last frame."""
        return b"".join(map(self._packed.__getitem__, self._present)) if table is self._table else None

    def resource_number(self, key: SeriesKey) -> int:
        """Return the number of a resource series, which counts by itself."""
        return self._resources.setdefault(key, len(self._resources))

    @property
    def is_full(self) -> bool:
        """True if there are so many that they had better be forgotten."""
        return max(len(self), len(self._resources)) > MAX_KNOWN_SERIES


def _period_of(titles: list[Any], series: list[Any]) -> int:
    """Return after how many rows the series repeat, to the last row, as those of a loop's steps do; 0 if not.

    To compare two lists that share their names costs a tenth of looking each pair up.
    """
    head = list(zip(titles[: MAX_PERIOD + 1], series[: MAX_PERIOD + 1], strict=True))
    try:
        period = head.index(head[0], 1)
    except (IndexError, ValueError):
        return 0
    repeats = titles[period:] == titles[:-period] and series[period:] == series[:-period]
    return period if repeats else 0


def columns_of(rows: list[Any], run: RunSeries) -> tuple[ScalarColumns, list[InvalidEvent]]:
    """Turn flat rows into columns.

    Args:
        rows: title, series, value, iteration, time_unix_ns, and again.
        run: the series of the run so far; grows.
    Returns:
        The columns, and an error for each row that could not be kept.
    """
    try:
        columns = ScalarColumns(
            *run.indexed(rows[0::ROW_SLOTS], rows[1::ROW_SLOTS]),
            _column("q", rows[3::ROW_SLOTS]),
            _column("q", rows[4::ROW_SLOTS]),
            _column("d", rows[2::ROW_SLOTS]),
        )
    except (TypeError, ValueError, OverflowError, struct.error):
        # Some row has an iteration that is no int64, or a name that is no string: find it one by one.
        return _columns_one_by_one(rows, run)
    return columns, []


def _column(typecode: str, numbers: list[Any]) -> array[Any]:
    # By way of struct: a third of what array(typecode, numbers) costs.
    return array(typecode, struct.Struct(f"{len(numbers)}{typecode}").pack(*numbers))


def _columns_one_by_one(rows: list[Any], run: RunSeries) -> tuple[ScalarColumns, list[InvalidEvent]]:
    columns = ScalarColumns()
    numbers = array("I")
    errors: list[InvalidEvent] = []
    for start in range(0, len(rows), ROW_SLOTS):
        title, series, value, iteration, time_unix_ns = rows[start : start + ROW_SLOTS]
        try:
            whole = to_iteration(iteration)
            # Before the first append: columns of different lengths would be no frame at all.
            # The hot path takes the clock as it is: one past 2262 stands still there (clock.py).
            time_unix_ns = to_iteration(min(time_unix_ns, INT64_MAX) if type(time_unix_ns) is int else time_unix_ns)
            value = to_float(value)
            number = run[clean_name(title), clean_name(series)]
        except InvalidEvent as error:
            errors.append(error)
            continue
        numbers.append(number)
        columns.iterations.append(whole)
        columns.times_unix_ns.append(time_unix_ns)
        columns.values.append(value)
    columns.series, columns.series_index = run.table_of(numbers)
    return columns, errors


class Batcher:
    """Takes from the queue when woken or when the timer says so, and offers frames to every lane."""

    def __init__(
        self,
        queue: EventQueue,
        book: Book,
        lanes: Sequence[Lane],
        *,
        task_id: str,
        writer_id: bytes,
        rank: int | None = None,
        heartbeat_interval_s: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], int] = unix_ns,
        frame_scalars: int,
        flush_interval_s: float,
        compression_level: int,
        offset: IterationOffset | None = None,
    ) -> None:
        self._queue = queue
        self._book = book
        self._lanes = lanes
        self._task_id = task_id
        self._writer_id = writer_id
        self._rank = rank
        self._heartbeat_interval_s = heartbeat_interval_s
        self._monotonic = monotonic
        self._clock = clock
        self._sent_at_s = monotonic()
        self._frame_scalars = frame_scalars
        self._flush_interval_s = flush_interval_s
        self._level = compression_level
        self._offset = IterationOffset() if offset is None else offset
        self._sequence = 0
        self._series = RunSeries()
        self._wake = asyncio.Event()
        self._passing = asyncio.Lock()
        self._stopping = False

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Batch until `stop`; the queue is then empty and sealed."""
        while not self._stopping:
            try:
                await asyncio.wait_for(self._wake.wait(), min(self._flush_interval_s, self._heartbeat_interval_s))
            except TimeoutError:
                pass  # the timer: whatever is there goes out now
            # Clear before draining: a report that lands during the drain must wake us again.
            self._wake.clear()
            self._beat()
            while len(self._queue) and not self._stopping:
                await self.flush()
        # Closed first: with threads that go on reporting, the queue would never be empty.
        self._queue.close()
        await self.flush()
        self._queue.seal()

    def _beat(self) -> None:
        """After a silent while, say that this writer lives: whoever reads can tell a quiet run from a dead one."""
        if self._monotonic() - self._sent_at_s >= self._heartbeat_interval_s and not len(self._queue):
            self._sent_at_s = self._monotonic()
            now_unix_ns = self._clock()
            self._queue(RecordChange(now_unix_ns, Section.HEARTBEATS, self._writer_id.hex(), now_unix_ns))

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def flush(self) -> None:
        """Move what waits in the queue now to the lanes; what is reported meanwhile is not waited for."""
        async with self._passing:
            waiting = len(self._queue)
            while waiting > 0 and len(self._queue):
                rows, objects = self._queue.take(self._frame_scalars, FRAME_OBJECT_BYTES)
                waiting -= len(rows) // ROW_SLOTS + len(objects)
                for frame in self._frames(rows, objects):
                    for lane in self._lanes:
                        await lane.offer(frame)
                # Give the lanes their turn even when the queue never empties.
                await asyncio.sleep(0)

    def _frames(self, rows: list[Any], objects: list[Event]) -> list[Frame]:
        """Encode what was taken; what cannot be encoded is counted and said, and the rest goes on."""
        taken = len(rows) // ROW_SLOTS + len(objects)
        spoiled: list[tuple[DropReason, str]] = []
        try:
            frames = self._encode_all(rows, objects, spoiled)
        except Exception:  # top of the engine: a defect here costs one batch, not the rest of the run
            log.exception("a batch of %d events could not be encoded and is dropped", taken)
            self._book.spoil(DropReason.INVALID, taken)
            return []
        for reason, count in Counter(reason for reason, _ in spoiled).items():
            self._book.spoil(reason, count)
        for _, message in spoiled:
            self._queue.warn_once(message)
        return frames

    def _encode_all(self, rows: list[Any], objects: list[Event], spoiled: list[tuple[DropReason, str]]) -> list[Frame]:
        taken = len(objects)
        if self._series.is_full:
            self._series = RunSeries()
        write_out(rows)
        columns, errors = columns_of(rows, self._series)
        if self._offset:
            columns, too_far = self._offset.moved_columns(columns)
            errors += too_far
            objects = [moved for event in objects if (moved := self._moved(event, errors)) is not None]
        events, bad_samples = _fold_in(columns, objects, self._series)
        spoiled += [(DropReason.INVALID, str(error)) for error in (*errors, *bad_samples)]
        in_columns = len(rows) // ROW_SLOTS + taken - len(spoiled) - len(events)
        if not in_columns and not events:
            return []
        try:
            return [self._encode(columns, events, in_columns + len(events))]
        except (FrameError, TypeError, ValueError, OverflowError):
            frames = self._encode_columns(columns, in_columns) if in_columns else []
            return frames + self._encode_events(events, spoiled)

    def _moved(self, event: Event, errors: list[InvalidEvent]) -> Event | None:
        try:
            return self._offset.moved(event)
        except InvalidEvent as error:
            errors.append(error)
            return None

    def _encode_columns(self, columns: ScalarColumns, count: int) -> list[Frame]:
        """Encode columns in halves while they are too large, as thousands of series with long names can be."""
        try:
            return [self._encode(columns, [], count)]
        except FrameError:
            half = len(columns) // 2
            if not half:
                raise
        # A resource sample counts once for several rows: the halves' counts must add up, no more.
        first = count * half // len(columns)
        halves = (_rows_between(columns, 0, half), _rows_between(columns, half, len(columns)))
        return self._encode_columns(halves[0], first) + self._encode_columns(halves[1], count - first)

    def _encode_events(self, events: Sequence[FrameEvent], spoiled: list[tuple[DropReason, str]]) -> list[Frame]:
        """Encode in halves to find the events that cannot be; the others stay together."""
        if not events:
            return []
        try:
            return [self._encode(ScalarColumns(), events, len(events))]
        except (FrameError, TypeError, ValueError, OverflowError) as error:
            if len(events) == 1:
                reason = DropReason.TOO_LARGE if isinstance(error, FrameError) else DropReason.INVALID
                spoiled.append((reason, f"a {type(events[0]).__name__} was dropped: {error}"))
                return []
        half = len(events) // 2
        return self._encode_events(events[:half], spoiled) + self._encode_events(events[half:], spoiled)

    def _encode(self, columns: ScalarColumns, events: Sequence[FrameEvent], count: int) -> Frame:
        batch = Batch(self._task_id, columns, events, count, self._rank)
        frame = encode(
            batch,
            writer_id=self._writer_id,
            sequence=self._sequence,
            level=self._level,
            packed_series=self._series.packed(columns.series),
        )
        self._sequence += 1
        self._sent_at_s = self._monotonic()
        return frame


def _rows_between(columns: ScalarColumns, start: int, end: int) -> ScalarColumns:
    """Return the rows from `start` to `end`, with only the series that they name."""
    part = ScalarColumns(
        iterations=columns.iterations[start:end],
        times_unix_ns=columns.times_unix_ns[start:end],
        values=columns.values[start:end],
    )
    index = columns.series_index[start:end]
    present = sorted(set(index))
    places = {old: place for place, old in enumerate(present)}
    part.series = [columns.series[old] for old in present]
    part.series_index = array("I", map(places.__getitem__, index))
    return part


def _fold_in(
    columns: ScalarColumns, objects: list[Event], run: RunSeries
) -> tuple[list[FrameEvent], list[InvalidEvent]]:
    """Add resource samples to the columns; return the events that travel one by one, and what was wrong."""
    events: list[FrameEvent] = []
    errors: list[InvalidEvent] = []
    keys: list[SeriesKey] = []
    for event in objects:
        if not isinstance(event, ResourceSample):
            try:
                events.append(_with_clean_names(event))
            except InvalidEvent as error:
                errors.append(error)
            continue
        try:
            keys += _add_sample(columns, event)
        except InvalidEvent as error:
            errors.append(error)
        except (AttributeError, TypeError) as error:
            errors.append(InvalidEvent(f"a resource sample was dropped: {error}"))
    in_order = sorted(dict.fromkeys(keys), key=run.resource_number)
    places = {key: place for place, key in enumerate(in_order, len(columns.series))}
    if in_order:
        columns.series = columns.series + in_order
    columns.series_index.extend(map(places.__getitem__, keys))
    return events, errors


# What the store keeps under a name. Text (a console line, a path) is cleaned where it is made.
_NAMES: dict[type[Any], tuple[str, ...]] = {
    ModelSaved: ("name", "framework"),
    SingleValue: ("name",),
    RecordChange: ("section", "key"),
    Plot: ("title", "series"),
    Media: ("title", "series", "filename", "content_type"),
}


def _with_clean_names(event: Any) -> FrameEvent:
    """Return the event with names that the store takes: what is too long is shortened, never refused there."""
    changes = {
        name: clean
        for name in _NAMES.get(type(event), ())
        if (clean := clean_name(given := getattr(event, name))) is not given
    }
    cleaned: FrameEvent = replace(event, **changes) if changes else event
    return cleaned


def _add_sample(columns: ScalarColumns, sample: ResourceSample) -> list[SeriesKey]:
    """Add what was read to the columns, but for the index; return the series of these rows."""
    # All of it is checked before the first append: columns of different lengths would be no frame at all.
    time_unix_ns = to_iteration(sample.time_unix_ns)
    keys = [
        SeriesKey("resource", clean_name(reading.title), clean_name(reading.series), clean_name(reading.unit))
        for reading in sample.readings
    ]
    values = [to_float(reading.value) for reading in sample.readings]
    columns.values.extend(values)
    columns.iterations.extend(repeat(time_unix_ns // 1_000_000, len(keys)))
    columns.times_unix_ns.extend(repeat(time_unix_ns, len(keys)))
    return keys
