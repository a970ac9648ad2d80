"""Artifacts where something goes wrong: kills, forks, damage, hostile zips, sinks without a folder; their memory."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdk_support import only_session, read_story, run_program

from telemetry import OutputModel, Task
from telemetry.errors import BlobError, ConfigurationError
from telemetry.sdk.bytes.deposit import Deposit
from telemetry.sdk.bytes.parcel import Parcel
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.handles.copies import unpacked
from telemetry.sdk.identity.modes import load_settings
from telemetry.settings import default_cache_dir
from telemetry.storage.blobs import BLOBS


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    with Task.init("p", "n", auto_connect_streams=False, auto_resource_monitoring=False) as task:
        yield task


def reopened(task: Task) -> Task:
    return Task(open_stored(task.id, load_settings(), what="the test"))


def test_what_was_uploaded_survives_a_kill(tmp_path: Path) -> None:
    program = """
        import os, signal
        from telemetry import OutputModel, Task
        task = Task.init("p", "n", auto_resource_monitoring=False, output_uri=True)
        task.upload_artifact("numbers", {"a": [1, 2]}, wait_on_upload=True)
        open("w.pt", "w").write("weights")
        OutputModel(task, name="net").update_weights("w.pt", async_enable=False)
        task.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    variables = {"TELEMETRY_QUIET": "1"}
    assert run_program(program, tmp_path / "state", variables=variables).returncode == -9
    session = only_session(tmp_path / "state")
    story = read_story(session)
    entry = story.record["artifacts"]["numbers"]
    (model,) = story.record["output_models"].values()
    for found in (entry, model):
        assert found["uri"] == f"blob:{found['sha256']}"
        assert (session / BLOBS / found["sha256"]).stat().st_size == found["size_bytes"]


@pytest.mark.slow
def test_a_huge_array_is_not_held_twice(tmp_path: Path) -> None:
    program = """
        import resource, sys
        import numpy as np
        from telemetry import OutputModel, Task
        task = Task.init("p", "n", auto_resource_monitoring=False)
        array = np.random.default_rng(0).random(40_000_000)  # 320 MB
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert task.upload_artifact("array", array, wait_on_upload=True)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        task.close()
        print("grown", (after - before) // 1024)
    """
    done = run_program(program, tmp_path / "state", variables={"TELEMETRY_QUIET": "1"})
    assert done.returncode == 0, done.stderr
    grown_mib = int(done.stdout.split()[-1])
    assert grown_mib < 100


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(values=st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=200) | st.text(max_size=50)))
def test_any_name_and_object_reads_back_with_the_sha256_of_its_file(task: Task, values: dict[str, Any]) -> None:
    kept = {name: value for name, value in values.items() if name.strip()}
    for name, value in kept.items():
        assert task.upload_artifact(name, {"value": value} if isinstance(value, str) else value)
    artifacts = task.artifacts
    for name, value in kept.items():
        artifact = artifacts[name.encode("utf-8", "backslashreplace").decode()]
        assert artifact.get() == ({"value": value} if isinstance(value, str) else value)
        content = Path(str(artifact.get_local_copy())).read_bytes()
        assert (artifact.hash, artifact.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_forked_child_uploads_for_its_parent_s_task(task: Task) -> None:
    task.upload_artifact("parent", {"who": "parent"}, wait_on_upload=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            uploaded = task.upload_artifact("child", {"who": "child"}, wait_on_upload=True)
            code = 0 if uploaded and task.artifacts["parent"].get() == {"who": "parent"} else 2
            task.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    task.close()
    assert reopened(task).artifacts["child"].get() == {"who": "child"}


def test_a_cached_copy_that_is_damaged_in_its_session_is_refused(task: Task) -> None:
    task.upload_artifact("a", {"a": 1}, wait_on_upload=True)
    task.close()
    read = reopened(task).artifacts["a"]
    (session,) = (load_settings().state_dir / "sessions").iterdir()
    (session / BLOBS / read.hash).write_bytes(b'{"a": 2}')
    with pytest.raises(BlobError, match="arrived damaged"):
        read.get_local_copy(raise_on_error=True)
    assert read.get_local_copy() is None
    assert not list((default_cache_dir()).rglob("*.json"))


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "a/../../escape"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(BlobError, match="leads out of the folder"):
        unpacked(path)
    assert [item.name for item in tmp_path.iterdir()] == ["hostile.zip"]


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros-0", bytes(4_000_000))
        # More members whose bytes are those of the first.
        for number in range(1, 50):
            twin = copy.copy(archive.filelist[0])
            twin.filename = twin.orig_filename = f"zeros-{number}"
            archive.filelist.append(twin)
    with pytest.raises(BlobError, match="an honest zip"):
        unpacked(path)
    assert [item.name for item in tmp_path.iterdir()] == ["bomb.zip"]


def test_a_name_from_elsewhere_leads_nowhere(task: Task) -> None:
    task.upload_artifact("a", {"a": 1}, wait_on_upload=True)
    sha256 = task.artifacts["a"].hash
    entry = {"type": "dict", "uri": f"blob:{sha256}", "sha256": sha256, "filename": "../../../../tmp/evil.json"}
    task._record.change("artifacts", "evil", entry)
    path = Path(str(task.artifacts["evil"].get_local_copy()))
    assert path.is_relative_to(default_cache_dir())
    assert path.name == "evil.json"


def test_a_file_that_goes_away_before_it_is_read_is_a_failed_artifact(task: Task, tmp_path: Path) -> None:
    file, gate = tmp_path / "data.csv", threading.Event()
    file.write_text("x")
    running = task._running
    assert running is not None

    def wait_at_the_gate() -> Path:
        gate.wait()
        return file

    running.uploads.submit(Deposit(parcel=Parcel(filename="first", source=wait_at_the_gate)))
    assert task.upload_artifact("gone", file)
    assert task.artifacts["gone"].state == "pending"
    file.rename(tmp_path / "elsewhere")
    gate.set()
    assert not task._core.depot.wait("artifacts", "gone")
    artifact = task.artifacts["gone"]
    assert artifact.state == "failed"
    assert "data.csv" in artifact.error
    assert artifact.get_local_copy() is None
    task.close()
    assert (reopened(task).artifacts["gone"].state, reopened(task).artifacts["gone"].error) == (
        "failed",
        artifact.error,
    )


def test_a_sink_without_a_folder_keeps_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    with open(os.devnull, "w") as null:  # noqa: PTH123
        monkeypatch.setattr("sys.stdout", null)
        with Task.init("p", "n", sinks=["stdout:json"], auto_connect_streams=False) as task:
            assert not task.upload_artifact("a", {}, wait_on_upload=True)
            assert task.artifacts["a"].state == "failed"
            assert "no session folder" in task.artifacts["a"].error
            with pytest.raises(BlobError, match="could not be stored: there is no session folder"):
                task.artifacts["a"].get()


def test_disabled_keeps_nothing_and_takes_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_MODE", "disabled")
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    weights = tmp_path / "w.pt"
    weights.write_text("x")
    with Task.init("p", "n", output_uri=True) as task:
        assert task.upload_artifact("a", np.zeros(3), wait_on_upload=True)
        assert not task.artifacts
        OutputModel(task).update_weights(weights, auto_delete_file=True, async_enable=False)
        task.update_output_model(weights)
        assert task.models["output"] is not None
    assert weights.exists()
    assert not (tmp_path / "state").exists()


def test_artifacts_print_as_what_they_are(task: Task) -> None:
    assert task.upload_artifact("numbers", {"a": 1}, wait_on_upload=True)
    assert repr(task.artifacts) == "{'numbers': <Artifact 'numbers' dict 14 bytes>}"
    assert repr(task.artifacts.keys()) == "dict_keys(['numbers'])"
    assert "numbers" in task.artifacts
    assert task.artifacts.get("nope") is None
    with pytest.raises(KeyError, match=rf"task {task.id} has no artifact 'nope'. It has: 'numbers'"):
        task.artifacts["nope"]


def test_a_task_that_has_ended_takes_no_artifact(task: Task) -> None:
    task.close()
    assert not task.upload_artifact("late", {})
    with pytest.raises(ConfigurationError, match="can be read but not changed"):
        reopened(task).upload_artifact("late", {})
