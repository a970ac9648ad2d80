"""Who is let in: hosts and origins without a token, the token with one; and where a server may listen."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from server_support import LOSS, Http, config_of, frame_of, rows_of, started

from telemetry.errors import ConfigurationError
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

TOKEN = "correct horse battery stäple"


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store", token=TOKEN) as server:
        yield Http(server.url)


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST", "127.8.9.1"])
def test_a_loopback_name_is_answered(http: Http, host: str) -> None:
    port = urlsplit(http.url).port
    assert http.request("GET", "/api/v1/tasks", headers={"Host": host.format(port=port)}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8008", "localhost.evil.example", "10.0.0.1", "", "[::"])
def test_another_name_is_refused(http: Http, host: str) -> None:
    # DNS rebinding: the browser believes that evil.example is 127.0.0.1.
    answer = http.request("GET", "/api/v1/tasks", headers={"Host": host})
    assert answer.status == 403
    assert http.request("GET", "/", headers={"Host": host}).status == 403


def test_a_name_that_was_allowed_is_answered(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path, port=0, allowed_hosts=("runs.example",))
    with BackgroundServer(config) as server:
        assert Http(server.url, {"Host": "runs.example"}).api("/tasks").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_post_from_another_origin_is_refused(http: Http, headers: dict[str, str]) -> None:
    answer = http.post(frame_of({LOSS: rows_of([1.0])}), headers=headers)
    assert answer.status == 403
    assert http.get("/tasks")["total"] == 0


def test_a_post_from_our_own_page_or_from_a_program_is_taken(http: Http) -> None:
    frame = frame_of({LOSS: rows_of([1.0])})
    assert http.post(frame, headers={"Origin": http.url, "Sec-Fetch-Site": "same-origin"}).status == 200
    assert http.post(frame).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Basic !!!",
        "Basic " + base64.b64encode(b"user:wrong").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe").decode(),
        f"Digest {TOKEN}",
    ],
)
def test_without_the_token_nothing_is_answered(guarded: Http, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/api/v1/tasks", "/api/v1/live", "/", "/static/app.js", "/api/v1/nothing"):
        answer = guarded.request("GET", path, headers=headers)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert TOKEN.encode() not in answer.body
    assert guarded.post(frame_of({LOSS: rows_of([1.0])}), headers=headers).status == 401
    assert guarded.request("GET", "/healthz", headers=headers).status == 200


def test_with_the_token_everything_is(guarded: Http) -> None:
    # given the token as a program sends it, and as a browser does
    bearer = {"Authorization": b"Bearer " + TOKEN.encode()}
    basic = {"Authorization": "Basic " + base64.b64encode(f"anyone:{TOKEN}".encode()).decode()}
    for headers in (bearer, basic):
        assert guarded.request("GET", "/api/v1/tasks", headers=headers).status == 200  # type: ignore[arg-type]
    assert guarded.post(frame_of({LOSS: rows_of([1.0])}), headers=basic).status == 200
    # and it does not open the door to other people's pages
    assert guarded.post(frame_of({}), headers={**basic, "Origin": "https://evil.example"}).status == 403


def test_the_token_is_not_shown_by_the_config(tmp_path: Path) -> None:
    assert TOKEN not in repr(config_of(tmp_path, token=TOKEN))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "example.org"])
def test_listening_for_others_needs_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="TELEMETRY_SERVER_TOKEN"):
        ServerConfig(tmp_path, host=host)
    assert ServerConfig(tmp_path, host=host, token="t").host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_listening_on_loopback_needs_none(tmp_path: Path, host: str) -> None:
    assert ServerConfig(tmp_path, host=host).token is None


def test_an_empty_token_is_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_SERVER_TOKEN", " ")
    with pytest.raises(ConfigurationError, match="empty"):
        ServerConfig.from_environment(tmp_path, host="0.0.0.0")
    monkeypatch.setenv("TELEMETRY_SERVER_TOKEN", "secret")
    assert ServerConfig.from_environment(tmp_path, host="0.0.0.0").token == "secret"


def test_an_address_in_use_is_said_plainly(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServerConfig(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=r"cannot listen on 127\.0\.0\.1"), BackgroundServer(config):
            pass
    # then the directory is free again
    with started(tmp_path):
        pass


def test_a_directory_in_use_is_said_plainly(tmp_path: Path) -> None:
    with started(tmp_path), pytest.raises(ConfigurationError, match="another server"), started(tmp_path):
        pass
