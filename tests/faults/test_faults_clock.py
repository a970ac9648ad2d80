"""Clocks that jump: what was said last stays said, and no point is lost or moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_support import Http, started
from telemetry.sinks.http import HttpSink

from telemetry.client import Client
from telemetry.events import RecordChange, Scalar
from telemetry.export import read_series
from telemetry.pipeline import Pipeline
from telemetry.sdk.record.record import Record
from telemetry.settings import Settings
from telemetry.testing import ManualClock, make_header

TASK = "cd" * 16
HOUR_S = 3600.0


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path / "server") as server:
        yield server.url


def test_the_last_word_counts_also_when_the_clock_was_set_back(url: str, state_dir: Path) -> None:
    clock = ManualClock()
    with_clock = Pipeline(make_header(TASK), [HttpSink(url)], settings=Settings(state_dir=state_dir))
    with_clock.start()
    record = Record(with_clock.emit, clock=clock)
    # given a clock that jumps an hour ahead, then two back, while a task runs and ends
    record.change("task", "status", "in_progress")
    clock.advance(HOUR_S)
    record.change("task", "progress", 50.0)
    record.change("task", "comment", "to be taken back")
    clock.advance(-2 * HOUR_S)
    for progress in (60.0, 99.0):
        record.change("task", "progress", progress)
    record.change("task", "comment", None)
    record.change("task", "status", "completed")
    with_clock.close()
    # then
    task = Http(url).get(f"/tasks/{TASK}")
    assert (task["status"], task["progress"]) == ("completed", 99.0)
    assert "comment" not in task["record"]["task"]


def test_points_keep_the_times_they_were_given(url: str, state_dir: Path) -> None:
    clock = ManualClock()
    pipeline = Pipeline(make_header(TASK), [HttpSink(url)], settings=Settings(state_dir=state_dir))
    pipeline.start()
    given = []
    # given a clock that goes back an hour every ten points
    for step in range(100):
        clock.advance(-HOUR_S if step % 10 == 9 else 1.0)
        given.append((step, clock(), step * 0.5))
        pipeline.emit(Scalar("loss", "train", step * 0.5, step, clock()))
    pipeline.close()
    # then
    with Client(url) as client:
        (series,) = [item for item in read_series(client, TASK) if item.kind == "scalar"]
    columns = (series.iterations.tolist(), series.times_unix_ns.tolist(), series.values.tolist())
    assert list(zip(*columns, strict=True)) == given


def test_of_two_writers_the_later_change_wins_whichever_frame_comes_first(url: str, state_dir: Path) -> None:
    clock = ManualClock()
    for name, ahead_s in (("first", HOUR_S), ("second", 0.0)):
        # given two processes of one task, of which the one that sends first has the later clock
        pipeline = Pipeline(make_header(TASK), [HttpSink(url)], settings=Settings(state_dir=state_dir))
        pipeline.start()
        pipeline.emit(RecordChange(clock() + round(ahead_s * 1e9), "task", "comment", name))
        pipeline.close()
    # then
    assert Http(url).get(f"/tasks/{TASK}")["record"]["task"]["comment"] == "first"
