"""The Task page, "Artifacts"."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_support import Way
from PIL import Image

from telemetry import Task
from telemetry.errors import BlobError, ConfigurationError
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.modes import load_settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "path" / "to" / "folder"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("a", encoding="utf-8")
    (folder / "b.txt").write_text("b", encoding="utf-8")
    (folder.parent / "preprocess_data.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    return folder.parent


def test_the_page_s_samples(way: Way, data: Path) -> None:
    task = way.init(project_name="examples", task_name="artifacts")
    task.upload_artifact(name="data", artifact_object=str(data / "preprocess_data.csv"))
    task.upload_artifact(name="folder", artifact_object=str(data / "folder"))
    task.upload_artifact(name="link", artifact_object="azure://<account name>.blob.core.windows.net/path/to/file")
    person_dict = {"name": "Erik", "age": 30}
    # upload as JSON artifact
    task.upload_artifact(name="person dictionary json", artifact_object=person_dict)
    # upload as YAML artifact
    task.upload_artifact(name="person dictionary yaml", artifact_object=person_dict, extension_name="yaml")

    preprocess_task = way.read(task)
    # access artifact
    local_csv = preprocess_task.artifacts["data"].get_local_copy()
    assert local_csv is not None and Path(local_csv).name == "preprocess_data.csv"
    assert Path(local_csv).read_text() == "x,y\n1,2\n"
    folder = preprocess_task.artifacts["folder"].get_local_copy()
    assert folder is not None and sorted(path.name for path in Path(folder).iterdir()) == ["a.txt", "b.txt"]
    assert preprocess_task.artifacts["link"].url == "azure://<account name>.blob.core.windows.net/path/to/file"
    assert preprocess_task.artifacts["person dictionary json"].get() == person_dict
    assert preprocess_task.artifacts["person dictionary yaml"].get() == person_dict
    assert str(preprocess_task.artifacts["person dictionary yaml"].get_local_copy()).endswith(".yaml")


OBJECTS: dict[str, tuple[Any, str | None, str, str]] = {
    "json": ({"a": [1, 2.5, None]}, None, "dict", ".json"),
    "yaml": ({"a": [1, 2.5, None]}, ".yaml", "dict", ".yaml"),
    "csv": (pd.DataFrame({"x": [1, 2], "y": ["", "b"]}), None, "pandas", ".csv.gz"),
    "parquet": (pd.DataFrame({"x": [1, 2]}), ".parquet", "pandas", ".parquet"),
    "feather": (pd.DataFrame({"x": [1, 2]}), "feather", "pandas", ".feather"),
    "npz": (np.arange(6.0).reshape(2, 3), None, "numpy", ".npz"),
    "npcsv": (np.arange(6).reshape(2, 3), "csv.gz", "numpy", ".csv.gz"),
    "png": (Image.new("RGB", (4, 3), "red"), None, "image", ".png"),
    "bmp": (Image.new("RGB", (4, 3), "red"), ".bmp", "image", ".bmp"),
    "text": ("just a text", None, "string", ".txt"),
}


def assert_equal(read: Any, value: Any) -> None:
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(read, value)
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(read, value)
    elif isinstance(value, Image.Image):
        assert read.tobytes() == value.tobytes()
    else:
        assert read == value


def test_objects_of_every_type_come_back_equal(way: Way) -> None:
    task = way.init(project_name="examples", task_name="types")
    for name, (value, extension, _, _) in OBJECTS.items():
        assert task.upload_artifact(name, value, extension_name=extension, metadata={"name": name})
        assert_equal(task.artifacts[name].get(), value)  # while it runs
    read = way.read(task)
    assert list(read.artifacts) == sorted(OBJECTS)
    for name, (value, _, kind, suffix) in OBJECTS.items():
        artifact = read.artifacts[name]
        assert (artifact.name, artifact.type, artifact.mode, artifact.state) == (name, kind, "output", "stored")
        assert artifact.metadata == {"name": name}
        assert_equal(artifact.get(), value)
        path = Path(str(artifact.get_local_copy()))
        assert path.name == f"{name}{suffix}"
        content = path.read_bytes()
        assert (artifact.size, artifact.hash) == (len(content), hashlib.sha256(content).hexdigest())
        assert artifact.url == f"blob:{artifact.hash}"
        assert artifact.timestamp.year >= 2026


def test_a_pickle_of_another_program_is_loaded_only_if_the_caller_says_so(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = way.init(project_name="examples", task_name="pickles")
    value = {1, 2, frozenset({3})}
    assert task.upload_artifact("pickled", value)
    assert task.artifacts["pickled"].get() == value  # this process made it
    with pytest.raises(ConfigurationError, match="Nothing was loaded"):
        task.artifacts["pickled"].get(block_unsafe_artifacts=True)
    read = way.read(task).artifacts["pickled"]
    assert read.get() == value  # and so it did these bytes, wherever they are read back from
    monkeypatch.setattr("telemetry.sdk.bytes.depot._put_here", set())  # as in any other program
    with pytest.raises(ConfigurationError, match=r"artifacts\['pickled'\]\.get\(allow_pickle=True\)"):
        read.get()
    assert read.get(allow_pickle=True) == value
    assert Path(str(read.get_local_copy())).name == "pickled.pkl"


def test_the_same_name_again_replaces(way: Way) -> None:
    task = way.init(project_name="examples", task_name="replace")
    for step in range(20):
        task.upload_artifact("result", {"step": step})
    assert task.artifacts["result"].get() == {"step": 19}
    read = way.read(task)
    assert read.artifacts["result"].get() == {"step": 19}
    assert list(read.artifacts) == ["result"]


def test_what_changes_after_the_call_does_not_show(way: Way) -> None:
    task = way.init(project_name="examples", task_name="mutation")
    small, large = {"a": 1}, np.zeros(300_000)
    task.upload_artifact("small", small)
    task.upload_artifact("large", large)
    small["a"] = 2
    large[:] = 1
    read = way.read(task)
    assert read.artifacts["small"].get() == {"a": 1}
    assert not read.artifacts["large"].get().any()


def test_wait_on_upload_and_delete_after_upload(way: Way, data: Path) -> None:
    task = way.init(project_name="examples", task_name="wait")
    file, folder = data / "preprocess_data.csv", data / "folder"
    assert task.upload_artifact("csv", file, delete_after_upload=True, wait_on_upload=True)
    assert not file.exists()
    assert task.artifacts["csv"].state == "stored"
    assert task.upload_artifact("folder", folder, delete_after_upload=True, wait_on_upload=True)
    assert not folder.exists()
    read = way.read(task)
    assert Path(str(read.artifacts["csv"].get_local_copy())).read_text() == "x,y\n1,2\n"
    assert Path(read.artifacts["folder"].get(), "b.txt").read_text() == "b"


def test_a_file_is_kept_unless_asked(way: Way, data: Path) -> None:
    task = way.init(project_name="examples", task_name="keep")
    assert task.upload_artifact("csv", data / "preprocess_data.csv", wait_on_upload=True)
    assert (data / "preprocess_data.csv").exists()


def test_wildcards_and_lists_of_relative_paths_are_one_zip(
    way: Way, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    task = way.init(project_name="examples", task_name="zips")
    assert task.upload_artifact("wild", "folder/*.txt")
    assert task.upload_artifact("list", [Path("preprocess_data.csv"), Path("folder/a.txt")])
    read = way.read(task)
    assert sorted(path.name for path in Path(read.artifacts["wild"].get()).iterdir()) == ["a.txt", "b.txt"]
    packed = read.artifacts["list"].get_local_copy(extract_archive=False)
    with zipfile.ZipFile(str(packed)) as archive:
        assert sorted(archive.namelist()) == ["folder/a.txt", "preprocess_data.csv"]


def test_functions_of_the_users_write_and_read(way: Way) -> None:
    task = way.init(project_name="examples", task_name="functions")
    task.upload_artifact("own", 77, serialization_function=lambda value: str(value).encode(), extension_name=".num")
    read = way.read(task)
    assert read.artifacts["own"].get(deserialization_function=lambda content: int(content)) == 77
    assert Path(read.artifacts["own"].get()).suffix == ".num"


def test_previews_are_the_text_s_beginning_or_as_given(way: Way) -> None:
    task = way.init(project_name="examples", task_name="previews")
    task.upload_artifact("dict", {"name": "Erik"})
    task.upload_artifact("given", np.zeros(3), preview="three zeros")
    read = way.read(task)
    assert read.artifacts["dict"].preview == '{\n    "name": "Erik"\n}'
    assert read.artifacts["given"].preview == "three zeros"


def test_deleted_artifacts_are_gone(way: Way) -> None:
    task = way.init(project_name="examples", task_name="delete")
    for name in ("a", "b"):
        task.upload_artifact(name, {"name": name})
    assert task.delete_artifacts(["a"])
    assert not task.delete_artifacts(["never was"], raise_on_errors=False)
    with pytest.raises(ConfigurationError, match="has no artifact 'never was'"):
        task.delete_artifacts(["never was"])
    assert list(way.read(task).artifacts) == ["b"]


def test_a_registered_frame_is_uploaded_as_it_is_at_the_end(way: Way) -> None:
    task = way.init(project_name="examples", task_name="registered")
    frame = pd.DataFrame({"loss": [1.0]})
    task.register_artifact("losses", frame)
    frame.loc[1] = [0.5]
    assert list(task.get_registered_artifacts()) == ["losses"]
    pd.testing.assert_frame_equal(way.read(task).artifacts["losses"].get(), frame)


def test_the_mapping_is_read_only_and_missing_names_are_key_errors(way: Way) -> None:
    task = way.init(project_name="examples", task_name="mapping")
    task.upload_artifact("a", {})
    artifacts: Any = task.artifacts
    with pytest.raises(TypeError):
        artifacts["b"] = 1
    with pytest.raises(KeyError):
        way.read(task).artifacts["b"]


def test_what_cannot_be_stored_is_counted_and_the_program_goes_on(way: Way) -> None:
    task = way.init(project_name="examples", task_name="invalid")
    assert not task.upload_artifact("function", lambda: 1)
    assert not task.upload_artifact("", {})
    assert not task.upload_artifact("gone", Path("gone.csv"))
    assert task.ledger().dropped == {"invalid": 3}
    assert not way.read(task).artifacts


def test_bytes_that_are_nowhere_are_an_error_or_none(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    task = way.init(project_name="examples", task_name="nowhere")
    entry = {"type": "dict", "uri": f"blob:{'0' * 64}", "sha256": "0" * 64, "state": "pending", "filename": "a.json"}
    task._record.change("artifacts", "ghost", entry)
    ghost = way.read(task).artifacts["ghost"]
    assert ghost.state == "pending"
    assert ghost.get_local_copy() is None
    assert "nowhere to be found" in caplog.text
    with pytest.raises(BlobError, match="telemetry sync"):
        ghost.get_local_copy(raise_on_error=True)


def test_artifacts_can_be_added_to_a_task_that_has_ended(server_way: Way, data: Path) -> None:
    task = server_way.init(project_name="examples", task_name="later")
    read = server_way.read(task)
    assert read.upload_artifact("late", {"a": 1}, wait_on_upload=True)
    assert read.upload_artifact("file", data / "preprocess_data.csv", delete_after_upload=True)
    assert not (data / "preprocess_data.csv").exists()
    again = Task(open_stored(task.id, load_settings(), what="the test"))
    assert again.artifacts["late"].get() == {"a": 1}
    assert again.artifacts["file"].state == "stored"
    assert not task.upload_artifact("refused", {})  # the run itself has ended
