"""The HTTP sink against real servers on port 0: scripted ones that misbehave, and the telemetry server itself."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from server_support import LOSS, TASK, WRITER, Http, frame_of, rows_of, started
from telemetry.collectors.scalars import ScalarReports
from telemetry.sinks.http import FAILING_S, FAILING_TRIES, TRANSIT_TRIES, HttpSink, open_sink

from telemetry.errors import ConfigurationError, SinkRejected, SinkUnavailable
from telemetry.events import Batch, ConsoleLine, ScalarColumns
from telemetry.server.store import FrameContent, Store, StoreFailed, Written
from telemetry.settings import Settings
from telemetry.testing import ManualClock, make_header, run_pipeline
from telemetry.wire import CONTENT_TYPE, Frame, encode, scan

HEADER = make_header("c" * 32)
SECRET = "s3cret-token"
OK = object()

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def frame(sequence: int, text: str = "x") -> Frame:
    batch = Batch(HEADER.task_id, ScalarColumns(), [ConsoleLine(1, "stdout", text)], 1)
    return encode(batch, writer_id=HEADER.writer_id, sequence=sequence)


FRAMES = [frame(sequence) for sequence in range(3)]


class Scripted:
    """A server that takes one step of its script for each POST; past the end all goes well.

    A step is OK, a status, (status, headers), a dict to answer with 200, or a function of the request.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[web.Request] = []
        self.bodies: list[list[Frame]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(request)
        self.bodies.append([item for _, item in scan(body) if isinstance(item, Frame)])
        step = self.script.pop(0) if self.script else OK
        if callable(step):
            answer: web.StreamResponse = await step(request)
            return answer
        if isinstance(step, dict):
            return web.json_response(step)
        if step is OK:
            return web.json_response({"frames": [receipt(item) for item in self.bodies[-1]]})
        status, headers = step if isinstance(step, tuple) else (step, {})
        return web.json_response({"error": f"the script says {status}"}, status=status, headers=headers)


def receipt(item: Frame, result: str = "stored", **more: Any) -> dict[str, Any]:
    return {"writer": item.writer_id.hex(), "sequence": item.sequence, "result": result, **more}


@asynccontextmanager
async def serving(*script: Any) -> AsyncIterator[Scripted]:
    server = Scripted(*script)
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/api/v1/frames", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[HttpSink]:
    sink = HttpSink(url, token=SECRET, **options)
    await sink.open(HEADER)
    try:
        yield sink
    finally:
        await sink.close()


def test_frames_go_in_one_post_with_type_and_token() -> None:
    async def given_a_server_that_takes_them() -> None:
        async with serving() as server, opened(server.url + "/") as sink:
            await sink.write(FRAMES)
        [request] = server.requests
        assert request.headers["Content-Type"] == CONTENT_TYPE
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        assert server.bodies == [FRAMES]
        assert SECRET not in str(request.url)

    asyncio.run(given_a_server_that_takes_them())


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of an answer."""
    answer = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await answer.prepare(request)
    await answer.write(b'{"frames":')
    assert request.transport is not None
    request.transport.close()
    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def page(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>Please log in to the hotel's network", content_type="text/html")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (500, "500"),
        (502, "502"),
        (404, "404"),
        (429, "429"),
        (503, "the script says 503"),
        (cut, "cannot reach"),
        (hang_up, "cannot reach"),
        (page, "Please log in"),
        ({"frames": None}, "answered 200"),
        ({"frames": ["stored"]}, "answered 200"),
        ({"frames": [{"sequence": "0", "result": "stored"}]}, "answered 200"),
        ({"frames": []}, "did not name 3 of 3"),
        pytest.param({"frames": [receipt(FRAMES[0])]}, "did not name 2 of 3", id="one receipt of three"),
        ({"ok": True}, "answered 200"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:30],
)
def test_what_may_pass_is_unavailable_and_the_same_frames_go_again(step: Any, said: str) -> None:
    async def given_a_server_with_one_bad_moment() -> None:
        async with serving(step) as server, opened(server.url) as sink:
            with pytest.raises(SinkUnavailable, match=said) as caught:
                await sink.write(FRAMES)
            assert server.url in str(caught.value)
            await sink.write(FRAMES)
            assert server.bodies[-1] == FRAMES

    asyncio.run(given_a_server_with_one_bad_moment())


@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("soon", None), (None, None)])
def test_retry_after_is_handed_on(header: str | None, expected: float | None) -> None:
    async def given_a_server_that_asks_for_time() -> None:
        headers = {"Retry-After": header} if header is not None else {}
        async with serving((503, headers)) as server, opened(server.url) as sink:
            with pytest.raises(SinkUnavailable) as caught:
                await sink.write(FRAMES)
            assert caught.value.retry_after_s == expected

    asyncio.run(given_a_server_that_asks_for_time())


def test_nobody_listening_is_unavailable() -> None:
    async def given_a_port_that_is_closed() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            async with opened(f"http://127.0.0.1:{port}") as sink:
                with pytest.raises(SinkUnavailable, match=f"cannot reach http://127.0.0.1:{port}"):
                    await sink.write(FRAMES)

    asyncio.run(given_a_port_that_is_closed())


def test_a_black_hole_is_given_up_after_the_request_timeout() -> None:
    async def given_a_server_that_accepts_and_never_answers() -> None:
        held: list[Any] = []

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.append(writer)

        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with opened(f"http://127.0.0.1:{port}", timeout_s=0.2) as sink:
            with pytest.raises(SinkUnavailable, match=r"no answer .* within 0\.2 s"):
                await sink.write(FRAMES)
        for writer in held:
            writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(given_a_server_that_accepts_and_never_answers())


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_said_and_not_shown(status: int) -> None:
    async def given_a_server_that_wants_another_token() -> None:
        async with serving(status) as server, opened(server.url) as sink:
            with pytest.raises(SinkUnavailable, match="TELEMETRY_TOKEN") as caught:
                await sink.write(FRAMES)
            assert SECRET not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))

    asyncio.run(given_a_server_that_wants_another_token())


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_one_refused_frame_is_rejected(status: int) -> None:
    async def given_a_server_that_refuses_it() -> None:
        async with serving(*[status] * TRANSIT_TRIES) as server, opened(server.url) as sink:
            with pytest.raises(SinkRejected) as caught:
                await sink.write(FRAMES[:1])
            assert caught.value.reasons == {0: f"the script says {status}"}

    asyncio.run(given_a_server_that_refuses_it())


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_body_is_taken_apart_to_find_the_bad_frame(status: int) -> None:
    async def given_a_server_that_refuses_the_second_of_three() -> None:
        again = [status] * (TRANSIT_TRIES - 1 if status == 400 else 0)
        async with serving(status, OK, status, *again, OK) as server, opened(server.url) as sink:
            with pytest.raises(SinkRejected) as caught:
                await sink.write(FRAMES)
            assert set(caught.value.reasons) == {1}
            assert server.bodies == [FRAMES, FRAMES[:1], *[FRAMES[1:2]] * (1 + len(again)), FRAMES[2:]]
        # and if each is taken alone, nothing was wrong with any
        async with serving(status) as server, opened(server.url) as sink:
            await sink.write(FRAMES)
            assert len(server.requests) == 4

    asyncio.run(given_a_server_that_refuses_the_second_of_three())


def test_a_frame_that_was_damaged_on_the_way_is_sent_again_and_not_given_up() -> None:
    async def given_a_network_that_spoils_it_twice() -> None:
        async with serving(400, 400) as server, opened(server.url) as sink:
            await sink.write(FRAMES[:1])
            assert server.bodies == [FRAMES[:1]] * 3

    asyncio.run(given_a_network_that_spoils_it_twice())


def test_frames_rejected_by_name_are_told_apart_from_the_stored_ones() -> None:
    async def given_a_server_that_rejects_one_of_three() -> None:
        answer = {
            "frames": [
                receipt(FRAMES[0]),
                receipt(FRAMES[1], "rejected", reason="the title is too long"),
                receipt(FRAMES[2], "duplicate"),
            ]
        }
        async with serving(answer) as server, opened(server.url) as sink:
            with pytest.raises(SinkRejected) as caught:
                await sink.write(FRAMES)
            assert caught.value.reasons == {1: "the title is too long"}

    asyncio.run(given_a_server_that_rejects_one_of_three())


def test_a_redirect_does_not_carry_the_token_to_another_server() -> None:
    async def given_two_servers() -> None:
        async with serving() as other:

            async def elsewhere(request: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"Location": f"{other.url}/api/v1/frames"})

            async with serving(elsewhere) as server, opened(server.url) as sink:
                try:
                    await sink.write(FRAMES)
                except SinkUnavailable:
                    pass  # refusing to follow is as good
            assert all("Authorization" not in request.headers for request in other.requests)

    asyncio.run(given_two_servers())


def test_what_is_no_address_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="ftp://host"):
        HttpSink("ftp://host")


def test_the_entry_point_takes_token_and_timeout_from_the_settings() -> None:
    sink = open_sink("https://host:8008/", Settings(token=SECRET, request_timeout_s=3.0))
    headers = sink._credentials.headers()
    assert (sink.url, headers, sink._timeout_s) == ("https://host:8008", {"Authorization": f"Bearer {SECRET}"}, 3.0)
    clone = sink.clone()
    assert (clone.url, clone._credentials.headers(), clone._timeout_s, clone.name) == (
        sink.url,
        headers,
        3.0,
        sink.name,
    )
    assert SECRET not in repr(sink)


# ---- in a pipeline -------------------------------------------------------------------------------------


def test_a_run_against_a_server_that_keeps_failing_arrives_exactly_once(state_dir: Path) -> None:
    async def given_a_server_with_bad_moments() -> None:
        lost: dict[str, list[Any]] = {"frames": []}  # stored, but the receipt does not say so
        async with serving(503, OK, cut, OK, lost, hang_up) as server:

            def run() -> Any:
                with run_pipeline([HttpSink(server.url)], state_dir=state_dir, flush_interval_s=0.02) as pipeline:
                    scalars = ScalarReports(pipeline.emit)
                    for step in range(2000):
                        scalars.report_scalar("loss", "train", 1.0, step)
                        if step % 250 == 0:
                            pipeline.flush(0.05)
                return pipeline.ledger()

            ledger = await asyncio.to_thread(run)
            assert (ledger.logged, ledger.delivered, ledger.dropped) == (2000, 2000, {})
            # What came more than once came with the same number
            unique = {item.sequence: item for body in server.bodies for item in body}
            assert sum(item.events for item in unique.values()) == 2000
            assert sorted(unique) == list(range(len(unique)))

    asyncio.run(given_a_server_with_bad_moments())
    assert list((state_dir / "spool").iterdir()) == []


def test_no_line_of_the_log_shows_the_token(state_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def given_a_server_that_refuses_the_token() -> None:
        async with serving(401, 401, 401, 401, 401, 401, 401, 401) as server:

            def run() -> None:
                sink = HttpSink(server.url, token=SECRET)
                with run_pipeline([sink], state_dir=state_dir, close_timeout_s=0.5) as pipeline:
                    ScalarReports(pipeline.emit).report_scalar("loss", "train", 1.0, 1)
                    pipeline.flush()

            await asyncio.to_thread(run)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(given_a_server_that_refuses_the_token())
    assert "refuses the token" in caplog.text
    assert SECRET not in caplog.text
    [session] = (state_dir / "spool").iterdir()
    assert all(SECRET.encode() not in path.read_bytes() for path in session.rglob("*") if path.is_file())


def test_a_run_against_the_telemetry_server_can_be_read_back(tmp_path: Path, state_dir: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from telemetry.server.app import BackgroundServer
    from telemetry.server.config import ServerConfig

    # Given a real server on an empty folder
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        sink = HttpSink(server.url)
        # When a pipeline reports to it, and its frames are sent once more
        with run_pipeline([sink], state_dir=state_dir) as pipeline:
            scalars = ScalarReports(pipeline.emit)
            for step in range(1000):
                scalars.report_scalar("loss", "train", step * 0.5, step)
            pipeline.emit(ConsoleLine(1, "stdout", "hello"))
        assert pipeline.ledger().delivered == 1001

        async def ask() -> Any:
            import aiohttp

            task = pipeline.task.task_id
            async with aiohttp.ClientSession(server.url) as session:
                async with session.get(f"/api/v1/tasks/{task}/series") as answer:
                    return json.loads(await answer.read())

        # Then it has every point once
        [series] = asyncio.run(ask())["series"]
        assert (series["title"], series["series"], series["count"], series["last"]) == ("loss", "train", 1000, 499.5)


@pytest.mark.parametrize("fails_on_all", [False, True])
def test_only_a_frame_on_which_the_server_fails_alone_and_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_on_all: bool
) -> None:
    # given a server that fails on one frame, or on all, for no reason of the sender's
    write = Store.write

    def failing(store: Store, contents: Sequence[FrameContent]) -> Written:
        if fails_on_all or any(content.sequence == 1 for content in contents):
            raise StoreFailed("no such column")
        return write(store, contents)

    monkeypatch.setattr(Store, "write", failing)
    clock = ManualClock()
    frames = [frame_of({LOSS: rows_of([1.0], first=number)}, sequence=number) for number in range(3)]

    async def send_again_and_again(url: str) -> dict[tuple[bytes, int], str] | None:
        sink = HttpSink(url, monotonic=clock.monotonic)
        await sink.connect()
        try:
            for _ in range(FAILING_TRIES + 1):
                with pytest.raises(SinkUnavailable, match="500"):
                    await sink.send(frames)
            clock.advance(FAILING_S)
            return await sink.send(frames)
        finally:
            await sink.close()

    with started(tmp_path) as server:
        # when they are sent again and again; then a server that fails on all is waited for
        if fails_on_all:
            with pytest.raises(SinkUnavailable, match="500"):
                asyncio.run(send_again_and_again(server.url))
            return
        refused = asyncio.run(send_again_and_again(server.url))
        # and of one that takes the others they are there, and the one is given up
        assert list(refused or {}) == [(WRITER, 1)]
        assert Http(server.url).get(f"/tasks/{TASK}")["points"] == 2
