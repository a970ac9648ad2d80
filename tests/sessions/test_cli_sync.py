"""telemetry sync and import: session folders and zips to a real server, whole and damaged."""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry import Task
from telemetry.cli import main
from telemetry.client import Client
from telemetry.journal import SEGMENTS
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

POINTS = 500


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        yield server.url


def record(name: str, sinks: list[str] | None = None) -> str:
    """Run a small task; return its id."""
    task = Task.init("tests", name, sinks=sinks, auto_resource_monitoring=False, auto_connect_streams=False)
    for step in range(POINTS):
        task.get_logger().report_scalar("loss", "train", 1.0 / (step + 1), step)
    task.close(timeout=2.0)
    return task.id


def stored(url: str, task_id: str) -> tuple[str, list[float | None]]:
    """Return the task's status and the values of its one series, as the server has them."""
    with Client(url) as client:
        (series,) = client.series(task_id, kind="scalar")
        points = client.points(task_id, [series["id"]])
        return client.task(task_id)["status"], points["series"][0]["y"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = [1.0 / (step + 1) for step in range(POINTS)]


def test_what_lies_in_the_state_directory_is_sent_and_left_as_it_was(
    url: str, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = record("folder"), record("zipped", [f"zip:{state_dir / 'sessions'}"])
    before = tree(state_dir)

    assert main(["sync", "--url", url]) == 0

    assert stored(url, first) == ("completed", EXPECTED)
    assert stored(url, second) == ("completed", EXPECTED)
    assert tree(state_dir) == before
    assert "sending 2 sessions" in capsys.readouterr().out


def test_sending_again_changes_nothing(url: str, state_dir: Path) -> None:
    task_id = record("twice")

    assert main(["sync", str(state_dir / "sessions" / task_id), "--url", url]) == 0
    assert main(["sync", str(state_dir / "sessions" / task_id), "--url", url]) == 0

    assert stored(url, task_id) == ("completed", EXPECTED)


def test_what_a_run_without_its_server_left_is_sent_by_the_command_it_printed(
    url: str, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    task_id = record("alone", [nobody])
    command = capsys.readouterr().err.rpartition("telemetry sync ")[2].strip()

    assert main(["sync", command, "--url", url]) == 0

    assert stored(url, task_id) == ("completed", EXPECTED)


def test_a_zip_from_elsewhere_is_imported(url: str, tmp_path: Path) -> None:
    task_id = record("elsewhere", [f"zip:{tmp_path / 'run.zip'}"])

    assert main(["import", str(tmp_path / "run.zip"), "--url", url]) == 0

    assert stored(url, task_id) == ("completed", EXPECTED)


def test_damage_is_skipped_said_and_exit_code_1(url: str, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task_id = record("damaged")
    (segment,) = (state_dir / "sessions" / task_id / SEGMENTS).iterdir()
    segment.write_bytes(segment.read_bytes() + b"noise")

    assert main(["sync", "--url", url]) == 1

    assert stored(url, task_id) == ("completed", EXPECTED)
    assert "skipped: " in capsys.readouterr().err


def test_nothing_to_send_is_no_failure(url: str, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "--url", url]) == 0
    state_dir.mkdir()
    assert main(["sync", "--url", url]) == 0

    assert capsys.readouterr().out == f"nothing to send in {state_dir}\n" * 2


def test_a_server_that_is_not_there_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    record("unsent")

    assert main(["sync", "--url", nobody, "--timeout", "0"]) == 1

    assert "cannot reach" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["missing", "text.zip", "other.zip"])
def test_what_is_no_session_is_refused_by_name(
    what: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("holiday.txt", "sun")

    assert main(["import", str(tmp_path / what), "--url", url]) == 1

    assert what in capsys.readouterr().err


def test_a_url_that_is_no_server_is_exit_code_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "--url", "zip:a"]) == 78
