"""The Task page, "Setting Upload Destination", and what becomes of a destination that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_support import Way
from storage_support import S3, s3_server

from telemetry import Task
from telemetry.errors import ConfigurationError

pytestmark = pytest.mark.filterwarnings(
    # The test server's own: it is not ours to keep tidy.
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def keys(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


def test_the_page_s_sample(way: Way, keys: S3) -> None:
    # s3://my_models/ on the page; here a server of our own, as a MinIO is written.
    task = way.init(project_name="examples", task_name="storing model", output_uri=f"{keys.uri}/")
    Path("weights.bin").write_bytes(b"weights")
    task.update_output_model(model_path="weights.bin", model_name="net")
    task.upload_artifact("data", artifact_object={"a": 1})
    before = set(keys.names())
    read = way.read(task)
    # then
    model = read.models["output"][-1]
    prefix = f"{keys.uri}/examples/storing%20model.{task.id}"
    if way.name == "server":
        assert str(model.url).startswith(f"{prefix}/models/") and read.artifacts["data"].url.startswith(prefix)
        assert len(set(keys.names())) >= 2
        # Nothing is left behind in the spool, and the server has no copy.
        assert not list((way.folder / "state" / "spool").glob("*/blobs/*"))
        assert not list((way.folder / "server" / "blobs").glob("??/*"))
    else:
        # Offline the storage is not asked; the bytes travel in the session.
        assert set(keys.names()) == before
    assert Path(str(model.get_local_copy())).read_bytes() == b"weights"
    assert read.artifacts["data"].get() == {"a": 1}


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_shared_folder(way: Way, form: str, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="storing model", output_uri=form.format(tmp_path / "share"))
    Path("weights.bin").write_bytes(b"weights")
    task.update_output_model(model_path="weights.bin", model_name="net")
    read = way.read(task)
    assert Path(str(read.models["output"][-1].get_local_copy())).read_bytes() == b"weights"
    stored = [path for path in (tmp_path / "share").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in stored] == ([b"weights"] if way.name == "server" else [])
    # The file of the user's is where it was.
    assert Path("weights.bin").exists()


def test_the_server_itself(way: Way) -> None:
    task = way.init(project_name="examples", task_name="storing model", output_uri=True)
    Path("weights.bin").write_bytes(b"weights")
    task.update_output_model(model_path="weights.bin", model_name="net")
    assert Path(str(way.read(task).models["output"][-1].get_local_copy())).read_bytes() == b"weights"


def test_a_wrong_secret_fails_at_init(server_way: Way, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(secret="wrong").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigurationError, match=r"cannot be written: the credentials are refused .* No task was started"
    ):
        server_way.init(project_name="examples", task_name="storing model", output_uri=s3.uri)
    assert Task.current_task() is None
    # and the next one starts as if nothing had been
    task = server_way.init(project_name="examples", task_name="storing model")
    assert server_way.read(task).status == "completed"


def test_the_default_of_the_settings(server_way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_DEFAULT_OUTPUT_URI", str(tmp_path / "share"))
    task = server_way.init(project_name="examples", task_name="storing model")
    Path("weights.bin").write_bytes(b"weights")
    task.update_output_model(model_path="weights.bin", model_name="net")
    task.close()
    assert [path.name for path in (tmp_path / "share").rglob("*.bin")] == ["weights.bin"]
    # False means it, whatever the setting.
    task = server_way.init(project_name="examples", task_name="not storing", output_uri=False)
    task.update_output_model(model_path="weights.bin", model_name="net")
    task.close()
    assert len(list((tmp_path / "share").rglob("*.bin"))) == 1
    monkeypatch.setenv("TELEMETRY_DEFAULT_OUTPUT_URI", "true")
    task = server_way.init(project_name="examples", task_name="to the server")
    task.update_output_model(model_path="weights.bin", model_name="net")
    assert server_way.read(task).models["output"][-1].url.startswith("blob:")


def test_nonsense_is_refused_offline_as_well(tmp_path: Path) -> None:
    os.environ["TELEMETRY_DIR"] = str(tmp_path)
    Task.set_offline(True)
    with pytest.raises(ConfigurationError, match="of no kind that is known"):
        Task.init("p", "n", output_uri="ftp://host/folder")
    Task.set_offline(False)
