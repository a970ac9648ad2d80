"""The points of all tasks: the log's tail in memory, its seals, and what keeps both small.

Writing (`feed`, `write_anew`) belongs to who holds the writer's lock. `keep` is called again and again by one thread
(upkeep/keeper.py): it writes summaries, seals and merges, each in a transaction of its own, so that commits go on in
between. Locks are taken in this order: the sealer's, the writer's, an entry's `lock`; no snapshot is open while one of
them is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from telemetry.events import SeriesKey
from telemetry.server.store import schema
from telemetry.server.store.chunks import Points, concat_points
from telemetry.server.store.content import FramePoints, newer_points, points_of
from telemetry.server.store.errors import StoreUnavailable
from telemetry.server.store.memtable import Memtable, PointsView, TaskPoints
from telemetry.server.store.parts import KnownSeries, TaskParts
from telemetry.server.store.reset import stored_reset
from telemetry.server.store.sealing import Sealed, arrange
from telemetry.server.store.seams import Log, SealedPoints, Transactions
from telemetry.server.store.state import LoggedPoints, WriterCache
from telemetry.server.store.summaries import WrittenSummary, load_series, write_summaries
from telemetry.wire import decode, parse_frame

__all__ = ["PointStore", "SealingLimits", "SeriesChange"]

# Read from the log at once after a start: some 60 MB as columns.
_LOAD_POINTS = 2_000_000
# Read for somebody who asks before the keeper has come to it: some 220 MB.
_VIEW_POINTS = 8_000_000
# A query writes the summaries of so few series itself, in some 10 ms; those of more are at most `summary_s` old.
_FRESH_SERIES = 2000
_FRESH_TASKS = 50
# Of the one task that is looked at so many, in some 0.1 s.
_FRESH_SERIES_OF_TASK = 20_000
# Written in one transaction: it holds up commits for some 50 ms.
_SUMMARY_SERIES = 5000
# Sealed in one transaction, which takes some 50 ms.
_BATCH_TASKS = 50
_BATCH_POINTS = 300_000
# Free pages that go back to the disk at once: 4 MB, some 10 ms of the writer's time.
_GIVE_BACK_PAGES = 512
# From one look to the next.
_TURN_S = 1.0
# A task that nobody feeds is read again when somebody does.
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class SealingLimits:
    """When points leave the memory and the log for chunks and blocks.

    Attributes:
        task_points: of one task; and for each of its series 16 more, so that short runs are not sealed one by one.
        max_points: of all tasks, 28 bytes each. Beyond it the least recently fed tasks are sealed; beyond twice as
            many, a commit waits for a seal.
        after_s: after the first point that is not sealed.
        summary_s: how old what tables sort and filter by may be.
    """

    task_points: int = 131_072
    max_points: int = 6_000_000
    after_s: float = 300.0
    summary_s: float = 4.0


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """A series as it is now."""

    count: int
    last: float | None
    last_iteration: int
    last_unix_ns: int


class PointStore:
    """What the store knows of points.

    Args:
        writing: the writer's lock.
        transaction: opens the write transaction; the writer's lock must be held.
    """

    def __init__(
        self,
        database: Transactions,
        log: Log,
        sealed: SealedPoints,
        writing: threading.Lock,
        transaction: Callable[[], AbstractContextManager[tuple[Connection, WriterCache]]],
        limits: SealingLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._log = log
        self._sealed = sealed
        self._writing = writing
        self._transaction = transaction
        self._limits = limits
        self._clock = clock
        self._memtable = Memtable()
        # One seals and merges at a time.
        self._sealing = threading.Lock()
        # Since space was given back last.
        self._has_sealed = False
        # Set where `keep` should not wait for its next turn.
        self.wanted = threading.Event()
        self._expect_unsealed()

    def _expect_unsealed(self) -> None:
        with self._database.snapshot() as connection:
            unsealed = self._log.tasks(connection)
        for task_id, row in unsealed:
            entry = self._memtable.expect(task_id, row)
            entry.unsealed_since = entry.unsummed_since = self._clock()
        if unsealed:
            self.wanted.set()

    # -- writing; the writer's lock is held

    def feed(self, logged: Iterable[LoggedPoints], begun_anew: Mapping[str, int], ended: Iterable[str]) -> None:
        """Take in what was committed. `begun_anew`: tasks whose points lie under another row now, by id."""
        now = self._clock()
        for task_id, row in begun_anew.items():
            self._memtable.expect(task_id, row)
        for one in logged:
            entry = self._memtable.find(one.task_id)
            if entry is None or entry.row != one.row:
                begin = self._memtable.begin if one.is_new else self._memtable.expect
                entry = begin(one.task_id, one.row)
            with entry.lock:
                entry.fed_at = now
                if entry.unsealed_since is None:
                    entry.unsealed_since = now
                if entry.unsummed_since is None:
                    entry.unsummed_since = now
                # Who reads the log for it finds this frame there.
                if not entry.behind:
                    entry.feed(one.position, one.points, one.rank)
                    self._memtable.count(len(one.points))
                if len(entry) >= self._room_of(entry):
                    self.wanted.set()
        for task_id in ended:
            entry = self._memtable.find(task_id)
            if entry is not None:
                entry.ended = True
                self.wanted.set()
        if self._memtable.points > self._limits.max_points:
            self.wanted.set()

    def parts_with(self, connection: Connection, task_id: str, row: int, logged: Sequence[LoggedPoints]) -> TaskParts:
        """Return the points of a task within the write transaction, what it has logged itself included."""
        entry = self._memtable.find(task_id)
        if entry is None or entry.row != row:
            entry = TaskPoints(task_id, row, behind=True)
        with entry.lock:
            while entry.behind:
                self._catch_up(entry)
            own = entry.fork()
        for one in logged:
            own.feed(one.position, one.points, one.rank)
        return TaskParts(self._sealed, connection, row, own.view())

    def write_anew(
        self,
        connection: Connection,
        cache: WriterCache,
        task_id: str,
        row: int,
        found: Iterable[tuple[KnownSeries, Points]],
    ) -> list[FramePoints]:
        """Write points under a new row of their task, sealed; return them as if frames had brought them."""
        by_rank: dict[int, list[tuple[KnownSeries, Points]]] = defaultdict(list)
        for known, points in found:
            by_rank[known.name[3]].append((known, points))
        entry = TaskPoints(task_id, row, behind=False)
        brought: list[FramePoints] = []
        for rank, runs in by_rank.items():
            table = [SeriesKey(known.name[0], known.name[1], known.name[2], known.unit) for known, _ in runs]
            scalars = np.array([key.kind == "scalar" for key in table])
            series = np.repeat(np.arange(len(table), dtype=np.uint32), [len(points) for _, points in runs])
            brought.append(FramePoints(table, series, concat_points([points for _, points in runs]), scalars))
            entry.feed(self._log.claim(connection, 1), brought[-1], rank)
        if brought:
            view = entry.view()
            parts = arrange(view.ids, view.series, view.points, view.positions[0], view.positions[-1])
            self._sealed.put(connection, row, parts, entry.position)
            write_summaries(connection, cache.metrics, [entry])
        return brought

    def forget(self, task_id: str) -> None:
        """Let go of a deleted task."""
        self._memtable.forget(task_id)

    # -- reading

    def view(self, task_id: str) -> PointsView | None:
        """Return what the memtable has of a task; None where all of it is sealed. No snapshot may be open."""
        entry = self._memtable.find(task_id)
        if entry is None:
            return None
        with entry.lock:
            # Of a very long log that a start has found this is the beginning, until the keeper has sealed it.
            while entry.behind and len(entry) < _VIEW_POINTS:
                self._catch_up(entry)
            return entry.view()

    def changed_series(self, task_id: str, after: int) -> dict[int, SeriesChange]:
        """Return the state of each series that had points in frames after a position in the log, by id."""
        entry = self._memtable.find(task_id)
        if entry is None:
            return {}
        with entry.lock:
            if entry.behind:
                self._catch_up(entry)
            statistics = entry.statistics()
            touched = np.flatnonzero(statistics["position"] > after)
            ids = [entry.ids[number] for number in touched.tolist()]
            some = statistics[touched]
        rows = zip(*(some[name].tolist() for name in ("count", "last", "last_iteration", "last_time")), strict=True)
        return {
            identifier: SeriesChange(count, None if last != last else last, iteration, time_unix_ns)
            for identifier, (count, last, iteration, time_unix_ns) in zip(ids, rows, strict=True)
        }

    def freshen(self, task_id: str | None = None) -> None:
        """Write the summaries of a task, or of all, where that is soon done. No snapshot may be open.

        On a disk that is full they stay as they are: who reads is answered all the same, and the keeper says it.
        """
        entries = self._memtable.entries() if task_id is None else [self._memtable.find(task_id)]
        due = [entry for entry in entries if entry is not None and entry.unsummed_since is not None]
        most = _FRESH_SERIES if task_id is None else _FRESH_SERIES_OF_TASK
        if due and len(due) <= _FRESH_TASKS and sum(len(entry.names) for entry in due) <= most:
            with suppress(StoreUnavailable):
                self._summarise(due)

    # -- keeping

    def keep(self) -> float:
        """Do what is due; return after how many seconds something may be due again.

        Raises:
            StoreUnavailable: the disk is full or failing; nothing is lost, and it is tried again.
        """
        self.wanted.clear()
        due: list[TaskPoints] = []
        for entry in self._memtable.entries():
            if entry.behind:
                with entry.lock:
                    self._catch_up(entry)
                # A start may find more in the log than memory is to hold.
                if self._memtable.points > self._limits.max_points:
                    self.seal([entry])
            if entry.behind or entry.ended or len(entry) >= self._room_of(entry) or self._is_old(entry):
                due.append(entry)
        self.seal(due)
        self.make_room(self._limits.max_points)
        self._summarise_due()
        self._evict_idle()
        if self._has_sealed and not self._memtable.points:
            # What the log took: while points come, the next frames take it again.
            with self._writing:
                self._has_sealed = self._database.give_back(_GIVE_BACK_PAGES) > 0
            return 0.0 if self._has_sealed else _TURN_S
        return min(_TURN_S, self._limits.summary_s / 4)

    def make_room(self, most: int) -> None:
        """Seal the least recently fed tasks until at most so many points are in memory, and some fewer."""
        if self._memtable.points <= most:
            return
        excess = self._memtable.points - most * 3 // 4
        due: list[TaskPoints] = []
        for entry in self._memtable.entries():
            if excess <= 0:
                break
            if len(entry):
                due.append(entry)
                excess -= len(entry)
        self.seal(due)

    def relieve(self) -> None:
        """Make room where the keeper does not come after; called before a commit, without the writer's lock.

        Raises:
            StoreUnavailable: points cannot be sealed, and there is no room for more.
        """
        self.make_room(2 * self._limits.max_points)

    def seal_all(self) -> None:
        """Seal whatever is not sealed."""
        self.seal(self._memtable.entries())

    def seal(self, entries: Iterable[TaskPoints]) -> None:
        """Seal what entries have, several in a transaction, and merge the tasks' blocks as far as they are due."""
        with self._sealing:
            waiting = list(entries)
            while waiting:
                behind: list[TaskPoints] = []
                for some in _batches(waiting):
                    behind += self._seal_batch(some)
                for entry in waiting:
                    self._merge(entry)
                waiting = behind

    def _seal_batch(self, entries: Sequence[TaskPoints]) -> list[TaskPoints]:
        """Seal what of some entries is in memory; return those of which the log has more."""
        prepared: list[tuple[TaskPoints, Sealed, int]] = []
        behind: list[TaskPoints] = []
        for entry in entries:
            with entry.lock:
                if entry.behind:
                    self._catch_up(entry)
                if entry.behind:
                    behind.append(entry)
                view = entry.view()
            if view.positions:
                first, last = view.positions[0], view.positions[-1]
                prepared.append((entry, arrange(view.ids, view.series, view.points, first, last), last))
        with self._writing:
            # Some may have been deleted or begun anew meanwhile.
            current = [one for one in prepared if self._memtable.find(one[0].task_id) is one[0]]
            if not current:
                return behind
            with self._transaction() as (connection, cache):
                for entry, parts, last in current:
                    self._sealed.put(connection, entry.row, parts, last)
                    self._log.trim(connection, entry.row, last)
                summaries = write_summaries(connection, cache.metrics, [entry for entry, _, _ in current])
            _note(summaries)
            self._has_sealed = True
            for entry, _, last in current:
                with entry.lock:
                    self._memtable.count(-entry.drop(last))
                    entry.unsealed_since = entry.fed_at if len(entry) else None
        return behind

    def _merge(self, entry: TaskPoints) -> None:
        ended = entry.ended and not len(entry)
        while True:
            with self._database.snapshot() as connection:
                merges = self._sealed.merges(connection, entry.row, ended=ended)
            for merge in merges:
                with self._database.snapshot() as connection:
                    parts = self._sealed.read_merge(connection, merge)
                if parts is None:
                    return
                with self._writing, self._transaction() as (connection, _):
                    if not self._sealed.merge(connection, merge, parts):
                        return
            if not merges:
                break
        if ended:
            entry.ended = False

    def _summarise_due(self) -> None:
        latest = self._clock() - self._limits.summary_s
        due: list[TaskPoints] = []
        series = 0
        for entry in self._memtable.entries():
            if entry.unsummed_since is None or entry.unsummed_since > latest:
                continue
            due.append(entry)
            series += len(entry.names)
            if series >= _SUMMARY_SERIES:
                self._summarise(due)
                due, series = [], 0
        self._summarise(due)

    def _summarise(self, entries: Sequence[TaskPoints]) -> None:
        if not entries:
            return
        for entry in entries:
            with entry.lock:
                if entry.behind:
                    self._catch_up(entry)
                # Most of the work, before others have to wait for the writer's lock.
                entry.statistics()
        with self._writing:
            current = [entry for entry in entries if self._memtable.find(entry.task_id) is entry]
            with self._transaction() as (connection, cache):
                summaries = write_summaries(connection, cache.metrics, current)
            _note(summaries)

    def _evict_idle(self) -> None:
        latest = self._clock() - _IDLE_S
        with self._writing:
            for entry in self._memtable.entries():
                if entry.fed_at > latest:
                    return
                if entry.unsealed_since is None and entry.unsummed_since is None and not entry.behind:
                    self._memtable.forget(entry.task_id)

    def _room_of(self, entry: TaskPoints) -> int:
        return self._limits.task_points + 16 * len(entry.names)

    def _is_old(self, entry: TaskPoints) -> bool:
        since = entry.unsealed_since
        return since is not None and since <= self._clock() - self._limits.after_s

    # -- after a start

    def _catch_up(self, entry: TaskPoints) -> None:
        """Read some of what the log has of a task and the entry has not; the entry's lock is held."""
        # Opened with the lock held: whatever is committed later is fed, and whatever was fed before is in it.
        with self._database.snapshot() as connection:
            if not entry.is_loaded:
                entry.adopt(*load_series(connection, entry.row))
            since_unix_ns = stored_reset(connection, entry.row)
            read = 0
            for position, data in self._log.read(connection, entry.row, entry.last_fed):
                batch = decode(parse_frame(data))
                points = points_of(batch.columns)
                if points is not None and since_unix_ns:
                    points = newer_points(points, since_unix_ns)
                if points is None:
                    continue
                entry.feed(position, points, schema.NO_RANK if batch.rank is None else batch.rank)
                self._memtable.count(len(points))
                read += len(points)
                if read >= _LOAD_POINTS:
                    return
            # Not before: what fails on the way is read by the next who asks.
            entry.behind = False


def _batches(entries: Iterable[TaskPoints]) -> Iterator[list[TaskPoints]]:
    """Yield entries by as many as one transaction seals: it holds up commits meanwhile."""
    batch: list[TaskPoints] = []
    points = 0
    for entry in entries:
        if entry.behind:
            # It is read from the log first, and may be large.
            yield [entry]
            continue
        batch.append(entry)
        points += len(entry)
        if len(batch) == _BATCH_TASKS or points >= _BATCH_POINTS:
            yield batch
            batch, points = [], 0
    if batch:
        yield batch


def _note(summaries: Iterable[WrittenSummary]) -> None:
    for summary in summaries:
        summary.note()
