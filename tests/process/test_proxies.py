"""Proxies named by the environment: a real one on loopback, in front of a server whose name only it knows."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from server_support import LOSS, TASK, Http, frame_of, rows_of, started
from telemetry.sinks.http import HttpSink, open_sink

from telemetry.client import Client
from telemetry.errors import ServerError, ServerUnreachable, SinkUnavailable
from telemetry.network.proxies import proxy_for
from telemetry.settings import Settings

SERVER = "http://tracker.invalid:8008"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def proxy(*, status: int = 0, target: str = "", body: bytes = b"<html>blocked by policy</html>") -> Iterator[str]:
    """Run a proxy that refuses with `status`, or passes requests for SERVER on to `target`; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, answer = status, body
            if not status:
                assert self.path.startswith(SERVER), self.path
                kept = {"Content-Type": self.headers["Content-Type"]}
                request = urllib.request.Request(target + self.path.removeprefix(SERVER), sent, kept)
                direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with direct.open(request, timeout=30) as response:
                    code, answer = response.status, response.read()
            self.send_response(code)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://user:hunter2@127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def send(sink: HttpSink) -> None:
    async def once() -> None:
        await sink.connect()
        try:
            await sink.send([frame_of({LOSS: rows_of([1.0])})])
        finally:
            await sink.close()

    asyncio.run(once())


def test_frames_go_through_the_proxy_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path) as server, proxy(target=server.url) as address:
        monkeypatch.setenv("http_proxy", address)
        send(HttpSink(SERVER))
        assert len(Http(server.url).get("/tasks")["tasks"]) == 1


def test_a_server_on_this_machine_is_reached_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with started(tmp_path) as server:
        send(HttpSink(server.url))
        with Client(server.url) as client:
            assert client.wanted_blobs(TASK) == []
    for url in ("http://localhost:1", "http://127.8.9.1", "http://[::1]:8008"):
        assert proxy_for(url) is None


def test_no_proxy_and_the_setting_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "proxy.invalid:3128")
    assert proxy_for(SERVER) == "http://proxy.invalid:3128"
    assert proxy_for(SERVER, trust_env=False) is None
    assert open_sink(SERVER, Settings.load(environ={"TELEMETRY_TRUST_ENV": "false"}))._trust_env is False
    monkeypatch.setenv("no_proxy", "other.invalid,.invalid")
    assert proxy_for(SERVER) is None


def test_a_proxy_of_another_kind_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:hunter2@proxy.invalid:1080")
    assert proxy_for(SERVER) is None
    assert "socks5://proxy.invalid:1080" in caplog.text and "hunter2" not in caplog.text


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_refusal_of_the_proxy_is_named_as_its(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(status=status) as address:
        monkeypatch.setenv("http_proxy", address)
        shown = address.replace("user:hunter2@", "")
        with pytest.raises(SinkUnavailable) as refused:
            send(HttpSink(SERVER, token="tm_secret"))
        with Client(SERVER) as client, pytest.raises(ServerUnreachable) as unreachable:
            client.wanted_blobs("a" * 32)
    for text in (str(refused.value), str(unreachable.value)):
        assert f"its proxy {shown} refuses the request ({status}" in text
        assert "token" not in text and "hunter2" not in text


def test_a_refusal_of_the_server_through_the_proxy_is_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(status=403, body=b'{"error": "this token is for another project"}') as address:
        monkeypatch.setenv("http_proxy", address)
        with pytest.raises(SinkUnavailable, match=r"refuses the token \(403: this token is for another project"):
            send(HttpSink(SERVER, token="tm_secret"))
        with Client(SERVER) as client, pytest.raises(ServerError, match="answered 403") as refusal:
            client.wanted_blobs("a" * 32)
        assert refusal.value.status == 403


def test_a_proxy_that_is_dead_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(status=403) as address:
        monkeypatch.setenv("http_proxy", address)
        shown = address.replace("user:hunter2@", "")
    with pytest.raises(SinkUnavailable) as dead:
        send(HttpSink(SERVER))
    with Client(SERVER) as client, pytest.raises(ServerUnreachable) as unreachable:
        client.wanted_blobs("a" * 32)
    for text in (str(dead.value), str(unreachable.value)):
        assert f"its proxy {shown} cannot be reached: Connection refused" in text
