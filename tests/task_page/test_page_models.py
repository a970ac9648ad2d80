"""The Task page, "Models", and the models of "Cloning and Executing Tasks"."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import joblib
import pytest
from page_support import Way

from telemetry import InputModel, Model, OutputModel, Task
from telemetry.errors import ConfigurationError
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.modes import load_settings


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "path" / "to" / "model.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"the weights")
    return path


def bytes_of(model: Any) -> bytes:
    path = model.get_local_copy(raise_on_error=True)
    return Path(path).read_bytes()


def test_the_page_s_sample_logs_a_model_by_hand(way: Way, weights: Path) -> None:
    # Instantiate a Task
    task = way.init(project_name="myProject", task_name="myTask")
    # Instantiate an OutputModel with a task object argument
    output_model = OutputModel(task=task, framework="PyTorch")
    # then
    (model,) = way.read(task).models["output"]
    assert (model.id, model.name, model.framework, model.task) == (output_model.id, "myTask", "PyTorch", task.id)
    assert model.url == ""


def test_the_page_s_sample_updates_and_uses_a_model(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="storing model", output_uri=True)
    task.update_output_model(model_path=str(weights))
    # then
    prev_task = way.read(task)
    last_snapshot = prev_task.models["output"][-1]
    local_weights_path = last_snapshot.get_local_copy()
    assert local_weights_path is not None
    assert Path(local_weights_path).read_bytes() == b"the weights"
    assert Path(local_weights_path).name == "model.pt"
    assert last_snapshot.name == "model"
    assert last_snapshot.url == f"blob:{last_snapshot.hash}"
    assert weights.exists()  # the user's file is never deleted unless asked


def test_without_an_output_uri_the_path_is_recorded(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="by path")
    assert task.update_output_model(model_path=str(weights)) == weights.as_uri()
    model = way.read(task).models["output"][-1]
    assert model.url == weights.as_uri()
    assert model.get_local_copy() == str(weights)
    weights.unlink()
    assert model.get_local_copy() is None


def test_what_can_be_modified(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="modified", output_uri=True)
    task.update_output_model(
        model_path=weights, name="named", comment="a description", tags=["best", "v2"], iteration=12
    )
    model = way.read(task).models["output"]["named"]
    assert (model.comment, model.tags, model.iteration) == ("a description", ["best", "v2"], 12)
    assert bytes_of(model) == b"the weights"


def test_the_same_name_again_is_the_same_model_with_new_weights(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="snapshots", output_uri=True)
    for step in range(5):
        weights.write_bytes(f"step {step}".encode())
        task.update_output_model(model_path=weights, iteration=step)
        assert task.flush()
    (model,) = way.read(task).models["output"]
    assert (model.iteration, bytes_of(model)) == (4, b"step 4")


def test_everything_of_an_output_model_reads_back(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="all of it", output_uri=True)
    model = OutputModel(
        task=task,
        config_dict={"layers": [3, 4], "act": "relu"},
        label_enumeration={"cat": 1, "dog": 2},
        name="net",
        tags=["a"],
        comment="first",
        framework="keras",
    )
    model.update_weights(str(weights), target_filename="net.bin", iteration=3, async_enable=False)
    assert model.url.startswith("blob:")
    model.update_labels({"cat": 1})
    model.tags = ["b"]
    model.comment = "second"
    model.set_metadata("accuracy", 0.9)
    model.publish()
    assert bytes_of(model) == b"the weights"  # of the running task
    read = way.read(task).models.output[0]
    assert read.id == model.id
    assert (read.name, read.framework, read.comment, read.tags) == ("net", "keras", "second", ["b"])
    assert read.labels == {"cat": 1}
    assert read.config_dict == {"layers": [3, 4], "act": "relu"}
    assert (read.iteration, read.published, read.get_metadata("accuracy")) == (3, True, 0.9)
    path = read.get_weights()
    assert path is not None and Path(path).name == "net.bin"


def test_weights_need_one_source_and_are_deleted_only_when_asked(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="sources", output_uri=True)
    model = OutputModel(task=task)
    with pytest.raises(ConfigurationError, match="either weights_filename or register_uri"):
        model.update_weights()
    with pytest.raises(ConfigurationError, match="no weights at"):
        model.update_weights("gone.pt")
    assert model.update_weights(register_uri="s3://bucket/net.pt") == "s3://bucket/net.pt"
    model.update_weights(weights, auto_delete_file=True, async_enable=False)
    assert not weights.exists()
    assert bytes_of(way.read(task).models["output"][-1]) == b"the weights"


def test_a_package_is_a_folder_again(way: Way, weights: Path) -> None:
    (weights.parent / "vocab.txt").write_text("a b c", encoding="utf-8")
    task = way.init(project_name="examples", task_name="package", output_uri=True)
    OutputModel(task=task, name="listed").update_weights_package([weights, weights.parent / "vocab.txt"])
    OutputModel(task=task, name="folder").update_weights_package(weights_path=weights.parent)
    models = way.read(task).models["output"]
    for name in ("listed", "folder"):
        files = models[name].get_weights_package()
        assert isinstance(files, list)
        assert [path.name for path in files] == ["model.pt", "vocab.txt"]
        folder = models[name].get_local_copy()
        assert (Path(str(folder)) / "vocab.txt").read_text() == "a b c"


def test_models_is_a_list_and_a_dict(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="mapping")
    for name in ("a", "b", "a2"):
        task.update_output_model(weights, name=name)
    models = way.read(task).models
    assert [model.name for model in models["output"]] == ["a", "b", "a2"]
    assert models.output.keys() == ["a", "b", "a2"]
    assert models["output"]["b"].name == models["output"][1].name == "b"
    assert models["output"][-1].name == "a2"
    assert [model.name for model in models["output"][:2]] == ["a", "b"]
    assert "b" in models["output"] and "c" not in models["output"]  # type: ignore[comparison-overlap]
    assert models["output"].get("c") is None
    assert len(models["input"]) == len(models.input) == 0
    assert set(models) == {"input", "output"}


# ---- frameworks --------------------------------------------------------------------------------------


def test_what_a_framework_saves_is_a_model_of_the_task(way: Way, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="joblib")
    path = tmp_path / "classifier.joblib"
    joblib.dump({"weights": 1}, path)
    joblib.dump({"weights": 2}, path)
    (model,) = way.read(task).models["output"]
    assert (model.name, model.framework, model.url) == ("classifier", "joblib", path.as_uri())
    assert path.exists()


def test_with_an_output_uri_what_a_framework_saves_is_uploaded(way: Way, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="joblib", output_uri=True)
    path = tmp_path / "classifier.joblib"
    for value in (1, 2, 3):
        joblib.dump({"weights": value}, path)
    kept = path.read_bytes()
    path.unlink() if task.flush() and task._running and task._running.uploads.wait() else None
    (model,) = way.read(task).models["output"]
    assert bytes_of(model) == kept  # the last snapshot


def test_wildcards_count_for_saving_and_loading(way: Way, tmp_path: Path) -> None:
    joblib.dump(0, tmp_path / "before.other")
    joblib.dump(0, tmp_path / "before.joblib")
    task = way.init(project_name="examples", task_name="wild", auto_connect_frameworks={"joblib": "*.joblib"})
    joblib.dump(1, tmp_path / "yes.joblib")
    joblib.dump(1, tmp_path / "no.pkl")
    joblib.load(tmp_path / "before.other")
    joblib.load(tmp_path / "before.joblib")
    models = way.read(task).models
    assert models["output"].keys() == ["yes"]
    assert models["input"].keys() == ["before"]


def test_loading_a_file_that_a_task_wrote_links_the_two(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "net.joblib"
    first = way.init(project_name="examples", task_name="train")
    joblib.dump([1, 2, 3], path)
    made = first.models["output"]["net"]
    first.close()
    second = way.init(project_name="examples", task_name="use")
    assert joblib.load(path) == [1, 2, 3]
    (used,) = way.read(second).models["input"]
    assert (used.id, used.task, used.name) == (made.id, first.id, "net")
    assert second.id != first.id


def test_loading_a_downloaded_copy_links_too(way: Way, tmp_path: Path) -> None:
    first = way.init(project_name="examples", task_name="train", output_uri=True)
    joblib.dump([1, 2, 3], tmp_path / "net.joblib")
    read = way.read(first)
    copy = read.models["output"][-1].get_local_copy()
    if way.name == "imported":
        Task.set_offline(True)
    second = way.init(project_name="examples", task_name="use")
    joblib.load(copy)
    (used,) = second.models["input"]
    assert (used.id, used.task) == (read.models["output"][-1].id, first.id)


def test_a_file_that_no_task_wrote_is_an_input_model_once(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "pretrained.joblib"
    joblib.dump("pretrained", path)
    task = way.init(project_name="examples", task_name="finetune")
    for _ in range(3):
        joblib.load(path)
    (used,) = way.read(task).models["input"]
    assert (used.name, used.task, used.url) == ("pretrained", "", path.as_uri())


def test_a_task_s_own_checkpoint_is_no_input(way: Way, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="resume")
    joblib.dump(1, tmp_path / "checkpoint.joblib")
    joblib.load(tmp_path / "checkpoint.joblib")
    models = way.read(task).models
    assert len(models["output"]) == 1
    assert not models["input"]


def test_a_program_that_loads_thousands_of_files_keeps_its_record_small(
    way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        joblib.dump(number, tmp_path / f"sample-{number}.joblib")
    caplog.set_level(logging.INFO, "telemetry")
    task = way.init(project_name="examples", task_name="samples")
    for number in range(120):
        joblib.load(tmp_path / f"sample-{number}.joblib")
    assert len(way.read(task).models["input"]) == 100


def test_frameworks_off_means_no_models(way: Way, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="off", auto_connect_frameworks=False)
    joblib.dump(1, tmp_path / "a.joblib")
    joblib.load(tmp_path / "a.joblib")
    models = way.read(task).models
    assert not models["output"] and not models["input"]


# ---- input models ------------------------------------------------------------------------------------


def test_an_input_model_is_connected_and_removed(way: Way, weights: Path) -> None:
    first = way.init(project_name="examples", task_name="train", output_uri=True)
    made = OutputModel(task=first, name="base", label_enumeration={"cat": 1}, config_text="layers: 3")
    made.update_weights(weights)
    read = way.read(first)
    if way.name == "imported":
        Task.set_offline(True)
    second = way.init(project_name="examples", task_name="use")
    model = InputModel(model_id=made.id)
    second.connect(model)
    (used,) = second.models["input"]
    assert (used.id, used.task, used.name, used.labels) == (made.id, first.id, "base", {"cat": 1})
    assert model.config_dict == {"layers": 3}
    assert second.input_models_id == {"base": made.id}
    assert bytes_of(model) == bytes_of(used) == bytes_of(read.models["output"][0]) == b"the weights"
    second.remove_input_models(models_to_remove=[made.id])
    assert not second.models["input"]
    second.set_input_model(model_id=made.id)
    assert second._section("labels") == {"cat": 1}
    assert way.read(second).models["input"].keys() == ["base"]


def test_an_imported_model_needs_no_task(way: Way, weights: Path) -> None:
    task = way.init(project_name="examples", task_name="import")
    model = InputModel.import_model(weights_url=str(weights), name="own", framework="PyTorch", tags=["x"])
    assert model.id == InputModel.import_model(weights_url=str(weights), name="own").id
    assert bytes_of(model) == b"the weights"
    task.connect(model)
    task.connect(InputModel.import_model(weights_url="https://example.com/net.onnx"))
    models = way.read(task).models["input"]
    assert models.keys() == ["own", "net"]
    assert (models["own"].framework, models["own"].tags) == ("PyTorch", ["x"])
    assert bytes_of(models["own"]) == b"the weights"


def test_a_model_that_nobody_knows_is_an_error(way: Way) -> None:
    way.init(project_name="examples", task_name="unknown")
    with pytest.raises(ConfigurationError, match="no model"):
        InputModel(model_id="0" * 32)
    with pytest.raises(ConfigurationError, match="model_id or a model_name"):
        Task.current_task().set_input_model()  # type: ignore[union-attr]


def test_models_are_found_across_tasks(server_way: Way, weights: Path) -> None:
    task = server_way.init(project_name="examples", task_name="train", output_uri=True)
    for name in ("resnet-18", "resnet-50"):
        OutputModel(task=task, name=name, tags=["best"] if name.endswith("50") else []).update_weights(weights)
    task.close()
    assert [model.name for model in Model.query_models(model_name="RESNET")] == ["resnet-50", "resnet-18"]
    (best,) = Model.query_models(project_name="examples", tags=["best"])
    assert bytes_of(best) == b"the weights"
    assert Model(best.id).task == task.id
    assert InputModel(name="resnet-18").name == "resnet-18"
    other = server_way.init(project_name="examples", task_name="use")
    other.set_input_model(model_name="resnet-50")
    assert server_way.read(other).models["input"]["resnet-50"].id == best.id


def test_a_file_is_recognised_by_the_server_where_the_machine_does_not_know_it(
    server_way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.joblib"
    first = server_way.init(project_name="examples", task_name="train")
    joblib.dump([1, 2, 3], path)
    made = first.models["output"]["net"]
    first.close()
    # Another user's process on the same machine: another state directory.
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "other state"))
    second = server_way.init(project_name="examples", task_name="use")
    joblib.load(path)
    (used,) = server_way.read(second).models["input"]
    assert (used.id, used.task) == (made.id, first.id)


def test_models_of_a_task_that_has_ended_can_be_changed(server_way: Way, weights: Path) -> None:
    task = server_way.init(project_name="examples", task_name="later")
    read = server_way.read(task)
    model = OutputModel(task=read, name="late")
    model.update_weights(weights, upload_uri=True)
    model.tags = ["added"]
    again = Task(open_stored(task.id, load_settings(), what="the test")).models["output"]["late"]
    assert again.tags == ["added"]
    assert bytes_of(again) == b"the weights"
