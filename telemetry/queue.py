"""EventQueue: the bounded way from any thread to the batcher.

Scalars, which come by the million, lie flat in one list, five slots each (events.py). Appending them is
`rows += (a, b, c, d, e)`: one call into C, atomic, with no object left for the garbage collector, and
columns come out again as strided slices. The caller then compares `len(rows)` with `mark`; that is the
whole cost of the bound. Taking is `taken = rows[:n]; del rows[:n]`, each atomic, so that nothing appended
in between is lost (swapping the list would lose it). `del` moves all that stays, under the GIL: of a long
list everything is taken at once, in slices that wait in a backlog.

Everything else passes as event objects through a second list, under a lock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from telemetry.errors import EventsDropped, QueueClosed
from telemetry.events import (
    MAX_VALUE_DEPTH,
    ROW_SLOTS,
    ConsoleLine,
    Event,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ResourceSample,
    Scalar,
    SingleValue,
    group_end,
    group_start,
    to_float,
    to_iteration,
)
from telemetry.ledger import Book, DropReason
from telemetry.process.interrupts import is_interrupt

__all__ = ["ROW_SLOTS", "EventQueue", "WhenFull"]

log = logging.getLogger(__name__)

# Five pointers, a float, and two ints of its own, rounded up; names are shared between rows.
ROW_BYTES = 128

# The batcher is woken early once this many events wait; below it the timer is soon enough.
WAKE_EVENTS = 8_192

# A slice while the queue is more than half full: about 5 ms from one take to the next.
HURRY_EVENTS = 8_192

# A list of more scalars is cut up at once: moving 2 MB and more up by a slice, over and over, costs more.
BACKLOG_EVENTS = 65_536

# The same for events that are objects, which are larger.
WAKE_OBJECTS = 1_024


class WhenFull(Enum):
    """What a report does when the queue has reached its bound."""

    BLOCK = "block"
    """Wait for the batcher, at most `block_timeout_s`; then drop the newest, and go on dropping without
    waiting again until the batcher has taken something. For scalars: the default in a training loop."""

    DROP_NEWEST = "drop_newest"
    """Drop what is being reported. Never waits. Console lines and resource samples always do this."""

    DROP_OLDEST = "drop_oldest"
    """Drop the oldest scalars in the queue to make room. Never waits; the newest points survive."""


class EventQueue:
    """Implements `protocols.Emit`: thread-safe, never raises (but in strict mode), never grows past its bound.

    Args:
        max_events, max_bytes: both bounds hold for the scalars, which count ROW_BYTES each, and once more for
            all other events together, so that a flood of the one never keeps the other out.
        book: counts what is taken and dropped.
        strict: raise EventsDropped or InvalidEvent at the first loss, for tests.
    """

    def __init__(
        self,
        book: Book,
        *,
        max_events: int = 196_608,
        max_bytes: int = 64 * 1024 * 1024,
        when_full: WhenFull = WhenFull.BLOCK,
        block_timeout_s: float = 1.0,
        strict: bool = False,
    ) -> None:
        self.rows: list[Any] = []
        # Slices of rows that are older than those in `rows`, and still count as waiting; after close all that is left.
        self._backlog: deque[list[Any]] = deque()
        self._backlog_slots = 0
        self._book = book
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._full_mark = max(1, min(max_events, max_bytes // ROW_BYTES)) * ROW_SLOTS
        self._wake_mark = min(WAKE_EVENTS * ROW_SLOTS, self._full_mark // 2)
        self.mark = self._wake_mark
        self._when_full = when_full
        self._block_timeout_s = block_timeout_s
        self._strict = strict
        self._objects: list[Event] = []
        self._object_bytes = 0
        self._space = threading.Condition(book.lock)
        self._space_waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._wake: Callable[[], object] = lambda: None
        self._closed = False
        self._blocked_out = False
        self._latest_iteration = 0
        self._batcher_thread: int | None = None
        self._dormant = False
        self._said: set[str] = set()
        book.watch(self.__len__)

    def attach(self, wake: Callable[[], None], *, batcher_thread: int) -> None:
        """Tell the queue how to wake the batcher, and which thread must never be made to wait."""
        with self._book.lock:
            self._wake = wake
            self._batcher_thread = batcher_thread
            self._dormant = False
            if len(self):
                wake()

    def wake_by(self, wake: Callable[[], object]) -> None:
        """While there is no batcher: call `wake` where one would be woken."""
        with self._book.lock:
            self._wake = wake

    def __len__(self) -> int:
        """Events that wait."""
        return (len(self.rows) + self._backlog_slots) // ROW_SLOTS + len(self._objects)

    @property
    def _room_mark(self) -> int:
        """How long `rows` may become."""
        return self._full_mark - self._backlog_slots

    @property
    def latest_iteration(self) -> int:
        """The iteration of the scalar that was reported last; 0 before the first."""
        try:
            # The fourth of the last row's five slots; the hot path writes nothing else that could be asked.
            latest = self.rows[-2]
        except IndexError:
            latest = self._latest_iteration
        return latest if isinstance(latest, int) else 0

    @property
    def closed(self) -> bool:
        return self._closed

    # ---- putting -------------------------------------------------------------------------------

    def __call__(self, event: Event) -> bool:
        """Offer one event; safe from any thread and from a signal handler.

        Returns:
            False if it was dropped; the ledger's `dropped[reason]` has then grown by one.
        """
        if isinstance(event, Scalar):
            return self._put_scalar(event)
        try:
            size = _size_of(event)
        except (AttributeError, TypeError, RuntimeError) as error:
            if is_interrupt(error):
                raise
            self.refuse(DropReason.INVALID, f"a {type(event).__name__} is no event that can be kept: {error}")
            return False
        with self._book.lock:
            if self._closed:
                return self._drop(DropReason.CLOSED)
            # A record change is the task's status or a parameter: small, rare, and never worth losing.
            if not isinstance(event, RecordChange):
                if size > self._max_bytes:
                    return self._drop(DropReason.TOO_LARGE)
                if not self._object_fits(size):
                    self._wake()
                    return self._drop(DropReason.QUEUE_FULL)
            self._objects.append(event)
            self._object_bytes += size
            if self._dormant or len(self._objects) == WAKE_OBJECTS or self._object_bytes > self._max_bytes // 4:
                self._dormant = False
                self._wake()
        return True

    def _object_fits(self, size: int) -> bool:
        return self._object_bytes + size <= self._max_bytes and len(self._objects) < self._max_events

    def _put_scalar(self, event: Scalar) -> bool:
        try:
            row = (
                event.title,
                event.series,
                to_float(event.value),
                to_iteration(event.iteration),
                to_iteration(event.time_unix_ns),
            )
        except ValueError as error:
            if is_interrupt(error):
                raise
            self.refuse(DropReason.INVALID, str(error))
            return False
        with self._book.lock:
            if self._closed:
                return self._drop(DropReason.CLOSED)
        self.rows += row
        if len(self.rows) > self.mark:
            return self._crossed()
        return True

    async def put(self, event: Event) -> None:
        """Offer one event from asyncio code; waits without a time limit while the queue is full.

        An event that can never be kept (invalid, or larger than the whole queue) is counted, as by `emit`.

        Raises:
            QueueClosed: after the pipeline was closed; the event is not kept.
        """
        while True:
            with self._book.lock:
                if self._closed:
                    raise QueueClosed("the pipeline is closed; this event was not kept")
                if self._has_room(event):
                    # Under the lock, or another thread could take the room that was just seen.
                    self(event)
                    return
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._space_waiters.append((loop, future))
                self._wake()
            await future

    def _has_room(self, event: Event) -> bool:
        if isinstance(event, Scalar):
            return len(self.rows) < self._room_mark
        try:
            size = _size_of(event)
        except (AttributeError, TypeError, RuntimeError) as error:
            if is_interrupt(error):
                raise
            return True  # it is refused at once, which needs no room
        return size > self._max_bytes or self._object_fits(size)

    def crossed(self) -> None:
        """Called by the hot path once `len(rows) > mark`: wake the batcher, or apply the full-queue policy."""
        self._crossed()

    def _crossed(self) -> bool:
        with self._book.lock:
            if self._closed:
                return self._trim(0, DropReason.CLOSED)
            self._dormant = False
            self._wake()
            if len(self.rows) <= self._room_mark:
                # Woken once; the next time the caller needs to stop is at the bound itself.
                self.mark = self._room_mark
                return True
            if self._when_full is WhenFull.DROP_OLDEST:
                # An eighth at once, so that the price is not paid by every call.
                oldest = self._take_rows(max(self._full_mark // ROW_SLOTS // 8, 1))
                self.mark = self._room_mark
                return self._drop(DropReason.QUEUE_FULL, len(oldest) // ROW_SLOTS)
            if self._when_full is WhenFull.BLOCK and self._wait_for_space():
                return True
            return self._trim(self._room_mark, DropReason.QUEUE_FULL)

    def _wait_for_space(self) -> bool:
        if self._blocked_out or threading.get_ident() == self._batcher_thread:
            return False
        if self._space.wait_for(lambda: len(self.rows) <= self._room_mark or self._closed, self._block_timeout_s):
            return not self._closed
        # One wait per stall: a loop that waited at every step would be slower than the tracker is worth.
        self._blocked_out = True
        return False

    def _trim(self, length: int, reason: DropReason) -> bool:
        return self._drop(reason, self._cut(length))

    def _cut(self, length: int) -> int:
        """Remove the rows behind `length` slots, with the whole of a group that begins before; return how many."""
        length = group_start(self.rows, length)
        excess = self.rows[length:]
        del self.rows[length : length + len(excess)]
        return len(excess) // ROW_SLOTS

    def refuse(self, reason: str, message: str) -> None:
        """Count an event that could not be built, and warn once per reason and message's beginning."""
        self._book.refuse(DropReason(reason))
        self.warn_once(message)
        if self._strict:
            raise EventsDropped(message)

    def warn_once(self, message: str) -> None:
        """Log a warning the first time this kind of message comes (the first 60 characters tell kinds apart)."""
        kind = message[:60]
        if kind not in self._said and len(self._said) < 1000:
            self._said.add(kind)
            log.warning("%s (said once; further ones are only counted)", message)

    def _drop(self, reason: DropReason, count: int = 1) -> bool:
        if not count:
            return True
        self._count_drop(reason, count)
        if self._strict:
            raise EventsDropped(f"{count} dropped: {_DROP_MESSAGES[reason]}")
        return False

    def _count_drop(self, reason: DropReason, count: int) -> None:
        if count:
            self._book.refuse(reason, count)
            self.warn_once(_DROP_MESSAGES[reason])

    # ---- taking --------------------------------------------------------------------------------

    def take(self, max_rows: int, max_object_bytes: int) -> tuple[list[Any], list[Event]]:
        """Take the oldest events: `max_rows` scalars, flat, and `max_object_bytes` of the rest, or what is there.

        A group of scalars is taken whole, and may make them more. Called by the batcher only. The ledger then counts
        them as in memory for each sink.
        """
        with self._book.lock:
            if len(self.rows) + self._backlog_slots > self._full_mark // 2 and not self._closed:
                # Whoever waits at the bound waits for one slice: then it had better be a short one.
                max_rows = min(max_rows, HURRY_EVENTS)
            taken = self._take_rows(max_rows)
            if taken:
                self._latest_iteration = taken[-2]
            objects = self._take_objects(max_object_bytes)
            self._book.take(len(taken) // ROW_SLOTS + len(objects))
            if not self._closed:
                nearly_empty = not self._backlog and len(self.rows) <= self._wake_mark
                self.mark = self._wake_mark if nearly_empty else self._room_mark
            if taken or objects:
                self._blocked_out = False
                self._tell_space()
        return taken, objects

    def _take_rows(self, max_rows: int) -> list[Any]:
        """Remove and return the oldest rows, cut at whole ones: `rows += five` is atomic, so lengths are multiples."""
        rows = self.rows
        if not self._backlog and not self._closed and len(rows) > BACKLOG_EVENTS * ROW_SLOTS:
            self._set_back(max_rows)
        if not self._backlog:
            if self._closed:
                return []  # what is in `rows` came too late, and goes as it came
            taken = rows[: group_end(rows, max_rows * ROW_SLOTS)]
            del rows[: len(taken)]
            return taken
        taken = self._backlog.popleft()
        if (length := group_end(taken, max_rows * ROW_SLOTS)) < len(taken):
            self._backlog.appendleft(taken[length:])
            del taken[length:]
        self._backlog_slots -= len(taken)
        return taken

    def _set_back(self, max_rows: int) -> None:
        """Move all of `rows` to the backlog, in slices of so many."""
        # Those that come while it is cut stay for the next time.
        rows, start, end = self.rows, 0, len(self.rows)
        while start < end:
            after = min(group_end(rows, start + max_rows * ROW_SLOTS), end)
            self._backlog.append(rows[start:after])
            start = after
        self._backlog_slots += end
        # Lowered first: whoever reports meanwhile comes to the lock, and not past the bound.
        self.mark = self._room_mark
        del rows[:end]

    def _take_objects(self, max_bytes: int) -> list[Event]:
        if self._object_bytes <= max_bytes:
            objects, self._objects, self._object_bytes = self._objects, [], 0
            return objects
        count = size = 0
        for event in self._objects:
            size += _size_of(event)
            if count and size > max_bytes:
                size -= _size_of(event)
                break
            count += 1
        objects = self._objects[:count]
        del self._objects[:count]
        self._object_bytes -= size
        return objects

    def _tell_space(self) -> None:
        self._space.notify_all()
        waiters, self._space_waiters = self._space_waiters, []
        for loop, future in waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)

    # ---- ending --------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more: what is here stays for the batcher, what comes from now on is dropped (closed).

        `mark = -1` sends each call of the hot path to `crossed()`, which empties `rows` again; so what is in it
        now moves to the backlog.
        """
        with self._book.lock:
            if not self._closed:
                self._closed = True
                self._set_back(BACKLOG_EVENTS)
                self.mark = -1
                self._tell_space()

    def seal(self) -> None:
        """When there will be no further take: what is left is dropped (closed), too."""
        with self._book.lock:
            self.close()
            scalars = self._backlog_slots // ROW_SLOTS + self._cut(0)
            self._clear_backlog()
            objects, self._objects, self._object_bytes = self._objects, [], 0
            self._count_drop(DropReason.CLOSED, scalars + len(objects))
            self._tell_space()

    def _clear_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_slots = 0

    def reset_after_fork(self, start: Callable[[], None]) -> None:
        """In a forked child: empty, with new locks; the first event calls `start`, which attaches a batcher.

        The parent's events are the parent's. The list object stays, because loggers hold it.
        """
        self.rows.clear()
        self._clear_backlog()
        self._objects = []
        self._object_bytes = 0
        self._space = threading.Condition(self._book.lock)
        self._space_waiters = []
        self._wake = start
        self._batcher_thread = None
        self._blocked_out = False
        if not self._closed:
            self._dormant = True
            self.mark = -1  # the first scalar comes to crossed(), and so to start


_DROP_MESSAGES = {
    DropReason.CLOSED: "an event came after close() and was not kept; report before close(), or make a new task",
    DropReason.TOO_LARGE: "an event larger than the whole event queue was dropped; see TELEMETRY_MAX_QUEUE_BYTES",
    DropReason.QUEUE_FULL: (
        "the event queue is full and events are being dropped: the machine cannot keep up, or a sink without a "
        "journal has stalled. Raise TELEMETRY_MAX_QUEUE_EVENTS, or log less often"
    ),
}


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _size_of(event: Event) -> int:
    """Return an event's size in memory, roughly, in bytes.

    Raises:
        TypeError, AttributeError: it is no event, or a field of it has a wrong type.
        RuntimeError: a record value that changes while it is looked at.
    """
    if isinstance(event, ConsoleLine):
        return 200 + len(event.text)
    if isinstance(event, ResourceSample):
        return 200 + 150 * len(event.readings)
    if isinstance(event, RecordChange):
        return 300 + _size_of_value(event.value, MAX_VALUE_DEPTH)
    if isinstance(event, (ModelSaved, SingleValue)):
        return 400
    if isinstance(event, Plot):
        return 400 + len(event.figure)
    if isinstance(event, Media):
        return 600 + len(event.uri)
    raise TypeError("it is not one of the types in telemetry.events")


def _size_of_value(value: Any, depth: int) -> int:
    if isinstance(value, (str, bytes)):
        return 60 + len(value)
    if not isinstance(value, (dict, list, tuple)):
        return 32
    if not depth:
        raise TypeError(f"its value is nested more than {MAX_VALUE_DEPTH} deep")
    if isinstance(value, dict):
        return 100 + sum(60 + len(key) + _size_of_value(item, depth - 1) for key, item in value.items())
    return 100 + sum(_size_of_value(item, depth - 1) for item in value)
