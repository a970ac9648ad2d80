"""TELEMETRY_MODE=disabled: every call of the Task page works, touches nothing, and reads as if nothing were there."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry import InputModel, Model, OutputModel, Task
from telemetry.errors import ConfigurationError, JournalError


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Disable telemetry, with a server that nobody must ask; return the folder that must not come to be."""
    monkeypatch.setenv("TELEMETRY_MODE", "disabled")
    monkeypatch.setenv("TELEMETRY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def test_reports_read_back_as_none(state_dir: Path) -> None:
    with Task.init("p", "n") as task:
        task.get_logger().report_scalar("a", "b", 1.0, 0)
        task.get_logger().report_single_value("v", 1.0)

        assert task.get_last_scalar_metrics() == {}
        assert task.get_reported_scalars() == task.get_all_reported_scalars(x_axis="iso_time") == {}
        assert task.get_reported_single_values() == {}
        assert task.get_reported_single_value("v") is None
        assert task.get_reported_console_output() == []
        assert task.get_reported_plots() == []
        assert task.get_debug_samples("a", "b") == []
        assert task.get_last_iteration() == 0
    assert not state_dir.exists()


def test_queries_find_nothing_and_ask_nobody(state_dir: Path) -> None:
    assert Task.get_tasks(tags=["a"]) == []
    assert Task.query_tasks(project_name="p") == []
    assert Task.get_task(project_name="p", task_name="n") is None
    assert Model.query_models(model_name="m") == []
    assert not state_dir.exists()


def test_a_task_of_any_id_is_there_and_empty(state_dir: Path) -> None:
    task = Task.get_task("123456deadbeef")

    assert task is not None
    assert task.get_parameters() == {}
    assert task.get_reported_scalars() == {}
    assert task.upload_artifact("a", {"b": 1}, wait_on_upload=True)
    task.set_user_properties(stage="final")
    assert task.get_user_properties(value_only=True) == {"stage": "final"}
    task.wait_for_status()
    assert task.delete()
    assert not state_dir.exists()


def test_drafts_are_made_and_read_back_in_the_program(state_dir: Path) -> None:
    draft = Task.create(project_name="p", task_name="n", repo="r", script="s.py", argparse_args=[("lr", 0.1)])
    clone = Task.clone(draft)
    clone.set_parameters({"epochs": 7})

    assert draft.get_parameters(cast=True) == {"Args/lr": 0.1}
    assert (clone.name, clone.status, clone.get_parameter("epochs", cast=True)) == ("Clone Of n", "created", 7)
    assert not state_dir.exists()


def test_models_can_be_named_saved_and_connected(state_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_text("x")
    with Task.init("p", "n", output_uri=True) as task:
        task.connect(InputModel(model_id="nobody's"))
        task.connect(InputModel(name="best", project="p"))
        task.set_input_model(model_name="best")
        OutputModel(task).update_weights(weights, async_enable=False)
    OutputModel(Task.clone(task)).update_weights(weights, async_enable=False)
    assert not state_dir.exists()


def test_an_import_sends_nothing(state_dir: Path) -> None:
    with Task.init("p", "n") as task:
        pass
    assert Task.import_offline_session(task.get_offline_mode_folder()) == ""
    assert not state_dir.exists()


def test_an_artifact_that_is_missing_is_named_with_the_reason(state_dir: Path) -> None:
    with (
        Task.init("p", "n") as task,
        pytest.raises(KeyError, match=r"has no artifact 'data'. It has: none; telemetry is disabled"),
    ):
        task.artifacts["data"]


def test_no_session_to_import_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_URL", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"None was given.*set_offline\(True\) before Task.init"):
        Task.import_offline_session(None)


def test_a_session_that_is_not_there_is_said_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "file" / "state"))
    monkeypatch.delenv("TELEMETRY_URL", raising=False)
    task = Task.init("p", "n", auto_connect_streams=False, auto_resource_monitoring=False)
    with pytest.raises(JournalError, match=rf"there is no {tmp_path}/file/state/sessions/{task.id}"):
        task.get_reported_scalars()
    task.close(timeout=0.5)


def test_an_id_offline_is_looked_for_on_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_OFFLINE_MODE", "1")
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"no session of task '123456deadbeef' in .*offline mode"):
        Task.get_task("123456deadbeef")
    with pytest.raises(ConfigurationError, match=r"needs a server.*Leave it: Task.set_offline\(False\)"):
        Task.get_tasks()
    with pytest.raises(ConfigurationError, match=r"a str of 32 hexadecimal digits, not int: 5"):
        Task.get_task(5)  # type: ignore[arg-type]
