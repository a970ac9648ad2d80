"""What a dead run left for a server is sent by the next run that has the same server, and by nobody else."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_support import run_program
from server_support import Http, started
from telemetry.sinks.http import HttpSink

from telemetry.cli import main
from telemetry.errors import SinkUnavailable
from telemetry.events import Batch, Scalar, ScalarColumns, SingleValue
from telemetry.pipeline import Pipeline
from telemetry.sdk.launch import leftovers as leftovers_module
from telemetry.sdk.launch.leftovers import KEEP_S, QUIET_S, Leftovers
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig
from telemetry.settings import Settings
from telemetry.testing import make_header
from telemetry.wire import encode

TASK = "a" * 32


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path / "server") as running:
        yield running.url


def leave(state: Path, url: str, *, task_id: str = TASK, age_s: float = QUIET_S + 10) -> Path:
    """Return the spool folder of a run that could not reach its server and ended `age_s` ago."""

    class Unreachable(HttpSink):
        async def send(self, frames: object) -> dict[tuple[bytes, int], str]:
            raise SinkUnavailable("no network")

    pipeline = Pipeline(make_header(task_id), [Unreachable(url)], settings=Settings(state_dir=state))
    pipeline.start()
    for step in range(100):
        pipeline.emit(Scalar("loss", "train", 1.0, step, step))
    assert pipeline.close(timeout_s=5.0).on_disk == 100
    folder = state / "spool" / task_id
    grow_old(folder, age_s)
    return folder


def grow_old(folder: Path, age_s: float) -> None:
    then = time.time() - age_s
    for path in (folder / "segments").iterdir():
        os.utime(path, (then, then))


def points(url: str, task_id: str = TASK) -> int:
    answer = Http(url).api(f"/tasks/{task_id}")
    return 0 if answer.status == 404 else int(answer.json["points"])


def look(state: Path, url: str, own: Path | None = None) -> None:
    Leftovers(state / "spool", HttpSink(url), lambda: own).look()


def test_it_is_sent_once_and_removed_a_day_later(server: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = leave(state_dir, server)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    look(state_dir, server)
    assert points(server) == 100
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # then it is not sent again
    monkeypatch.setattr(Leftovers, "_send", lambda self, folder: pytest.fail("sent again"))
    look(state_dir, server)
    # and nothing is left of it in the end
    grow_old(folder, KEEP_S + 10)
    look(state_dir, server)
    assert not folder.exists() and not list((state_dir / "spool" / ".sent").iterdir())


def test_what_is_another_servers_or_alive_or_our_own_is_left_alone(server: str, state_dir: Path) -> None:
    # given what is for another server, what was written a moment ago, and this run's own folder
    elsewhere = leave(state_dir, "http://127.0.0.1:9", task_id="b" * 32)
    alive = leave(state_dir, server, task_id="c" * 32, age_s=0)
    own = leave(state_dir, server, task_id="d" * 32)
    # then nothing of it is sent
    look(state_dir, server, own)
    assert [points(server, folder.name) for folder in (elsewhere, alive, own)] == [0, 0, 0]
    assert not (state_dir / "spool" / ".sent").exists()


def test_an_address_is_not_to_be_read_in_the_folder(state_dir: Path) -> None:
    folder = leave(state_dir, "http://127.0.0.1:9")
    assert b"127.0.0.1" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_server_that_is_away_ends_the_look_and_nothing_is_noted(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers_module, "REQUEST_PATIENCE_S", 0.1)
    leave(state_dir, "http://127.0.0.1:9")
    look(state_dir, "http://127.0.0.1:9")
    assert not (state_dir / "spool" / ".sent").exists()


def test_stopping_does_not_wait_for_a_server_that_does_not_answer(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        leave(state_dir, url)
        one = Leftovers(state_dir / "spool", HttpSink(url, timeout_s=3600), lambda: None)
        one.start()
        connection, _ = mute.accept()
        with connection:
            assert connection.recv(1)
            # when it is stopped in the middle of a request, that request ends
            one.stop()
            while connection.recv(65536):
                pass


def test_the_next_run_sends_what_a_run_without_its_server_left(state_dir: Path, tmp_path: Path) -> None:
    program = """
        import os, sys, time
        from pathlib import Path
        from telemetry import Task
        task = Task.init("leftovers", sys.argv[1], auto_resource_monitoring=False, auto_connect_streams=False)
        for step in range(100):
            task.get_logger().report_scalar("loss", "train", 1.0, step)
        while len(sys.argv) > 2 and not list(Path(os.environ["TELEMETRY_DIR"]).glob("spool/.sent/*.json")):
            time.sleep(0.01)
        task.close(2)
    """
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    variables = {"TELEMETRY_URL": f"http://127.0.0.1:{port}"}
    # given a run whose server is not there
    assert run_program(program, state_dir, "first", variables=variables).returncode == 0
    (folder,) = (state_dir / "spool").iterdir()
    grow_old(folder, QUIET_S + 10)
    # when the server is there, and the next run begins
    with BackgroundServer(ServerConfig(tmp_path / "server", port=port)) as running:
        done = run_program(program, state_dir, "second", "wait", variables=variables)
        assert done.returncode == 0, done.stderr
        found = {task["name"]: task["points"] for task in Http(running.url).get("/tasks")["tasks"]}
    assert found == {"first": 100, "second": 100}


def test_sync_offers_refused_frames_again(server: str, state_dir: Path) -> None:
    # given a frame that a server refused once
    folder = leave(state_dir, server)
    frame = encode(
        Batch(TASK, ScalarColumns(), [SingleValue(1, "best", 0.5)], 1), writer_id=b"another writer !", sequence=0
    )
    (folder / "quarantine").mkdir()
    (folder / "quarantine" / "x.frame").write_bytes(frame.data)
    (folder / "quarantine" / "x.reason.txt").write_text("the project has reached its limit\n")
    # then sync sends it with the rest
    assert main(["sync", str(folder), "--url", server]) == 0
    assert points(server) == 100
    assert [value["value"] for value in Http(server).get(f"/tasks/{TASK}/values")["values"]] == [0.5]
