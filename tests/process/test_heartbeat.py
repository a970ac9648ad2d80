"""Signs of life: what a silent writer sends, and what the server makes of silence, by a clock that the tests move."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from server_support import LOSS, MS, START_NS, TASK, Http, frame_of, started

from telemetry.events import RecordChange, SeriesKey
from telemetry.pipeline import Pipeline
from telemetry.record import Section
from telemetry.settings import Settings
from telemetry.testing import MemorySink, make_header
from telemetry.wire import SENT_HEADER, Frame, decode

S = 1_000_000_000
CPU = SeriesKey("resource", "CPU", "host", "%")


class Clock:
    """The server's clock in Unix ns; `tell` moves it."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        return self.now

    def after(self, seconds: float) -> None:
        self.now = START_NS + int(seconds * S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def http_(tmp_path: Path, clock: Clock) -> Iterator[Http]:
    with started(tmp_path, clock=clock) as server:
        yield Http(server.url)


def running(sequence: int = 0, *, after_s: float = 0.0, status: str = "in_progress") -> Frame:
    at = START_NS + int(after_s * S)
    return frame_of({}, [RecordChange(at, "task", "status", status)], sequence=sequence)


def heartbeat(sequence: int, *, after_s: float) -> Frame:
    at = START_NS + int(after_s * S)
    return frame_of({}, [RecordChange(at, Section.HEARTBEATS, "w", at)], sequence=sequence)


def status(http_: Http) -> str:
    word: str = http_.get(f"/tasks/{TASK}")["status"]
    (in_table,) = http_.get("/tasks")["tasks"]
    assert in_table["status"] == word
    # A filter finds it by the status that is shown, and by no other.
    for other in ("in_progress", "stalled", "lost", "completed", "preempted"):
        assert http_.get("/tasks", status=other)["total"] == (other == word)
    return word


def test_silence_of_a_minute_is_stalled_and_of_75_seconds_lost(http_: Http, clock: Clock) -> None:
    # given a task that has just reported
    http_.send(running())
    assert status(http_) == "in_progress"
    # when nothing comes any more
    clock.after(60)
    assert status(http_) == "in_progress"
    clock.after(60.1)
    assert status(http_) == "stalled"
    clock.after(75)
    assert status(http_) == "stalled"
    clock.after(75.1)
    # then
    assert status(http_) == "lost"


def test_a_silent_task_that_beats_is_stalled_and_never_lost(http_: Http, clock: Clock) -> None:
    http_.send(running())
    for beat in range(1, 41):
        clock.after(15 * beat)
        http_.send(heartbeat(beat, after_s=15 * beat))
        assert status(http_) == ("in_progress" if 15 * beat <= 60 else "stalled")


def test_resource_samples_are_life_but_no_progress(http_: Http, clock: Clock) -> None:
    http_.send(running())
    clock.after(100)
    http_.send(frame_of({CPU: [((START_NS + 100 * S) // MS, START_NS + 100 * S, 5.0)]}, sequence=1))
    assert status(http_) == "stalled"


def test_late_data_moves_it_back(http_: Http, clock: Clock) -> None:
    # given
    http_.send(running())
    clock.after(600)
    assert status(http_) == "lost"
    # when the network is back: first what has waited, then what is new
    http_.send(heartbeat(1, after_s=15))
    assert status(http_) == "lost"
    http_.send(heartbeat(2, after_s=590))
    assert status(http_) == "stalled"
    late = START_NS + 600 * S
    http_.send(frame_of({LOSS: [(1, late, 0.5)]}, sequence=3))
    # then
    assert status(http_) == "in_progress"
    http_.send(running(4, after_s=601, status="completed"))
    clock.after(10_000)
    assert status(http_) == "completed"


@pytest.mark.parametrize("said", ["completed", "failed", "stopped", "preempted"])
def test_a_status_that_was_said_stays(http_: Http, clock: Clock, said: str) -> None:
    http_.send(running(status=said))
    clock.after(100_000)
    assert http_.get(f"/tasks/{TASK}")["status"] == said


def test_a_killed_session_is_lost_as_soon_as_it_is_imported(http_: Http, clock: Clock) -> None:
    clock.after(3600)
    http_.send(running())
    assert status(http_) == "lost"


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_a_senders_wrong_clock_makes_nobody_lost(http_: Http, clock: Clock, wrong_s: int) -> None:
    """Each frame is as old as the sender's own clock says when it sends it."""
    for beat in range(3):
        clock.after(30 * beat)
        sender = 30 * beat + wrong_s
        rows = [(beat, START_NS + sender * S, 0.5)]
        events = [RecordChange(START_NS + sender * S, "task", "status", "in_progress")]
        sent = {SENT_HEADER: str(START_NS + sender * S + 200 * MS)}
        assert http_.post(frame_of({LOSS: rows}, events, sequence=beat), headers=sent).status == 200
        assert status(http_) == "in_progress"
    clock.after(60 + 76)
    assert status(http_) == "lost"


@pytest.mark.parametrize("nonsense", ["", "soon", "-5", "9" * 30, "½"])
def test_a_header_that_is_no_time_is_as_none(http_: Http, nonsense: str) -> None:
    headers = {SENT_HEADER: nonsense} if nonsense.isascii() else {}
    assert http_.post(running(), headers=headers).status == 200
    assert status(http_) == "in_progress"


def test_tasks_sort_by_the_status_shown(http_: Http, clock: Clock) -> None:
    http_.send(running())
    other = "f" * 32
    change = RecordChange(START_NS, "task", "status", "completed")
    http_.send(frame_of({}, [change], task_id=other, writer=b"another writer!!"))
    clock.after(100)
    assert [task["status"] for task in http_.get("/tasks", sort="status")["tasks"]] == ["completed", "lost"]
    assert [task["status"] for task in http_.get("/tasks", sort="-status")["tasks"]] == ["lost", "completed"]


@pytest.mark.parametrize("path", ["/api/v1/live", f"/api/v1/live?task={TASK}"])
def test_an_open_page_hears_of_a_change_by_time_alone(http_: Http, clock: Clock, path: str) -> None:
    # given an open stream that has told what there is
    http_.send(running())
    parts = urlsplit(http_.url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=30)
    connection.request("GET", path)
    stream = connection.getresponse()
    if "task" in path:
        assert b'"in_progress"' in until(stream, b"event: task\n")
    else:
        until(stream, b"retry:")
    # when only time passes
    clock.after(61)
    # then
    said = until(stream, b"event: task")
    assert TASK.encode() in said
    if "task=" in path:
        assert b'"stalled"' in said
    connection.close()


def until(stream: Any, start: bytes) -> bytes:
    """Return the line after the first that begins so."""
    for line in stream:
        if line.startswith(start):
            return bytes(next(iter(stream)))
    raise AssertionError(f"the stream ended before {start!r}")


def test_a_silent_pipeline_sends_heartbeats_and_a_busy_one_does_not() -> None:
    # given a writer that has nothing to say, and beats often
    sink = WaitingSink()
    settings = Settings(heartbeat_interval_s=0.05, flush_interval_s=10.0)
    pipeline = Pipeline(make_header(), [sink], settings=settings)
    pipeline.start()
    # when
    assert sink.three.wait(10)
    ledger = pipeline.close()
    # then each is a change of its own, which the ledger counts
    events = [event for frame in sink.frames for event in decode(frame).events]
    changes = [event for event in events if isinstance(event, RecordChange)]
    assert {(event.section, event.key) for event in changes} == {(Section.HEARTBEATS, pipeline.task.writer_id.hex())}
    assert ledger.logged == ledger.delivered == len(events)


def test_no_heartbeat_while_something_is_sent() -> None:
    sink = WaitingSink()
    pipeline = Pipeline(make_header(), [sink], settings=Settings(heartbeat_interval_s=30.0, flush_interval_s=0.01))
    pipeline.start()
    for step in range(3):
        pipeline.emit(RecordChange(START_NS, "task", "comment", str(step)))
        assert pipeline.flush(10)
    pipeline.close()
    events = [event for frame in sink.frames for event in decode(frame).events]
    assert [event.section for event in events if isinstance(event, RecordChange)] == ["task"] * 3
    assert len(events) == 3


class WaitingSink(MemorySink):
    """Says when three frames have come."""

    def __init__(self) -> None:
        super().__init__()
        self.three = threading.Event()

    async def write(self, frames: Any) -> None:
        await super().write(frames)
        if len(self.frames) >= 3:
            self.three.set()
