"""Connections that say too little, too slowly or too often: a real server goes on with those who were let in."""

from __future__ import annotations

import gc
import logging
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp.web_protocol import RequestHandler
from sdk_support import environment
from server_support import LOSS, START_NS, TASK, Http, frame_of, rows_of, started

from telemetry.errors import ConfigurationError
from telemetry.events import ConsoleLine
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ConnectionLimits, Limits, read_limits
from telemetry.server.sockets.descriptors import descriptor_limit

TOKEN = "a token for these tests"
HOLDER = {"Authorization": f"Bearer {TOKEN}"}
HALF_A_HEADER = b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HALF_A_BODY = b"POST /api/v1/frames HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
# An answer of 4 MB.
LINES = [ConsoleLine(START_NS, "stdout", "x" * 2000) for _ in range(2000)]
CONSOLE = f"/tasks/{TASK}/console?limit=2000"
# What is waited for takes a fraction of a second; this is for a busy machine.
PATIENCE_S = 20.0


def running(tmp_path: Path, **limits: float) -> BackgroundServer:
    connections = ConnectionLimits(**limits)  # type: ignore[arg-type]
    return started(tmp_path / "store", token=TOKEN, limits=Limits(connections=connections))


class Clients:
    """Sockets that are closed when the test ends."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened

    def connect(
        self, url: str, say: bytes = b"", *, source: str = "127.0.0.1", receive_bytes: int | None = None
    ) -> socket.socket:
        parts = urlsplit(url)
        made = self._opened.enter_context(socket.socket())
        made.settimeout(PATIENCE_S)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.bind((source, 0))
        made.connect((parts.hostname, parts.port))
        made.sendall(say)
        return made

    def ask(self, url: str, path: str, *, receive_bytes: int | None = None) -> socket.socket:
        """Send a request with the token; what is answered is not read."""
        head = f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        return self.connect(url, head.encode(), receive_bytes=receive_bytes)

    def kept_alive(self, url: str) -> socket.socket:
        """Return a connection on which a request with the token was answered."""
        made = self.ask(url, "/server")
        assert made.recv(1 << 16).startswith(b"HTTP/1.1 200")
        return made


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as opened:
        yield Clients(opened)


def answer_of(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionError:
        pass  # a reset is an end, too
    return received


def readable_within(connection: socket.socket, seconds: float) -> bool:
    """Wait for bytes or the end; not by select(), which knows no descriptor above 1,023."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def is_open(connection: socket.socket) -> bool:
    readable = readable_within(connection, 0)
    return not readable


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@contextmanager
def server_process(state_dir: Path, soft: int, hard: int) -> Iterator[tuple[Http, int, Path]]:
    """Yield a server with a token and so many descriptors: how to ask it, its process id, its log."""
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "import sys; from telemetry.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "server", "--port", "0", "--until-eof"]
    log = state_dir.parent / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            env=environment(state_dir) | {"TELEMETRY_SERVER_TOKEN": TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        yield Http(url, dict(HOLDER)), process.pid, log
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def test_more_strangers_than_descriptors_keep_nobody_out(state_dir: Path, clients: Clients) -> None:
    # given a server that may open 160 descriptors, and 200 connections that say nothing or half of it
    with server_process(state_dir, 160, 160) as (http, _, log):
        for number in range(200):
            clients.connect(http.url, (b"", HALF_A_HEADER, HALF_A_BODY)[number % 3])
        # when one who has the token comes, again and again
        for sequence in range(10):
            http.send(frame_of({LOSS: rows_of([1.0], first=sequence)}, sequence=sequence))
            assert http.get("/tasks")["total"] == 1
        # then the log has said so, in one line
        until(lambda: "made room for others" in log.read_text())
        (line,) = log.read_text().splitlines()
        assert "ulimit -n" in line and "[connections] in server.toml" in line


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limit is changed on Linux only")
def test_a_server_without_descriptors_says_so_and_goes_on(state_dir: Path, clients: Clients) -> None:
    with server_process(state_dir, 256, 256) as (http, pid, log):

        def starve() -> bool:
            """Leave it no descriptor but those it uses, of which some may be about to be closed; and come."""
            used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(257)) - used), 256))
            clients.connect(http.url, HALF_A_HEADER)
            return "no descriptors are left" in log.read_text()

        # given a server that suddenly has no descriptor left, and says so
        until(starve)
        # when it has some again, then it answers: it never stopped listening
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        assert http.get("/tasks")["total"] == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="limits of another process are read from /proc")
def test_a_server_process_raises_its_limit_of_descriptors(state_dir: Path) -> None:
    with server_process(state_dir, 256, 512) as (_, pid, _log):
        (line,) = (row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in row)
        assert line.split()[3:5] == ["512", "512"]


def test_a_server_in_somebody_elses_process_leaves_its_limit_alone(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    try:
        with running(tmp_path):
            assert descriptor_limit() == limits[0] - 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("say", [b"", HALF_A_HEADER, HALF_A_BODY], ids=["nothing", "half a header", "half a body"])
def test_who_says_too_little_without_a_token_is_cut_off(tmp_path: Path, say: bytes, clients: Clients) -> None:
    with running(tmp_path, header_timeout_s=0.2) as server:
        answer = answer_of(clients.connect(server.url, say))
        # A header without a token is answered at once, the rest of its body not waited for.
        assert answer.startswith(b"HTTP/1.1 401") if say == HALF_A_BODY else answer == b""


def test_a_header_that_drips_is_cut_off(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, header_timeout_s=0.3) as server:
        connection = clients.connect(server.url, HALF_A_HEADER)
        # when another byte comes every now and then
        begin_s = time.monotonic()
        try:
            while is_open(connection):
                connection.sendall(b"x")
                assert time.monotonic() - begin_s < PATIENCE_S
                readable_within(connection, 0.05)
        except ConnectionError:
            return  # cut off between the look and the byte


def test_a_body_that_drips_is_cut_off_also_with_a_token(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, body_timeout_s=0.3) as server:
        # given a route that reads its body without a time limit of its own
        request = (
            "POST /api/v1/tasks/query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{"
        )
        assert answer_of(clients.connect(server.url, request.encode())) == b""


def test_who_was_let_in_may_be_idle_for_longer(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, header_timeout_s=0.1, idle_timeout_s=600.0) as server:
        holder = clients.kept_alive(server.url)
        # when strangers who came later have been cut off
        assert answer_of(clients.connect(server.url)) == b""
        # then it is still there; a half-sent request has the time of any header
        assert is_open(holder)
        holder.sendall(HALF_A_HEADER)
        assert answer_of(holder) == b""


def test_an_idle_connection_ends_in_the_end(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, idle_timeout_s=0.2) as server:
        assert answer_of(clients.kept_alive(server.url)) == b""


def test_the_oldest_newcomer_makes_room_and_nobody_who_was_let_in(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, max_total=8, max_newcomers=2, header_timeout_s=600.0) as server:
        holders = [clients.kept_alive(server.url) for _ in range(3)]
        first, second = clients.connect(server.url), clients.connect(server.url)
        # when a third comes
        third = clients.connect(server.url)
        # then the first has gone, for it
        assert answer_of(first) == b""
        assert all(map(is_open, [second, third, *holders]))


def test_an_idle_holder_makes_room_when_all_places_are_holders(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, max_total=2) as server:
        oldest, other = clients.kept_alive(server.url), clients.kept_alive(server.url)
        third = clients.kept_alive(server.url)
        assert answer_of(oldest) == b""
        assert is_open(other) and is_open(third)


def test_when_nobody_waits_the_answer_is_503(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clients: Clients
) -> None:
    with caplog.at_level(logging.WARNING, "telemetry.server"), running(tmp_path, max_total=2) as server:
        # given that all places are at work: two live pages
        for _ in range(2):
            assert clients.ask(server.url, "/live").recv(1 << 16).startswith(b"HTTP/1.1 200")
        # when one more comes, then it is told to come again
        answer = answer_of(clients.connect(server.url))
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After: 5" in answer
        until(lambda: "turned away" in caplog.text)


def test_one_address_cannot_have_all_places(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, max_total=20, max_per_address=2, header_timeout_s=600.0) as server:
        first, second = clients.connect(server.url), clients.connect(server.url)
        other = clients.connect(server.url, source="127.0.0.2")
        third = clients.connect(server.url)
        # then it pays for its third with its first; others do not
        assert answer_of(first) == b""
        assert all(map(is_open, [second, third, other]))


def test_without_a_setting_this_machine_may_have_all_places(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, max_total=20) as server:
        assert all(map(is_open, [clients.kept_alive(server.url) for _ in range(19)]))


def test_who_does_not_read_the_answer_is_cut_off(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, read_timeout_s=0.5) as server:
        # given an answer of more than the kernel holds for anybody
        http = Http(server.url, dict(HOLDER))
        http.send(frame_of({}, LINES))
        slow = clients.ask(server.url, CONSOLE, receive_bytes=4096)
        # when nobody reads it, then it ends with a reset, which shows although there is something to read
        poll = select.poll()
        poll.register(slow, select.POLLERR)
        assert poll.poll(PATIENCE_S * 1000), "the connection is still open"
        # and who reads gets it all
        assert len(http.get(CONSOLE)["lines"]) == 2000


def test_the_largest_of_too_many_unread_answers_goes_at_once(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path, max_unsent_bytes=1, read_timeout_s=600.0, header_timeout_s=0.4) as server:
        Http(server.url, dict(HOLDER)).send(frame_of({}, LINES))
        slow = clients.ask(server.url, CONSOLE, receive_bytes=4096)
        # when nobody reads it, then it ends with a reset, which shows although there is something to read
        poll = select.poll()
        poll.register(slow, select.POLLERR)
        assert poll.poll(PATIENCE_S * 1000), "the connection is still open"


def test_what_was_refused_and_left_keeps_no_memory(tmp_path: Path, clients: Clients) -> None:
    with running(tmp_path) as server:
        before = _handlers()
        # given bodies that are refused, and left by who sent them
        for _ in range(20):
            with clients.connect(server.url, HALF_A_BODY) as connection:
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401")
        # then nobody waits for their rest: that would take 10 s each
        begin_s = time.monotonic()
        until(lambda: _handlers() <= before)
        assert time.monotonic() - begin_s < 5.0


def _handlers() -> int:
    gc.collect()
    return sum(isinstance(one, RequestHandler) for one in gc.get_objects())


def test_the_limits_are_read_from_the_servers_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("[connections]\nmax_total = 300\nheader_timeout_s = 2.5\n")
    assert read_limits(path).connections == ConnectionLimits(max_total=300, header_timeout_s=2.5)


@pytest.mark.parametrize("line", ["max_totl = 1", "max_total = 0", "max_total = 1.5", "idle_timeout_s = '1 h'"])
def test_limits_that_nobody_understands_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f"[connections]\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"\[connections\]"):
        read_limits(path)
