"""The Task page, "Task Reuse" and "Continuing Task Execution"."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_support import Way

from telemetry.cli import main
from telemetry.client import Client
from telemetry.errors import ConfigurationError
from telemetry.export import read_series
from telemetry.iterations import IterationOffset
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.task.task import Task
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

Points = list[tuple[int, float]]


@pytest.fixture(params=["server", "folder"])
def place(request: pytest.FixtureRequest, server_way: Way, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Where a run may overwrite the one before: a server, or the session folders of this machine."""
    if request.param == "folder":
        monkeypatch.delenv("TELEMETRY_URL")
    return server_way


def run(way: Way, values: list[float] | None = None, *, first: int = 0, name: str = "reused", **arguments: Any) -> Task:
    """One run of a program: it reports, and ends."""
    task = way.init(project_name="examples", task_name=name, **arguments)
    for step, value in enumerate(values or [1.0], first):
        task.get_logger().report_scalar("loss", "train", value, step)
    task.close()
    return task


def read(task_id: str) -> Task:
    return Task(open_stored(task_id, load_settings(), what="the test"))


def points(task_id: str) -> Points:
    """Return a task's points as another program reads them."""
    curve = read(task_id).get_reported_scalars()["loss"]["train"]
    return list(zip(curve["x"], curve["y"], strict=True))


def note(way: Way) -> Path:
    """Return the file that tells the next run of the last one."""
    (path,) = (way.folder / "state" / "runs").glob("*.json")
    return path


def edit_note(way: Way, **changes: object) -> None:
    path = note(way)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- Task Reuse --------------------------------------------------------------------------------------


def test_a_run_overwrites_the_one_before(place: Way) -> None:
    # given a run with everything but artifacts and models
    first = place.init(project_name="examples", task_name="reused", tags=["old"])
    first.set_parameters({"old": 1})
    first.set_progress(50)
    first.get_logger().report_scalar("old", "old", 1.0, 1)
    first.get_logger().report_single_value("old", 1.0)
    first.get_logger().report_text("an old line", print_console=False)
    first.mark_failed(status_reason="a mistake")
    # when
    second = run(place, [5.0, 6.0])
    # then
    assert second.id == first.id
    there = read(second.id)
    assert set(there.get_reported_scalars()) == {"loss"}
    assert points(second.id) == [(0, 5.0), (1, 6.0)]
    assert there.get_reported_single_values() == {}
    assert there.get_parameters() == {}
    assert there.get_progress() is None
    assert there.get_tags() == []
    assert there.get_status() == "completed"
    assert there.get_status_message() == ""
    assert "an old line" not in "".join(there.get_reported_console_output(100))


def test_you_can_always_create_a_new_task(place: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(place)
    second = run(place, reuse_last_task_id=False)
    monkeypatch.setenv("TELEMETRY_TASK_NO_REUSE", "1")
    third = run(place)
    assert len({first.id, second.id, third.id}) == 3
    assert points(first.id) == [(0, 1.0)]


def test_a_run_with_another_name_project_or_type_is_another_task(place: Way) -> None:
    first = run(place)
    assert run(place, name="other").id != first.id
    assert run(place, task_type="testing").id != first.id
    third = place.init(project_name="elsewhere", task_name="reused")
    third.close()
    assert third.id != first.id
    # and the first is still the last of its kind
    assert run(place).id == first.id


@pytest.mark.parametrize(("hours", "reused"), [(23.9, True), (24.1, False)])
def test_only_what_ran_under_24_hours_ago_is_overwritten(place: Way, hours: float, reused: bool) -> None:
    first = run(place)
    seen = json.loads(note(place).read_text())["seen_unix_ns"]
    edit_note(place, seen_unix_ns=seen - int(hours * 3600e9))
    assert (run(place).id == first.id) is reused


def test_the_hours_are_a_setting(place: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(place)
    edit_note(place, seen_unix_ns=json.loads(note(place).read_text())["seen_unix_ns"] - int(3600e9))
    monkeypatch.setenv("TELEMETRY_TASK_REUSE_HOURS", "0.5")
    assert run(place).id != first.id


@pytest.mark.parametrize("output", ["artifact", "model", "saved"])
def test_a_task_with_artifacts_or_models_is_kept(place: Way, output: str) -> None:
    # given
    first = place.init(project_name="examples", task_name="reused")
    file = place.folder / "weights.bin"
    file.write_bytes(b"weights")
    if output == "artifact":
        first.upload_artifact("table", {"a": 1})
    elif output == "model":
        first.update_output_model(str(file), auto_delete_file=False)
    else:
        first.report_model(file)
    first.close()
    # when, then
    assert run(place).id != first.id
    assert read(first.id).get_status() == "completed"


@pytest.mark.parametrize("change", ["archive", "publish", "rename", "move"])
def test_a_task_that_somebody_put_away_or_renamed_is_kept(server_way: Way, change: str) -> None:
    first = run(server_way)
    task = read(first.id)
    if change == "archive":
        task.set_archived(True)
    elif change == "publish":
        task.publish()
    elif change == "rename":
        task.set_name("a good one")
    else:
        task.move_to_project(new_project_name="good ones")
    assert run(server_way).id != first.id


def test_a_task_that_its_own_program_renamed_is_kept(place: Way) -> None:
    first = place.init(project_name="examples", task_name="reused")
    first.set_name("lr 0.1")
    first.close()
    second = run(place)
    assert second.id != first.id
    assert read(first.id).get_status() == "completed"


PROGRAM = """
import os, signal, sys
from telemetry import Task
task = Task.init(project_name="examples", task_name="reused", auto_resource_monitoring=False)
task.get_logger().report_scalar("loss", "train", 7.0, 7)
task.flush()
print(task.id, flush=True)
sys.stdin.read()
"""


def other_program() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_task_that_is_running_is_kept_and_one_that_was_killed_is_not(place: Way) -> None:
    # given a run in another process
    program = other_program()
    assert program.stdout is not None
    running_id = program.stdout.readline().strip()
    try:
        # when another begins meanwhile, then it is a new one
        second = run(place, [1.0])
        assert second.id != running_id
        # (and the running one is the last no more)
        assert run(place).id == second.id
    finally:
        program.kill()
        program.communicate()
    # given one that was killed: its last word is overwritten
    program = other_program()
    assert program.stdout is not None
    killed_id = program.stdout.readline().strip()
    program.kill()
    program.communicate()
    third = run(place, [2.0])
    assert third.id == killed_id
    assert points(third.id) == [(0, 2.0)]


def test_of_several_runs_that_begin_at_once_one_overwrites(place: Way) -> None:
    first = run(place)
    programs = [other_program() for _ in range(3)]
    ids = [program.stdout.readline().strip() for program in programs if program.stdout is not None]
    for program in programs:
        program.communicate("")
    assert len(set(ids)) == 3
    assert ids.count(first.id) <= 1


def test_an_id_names_the_task_to_overwrite_or_is_refused_aloud(
    place: Way, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_QUIET", "0")
    first = run(place, [1.0, 2.0])
    # when it is named by a run of another name
    second = run(place, [3.0], name="other", reuse_last_task_id=first.id)
    assert second.id == first.id
    assert 'telemetry: overwriting task "other" -> ' in capfd.readouterr().err
    assert points(first.id) == [(0, 3.0)]
    assert read(first.id).name == "other"
    # then one of which nothing is known is not
    third = run(place, reuse_last_task_id="0" * 32)
    assert third.id not in (first.id, "0" * 32)
    assert f"telemetry: task {'0' * 32} is not overwritten: nothing is known of it" in capfd.readouterr().err
    with pytest.raises(ConfigurationError, match="'abc' is no task id"):
        run(place, reuse_last_task_id="abc")


def test_runs_that_no_other_can_follow_are_new_tasks(server_way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    zips = [f"zip:{server_way.folder / name}.zip" for name in "ab"]
    assert run(server_way, sinks=[zips[0]]).id != run(server_way, sinks=[zips[1]]).id
    assert not (server_way.folder / "state" / "runs").exists()
    monkeypatch.setenv("TELEMETRY_RUN_ID", "job 7")
    first, second = run(server_way), run(server_way)
    assert first.id != second.id
    assert not (server_way.folder / "state" / "runs").exists()
    monkeypatch.delenv("TELEMETRY_RUN_ID")
    Task.set_offline(True)
    first, second = run(server_way), run(server_way)
    Task.set_offline(False)
    assert first.id != second.id


def test_a_note_that_cannot_be_read_or_written_costs_a_reuse_and_nothing_else(place: Way) -> None:
    first = run(place)
    for text in ("", "{}", "[]", note(place).read_text().replace(first.id, "x" * 32)):
        note(place).write_text(text)
        second = run(place)
        assert second.id != first.id
    runs = place.folder / "state" / "runs"
    note(place).unlink()
    runs.rmdir()
    runs.write_text("in the way")
    assert run(place).id != run(place).id


def test_a_deleted_task_that_runs_again_is_there_again(server_way: Way) -> None:
    first = run(server_way)
    assert read(first.id).delete()
    second = run(server_way, [9.0])
    assert second.id == first.id
    assert points(second.id) == [(0, 9.0)]


def test_another_server_and_another_machine_know_nothing_of_it(
    server_way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(server_way)
    edit_note(server_way, host="another machine")
    second = run(server_way)
    assert second.id != first.id
    monkeypatch.delenv("TELEMETRY_URL")
    assert run(server_way).id != second.id


# ---- Continuing Task Execution -----------------------------------------------------------------------


def test_the_next_report_is_the_iteration_that_is_reported(way: Way) -> None:
    # given a task's last train/loss scalar was reported for iteration 100
    first = run(way, [0.5, 0.25], first=99, tags=["baseline"])
    # when continued, the next report will be as iteration 101
    task = way.init(project_name="examples", task_name="reused", continue_last_task=True)
    assert task.id == first.id
    assert task.get_last_iteration() == 100
    assert task.get_tags() == ["baseline"]
    assert task.status == "in_progress"
    task.get_logger().report_scalar("loss", "train", 0.125, 101)
    there = way.read(task)
    assert there.get_initial_iteration() == 0
    curve = there.get_reported_scalars()["loss"]["train"]
    assert (list(curve["x"]), list(curve["y"])) == ([99, 100, 101], [0.5, 0.25, 0.125])
    assert there.get_status() == "completed"
    assert there.get_tags() == ["baseline"]


def test_a_continued_task_keeps_what_it_has(way: Way) -> None:
    # given
    first = way.init(project_name="examples", task_name="reused", tags=["a"])
    first.upload_artifact("table", {"a": 1}, wait_on_upload=True)
    first.set_parameters({"lr": 0.5})
    first.set_comment("the first part")
    first.mark_failed(status_reason="out of time")
    # when
    second = way.init(project_name="examples", task_name="reused", continue_last_task=True, tags=["b"])
    second.set_parameter("epochs", 7)
    there = way.read(second)
    # then
    assert there.id == first.id
    assert there.artifacts["table"].get() == {"a": 1}
    assert there.get_parameters() == {"General/lr": "0.5", "General/epochs": "7"}
    assert there.comment == "the first part"
    assert (there.get_status(), there.get_status_message()) == ("completed", "")


def test_a_task_is_continued_by_its_id_whatever_it_is_called(way: Way) -> None:
    first = run(way, [1.0])
    run(way, name="another")
    for asked in ({"continue_last_task": first.id}, {"continue_last_task": True, "reuse_last_task_id": first.id}):
        task = way.init(project_name="elsewhere", task_name="changed", **asked)
        assert task.id == first.id
        task.close()
    there = way.read(task)
    assert (there.project, there.name) == ("examples", "reused")


@pytest.mark.parametrize("offset", [0, 1000])
def test_an_offset_is_added_only_when_asked_for(way: Way, offset: int) -> None:
    first = run(way, [1.0, 2.0])
    task = way.init(project_name="examples", task_name="reused", continue_last_task=offset)
    assert task.id == first.id
    assert task.get_initial_iteration() == offset
    task.get_logger().report_scalar("loss", "train", 3.0, 2)
    task.get_logger().report_histogram("counts", "of words", [1, 2, 3], iteration=5)
    there = way.read(task)
    assert there.get_last_iteration() >= 2 + offset
    curve = there.get_reported_scalars()["loss"]["train"]
    assert list(curve["x"]) == [0, 1, 2 + offset]
    assert there.get_initial_iteration() == offset
    (plot,) = there.get_reported_plots()
    assert plot["iter"] == 5 + offset


def test_an_offset_holds_for_what_is_reported_after_it(way: Way) -> None:
    task = way.init(project_name="examples", task_name="reused", reuse_last_task_id=False)
    task.get_logger().report_scalar("loss", "train", 1.0, 1)
    assert task.set_initial_iteration(100) == 100
    task.get_logger().report_scalar("loss", "train", 2.0, 2)
    task.set_initial_iteration()
    task.get_logger().report_scalar("loss", "train", 3.0, 3)
    task.get_logger().report_scalar("loss", "train", 4.0, 2**63 - 1)
    task.set_initial_iteration(1)
    task.get_logger().report_scalar("loss", "train", 5.0, 2**63 - 1)
    with pytest.raises(ConfigurationError, match="set_initial_iteration"):
        task.set_initial_iteration("a lot")  # type: ignore[arg-type]
    there = way.read(task)
    curve = there.get_reported_scalars()["loss"]["train"]
    assert list(curve["x"]) == [1, 3, 102, 2**63 - 1]
    # The one that would be beyond a 64-bit integer is counted, and no other.
    assert task.ledger().dropped == {"invalid": 1}
    with pytest.raises(ConfigurationError, match="by the program that runs the task"):
        there.set_initial_iteration(5)


def report_from_a_child(step: int) -> None:
    task = Task.current_task()
    assert task is not None
    task.get_logger().report_scalar("child", "train", 1.0, step)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_continued_task_add_the_same_offset(server_way: Way, method: str) -> None:
    run(server_way)
    task = server_way.init(project_name="examples", task_name="reused", continue_last_task=500)
    child = multiprocessing.get_context(method).Process(target=report_from_a_child, args=(7,))  # type: ignore[attr-defined]
    child.start()
    child.join()
    assert child.exitcode == 0
    there = server_way.read(task)
    assert list(there.get_reported_scalars()["child"]["train"]["x"]) == [507]


def test_what_cannot_be_continued_is_a_new_task_and_said(
    server_way: Way, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_QUIET", "0")
    task = run(server_way, continue_last_task=True)
    assert "telemetry: no earlier run of this task is known on this machine" in capfd.readouterr().err
    again = run(server_way, continue_last_task=True)
    assert again.id == task.id
    assert 'telemetry: continuing task "reused" -> ' in capfd.readouterr().err
    program = other_program()
    assert program.stdout is not None
    running_id = program.stdout.readline().strip()
    third = run(server_way, continue_last_task=True)
    program.communicate("")
    assert third.id != running_id
    assert f"task {running_id} is still running" in capfd.readouterr().err
    for wrong in ("abc", 1.5, ["x"]):
        with pytest.raises(ConfigurationError, match="No task was started"):
            run(server_way, continue_last_task=wrong)


def test_each_run_of_a_continued_task_is_an_attempt(server_way: Way) -> None:
    # given three runs, of which each goes back to the last checkpoint
    task = run(server_way, [1.0, 1.0, 1.0])
    run(server_way, [2.0, 2.0], first=2, continue_last_task=True)
    run(server_way, [3.0], first=3, continue_last_task=True)
    # then charts show a step that was reported anew once, and all of it is kept
    with Client(server_way.url) as client:
        (series,) = client.series(task.id, kind="scalar")
        (shown,) = client.points(task.id, [series["id"]])["series"]
        assert (shown["x"], shown["y"]) == ([0, 1, 2, 3], [1.0, 1.0, 2.0, 3.0])
        (kept,) = read_series(client, task.id)
        assert len(kept.values) == 6
        record = client.task(task.id)["record"]
    assert record["task"]["attempt"] == 3
    assert record["task"]["started_unix_ns"] == min(entry["started_unix_ns"] for entry in record["writers"].values())


def test_what_an_earlier_run_left_in_its_spool_is_not_lost_when_the_task_goes_on(
    server_way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run whose server was away
    with BackgroundServer(ServerConfig(server_way.folder / "second", port=0)) as server:
        url = server.url
    monkeypatch.setenv("TELEMETRY_URL", url)
    monkeypatch.setenv("TELEMETRY_CLOSE_TIMEOUT", "0.5")
    first = run(server_way, [1.0])
    assert first.ledger().on_disk > 0
    # when the server is back, and the task goes on
    port = int(url.rpartition(":")[2])
    with BackgroundServer(ServerConfig(server_way.folder / "second", port=port)) as server:
        monkeypatch.setenv("TELEMETRY_CLOSE_TIMEOUT", "30")
        second = run(server_way, [2.0], first=1, continue_last_task=True)
        assert second.id == first.id
        assert second.ledger().delivered == second.ledger().logged
        # then what is left can be sent, and is all there
        assert main(["sync", str(server_way.folder / "state" / "spool"), "--url", server.url]) == 0
        assert points(first.id) == [(0, 1.0), (1, 2.0)]


def test_an_offset_is_found_by_the_moment_of_the_report() -> None:
    moments = iter([10, 20, 30])
    offset = IterationOffset(clock=lambda: next(moments))
    assert not offset
    offset.set(0)
    assert not offset
    offset.set(5)
    offset.set(5)
    offset.set(0)
    assert [offset.at(moment) for moment in (9, 10, 19, 20, 99)] == [0, 5, 5, 0, 0]
