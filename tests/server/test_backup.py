"""`telemetry backup` of servers that run, are stopped or were killed; and who may ask for one."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sdk_support import environment
from server_support import LOSS, START_NS, TASK, Http, config_of, frame_of, rows_of, started

from telemetry.cli import main
from telemetry.client import Client
from telemetry.events import RecordChange
from telemetry.server.app import BackgroundServer
from telemetry.server.store import store as store_module
from telemetry.server.tokens import Scope, TokenFile
from telemetry.server.upkeep.address import find_server


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def send_artifact(url: str, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    entry = {"uri": f"blob:{sha256}", "sha256": sha256, "size_bytes": len(data), "type": "custom"}
    Http(url).send(frame_of({}, [RecordChange(START_NS, "artifacts", "weights", entry)], sequence=1_000_000))
    with Client(url) as client:
        client.send_blob(TASK, sha256, io.BytesIO(data), len(data))


def points_at(url: str) -> int:
    with Client(url) as client:
        points: int = client.task(TASK)["points"]
        return points


def test_a_server_that_takes_frames_is_backed_up_and_one_is_started_on_the_backup(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # Given a server, in the usual directory, and somebody who sends
    folder = tmp_path / "backup"
    ended, sent = threading.Event(), 0
    with started(state_dir / "server") as server:
        send_artifact(server.url, b"the weights")

        def send() -> None:
            nonlocal sent
            while not ended.is_set():
                frame = frame_of({LOSS: rows_of([1.0], first=sent)}, sequence=sent)
                assert Http(server.url).post(frame).results == ["stored"]
                sent += 1

        sender = threading.Thread(target=send)
        sender.start()
        try:
            # When
            assert main(["backup", str(folder)]) == 0
            before = sent
            assert main(["backup", str(folder)]) == 0
        finally:
            ended.set()
            sender.join()
        assert points_at(server.url) == sent
    # Then
    out, err = capsys.readouterr()
    assert "whose server runs and goes on" in err
    assert "1 tasks" in out and "1, 11 B; 1 of them new, 11 B" in out and "1, 11 B; 0 of them new, 0 B" in out
    assert main(["backup", str(folder), "--verify", "--sha256"]) == 0
    assert "sound backup, every byte of it" in capsys.readouterr().out
    with started(folder) as restored:
        assert before <= points_at(restored.url) <= sent
        with Client(restored.url) as client:
            assert client.task(TASK)["record"]["artifacts"]["weights"]["state"] == "stored"
    assert "was a backup, of" in caplog.text
    assert main(["backup", str(folder), "--verify"]) == 78


def test_a_stopped_server_is_backed_up_where_it_lies(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    with started(data) as server:
        Http(server.url).send(frame_of({LOSS: rows_of([1.0, 2.0])}))
        assert find_server(data) is not None
        assert stat.S_IMODE((data / "server.json").stat().st_mode) == 0o600
    assert find_server(data) is None
    assert main(["backup", str(tmp_path / "backup"), "--directory", str(data)]) == 0
    assert "whose server does not run" in capsys.readouterr().err
    with started(tmp_path / "backup") as restored:
        assert points_at(restored.url) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_server_that_was_killed_says_still_where_it_was_and_is_backed_up(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "telemetry.cli", "server", "--port", "0", "--no-watch"]
    with subprocess.Popen(command, env=environment(state_dir), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        Http(url).send(frame_of({LOSS: rows_of([1.0])}))
        process.send_signal(signal.SIGKILL)
    assert find_server(state_dir / "server") is not None
    assert main(["backup", str(tmp_path / "backup")]) == 0
    assert "whose server does not run" in capsys.readouterr().err
    # And where another server has its port by now, that one is not asked
    with BackgroundServer(config_of(tmp_path / "another")) as another:
        address = {"url": another.url, "key": "of a process that is gone"}
        (state_dir / "server" / "server.json").write_text(json.dumps(address))
        assert main(["backup", str(tmp_path / "backup")]) == 0
    with started(tmp_path / "backup") as restored:
        assert points_at(restored.url) == 1


def ask(url: str, folder: Path, token: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connection.request("POST", "/api/v1/backup", json.dumps({"folder": str(folder)}), headers)
    return connection, connection.getresponse()


def test_only_the_directory_of_the_server_opens_it_and_no_token_does(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    _, admin = TokenFile(data).create([Scope.ADMIN])
    for directory, token in ((data, admin), (tmp_path / "without tokens", "")):
        with started(directory) as server:
            connection, answer = ask(server.url, tmp_path / "backup", token)
            assert (answer.status, (tmp_path / "backup").exists()) == (403, False)
            connection.close()
            local = find_server(directory)
            assert local is not None
            # A path that depends on where the server was started is none
            connection, answer = ask(server.url, Path("backup"), local.key)
            assert answer.status == 400
            connection.close()
    assert main(["backup", str(tmp_path / "backup"), "--directory", str(data)]) == 0


@contextmanager
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Have copying take for ever; yields what says whether one is under way."""
    under_way = threading.Event()

    def copy(source: Any, target: Path, between: Callable[[int, int], None]) -> None:
        under_way.set()
        try:
            while True:
                between(0, 1)
        finally:
            under_way.clear()

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "copy_pages", copy)
        yield under_way.is_set


def test_a_backup_ends_when_nobody_waits_for_it_or_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endless(monkeypatch) as is_under_way, started(tmp_path / "data") as server:
        local = find_server(tmp_path / "data")
        assert local is not None
        # Given one that is being made
        connection, answer = ask(server.url, tmp_path / "backup", local.key)
        assert json.loads(answer.readline()) == {"what": "database", "done_bytes": 0, "total_bytes": 0}
        # Then a second one has to wait, and frames do not
        second, refused = ask(server.url, tmp_path / "backup", local.key)
        assert (refused.status, "made already" in refused.read().decode()) == (409, True)
        second.close()
        assert Http(server.url).post(frame_of({LOSS: rows_of([1.0])})).results == ["stored"]
        # When whoever asked for it goes away, it ends
        answer.close()
        connection.close()
        while is_under_way():
            assert Http(server.url).request("GET", "/healthz").status == 200
        # And with the server, when that stops
        connection, answer = ask(server.url, tmp_path / "backup", local.key)
        answer.readline()
    assert not is_under_way()
    assert "the server stops" in answer.read().decode()
    answer.close()
    connection.close()
    # What was cut is taken for no backup
    assert main(["backup", str(tmp_path / "backup"), "--verify"]) == 1
    assert main(["server", "--directory", str(tmp_path / "backup"), "--port", "0"]) == 78


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["backup", "new"], 78, "there is no server's data in"),
        (["backup", "new", "--verify"], 78, "is no backup"),
        (["backup", "new", "--sha256"], 2, "--sha256 goes with --verify"),
        (["backup"], 2, "DIR"),
    ],
)
def test_what_cannot_be_is_said_with_its_exit_code(
    line: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        ended = main(line)
    except SystemExit as error:
        ended = int(error.code or 0)
    assert (ended, said in capsys.readouterr().err) == (code, True)
    assert not (tmp_path / "new").exists()
