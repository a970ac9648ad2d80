"""Feeds: who looks at what, and what they are told of it, once for all who look at the same.

A feed gathers what the writer commits; now and then a thread makes bytes of it, which go to all of its viewers. How
often falls with what that costs. A viewer holds a bounded share of those bytes: who does not read them costs nothing
more, and is told at last to read anew.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web

from telemetry.server.access import EVERYTHING, Access
from telemetry.server.live_events import RESYNC, change_events, packed, task_event, tasks_event
from telemetry.server.store import Store, StoreFailed, TaskChange
from telemetry.server.tokens import in_projects

__all__ = ["Hub", "TableFeed", "TaskFeed", "Viewer"]

log = logging.getLogger("telemetry.server")

# A chart redrawn four times a second looks alive; a table that reorders more than twice cannot be read.
TASK_INTERVAL_S = 0.25
TABLE_INTERVAL_S = 0.5
# Above 2,500 series their state is told less often: making the bytes takes a twentieth of a core at most,
SERIES_PER_S = 10_000
# and sending them to all viewers of a task about as much.
BYTES_PER_S = 8 * 1024 * 1024
# However many look: by then somebody asks whether it still runs.
MAX_SERIES_INTERVAL_S = 15.0
# More changed tasks than any page shows; a page that is told of these many reads its rows again anyway.
MAX_PENDING_TASKS = 1000
# What waits for one viewer beside what it is being sent; the bytes are those of all others.
MAX_WAITING_BYTES = 1024 * 1024
_PAUSE_AFTER_TROUBLE_S = 5.0

# Whom the bytes are for: the projects that they may look at, None for all.
Reach = tuple[str, ...] | None


class Viewer:
    """One open stream: what it is to be sent next. `access` says how far it may look."""

    def __init__(self, access: Access = EVERYTHING) -> None:
        self.access = access
        self.closed = False
        self._wakeup = asyncio.Event()
        self._waiting: deque[Sequence[bytes]] = deque()
        self._waiting_bytes = 0
        self._missed = False

    @property
    def is_behind(self) -> bool:
        """Whether it missed something, and has not been told so yet."""
        return self._missed

    def offer(self, pieces: Sequence[bytes]) -> None:
        """Let it have what all get; if it has not taken what it was offered before, it misses this and all of that."""
        if self._missed:
            return
        size = sum(map(len, pieces))
        if self._waiting and self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.miss()
            return
        self._waiting.append(pieces)
        self._waiting_bytes += size
        self._wakeup.set()

    def miss(self) -> None:
        """Forget what waits for it: it is to read anew what it shows."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._missed = True
        self._wakeup.set()

    def close(self) -> None:
        """End the stream at its next step."""
        self.closed = True
        self._wakeup.set()

    async def take(self) -> Sequence[bytes]:
        """Wait for the next pieces to send, and return them; none, once it is closed."""
        await self._wakeup.wait()
        if self.closed:
            return ()
        if self._missed:
            self._missed = False
            pieces: Sequence[bytes] = (RESYNC,)
        else:
            pieces = self._waiting.popleft()
            self._waiting_bytes -= sum(map(len, pieces))
        if not self._waiting:
            self._wakeup.clear()
        return pieces


class Feed(ABC):
    """What is told to all who look at one thing. Lives on the event loop.

    Attributes:
        interval_s: from one telling to the next.
    """

    interval_s: float

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self._wakeup = asyncio.Event()

    async def run(self, store: Store, executor: ThreadPoolExecutor) -> None:
        """Tell the viewers what was noted, again and again; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            if not self.has_news():
                continue
            reaches = {viewer.access.projects for viewer in self.viewers}
            try:
                told = await loop.run_in_executor(executor, self.prepare(store, reaches))
            except StoreFailed as error:
                log.error("live pages cannot be told what changed: %s", error)
                for viewer in self.viewers:
                    viewer.miss()
                await asyncio.sleep(_PAUSE_AFTER_TROUBLE_S)
                continue
            takers = self._tell(told)
            self.note_cost(max(map(_size_of, told.values()), default=0) * takers)
            # Let changes gather; what comes meanwhile is told next time.
            await asyncio.sleep(self.interval_s)

    def _tell(self, told: Mapping[Reach, Sequence[bytes] | None]) -> int:
        """Offer each viewer what it may see; return how many take it."""
        for viewer in self.viewers:
            # One that has joined meanwhile, with another reach, was not thought of.
            pieces = told.get(viewer.access.projects, (RESYNC,))
            if pieces is None:
                viewer.close()
            elif pieces:
                viewer.offer(pieces)
        return sum(not viewer.is_behind for viewer in self.viewers)

    @abstractmethod
    def prepare(self, store: Store, reaches: Collection[Reach]) -> Callable[[], Mapping[Reach, Sequence[bytes] | None]]:
        """Take what was noted; return what makes bytes of it, on a thread, by reach: None for whom it is out of."""

    def has_news(self) -> bool:
        """Whether there is something to tell now."""
        return True

    @abstractmethod
    def note_cost(self, sent_bytes: int) -> None:
        """Learn how much the last telling was to all viewers together."""


class TableFeed(Feed):
    """The table of tasks: which have changed."""

    interval_s = TABLE_INTERVAL_S

    def __init__(self) -> None:
        super().__init__()
        self._task_ids: dict[str, None] = {}

    def note(self, task_ids: Iterable[str]) -> None:
        """Remember that these have changed; of very many, the latest."""
        self._task_ids.update(dict.fromkeys(task_ids))
        while len(self._task_ids) > MAX_PENDING_TASKS:
            del self._task_ids[next(iter(self._task_ids))]
        self._wakeup.set()

    def take(self) -> list[str]:
        """Return the ids that were noted, and forget them."""
        task_ids, self._task_ids = list(self._task_ids), {}
        return task_ids

    def prepare(self, store: Store, reaches: Collection[Reach]) -> Callable[[], Mapping[Reach, Sequence[bytes] | None]]:
        """Narrow the ids to what each reach sees; a task may change its project."""
        task_ids = self.take()

        def render() -> dict[Reach, Sequence[bytes] | None]:
            projects = store.projects_of(task_ids) if any(reach is not None for reach in reaches) else {}
            told: dict[Reach, Sequence[bytes] | None] = {}
            for reach in reaches:
                seen = [one for one in task_ids if reach is None or _reaches(reach, projects.get(one))]
                told[reach] = [tasks_event(seen)] if seen else []
            return told

        return render

    def note_cost(self, sent_bytes: int) -> None:
        """The ids are few: nothing is put off."""


class TaskFeed(Feed):
    """One task: what was committed in it, and how it stands."""

    interval_s = TASK_INTERVAL_S

    def __init__(self, task_id: str) -> None:
        super().__init__()
        self.task_id = task_id
        self._change = TaskChange()
        self._noted = False
        self._series_told = 0
        self._series_wait = False
        self._summary: asyncio.Future[bytes] | None = None

    def note(self, change: TaskChange) -> None:
        """Merge what was committed into what is to be told."""
        if change.reset:
            # Begun anew: the series from before are gone.
            self._change.points_after = None
        self._change.absorb(change)
        self._noted = True
        self._summary = None
        self._wakeup.set()

    def has_news(self) -> bool:
        """Whether something was noted, or series have waited long enough."""
        return self._noted or (self._change.points_after is not None and not self._series_wait)

    def take(self) -> TaskChange:
        """Return what was noted, without the points while these have to wait, and forget it."""
        change, self._change = self._change, TaskChange()
        self._noted = False
        if self._series_wait:
            self._change.points_after, change.points_after = change.points_after, None
        self._series_told = 0
        return change

    async def summary(self, store: Store, executor: ThreadPoolExecutor) -> bytes:
        """Return the event with the task as it stands, read once for all who come between two changes."""
        if self._summary is None or (self._summary.done() and self._summary.exception() is not None):
            self._summary = asyncio.get_running_loop().run_in_executor(executor, task_event, store, self.task_id)
        # A viewer that goes away must not take the answer from the others.
        return await asyncio.shield(self._summary)

    def prepare(self, store: Store, reaches: Collection[Reach]) -> Callable[[], Mapping[Reach, Sequence[bytes] | None]]:
        """Make the events once; who may not look at the task's project any more sees nothing."""
        change = self.take()

        def render() -> dict[Reach, Sequence[bytes] | None]:
            project = store.project_of(self.task_id) if any(reach is not None for reach in reaches) else None
            after = change.points_after
            series = {} if after is None else store.series_changed(self.task_id, after)
            self._series_told = len(series)
            pieces = packed([*change_events(change, series), task_event(store, self.task_id)])
            return {reach: pieces if reach is None or _reaches(reach, project) else None for reach in reaches}

        return render

    def note_cost(self, sent_bytes: int) -> None:
        """Put the series off for the longer, the more there were and the more bytes went out; nothing else waits."""
        if not self._series_told:
            return
        cost_s = max(self._series_told / SERIES_PER_S, sent_bytes / BYTES_PER_S)
        if cost_s > TASK_INTERVAL_S:
            self._series_wait = True
            asyncio.get_running_loop().call_later(min(cost_s, MAX_SERIES_INTERVAL_S), self.end_wait)

    def end_wait(self) -> None:
        """Tell the series at the next opportunity."""
        self._series_wait = False
        self._wakeup.set()


class Hub:
    """All feeds and their viewers. Lives on the event loop; every method is called there."""

    def __init__(self) -> None:
        self._table = TableFeed()
        self._of_task: dict[str, TaskFeed] = {}
        self._running: dict[Feed, asyncio.Task[None]] = {}
        self._store: Store | None = None
        # As many threads as the store has connections for this.
        self._executor = ThreadPoolExecutor(1, "telemetry-live")
        self._closed = False

    def __len__(self) -> int:
        return sum(len(feed.viewers) for feed in self._feeds())

    def start(self, store: Store) -> None:
        """Begin to read what is told from a store."""
        self._store = store

    async def stop(self) -> None:
        """End what runs; nothing is read from the store any more."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)

    def note(self, changes: Mapping[str, TaskChange]) -> None:
        """Hear of a commit, for those who look at what it changed."""
        if self._table.viewers:
            self._table.note(changes)
        for task_id, change in changes.items():
            if task_id in self._of_task:
                self._of_task[task_id].note(change)

    def join(self, task_id: str | None, access: Access = EVERYTHING) -> Viewer:
        """Return a new viewer of a task, or (None) of the table, which hears of every commit from now on."""
        assert self._store is not None
        viewer = Viewer(access)
        if self._closed:
            viewer.close()
        feed = self._table if task_id is None else self._of_task.setdefault(task_id, TaskFeed(task_id))
        feed.viewers.add(viewer)
        if feed not in self._running:
            running = asyncio.create_task(feed.run(self._store, self._executor))
            running.add_done_callback(partial(self._on_end, feed))
            self._running[feed] = running
        return viewer

    def is_watched(self, task_id: str) -> bool:
        """Whether somebody looks at a task."""
        return task_id in self._of_task

    def leave(self, task_id: str | None, viewer: Viewer) -> None:
        """Forget a viewer, and with the last one the feed."""
        feed = self._table if task_id is None else self._of_task[task_id]
        feed.viewers.discard(viewer)
        if not feed.viewers:
            if feed in self._running:
                self._running.pop(feed).cancel()
            if isinstance(feed, TaskFeed):
                del self._of_task[feed.task_id]

    def _on_end(self, feed: Feed, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("live pages could not be told what changed; they connect again", exc_info=error)
        self._running.pop(feed, None)
        for viewer in feed.viewers:
            viewer.close()

    async def summary(self, task_id: str) -> bytes:
        """Return the event with a task as it stands, for one who has joined its viewers."""
        assert self._store is not None
        return await self._of_task[task_id].summary(self._store, self._executor)

    def _feeds(self) -> list[Feed]:
        return [self._table, *self._of_task.values()]

    def close_unless(self, allowed: Callable[[Access], bool]) -> None:
        """End the streams of those who may not look any more."""
        for feed in self._feeds():
            for viewer in feed.viewers:
                if not allowed(viewer.access):
                    viewer.close()

    async def close(self, _app: web.Application | None = None) -> None:
        """End all streams, so that the server can stop."""
        self._closed = True
        self.close_unless(lambda access: False)


def _reaches(reach: tuple[str, ...], project: str | None) -> bool:
    return project is not None and in_projects(project, reach)


def _size_of(pieces: Sequence[bytes] | None) -> int:
    return sum(map(len, pieces or ()))
