"""No copy of a token anywhere but in the header that carries it; no file that others may read."""

from __future__ import annotations

import asyncio
import http.server
import logging
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from sdk_support import environment
from server_support import LOSS, Http, frame_of, rows_of, started
from telemetry.sinks.http import HttpSink, open_sink

from telemetry.client import AsyncClient, Client
from telemetry.errors import ConfigurationError, ServerError, SinkRejected, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.network.credentials import Credentials, is_loopback
from telemetry.sdk.identity.masking import MASK, mask_command, mask_environment
from telemetry.server.config import ServerConfig
from telemetry.server.tokens import Scope, TokenFile
from telemetry.settings import Settings

HEADER = TaskHeader("0" * 32, b"w" * 16, "p", "n")

PROGRAM = """
    import os, sys
    os.umask(0)
    from telemetry import Task
    task = Task.init("p", "n")
    log = task.get_logger()
    for step in range(100):
        log.report_scalar("loss", "train", 1.0, step)
    log.report_single_value("final", 1.0)
    print("ready", flush=True)
    sys.stdin.readline()
    if "fail" in sys.argv:
        raise RuntimeError("the job's own failure")
    task.close()
"""


def copies(text: str, *places: Path) -> list[Path]:
    """Return the files below some places that hold `text`, also inside zips."""
    found = []
    for path in (item for place in places for item in [place, *place.rglob("*")] if item.is_file()):
        if text.encode() in path.read_bytes():
            found.append(path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                found += [path for name in archive.namelist() if text.encode() in archive.read(name)]
    return found


def open_to_others(*places: Path) -> list[str]:
    """Return what others than its owner may read, write or enter."""
    items = [item for place in places for item in [place, *place.rglob("*")]]
    return [f"{stat.S_IMODE(item.stat().st_mode):o} {item}" for item in items if item.stat().st_mode & 0o077]


class Running:
    """A program that has reported and waits; what it and its kin say on their command lines, and print."""

    def __init__(self, state_dir: Path, *arguments: str, **variables: str) -> None:
        program = state_dir.parent / "program.py"
        program.write_text(textwrap.dedent(PROGRAM))
        self._process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env=environment(state_dir, **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        self.printed = ""
        self.wait_for("ready")

    def wait_for(self, text: str) -> None:
        assert self._process.stdout is not None
        while text not in self.printed:
            line = self._process.stdout.readline()
            assert line, self.printed
            self.printed += line

    def command_lines(self) -> str:
        """What `ps` shows of it and of all that it started."""
        process = psutil.Process(self._process.pid)
        return "\n".join(" ".join(item.cmdline()) for item in [process, *process.children(recursive=True)])

    def finish(self) -> str:
        rest, _ = self._process.communicate("\n", timeout=60)
        self.printed += rest
        return self.printed


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def token(store: Path) -> str:
    return TokenFile(store).create([Scope.INGEST])[1]


# ---- a real run


@pytest.mark.parametrize("arguments", [[], ["fail"]])
def test_a_run_with_a_token_leaves_no_copy_of_it(
    tmp_path: Path, state_dir: Path, store: Path, token: str, arguments: list[str]
) -> None:
    secret = token.split("_")[2]
    with started(store) as server:
        # given a run that also has the token on its command line, as people do
        options = [*arguments, "--token", token, f"--url=http://x:{token}@host/", f"note:{token}"]
        run = Running(state_dir, *options, TELEMETRY_URL=server.url, TELEMETRY_TOKEN=token)
        printed = run.finish()
        reader = Http(server.url, {"Authorization": f"Bearer {TokenFile(store).create([Scope.READ])[1]}"})
        (task,) = reader.get("/tasks")["tasks"]
        assert task["points"] == 100
        command = reader.get(f"/tasks/{task['id']}")["record"]["task"]["command"]
        assert command.count(MASK) >= 1 and "--token" in command
        # then it is in no file of server or run, in no answer, and not in what was printed
        assert copies(secret, store, state_dir) == []
        assert secret not in printed and secret not in str(reader.get(f"/tasks/{task['id']}"))
    assert copies(secret, store, state_dir) == []


def test_a_run_that_the_server_refuses_leaves_no_copy_either(state_dir: Path, store: Path, token: str) -> None:
    TokenFile(store).revoke(token.split("_")[1])
    with started(store) as server:
        run = Running(state_dir, TELEMETRY_URL=server.url, TELEMETRY_TOKEN=token, TELEMETRY_CLOSE_TIMEOUT="0.5")
        run.wait_for("refuses the token (401")
        assert token not in run.command_lines()
        printed = run.finish()
    assert "on disk" in printed
    assert token.split("_")[2] not in printed and copies(token.split("_")[2], state_dir, store) == []
    assert list((state_dir / "spool").rglob("*.frames"))


def test_offline_zips_and_folders_hold_no_copy(state_dir: Path, token: str) -> None:
    for mode in ("1", "0"):
        run = Running(state_dir, TELEMETRY_TOKEN=token, TELEMETRY_OFFLINE_MODE=mode)
        run.finish()
    assert list(state_dir.rglob("*.zip")) and list(state_dir.rglob("*.frames"))
    assert copies(token.split("_")[2], state_dir) == []


def test_the_servers_process_shows_no_token(state_dir: Path) -> None:
    command = [sys.executable, "-m", "telemetry", "server", "--port", "0", "--until-eof"]
    secret = "the-secret-of-the-environment"
    server = subprocess.Popen(
        command,
        env=environment(state_dir, TELEMETRY_SERVER_TOKEN=secret),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    first = server.stdout.readline()
    url = next(word for word in first.split() if word.startswith("http://"))
    http = Http(url, {"Authorization": f"Bearer {secret}"})
    http.send(frame_of({LOSS: rows_of([1.0])}))
    assert Http(url, {"Authorization": f"Bearer {secret}x"}).api("/tasks").status == 401
    assert secret not in " ".join(psutil.Process(server.pid).cmdline())
    rest, _ = server.communicate(timeout=60)
    assert secret not in first + rest and copies(secret, state_dir) == []


# ---- modes


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer {token}\0",
        "Authorization: Bearer {token}" + "x" * 9000,
        "Authorization Bearer {token}",
        "X-A: b\r\nAuthorization: Bearer {token}\x7f\x01",
    ],
)
def test_a_request_that_is_no_http_leaves_no_copy_in_the_servers_log(
    store: Path, token: str, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), started(store) as server:
        address = urlsplit(server.url)
        request = f"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n{header.format(token=token)}\r\n\r\n"
        with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=30) as connection:
            connection.sendall(request.encode())
            assert connection.makefile("rb").readline().split()[1] == b"400"
    assert token not in caplog.text
    said = [record for record in caplog.records if record.name == "telemetry.server.requests"]
    # A stranger could fill the log with them.
    assert [(record.levelno, "127.0.0.1 cannot be read" in record.getMessage()) for record in said] == [
        (logging.DEBUG, True)
    ]


def test_nothing_that_we_write_may_be_read_by_others(tmp_path: Path) -> None:
    # given a machine where everything is open by default, and folders that are not there yet
    state_dir = tmp_path / "home" / "state"
    old = os.umask(0)
    try:
        store = tmp_path / "data" / "server"
        TokenFile(store).create([Scope.READ])
        with started(store, token="t") as server:
            tmp_path.joinpath("home").mkdir(mode=0o700)
            Running(state_dir, TELEMETRY_URL=server.url, TELEMETRY_TOKEN="t").finish()
            # the spool of a run that was not let in, a folder, a zip
            Running(state_dir, TELEMETRY_URL=server.url, TELEMETRY_CLOSE_TIMEOUT="0.5").finish()
            Running(state_dir).finish()
            Running(state_dir, TELEMETRY_OFFLINE_MODE="1").finish()
            assert open_to_others(tmp_path / "data", state_dir) == []
            names = {item.name for item in store.iterdir()}
        assert {"telemetry.sqlite3", "telemetry.sqlite3-wal", "server.lock", "tokens.json"} <= names
        assert {item.name for item in state_dir.iterdir()} >= {"sessions", "spool"}
        assert open_to_others(tmp_path / "data", state_dir) == []
    finally:
        os.umask(old)


# ---- texts


SECRET = "tlm_0123456789ab_" + "S3cr3t" * 7 + "x"


def test_settings_credentials_and_configs_do_not_show_it(tmp_path: Path) -> None:
    shown = [Settings(token=SECRET), Credentials(SECRET), ServerConfig(tmp_path, token=SECRET), HttpSink("http://h")]
    assert all(SECRET not in f"{item!r} {item}" for item in shown)


def test_no_exception_of_a_client_shows_it() -> None:
    with Client("http://127.0.0.1:1", token=SECRET, timeout_s=5) as client, pytest.raises(ServerError) as caught:
        client.tasks()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("content", [b"", b" \n", SECRET.encode() + b"\nmore", b"\xff" + SECRET.encode(), b"x" * 5000])
def test_a_token_file_that_cannot_be_used_is_said_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="TELEMETRY_TOKEN_FILE") as caught:
        Settings.load(environ={"TELEMETRY_TOKEN_FILE": str(path)})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_stronger_place_says_which_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("from the file\n")
    both = {"TELEMETRY_TOKEN": "from the environment", "TELEMETRY_TOKEN_FILE": str(path)}
    assert Settings.load(environ=both).token == "from the environment"
    assert Settings.load(environ=both).token_file is None
    chosen = Settings.load(environ=both, token_file=path)
    assert (chosen.token, chosen.token_file) == ("from the file", path)


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@host:1", f"https://{SECRET}@host"])
def test_an_address_with_a_password_is_refused_and_not_shown(url: str) -> None:
    for make in (HttpSink, Client, AsyncClient, lambda url: open_sink(url, Settings())):
        with pytest.raises(ConfigurationError, match="TELEMETRY_TOKEN_FILE") as caught:
            make(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "command",
    [["--token", SECRET], [f"--token={SECRET}"], [f"TELEMETRY_TOKEN={SECRET}"], ["x", SECRET], [f"a:{SECRET},b"]],
)
def test_recorded_commands_and_environments_hold_it_masked(command: list[str]) -> None:
    assert SECRET not in str(mask_command(["python", "train.py", *command]))
    variables = {"TELEMETRY_TOKEN": SECRET, "NOTE": f"see {SECRET}", "HF_TOKEN": "x", "URL": "http://a:b@c/", "LR": "1"}
    masked = mask_environment(variables)
    assert list(masked) == list(variables) and SECRET not in str(masked)
    assert (masked["HF_TOKEN"], masked["URL"], masked["LR"]) == (MASK, f"http://a:{MASK}@c/", "1")


# ---- where it is sent


def until_refused(url: str, text: str) -> None:
    """Ask until a token is refused: the server looks for changes once a second."""
    deadline_s = time.monotonic() + 2.0
    while Http(url, {"Authorization": f"Bearer {text}"}).api("/server").status != 401:
        assert time.monotonic() < deadline_s, "a revoked token is still taken after 2 s"


@contextmanager
def answering(status: int, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server that says back what it was sent; yields its address and the tokens that it saw."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = str(self.headers).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_a_server_that_says_the_token_back_gets_it_into_no_reason(status: int) -> None:
    async def story(url: str) -> str:
        sink = HttpSink(url, token=SECRET)
        await sink.open(HEADER)
        try:
            await sink.write([frame_of({LOSS: rows_of([1.0])})])
        except SinkRejected as error:
            return f"{error} {error.reasons}"
        except SinkUnavailable as error:
            return str(error)
        finally:
            await sink.close()
        return "taken"

    with answering(status) as (url, seen):
        said = asyncio.run(story(url))
    assert set(seen) == {f"Bearer {SECRET}"}
    assert "Bearer ***" in said and SECRET not in said


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_does_not_carry_the_token_elsewhere(status: int) -> None:
    async def story(url: str) -> None:
        sink = HttpSink(url, token=SECRET)
        await sink.open(HEADER)
        try:
            with pytest.raises(SinkUnavailable, match=str(status)):
                await sink.write([frame_of({LOSS: rows_of([1.0])})])
        finally:
            await sink.close()

    with answering(200) as (elsewhere, stolen), answering(status, Location=elsewhere) as (url, _):
        asyncio.run(story(url))
    assert stolen == []


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://tracker.example:8008", True),
        ("http://10.0.0.7", True),
        ("http://localhost.evil.example", True),
        ("https://tracker.example", False),
        ("http://127.0.0.1:8008", False),
        ("http://[::1]:8008", False),
        ("http://localhost:8008", False),
    ],
)
def test_a_token_on_its_way_without_encryption_is_warned_of_once(
    url: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(SECRET)
    with caplog.at_level(logging.WARNING):
        credentials.warn_if_exposed(url)
        credentials.warn_if_exposed(url)
        Credentials().warn_if_exposed(url)
    assert [("without encryption" in record.message) for record in caplog.records] == [True] * warned
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("host", "loopback"), [("127.9.9.9", True), ("0.0.0.0", False), ("", False), ("::1", True)])
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_rotated_token_is_taken_up_without_a_loss(tmp_path: Path, store: Path) -> None:
    # given a sender with a token in a file, as a mounted secret is
    old, old_text = TokenFile(store).create([Scope.INGEST])
    path = tmp_path / "token"
    path.write_text(f"{old_text}\n")
    with started(store) as server:
        sink = open_sink(server.url, Settings.load(environ={"TELEMETRY_TOKEN_FILE": str(path)}))

        async def story() -> None:
            await sink.open(HEADER)
            try:
                await sink.write([frame_of({LOSS: rows_of([1.0])}, sequence=0)])
                # when the token is revoked and the file not yet changed, the frames wait
                TokenFile(store).revoke(old.id)
                until_refused(server.url, old_text)
                with pytest.raises(SinkUnavailable, match="401") as caught:
                    await sink.write([frame_of({LOSS: rows_of([1.0])}, sequence=1)])
                assert old_text not in str(caught.value)
                # and once it holds the new one, they go through with no restart
                path.write_text(TokenFile(store).create([Scope.INGEST])[1])
                await sink.write([frame_of({LOSS: rows_of([1.0])}, sequence=1)])
            finally:
                await sink.close()

        asyncio.run(story())
        text = TokenFile(store).create([Scope.READ])[1]
        reader = tmp_path / "reader"
        reader.write_text(old_text)
        with Client(server.url, token_file=reader) as client:
            with pytest.raises(ServerError, match="401"):
                client.tasks()
            reader.write_text(text)
            assert client.tasks()["tasks"][0]["points"] == 2
