"""The Task page, "Offline Mode": a session sent as the continuation of a task that is on the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from page_support import Way

from telemetry.client import Client
from telemetry.errors import ConfigurationError
from telemetry.export import read_series
from telemetry.sdk.task.task import Task


def first_run(way: Way) -> Task:
    """A task on the server, with ten points."""
    task = way.init(project_name="examples", task_name="training", tags=["baseline"])
    for step in range(10):
        task.get_logger().report_scalar("loss", "train", float(step), step)
    task.set_parameter("lr", 0.1)
    task.close()
    return task


def offline_run(way: Way) -> Path:
    """Ten more points, offline, counted from 0 again."""
    Task.set_offline(offline_mode=True)
    task = way.init(project_name="elsewhere", task_name="continued", tags=["offline"])
    for step in range(10):
        task.get_logger().report_scalar("loss", "train", 100.0 + step, step)
    task.get_logger().report_single_value("final", 1.0)
    task.set_parameter("lr", 0.2)
    folder = task.get_offline_mode_folder()
    task.mark_failed(status_reason="out of time")
    Task.set_offline(False)
    assert folder is not None
    return folder


def points(way: Way, task_id: str) -> list[tuple[int, float]]:
    with Client(way.url) as client:
        (series,) = read_series(client, task_id)
        return sorted(zip(series.iterations.tolist(), series.values.tolist(), strict=True))


def test_the_offline_run_goes_on_in_the_previous_task(server_way: Way) -> None:
    # given
    previous = first_run(server_way)
    folder = offline_run(server_way)
    # when: importing again changes nothing
    for _ in range(2):
        task_id = Task.import_offline_session(
            session_folder_zip=folder, previous_task_id=previous.id, iteration_offset=1500
        )
        assert task_id == previous.id
    # then
    expected = [(step, float(step)) for step in range(10)] + [(1500 + step, 100.0 + step) for step in range(10)]
    assert points(server_way, previous.id) == expected
    with Client(server_way.url) as client:
        assert client.tasks()["total"] == 1  # no orphan
        found = client.task(previous.id)
        assert (found["name"], found["project"], found["tags"]) == ("training", "examples", ["baseline"])
        assert (found["status"], found["status_reason"]) == ("failed", "out of time")
        assert found["record"]["parameters"]["General/lr"]["value"] == 0.2
        assert client.values(previous.id)[0]["value"] == 1.0


def test_an_offset_alone_moves_the_sessions_own_task(server_way: Way) -> None:
    folder = offline_run(server_way)
    task_id = Task.import_offline_session(folder, iteration_offset=-3)
    assert points(server_way, task_id) == [(step - 3, 100.0 + step) for step in range(10)]
    with Client(server_way.url) as client:
        assert client.task(task_id)["name"] == "continued"


def test_a_previous_task_that_is_not_there_is_an_error_and_nothing_is_sent(server_way: Way) -> None:
    folder = offline_run(server_way)
    with pytest.raises(ConfigurationError, match="there is no task"):
        Task.import_offline_session(folder, previous_task_id="12345679")
    with Client(server_way.url) as client:
        assert client.tasks()["total"] == 0


def test_an_offset_that_does_not_fit_sends_nothing_and_says_so(server_way: Way) -> None:
    folder = offline_run(server_way)
    with pytest.raises(Exception, match="signed 64-bit"):
        Task.import_offline_session(folder, iteration_offset=2**63 - 5)


def test_the_command_does_the_same(server_way: Way) -> None:
    previous = first_run(server_way)
    folder = offline_run(server_way)
    command = [sys.executable, "-m", "telemetry", "import", f"{folder}.zip", "--previous-task", previous.id]
    done = subprocess.run(
        [*command, "--iteration-offset", "1500"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(points(server_way, previous.id)) == 20
    unknown = subprocess.run([*command[:-1], "0" * 32], capture_output=True, text=True, check=False, timeout=60)
    assert unknown.returncode == 78 and "there is no task" in unknown.stderr
