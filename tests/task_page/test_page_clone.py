"""The Task page, "Cloning and Executing Tasks"."""

from __future__ import annotations

import socket

import pytest
from page_support import Way

from telemetry.client import Client
from telemetry.errors import ConfigurationError, ServerUnreachable
from telemetry.sdk.task.task import Task


def original(way: Way) -> Task:
    """A finished task with something of everything."""
    task = way.init(project_name="examples", task_name="original task", tags=["baseline"], task_type="testing")
    task.set_parameters({"Args/epochs": 3, "lr": 0.1})
    task.connect_configuration({"a": [1, 2]}, name="dictionary")
    task.set_user_properties(backbone="great")
    task.set_comment("the first")
    task.get_logger().report_scalar("loss", "train", 1.0, 0)
    task.upload_artifact("data", {"a": 1}, wait_on_upload=True)
    return way.read(task)


def test_the_page_s_sample(server_way: Way) -> None:
    task = original(server_way)
    cloned_task = Task.clone(
        source_task=task,  # type: Optional[Union[Task, str]]
        # override default name
        name="newly created task",  # type: Optional[str]
        comment=None,  # type: Optional[str]
        # insert cloned task into a different project
        project="another project",  # type: Optional[str]
    )
    # Set parameters (replaces existing hyperparameters in task)
    cloned_task.set_parameters({"epochs": 7, "lr": 0.5})
    # Override git repo information
    cloned_task.set_repo(repo="https://github.com/allegroai/clearml.git", branch="my_branch_name")
    # then
    read = Task.get_task(task_id=cloned_task.id)
    assert read is not None
    assert (read.name, read.project, read.get_status()) == ("newly created task", "another project", "created")
    parameters = read.get_parameters(cast=True)
    assert {name: value for name, value in parameters.items() if not name.startswith("properties/")} == {
        "General/epochs": 7,
        "General/lr": 0.5,
    }
    assert read.get_script()["repository"] == "https://github.com/allegroai/clearml.git"
    assert read.get_script()["branch"] == "my_branch_name"


def test_a_clone_takes_the_settings_and_leaves_what_came_of_them(server_way: Way) -> None:
    task = original(server_way)
    clone = Task.get_task(task_id=Task.clone(task.id).id)
    assert clone is not None and clone.id != task.id
    assert (clone.name, clone.project, clone.task_type) == ("Clone Of original task", "examples", "testing")
    assert (clone.get_tags(), clone.comment, clone.parent) == (["baseline"], "the first", task.id)
    assert clone.get_parameters() == task.get_parameters()
    assert clone.get_configuration_object("dictionary") == task.get_configuration_object("dictionary")
    assert clone.get_user_properties(value_only=True) == {"backbone": "great"}
    assert dict(clone.artifacts) == {}
    with Client(server_way.url) as client:
        assert client.task(clone.id)["counts"]["points"] == 0
    # the source is as it was
    assert task.get_parameters(cast=True)["Args/epochs"] == 3


def test_a_clone_of_a_clone_has_the_same_parent(server_way: Way) -> None:
    task = original(server_way)
    again = Task.clone(Task.clone(task), comment="another")
    assert (again.parent, again.comment, again.name) == (task.id, "another", "Clone Of Clone Of original task")
    assert Task.clone(task, parent=again.id).parent == again.id


def test_the_running_task_can_be_cloned(server_way: Way) -> None:
    task = server_way.init(project_name="examples", task_name="running")
    task.set_parameter("lr", 0.3)
    assert Task.clone().get_parameter("General/lr", cast=True) == 0.3


def test_set_repo_leaves_what_is_not_given_and_removes_what_is_empty(server_way: Way) -> None:
    clone = Task.clone(original(server_way))
    clone.set_repo(repo="https://example.org/a.git", branch="main", commit="abc")
    clone.set_repo(branch="other", commit="")
    script = clone.get_script()
    assert (script["repository"], script["branch"], "commit" in script) == ("https://example.org/a.git", "other", False)


@pytest.mark.parametrize("source", [None, 7, "0" * 32])
def test_what_is_no_task_cannot_be_cloned(server_way: Way, source: object) -> None:
    with pytest.raises(ConfigurationError, match=r"give a task|there is no task"):
        Task.clone(source)  # type: ignore[arg-type]


def test_without_an_answer_from_anybody_nothing_was_cloned(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("TELEMETRY_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TELEMETRY_REQUEST_TIMEOUT", "0.1")
    with pytest.raises(ServerUnreachable, match=r"Connection refused\. Nothing was changed$"):
        Task.create(project_name="examples", task_name="nowhere", repo="r", script="s.py")
