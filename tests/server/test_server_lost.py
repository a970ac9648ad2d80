"""A server that has lost its data, or was given an older copy: what can be had is sent again, the rest is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment
from server_support import free_port, server_at
from telemetry.sinks.http import HttpSink

from telemetry.client import Client
from telemetry.events import RecordChange, Scalar
from telemetry.pipeline import Pipeline
from telemetry.sessions.delivered import Delivered
from telemetry.settings import Settings
from telemetry.testing import make_header

HEADER = make_header("d" * 32)


@pytest.fixture
def port() -> int:
    return free_port()


def point(step: int) -> Scalar:
    return Scalar("loss", "train", float(step), step, 0)


def points_at(url: str) -> list[int]:
    with Client(url) as client:
        (series,) = client.series(HEADER.task_id)
        (found,) = client.points(HEADER.task_id, [series["id"]])["series"]
        return [int(x) for x in found["x"]]


def started(url: str, tmp_path: Path, **settings: Any) -> Pipeline:
    pipeline = Pipeline(HEADER, [HttpSink(url)], settings=Settings(state_dir=tmp_path / "state", **settings))
    pipeline.start()
    pipeline.emit(RecordChange(1, "task", "name", "a task"))
    return pipeline


def report(pipeline: Pipeline, *steps: int) -> None:
    for step in steps:
        pipeline.emit(point(step))
        assert pipeline.flush(20)


def test_a_server_that_lost_everything_gets_everything_again(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    with server_at(data, port) as url:
        pipeline = started(url, tmp_path)
        report(pipeline, 0, 1, 2)
    shutil.rmtree(data)
    with server_at(data, port) as url:
        report(pipeline, 3)
        ledger = pipeline.close(20)
        assert points_at(url) == [0, 1, 2, 3]
        with Client(url) as client:
            assert client.task(HEADER.task_id)["name"] == "a task"
    assert (ledger.delivered, ledger.dropped_total) == (5, 0)
    assert "has lost data that it had taken" in caplog.text
    # Then nothing is left that is owed to anybody
    assert not any((tmp_path / "state" / "spool").iterdir())


def test_a_server_with_an_older_copy_gets_what_came_after_it(tmp_path: Path, port: int) -> None:
    data = tmp_path / "data"
    with server_at(data, port) as url:
        pipeline = started(url, tmp_path)
        report(pipeline, 0, 1)
    shutil.copytree(data, tmp_path / "backup")
    with server_at(data, port) as url:
        report(pipeline, 2, 3)
    shutil.rmtree(data)
    (tmp_path / "backup").rename(data)
    with server_at(data, port) as url:
        report(pipeline, 4)
        ledger = pipeline.close(20)
        assert points_at(url) == [0, 1, 2, 3, 4]
    assert (ledger.delivered, ledger.dropped_total) == (6, 0)


def test_what_nobody_has_any_more_is_said(tmp_path: Path, port: int) -> None:
    # Given a spool whose folder is gone with all that was delivered before
    data = tmp_path / "data"
    told: list[int] = []
    with server_at(data, port) as url:
        pipeline = Pipeline(HEADER, [HttpSink(url)], settings=Settings(state_dir=tmp_path / "file" / "state"))
        (tmp_path / "file").write_text("no folder can be made below this")
        pipeline.on_server_lost = told.append
        pipeline.start()
        report(pipeline, 0, 1, 2)
    shutil.rmtree(data)
    with server_at(data, port) as url:
        report(pipeline, 3)
        ledger = pipeline.close(20)
        assert points_at(url) == [3]
    assert (ledger.delivered, ledger.dropped) == (1, {"server_lost": 3})
    assert told == [3]


def test_the_record_is_told_again_where_its_frames_are_gone(tmp_path: Path, port: int) -> None:
    # Given a task whose first frames nobody has any more, once its server has lost them
    source = """
        import sys
        from telemetry import Task

        task = Task.init(project_name="p", task_name="known by name")
        task.connect({"lr": 0.5})
        for line in sys.stdin:
            task.get_logger().report_scalar("loss", "train", value=1.0, iteration=int(line))
            while not task.flush(20):
                pass  # the server is being started again
            print("flushed", task.id, flush=True)
    """
    (tmp_path / "state").write_text("no folder can be made here")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(source))
    data = tmp_path / "data"
    with server_at(data, port) as url:
        running = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment(tmp_path / "state", TELEMETRY_URL=url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write("0\n")
        running.stdin.flush()
        task_id = running.stdout.readline().split()[1]
    shutil.rmtree(data)
    with server_at(data, port) as url:
        _, said = running.communicate("1\n", timeout=60)
        with Client(url) as client:
            task = client.task(task_id)
    assert (task["project"], task["name"], task["status"]) == ("p", "known by name", "completed")
    assert task["record"]["parameters"]["General/lr"]["value"] == 0.5
    assert "server_lost" in said


def test_a_server_that_does_not_say_what_it_holds_is_believed(tmp_path: Path) -> None:
    from telemetry.sinks.http import _held_of

    assert _held_of({"frames": []}, "00") is None
    assert _held_of({"frames": [], "writers": {"00": [[0, 3], [5, 5]]}}, "00") == [(0, 3), (5, 5)]
    assert _held_of({"frames": [], "writers": {"00": [[0]]}}, "00") is None
    assert _held_of({"frames": [], "writers": {"00": "all"}}, "00") is None


def test_frames_beyond_the_limit_are_known_as_a_sum() -> None:
    delivered = Delivered(max_frames=4)
    for sequence in range(10):
        delivered.note(sequence, 10)
    assert delivered.missing([(0, 9)]) == {}
    assert delivered.take_missing_old([(0, 9)]) == 0
    # Given a copy that ends with frame 2: of frames 0 to 5, known as a sum, a half is gone
    missing = delivered.missing([(0, 2)])
    old = delivered.take_missing_old([(0, 2)])
    assert sum(missing.values()) + old == 70
    delivered.take_back(missing)
    assert delivered.missing([(0, 2)]) == {}
    assert delivered.take_missing_old([]) == 0


def test_a_copy_of_a_store_is_the_same_store_and_a_new_one_is_not(tmp_path: Path) -> None:
    from telemetry.server.store import Store

    first = Store(tmp_path / "one")
    first.close()
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    stores = [Store(tmp_path / name) for name in ("one", "copy", "another")]
    ids = [store.store_id for store in stores]
    for store in stores:
        store.close()
    assert ids[0] == ids[1] == first.store_id
    assert ids[2] != ids[0]
