"""The Task page, "Task Creation": init, create from existing code, and what may be changed afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_support import Way

from telemetry.client import Client
from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.sdk.task.task import Task


def test_the_page_s_init(way: Way) -> None:
    task = Task.init(
        project_name="example",  # project name of at least 3 characters
        task_name="task template",  # task name of at least 3 characters
        task_type=None,
        tags=None,
        reuse_last_task_id=True,
        continue_last_task=False,
        output_uri=None,
        auto_connect_arg_parser=True,
        auto_connect_frameworks=True,
        auto_resource_monitoring=True,
        auto_connect_streams=True,
    )
    assert Task.current_task() is task
    read = way.read(task)
    assert (read.project, read.name, read.task_type) == ("example", "task template", "training")
    assert read.get_status() == "completed"


def test_projects_nest(way: Way) -> None:
    task = way.init(project_name="main_project/sub_project/sub_sub_project", task_name="test")
    assert way.read(task).get_project_name() == "main_project/sub_project/sub_sub_project"


@pytest.mark.parametrize("kind", ["inference", Task.TaskTypes.inference])
def test_a_type_is_a_word_or_one_of_task_types(way: Way, kind: str) -> None:
    task = way.init(project_name="examples", task_name="typed", task_type=kind)
    assert way.read(task).task_type == "inference"


def test_a_task_can_be_begun_after_the_one_before_was_closed(way: Way) -> None:
    first = way.init(project_name="examples", task_name="one")
    with pytest.raises(ConfigurationError, match="already has the task"):
        way.init(project_name="examples", task_name="two")
    assert way.init(project_name="examples", task_name="one") is first
    first.close()
    second = way.init(project_name="examples", task_name="two")
    assert second.id != first.id
    assert way.read(second).name == "two"


def create(**more: object) -> Task:
    """The page's sample."""
    return Task.create(
        project_name="example",
        task_name="task template",
        repo="https://github.com/allegroai/clearml.git",
        branch="master",
        script="examples/reporting/html_reporting.py",
        working_directory=".",
        docker=None,
        argparse_args=[("lr", 0.01), ("epochs", 10)],
        **more,  # type: ignore[arg-type]
    )


def test_the_page_s_create(server_way: Way) -> None:
    task = create()
    read = Task.get_task(task_id=task.id)
    assert read is not None
    assert (read.name, read.project, read.get_status()) == ("task template", "example", "created")
    assert read.get_parameters() == {"Args/lr": "0.01", "Args/epochs": "10"}
    assert read.get_parameters(cast=True) == {"Args/lr": 0.01, "Args/epochs": 10}
    assert read.get_script() == {
        "repository": "https://github.com/allegroai/clearml.git",
        "branch": "master",
        "entry_point": "examples/reporting/html_reporting.py",
        "working_dir": ".",
        "add_task_init_call": "1",
    }
    # it never ran
    with Client(server_way.url) as client:
        assert client.task(task.id)["counts"]["points"] == 0


def test_create_takes_a_container_packages_and_a_base(server_way: Way, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy==2.1\n")
    base = create(docker_args="--gpus all")
    task = create(
        docker_bash_setup_script=["apt-get update", "true"],
        requirements_file=requirements,
        base_task_id=base.id,
        add_task_init_call=False,
    )
    task.set_base_docker("python:3.12")
    read = Task.get_task(task_id=task.id)
    assert read is not None
    assert read.get_base_docker() == "python:3.12 --gpus all"
    assert read._section("container")["setup_script"] == "apt-get update\ntrue"
    assert read.get_script()["requirements"] == "numpy==2.1\n"
    read.set_packages(["torch==2.4", "numpy"])
    assert read.get_script()["requirements"] == "torch==2.4\nnumpy"


def test_a_script_of_this_machine_is_looked_at(server_way: Way, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import numpy\nprint(numpy.pi)\n")
    task = Task.create(project_name="example", script=str(script))
    found = task.get_script()
    assert task.name == "train"
    assert found["diff"].startswith("import numpy") and found["requirements"].startswith("numpy == ")
    with pytest.raises(ConfigurationError, match="is no file here"):
        Task.create(project_name="example", script=str(tmp_path / "nowhere.py"))


def test_create_without_a_project_takes_the_current_tasks_and_else_says_so(server_way: Way) -> None:
    with pytest.raises(ConfigurationError, match="project_name is needed"):
        Task.create(task_name="lost")
    server_way.init(project_name="mine", task_name="running")
    assert Task.create(task_name="found").project == "mine"


def test_create_is_refused_offline(way: Way) -> None:
    if way.name == "server":
        Task.set_offline(True)
    with pytest.raises(ConfigurationError, match=r"telemetry is offline.*Use Task\.init"):
        create()


@pytest.mark.parametrize("pairs", [[("lr",)], [(1, 2)], ["lr"]])
def test_arguments_that_are_no_pairs_make_no_task(server_way: Way, pairs: list[tuple[str, object]]) -> None:
    with pytest.raises(ConfigurationError, match="give pairs"):
        Task.create(project_name="example", task_name="x", argparse_args=pairs)
    with Client(server_way.url) as client:
        assert client.tasks()["total"] == 0


def test_name_project_type_tags_and_comment_of_a_finished_task_can_be_changed(server_way: Way) -> None:
    task = server_way.read(server_way.init(project_name="examples", task_name="before", tags=["a"]))
    task.set_name("after")
    task.move_to_project(new_project_name="elsewhere/below")
    task.set_task_type("testing")
    task.add_tags(["b", "c"])
    task.add_tags("d")
    task.remove_tags(["b"])
    task.comment = "moved"
    read = Task.get_task(task_id=task.id)
    assert read is not None
    assert (read.name, read.project, read.task_type) == ("after", "elsewhere/below", "testing")
    assert (read.get_tags(), read.comment) == (["a", "c", "d"], "moved")
    assert task.name == "after" and task.get_project_name() == "elsewhere/below"


def test_a_running_task_can_be_renamed(way: Way) -> None:
    task = way.init(project_name="examples", task_name="before")
    task.set_name("after")
    task.set_tags("only")
    task.set_parent("f" * 32)
    assert (task.name, task.get_tags(), task.parent) == ("after", ["only"], "f" * 32)
    read = way.read(task)
    assert (read.name, read.get_tags(), read.parent) == ("after", ["only"], "f" * 32)


def test_archive_publish_and_delete(server_way: Way) -> None:
    task = server_way.read(server_way.init(project_name="examples", task_name="old"))
    task.set_archived(True)
    assert task.get_archived() and task.get_system_tags() == ["archived"]
    assert [found.id for found in Task.get_tasks(project_name="examples", allow_archived=False)] == []
    task.set_archived(False)
    assert [found.id for found in Task.get_tasks(project_name="examples", allow_archived=False)] == [task.id]
    task.publish()
    assert task.get_status() == "published"
    assert task.delete()
    with pytest.raises(ValueError, match=r"could not be found|there is no task"):
        Task.get_task(task_id=task.id)
    assert task.delete() is False


def test_what_a_task_ran_with_is_not_changed_afterwards(server_way: Way) -> None:
    task = server_way.init(project_name="examples", task_name="done")
    task.set_parameter("lr", 0.1)
    read = server_way.read(task)
    with pytest.raises(ValueError, match="can only be updated while it is created or in_progress"):
        read.set_parameter("lr", 0.2)
    assert read.get_parameter("General/lr", cast=True) == 0.1
    read.set_user_properties(backbone="great")
    assert read.get_user_properties(value_only=True)["backbone"] == "great"


def test_another_programs_task_is_marked_and_waited_for(server_way: Way) -> None:
    task = create()
    task.mark_started()
    assert Task.get_task(task_id=task.id).get_status() == "in_progress"  # type: ignore[union-attr]
    task.mark_failed(status_reason="no GPU", status_message="the whole story")
    assert task.get_status_message() == "no GPU\nthe whole story"
    with pytest.raises(RuntimeError, match="is failed"):
        task.wait_for_status()
    task.wait_for_status(status=["failed"], raise_on_status=None)
    task.mark_completed()
    task.wait_for_status()
    task.mark_stopped(status_reason="enough")
    assert task.get_status() == "stopped"


def test_the_page_of_a_task_is_told(server_way: Way) -> None:
    task = server_way.init(project_name="examples", task_name="page")
    assert task.get_output_log_web_page() == f"{server_way.url}/tasks/{task.id}"
    assert Task.get_task_output_log_web_page(task.id) == f"{server_way.url}/tasks/{task.id}"


def test_a_server_that_is_away_is_an_error_and_nothing_hangs(server_way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TELEMETRY_REQUEST_TIMEOUT", "0.2")
    with pytest.raises(TelemetryError, match=r"127\.0\.0\.1:9"):
        create()
