"""The memtable: of each active task its points since the last seal, and what is known of all its series.

A frame is fed after its commit, as it is: nothing is done for its series then. Whoever wants to know (a reader, the
summary of some seconds, a seal) has what was fed taken in, in bulk. What is here is in the log as well, so that it can
be read from there again: an entry that is `behind` waits for that and takes nothing meanwhile.

Pure: no SQL. An entry is guarded by its `lock`; the table by its own.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from telemetry.events import SeriesKey
from telemetry.server.store.chunks import Points, concat_points
from telemetry.server.store.content import FramePoints
from telemetry.server.store.statistics import STATISTICS_DTYPE, Statistics, fold, grown

__all__ = ["RECENT_SERIES", "Memtable", "PointsView", "SeriesName", "TaskPoints"]

# (kind, title, series, rank or NO_RANK)
SeriesName: TypeAlias = tuple[str, str, str, int]

# Shown in a row of the table of tasks.
RECENT_SERIES = 6
# Taken in before anybody asks: many small arrays are more memory than their points.
_FED_FRAMES = 64
# Of tables of series, how their rows are numbered in the task: a writer sends the same table again and again.
_KNOWN_TABLES = 16


class _Fed(NamedTuple):
    points: FramePoints
    rank: int


@dataclass(frozen=True, slots=True)
class PointsView:
    """What an entry held at one moment; nothing of it changes.

    Attributes:
        row: of the task.
        names, units, ids: of each series that the task had then.
        series: uint32[n], where in `ids` the series of each point is.
        points: n of them in the order they came.
        positions, ends: of each frame, where it is in the log, and how many points there are up to its end.
    """

    row: int
    names: Sequence[SeriesName]
    units: Sequence[str]
    ids: Sequence[int]
    series: npt.NDArray[np.uint32]
    points: Points
    positions: Sequence[int]
    ends: Sequence[int]

    def after(self, position: int) -> PointsView:
        """Return what came in frames after a position in the log."""
        frames = bisect_right(self.positions, position)
        if not frames:
            return self
        start = self.ends[frames - 1]
        return PointsView(
            self.row,
            self.names,
            self.units,
            self.ids,
            self.series[start:],
            self.points.take(slice(start, None)),
            self.positions[frames:],
            [end - start for end in self.ends[frames:]],
        )


class TaskPoints:
    """The entry of one task.

    Attributes:
        lock: held by whoever calls a method.
        row: of the task.
        behind: the log holds points of the task that are not here.
        position: of the last frame that was here.
        last_fed: the same; 0 before the first one, also where the store has some.
        summed: of the last frame that the stored statistics of the task know of.
        fed_at: when it was fed last; by the feeder's clock, as the next two.
        unsealed_since, unsummed_since: when the first frame came that is not sealed, or not in the stored statistics;
            None where there is none.
        ended: a frame said that the task came to its end.
    """

    def __init__(self, task_id: str, row: int, *, behind: bool) -> None:
        self.lock = threading.RLock()
        self.task_id = task_id
        self.row = row
        self.behind = behind
        self.is_loaded = not behind
        self.position = self.summed = 0
        self.fed_at = 0.0
        self.unsealed_since: float | None = None
        self.unsummed_since: float | None = None
        self.ended = False
        self.names: list[SeriesName] = []
        self.units: list[str] = []
        self.ids: list[int] = []
        # How many of the series are in the store.
        self.stored_series = 0
        self._numbers: dict[SeriesName, int] = {}
        self._leads: dict[tuple[str, str, str], int] = {}
        self._statistics: Statistics = grown(np.zeros(0, STATISTICS_DTYPE), 1)
        self._fed: list[_Fed] = []
        self._fed_points = 0
        self._tables: dict[tuple[int, int], tuple[Sequence[SeriesKey], npt.NDArray[np.uint32]]] = {}
        self._series = np.empty(0, np.uint32)
        self._points = concat_points([])
        self._size = 0
        self._folded = 0
        self.last_fed = 0
        self._positions: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many points are here."""
        return self._size + self._fed_points

    # -- taking in

    def adopt(self, stored: Iterable[tuple[SeriesName, str, int]], statistics: Statistics, summed: int) -> None:
        """Begin with the series that the store has, in the order of their ids. `summed`: what these figures know of."""
        for name, unit, identifier in stored:
            self._add(name, unit, identifier)
        self.stored_series = len(self.names)
        self._statistics = grown(self._statistics, len(statistics))
        self._statistics[: len(statistics)] = statistics
        self.summed = self.position = summed
        self.is_loaded = True

    def feed(self, position: int, points: FramePoints, rank: int) -> None:
        """Take in a frame that was committed at `position`; one that is here already is left out."""
        if position <= self.last_fed:
            return
        self.last_fed = position
        self._fed.append(_Fed(points, rank))
        self._fed_points += len(points)
        self._positions.append(position)
        self._ends.append(len(self))
        self.position = max(self.position, position)
        if position <= self.summed:
            # From the log, after a start: its figures are in the statistics already.
            self._take_in()
            self._folded = self._size
        elif len(self._fed) >= _FED_FRAMES:
            self._take_in()

    def _take_in(self) -> None:
        if not self._fed:
            return
        series = np.concatenate([self._numbered(one) for one in self._fed])
        points = concat_points([one.points.points for one in self._fed])
        size = self._size + len(series)
        if size > len(self._series):
            # Whoever looks at the old arrays keeps them.
            room = max(1024, size + size // 2)
            self._series = _with_room(self._series[: self._size], room)
            self._points = Points(
                _with_room(self._points.iterations[: self._size], room),
                _with_room(self._points.times_unix_ns[: self._size], room),
                _with_room(self._points.values[: self._size], room),
            )
        new = slice(self._size, size)
        self._series[new] = series
        self._points.iterations[new] = points.iterations
        self._points.times_unix_ns[new] = points.times_unix_ns
        self._points.values[new] = points.values
        # Not before: where there was no memory for it, it is all still to be taken in.
        self._size, self._fed, self._fed_points = size, [], 0

    def _numbered(self, fed: _Fed) -> npt.NDArray[np.uint32]:
        table, series = fed.points.table, fed.points.series
        known = self._tables.get((id(table), fed.rank))
        if known is not None and known[0] is table:
            return known[1][series]
        numbers = np.zeros(len(table), np.uint32)
        present = np.bincount(series, minlength=len(table)) > 0
        for at in np.flatnonzero(present).tolist():
            key = table[at]
            name = (key.kind, key.title, key.series, fed.rank)
            number = self._numbers.get(name)
            # A table may hold a series twice, with two units, of which the first is kept.
            numbers[at] = self._add(name, key.unit, self._next_id()) if number is None else number
        if present.all():
            if len(self._tables) >= _KNOWN_TABLES:
                self._tables.clear()
            self._tables[id(table), fed.rank] = (table, numbers)
        return numbers[series]

    def _next_id(self) -> int:
        return self.ids[-1] + 1 if self.ids else 1

    def _add(self, name: SeriesName, unit: str, identifier: int) -> int:
        number = self._numbers[name] = len(self.names)
        self.names.append(name)
        self.units.append(unit)
        self.ids.append(identifier)
        lead = self._leads.get(name[:3])
        if lead is None or name < self.names[lead]:
            self._leads[name[:3]] = number
        return number

    # -- what is known

    def statistics(self) -> Statistics:
        """Return the figures of every series, a row for each of `ids`; valid until the lock is let go."""
        self._take_in()
        self._statistics = grown(self._statistics, len(self.names))
        if self._folded < self._size:
            new = slice(self._folded, self._size)
            fold(self._statistics, self._series[new], self._points.take(new), self.position)
            self._folded = self._size
        return self._statistics[: len(self.names)]

    def recent(self) -> list[tuple[int, int]]:
        """Return (id, time) of the scalar series with the latest points; equal times are settled by name."""
        statistics = self.statistics()
        # The rank that leads stands for the others: six ranks of one loss would be no news.
        leads = np.fromiter((at for name, at in self._leads.items() if name[0] == "scalar"), np.int64)
        if len(leads) > 4 * RECENT_SERIES:
            times_unix_ns = statistics["last_time"][leads]
            least = np.partition(times_unix_ns, len(leads) - RECENT_SERIES)[len(leads) - RECENT_SERIES]
            leads = leads[times_unix_ns >= least]
        best = heapq.nsmallest(
            RECENT_SERIES, leads.tolist(), key=lambda at: (-int(statistics["last_time"][at]), self.names[at])
        )
        return [(self.ids[at], int(statistics["last_time"][at])) for at in best]

    def fork(self) -> TaskPoints:
        """Return an entry with the same points and series that goes its own way."""
        other = TaskPoints(self.task_id, self.row, behind=False)
        other.adopt(zip(self.names, self.units, self.ids, strict=True), self.statistics(), self.position)
        other._series, other._points = self._series[: self._size], self._points.take(slice(0, self._size))
        other._size = other._folded = self._size
        other._positions, other._ends, other.last_fed = self._positions.copy(), self._ends.copy(), self.last_fed
        return other

    def view(self) -> PointsView:
        """Return what is here now."""
        self._take_in()
        count = len(self.names)
        return PointsView(
            self.row,
            _Prefix(self.names, count),
            _Prefix(self.units, count),
            _Prefix(self.ids, count),
            self._series[: self._size],
            self._points.take(slice(0, self._size)),
            self._positions.copy(),
            self._ends.copy(),
        )

    def drop(self, position: int) -> int:
        """Let go of the points up to a position in the log, which are sealed; return how many these were."""
        frames = bisect_right(self._positions, position)
        if not frames:
            return 0
        start = self._ends[frames - 1]
        # What goes must be in the figures before.
        self.statistics()
        self._series = self._series[start : self._size].copy()
        self._points = Points(
            self._points.iterations[start : self._size].copy(),
            self._points.times_unix_ns[start : self._size].copy(),
            self._points.values[start : self._size].copy(),
        )
        self._size -= start
        self._folded = self._size
        self._positions = self._positions[frames:]
        self._ends = [end - start for end in self._ends[frames:]]
        return start


class Memtable:
    """The entries of all active tasks, and how many points they hold together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, TaskPoints] = {}
        self.points = 0

    def find(self, task_id: str) -> TaskPoints | None:
        """Return the entry of a task; None where all its points are sealed, or it has none."""
        return self._entries.get(task_id)

    def entries(self) -> list[TaskPoints]:
        """Return all entries, the least recently fed first."""
        with self._lock:
            entries = list(self._entries.values())
        return sorted(entries, key=lambda entry: entry.fed_at)

    def expect(self, task_id: str, row: int) -> TaskPoints:
        """Return the entry of a task, if need be a new one that is behind."""
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is None or entry.row != row:
                if entry is not None:
                    self.points -= len(entry)
                entry = self._entries[task_id] = TaskPoints(task_id, row, behind=True)
            return entry

    def begin(self, task_id: str, row: int) -> TaskPoints:
        """Return a new entry for a task of which the store has no point."""
        with self._lock:
            entry = self._entries[task_id] = TaskPoints(task_id, row, behind=False)
            return entry

    def count(self, points: int) -> None:
        """Count points that came, or (negative) went."""
        with self._lock:
            self.points += points

    def forget(self, task_id: str) -> None:
        """Let go of a task."""
        with self._lock:
            entry = self._entries.pop(task_id, None)
            if entry is not None:
                self.points -= len(entry)


class _Prefix(Sequence[Any]):
    """The first entries of a list that only grows, without a copy of it."""

    __slots__ = ("_items", "_size")

    def __init__(self, items: list[Any], size: int) -> None:
        self._items = items
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self._items[: self._size][at]
        if not -self._size <= at < self._size:
            raise IndexError(at)
        return self._items[at if at >= 0 else at + self._size]


def _with_room(column: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    larger = np.empty(room, column.dtype)
    larger[: len(column)] = column
    return larger
