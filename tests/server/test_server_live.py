"""The live stream tells of every commit, merges what a viewer is too slow for, and ends with the server."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from server_support import LOSS, MS, START_NS, TASK, Http, frame_of, rows_of, started

from telemetry.events import ConsoleLine, Media, ModelSaved, Plot, RecordChange, SeriesKey
from telemetry.record import TaskKey
from telemetry.server import feeds
from telemetry.server import live as live_module
from telemetry.server.app import BackgroundServer
from telemetry.server.config import Limits
from telemetry.server.feeds import MAX_PENDING_TASKS, TableFeed, TaskFeed, Viewer
from telemetry.server.live_events import RESYNC
from telemetry.server.store import NotFound, SeriesChange, Store, TaskChange


class Stream:
    """An open event stream, read as a browser does."""

    def __init__(self, url: str, query: str = "") -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=30)
        self._connection.request("GET", f"/api/v1/live{query}")
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        assert self.block() == ["retry: 2000"]

    def block(self) -> list[str]:
        """Return the lines up to the next empty one; none at the stream's end."""
        lines = []
        while line := self.response.readline().decode().rstrip("\n"):
            lines.append(line)
        return lines

    def event(self) -> tuple[str, Any]:
        """Return the next event; comments are passed over."""
        while (block := self.block()) and block[0].startswith(":"):
            continue
        name, data = block
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def until(self, name: str) -> Any:
        """Return the data of the next event of that name."""
        while True:
            got, data = self.event()
            if got == name:
                return data

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackgroundServer]:
    with started(tmp_path / "store") as running:
        yield running


def test_the_table_hears_which_tasks_changed(server: BackgroundServer) -> None:
    # given an open table
    http, stream = Http(server.url), Stream(server.url)
    assert stream.response.headers["Content-Type"] == "text/event-stream"
    # when two tasks change
    http.send(frame_of({LOSS: rows_of([1.0])}))
    http.send(frame_of({LOSS: rows_of([1.0])}, task_id="f" * 32, sequence=1))
    # then
    heard: set[str] = set()
    while heard != {TASK, "f" * 32}:
        heard |= set(stream.until("tasks")["ids"])
    stream.close()


def test_a_task_page_hears_what_changed(server: BackgroundServer) -> None:
    # given a page that was opened before the task's first frame
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    # when
    http.send(
        frame_of(
            {LOSS: rows_of([1.0, 2.0])},
            [
                RecordChange(START_NS, "task", "name", "mnist"),
                ConsoleLine(START_NS, "stdout", "hello"),
                ModelSaved(START_NS, "m", "/m", "torch"),
                Plot(START_NS, "t", "s", 0, "{}"),
                Media(START_NS, "t", "s", 0, "http://h/a.png", "a.png", "image/png"),
            ],
        )
    )
    # then
    got = dict(stream.event() for _ in range(6))
    assert got["points"] == {
        "series": {"1": {"count": 2, "last": 2.0, "last_iteration": 1, "last_unix_ms": START_NS // MS + 1}}
    }
    assert got["console"] == {"last_id": 1}
    assert got["models"] == got["plots"] == got["media"] == {}
    assert got["task"] == http.get("/tasks")["tasks"][0]
    stream.close()


def test_a_page_opened_later_is_told_the_task_at_once(server: BackgroundServer) -> None:
    Http(server.url).send(frame_of({}, [RecordChange(START_NS, "task", "name", "mnist")]))
    stream = Stream(server.url, f"?task={TASK}")
    assert stream.event()[1]["name"] == "mnist"
    stream.close()


def test_a_task_page_hears_that_the_task_was_begun_anew(server: BackgroundServer) -> None:
    # given a page of a task
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    http.send(frame_of({LOSS: rows_of([1.0, 2.0])}))
    stream.until("points")
    # when a later run begins it anew
    moment = START_NS + 60_000 * MS
    http.send(frame_of({LOSS: [(0, moment, 3.0)]}, [RecordChange(moment, "task", TaskKey.RESET, moment)], sequence=1))
    # then it hears that first, and then of the new points
    assert stream.until("reset") == {}
    (series,) = stream.until("points")["series"].values()
    assert series["count"] == 1
    stream.close()


def test_a_task_page_hears_nothing_of_other_tasks(server: BackgroundServer) -> None:
    # given
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    # when another task changes, and then this one
    http.send(frame_of({LOSS: rows_of([1.0])}, task_id="f" * 32))
    http.send(frame_of({}, [ConsoleLine(START_NS, "stdout", "mine")], sequence=1))
    # then the first that is heard is of this one
    assert stream.event() == ("console", {"last_id": 1})
    stream.close()


def test_duplicates_are_not_announced(server: BackgroundServer) -> None:
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    frame = frame_of({LOSS: rows_of([1.0])})
    http.send(frame)
    assert stream.until("points")["series"]["1"]["count"] == 1
    assert http.post(frame).results == ["duplicate"]
    http.send(frame_of({LOSS: rows_of([1.0], first=1)}, sequence=1))
    assert stream.until("points")["series"]["1"]["count"] == 2
    stream.close()


def test_many_commits_become_few_events(server: BackgroundServer) -> None:
    # given
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    # when more is committed than anyone could read
    for sequence in range(60):
        http.send(frame_of({LOSS: rows_of([1.0], first=sequence)}, sequence=sequence))
    # then the last state is told, in far fewer events
    events = 1
    while stream.until("points")["series"]["1"]["count"] < 60:
        events += 1
    assert events < 30
    stream.close()


def test_a_silent_stream_says_that_it_is_still_there(server: BackgroundServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "HEARTBEAT_S", 0.01)
    stream = Stream(server.url)
    assert stream.block()[0].startswith(":")
    stream.close()


def test_streams_end_with_the_server(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        streams = [Stream(server.url), Stream(server.url, f"?task={TASK}")]
    # then both came to their end, and the server did
    for stream in streams:
        assert stream.block() == []
        stream.close()


def test_too_many_viewers_are_refused(tmp_path: Path) -> None:
    with started(tmp_path, limits=Limits(max_viewers=1)) as server:
        stream = Stream(server.url)
        answer = Http(server.url).api("/live")
        assert answer.status == 503
        assert answer.headers["retry-after"]
        stream.close()


def test_a_viewer_that_went_away_is_forgotten(tmp_path: Path) -> None:
    # given a server with one place, taken by a viewer that goes away
    with started(tmp_path, limits=Limits(max_viewers=1)) as server:
        http = Http(server.url)
        Stream(server.url).close()
        # when commits go on
        sequence = 0
        while http.request("HEAD", "/api/v1/tasks").status == 200 and not _has_place(server.url):
            http.send(frame_of({LOSS: rows_of([1.0])}, sequence=sequence))
            sequence += 1


def _has_place(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=30)
    connection.request("GET", "/api/v1/live")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_what_is_pending_is_merged_and_bounded() -> None:
    # given feeds that nobody takes from
    table, task = TableFeed(), TaskFeed(TASK)
    # when far more happens than a page will show
    for number in range(MAX_PENDING_TASKS + 100):
        change = TaskChange(points_after=number, console_last_id=number)
        table.note([f"{number:032x}", TASK])
        task.note(change)
    # then they hold the latest only
    assert len(table.take()) == MAX_PENDING_TASKS
    pending = task.take()
    # (all points since the first change)
    assert pending.points_after == 0
    assert pending.console_last_id == MAX_PENDING_TASKS + 99
    # and nothing twice
    assert (table.take(), task.take()) == ([], TaskChange())


def test_what_is_told_is_made_once_for_all_who_look_and_off_the_loop(
    server: BackgroundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given what makes the events, and reads the task, counted by thread
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[f"{name} on {threading.current_thread().name}"] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(feeds, "change_events", counted("events", feeds.change_events))
    monkeypatch.setattr(feeds, "task_event", counted("task", feeds.task_event))
    http = Http(server.url)
    http.send(frame_of({LOSS: rows_of([1.0])}))
    # when 20 pages open, and something changes
    streams = [Stream(server.url, f"?task={TASK}") for _ in range(20)]
    for stream in streams:
        assert stream.until("task")["points"] == 1
    http.send(frame_of({LOSS: rows_of([1.0, 2.0], first=1)}, sequence=1))
    # then all hear of it, and it was made once
    for stream in streams:
        assert stream.until("points")["series"]["1"]["count"] == 3
        assert stream.until("task")["points"] == 3
        stream.close()
    assert calls == {"events on telemetry-live_0": 1, "task on telemetry-live_0": 2}


def test_all_viewers_hold_the_same_bytes_and_one_that_does_not_take_them_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_WAITING_BYTES", 100)

    async def look() -> None:
        reader, sleeper = Viewer(), Viewer()
        pieces = [b"x" * 60]
        for _ in range(3):
            for viewer in (reader, sleeper):
                viewer.offer(pieces)
            # then who reads gets those very bytes
            assert (await reader.take())[0] is pieces[0]
        # and who did not is told to read anew, once, instead of all that it missed
        assert sleeper.is_behind
        assert list(await sleeper.take()) == [RESYNC]
        sleeper.offer(pieces)
        assert list(await sleeper.take()) == pieces

    asyncio.run(look())


def test_very_many_series_wait_and_the_rest_does_not() -> None:
    async def look() -> None:
        feed = TaskFeed(TASK)
        store = StoreOf({number: SeriesChange(1, 1.0, 1, START_NS) for number in range(20_000)})
        # given that 20,000 series were told to a hundred viewers
        feed.note(TaskChange(points_after=3))
        assert series_told(feed, store) == 20_000
        feed.note_cost(100 * 1_500_000)
        # when more of them change, and a line is printed
        feed.note(TaskChange(points_after=4, console_last_id=7))
        # then the line is told at once
        assert feed.has_news()
        assert series_told(feed, store) == 0
        assert not feed.has_news()
        # and the series when they have waited, those of a later change too
        feed.note(TaskChange(points_after=5))
        feed.end_wait()
        assert feed.has_news()
        assert series_told(feed, store) == 20_000
        assert store.asked == [3, 4]

    asyncio.run(look())


def test_few_series_never_wait() -> None:
    feed = TaskFeed(TASK)
    store = StoreOf({1: SeriesChange(1, 1.0, 1, START_NS)})
    for position in range(3):
        feed.note(TaskChange(points_after=position))
        assert series_told(feed, store) == 1
        feed.note_cost(100_000)


class StoreOf(Store):
    """What a feed asks of a store, with these series and no task."""

    def __init__(self, series: dict[int, SeriesChange]) -> None:
        self._series = series
        self.asked: list[int] = []

    def series_changed(self, task_id: str, after: int) -> dict[int, SeriesChange]:
        self.asked.append(after)
        return self._series

    def task_summary(self, task_id: str) -> dict[str, Any]:
        raise NotFound(task_id)


def series_told(feed: TaskFeed, store: Store) -> int:
    told = feed.prepare(store, {None})()[None]
    text = b"".join(told or ()).decode()
    return sum(
        len(json.loads(line.removeprefix("data: "))["series"])
        for line in text.splitlines()
        if line.startswith('data: {"series"')
    )


def test_a_task_with_thousands_of_series_tells_them_all(server: BackgroundServer) -> None:
    # given a page of a task, and 3,000 series that get a point each
    http, stream = Http(server.url), Stream(server.url, f"?task={TASK}")
    keys = [SeriesKey("scalar", "norm", str(number)) for number in range(3000)]
    http.send(frame_of({key: rows_of([1.0]) for key in keys}))
    # then it hears of each, in events that a browser takes without a pause
    heard: dict[str, Any] = {}
    while len(heard) < 3000:
        some = stream.until("points")["series"]
        assert len(some) <= 500 and not some.keys() & heard.keys()
        heard |= some
    # and of what comes next
    http.send(frame_of({keys[0]: rows_of([2.0], first=1)}, sequence=1))
    assert [one["count"] for one in stream.until("points")["series"].values()] == [2]
    stream.close()
