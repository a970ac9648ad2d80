"""The Task page, "Offline Mode": its samples, and what becomes of sessions that were begun anew or go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from page_support import Way

from telemetry.client import Client
from telemetry.errors import ConfigurationError
from telemetry.export import read_series
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.task.task import Task


def points(way: Way, task_id: str) -> list[tuple[int, float]]:
    with Client(way.url) as client:
        (series,) = [item for item in read_series(client, task_id) if item.title == "loss"]
        return sorted(zip(series.iterations.tolist(), series.values.tolist(), strict=True))


def offline_run(way: Way, values: list[float], *, first: int = 0, **arguments: object) -> Task:
    Task.set_offline(offline_mode=True)
    task = way.init(project_name="examples", task_name="my_task", **arguments)
    for step, value in enumerate(values, first):
        task.get_logger().report_scalar("loss", "train", value, step)
    task.close()
    Task.set_offline(False)
    return task


def test_the_page_s_first_sample(server_way: Way) -> None:
    # Use the set_offline class method before initializing a Task
    Task.set_offline(offline_mode=True)
    # Initialize a Task
    task = Task.init(project_name="examples", task_name="my_task")
    assert Task.is_offline()
    # All the information captured by the Task is saved locally. Once the task script finishes, it's zipped.
    folder = task.get_offline_mode_folder()
    assert folder is not None
    task.close()
    assert folder.with_name(f"{folder.name}.zip").is_file()
    assert not folder.exists()
    Task.set_offline(False)
    with Client(server_way.url) as client:
        assert client.tasks()["tasks"] == []


def test_before_running_a_task_set_the_environment_variable(server_way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_OFFLINE_MODE", "1")
    task = server_way.init(project_name="examples", task_name="my_task")
    assert Task.is_offline()
    assert task.get_offline_mode_folder() is not None
    task.close()


def test_uploading_from_the_same_script(server_way: Way) -> None:
    Task.set_offline(offline_mode=True)
    task = Task.init(project_name="examples", task_name="my_task")
    # task code
    task.get_logger().report_scalar("loss", "train", 1.0, 0)
    task.close()
    Task.set_offline(False)
    task_id = Task.import_offline_session(task.get_offline_mode_folder())
    assert task_id == task.id
    assert points(server_way, task_id) == [(0, 1.0)]
    read = Task.get_task(task_id=task_id)
    assert read is not None and read.get_status() == "completed"


def test_the_command_line_and_the_class_method_take_a_zip(server_way: Way) -> None:
    for index in range(2):
        task = offline_run(server_way, [float(index)])
        folder = task.get_offline_mode_folder()
        assert folder is not None
        path = folder.with_name(f"{folder.name}.zip")
        if index:
            Task.import_offline_session(session_folder_zip=path)
        else:
            command = [sys.executable, "-m", "telemetry", "import", str(path), "--url", server_way.url]
            subprocess.run(command, check=True, capture_output=True)
        assert points(server_way, task.id) == [(0, float(index))]


def test_updating_a_previously_executed_task(server_way: Way) -> None:
    # given a task that has reported up to iteration 1499, and an offline run that counts from 0
    previous = server_way.init(project_name="examples", task_name="before")
    previous.get_logger().report_scalar("loss", "train", 1.0, 1499)
    previous.close()
    Task.set_offline(offline_mode=True)
    task = server_way.init(project_name="examples", task_name="my_task")
    task.get_logger().report_scalar("loss", "train", 2.0, 0)
    weights = Path("weights.bin")
    weights.write_bytes(b"weights")
    task.report_model(weights, iteration=7)
    task.close()
    Task.set_offline(False)
    # when
    Task.import_offline_session(
        session_folder_zip=task.get_offline_mode_folder(),
        previous_task_id=previous.id,
        iteration_offset=1500,
    )
    # then
    assert points(server_way, previous.id) == [(1499, 1.0), (1500, 2.0)]
    continued = Task.get_task(task_id=previous.id)
    assert continued is not None
    (model,) = continued._section("output_models").values()
    assert model["iteration"] == 1507
    with Client(server_way.url) as client:
        assert [item["id"] for item in client.tasks()["tasks"]] == [previous.id]


def test_offline_mode_only_works_with_tasks_created_using_init(server_way: Way) -> None:
    Task.set_offline(True)
    with pytest.raises(ConfigurationError, match=r"Task\.create"):
        Task.create(project_name="examples", task_name="draft")


def test_turning_it_off_while_the_task_is_open_is_refused(server_way: Way) -> None:
    Task.set_offline(True)
    task = server_way.init(project_name="examples", task_name="my_task")
    with pytest.raises(ConfigurationError, match="has not been closed"):
        Task.set_offline(False)
    task.close()
    Task.set_offline(False)


def test_a_session_that_went_on_is_imported_whole_by_its_folder(server_way: Way) -> None:
    # given an offline task that was continued twice, offline
    first = offline_run(server_way, [1.0])
    offline_run(server_way, [2.0], first=1, continue_last_task=True)
    last = offline_run(server_way, [3.0], continue_last_task=100)
    assert last.id == first.id
    # when, more than once
    for _ in range(2):
        assert Task.import_offline_session(first.get_offline_mode_folder()) == first.id
    # then
    assert points(server_way, first.id) == [(0, 1.0), (1, 2.0), (100, 3.0)]


def test_of_a_session_folder_that_was_begun_anew_only_the_last_run_counts(
    server_way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two runs without a server, of which the second has overwritten the first
    url = server_way.url
    previous = server_way.init(project_name="examples", task_name="previous")
    previous.get_logger().report_scalar("loss", "train", 0.5, 0)
    previous.close()
    monkeypatch.delenv("TELEMETRY_URL")
    for value in (1.0, 2.0):
        task = server_way.init(project_name="examples", task_name="my_task")
        task.get_logger().report_scalar("loss", "train", value, int(value))
        task.close()
    folder = server_way.folder / "state" / "sessions" / task.id
    assert len(
        Task(open_stored(task.id, load_settings(), what="the test")).get_reported_scalars()["loss"]["train"]["x"]
    )
    # when it is imported as it is, and as the continuation of another task
    monkeypatch.setenv("TELEMETRY_URL", url)
    Task.import_offline_session(folder)
    Task.import_offline_session(folder, previous_task_id=previous.id, iteration_offset=10)
    # then
    assert points(server_way, task.id) == [(2, 2.0)]
    assert points(server_way, previous.id) == [(0, 0.5), (12, 2.0)]
