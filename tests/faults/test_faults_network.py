"""Bad networks and servers that die: everything arrives, once, and nobody is hurt."""

from __future__ import annotations

import math
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_support import ServerProcess, delivered_all, expected_digests, log_points, stored_digests, until
from proxy import Fault, FaultyProxy, at_random, scripted
from server_support import started
from telemetry.sinks.http import HttpSink

from telemetry import lane, retry
from telemetry.cli import main
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.testing import make_header

TASK = "ab" * 16


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of faults in seconds: short waits, and a request for every frame."""
    monkeypatch.setattr(retry, "BASE_DELAY_S", 0.005)
    monkeypatch.setattr(retry, "MAX_DELAY_S", 0.05)
    monkeypatch.setattr(lane, "WRITE_FRAMES", 1)


@contextmanager
def logging_to(url: str, state_dir: Path, *, timeout_s: float = 2.0, **settings: object) -> Iterator[Pipeline]:
    """A pipeline with an HTTP sink; closed at the end with whatever is left."""
    sink = HttpSink(url, timeout_s=timeout_s)
    # A heartbeat is an event, too, and on a busy machine there is time for one.
    chosen = {"heartbeat_interval_s": math.inf, **settings}
    pipeline = Pipeline(make_header(TASK), [sink], settings=Settings(state_dir=state_dir, **chosen))  # type: ignore[arg-type]
    pipeline.start()
    try:
        yield pipeline
    finally:
        pipeline.close(timeout_s=1.0)


@pytest.mark.slow
def test_points_through_a_proxy_of_20_percent_faults_arrive_exactly_once(
    tmp_path: Path, state_dir: Path, quick_retries: None
) -> None:
    points = 200_000
    with started(tmp_path / "server") as server:
        # given every fault there is, one request in five
        with FaultyProxy(server.url, at_random(1, share=0.2)) as proxy:
            with logging_to(proxy.url, state_dir, frame_scalars=256) as pipeline:
                # when
                log_points(pipeline, 0, points)
                delivered_all(pipeline)
                ledger = pipeline.ledger()
            # then nothing was lost or refused on the way
            assert ledger.delivered == ledger.logged == points and not ledger.dropped, ledger
            assert proxy.faults > 100
            assert set(proxy.seen) == set(Fault), proxy.seen
        # and the server has each point once, with its bits
        assert stored_digests(server.url, TASK) == expected_digests(points)
    # and nothing lies about on disk
    assert not list(state_dir.rglob("*.frame*"))


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_each_fault_alone_three_times_in_a_row(
    fault: Fault, tmp_path: Path, state_dir: Path, quick_retries: None
) -> None:
    with started(tmp_path / "server") as server:
        plan = scripted(Fault.NONE, fault, fault, fault)
        with FaultyProxy(server.url, plan) as proxy, logging_to(proxy.url, state_dir, frame_scalars=500) as pipeline:
            log_points(pipeline, 0, 5000)
            delivered_all(pipeline)
            assert not pipeline.ledger().dropped
            assert proxy.seen[fault] == 3
        assert stored_digests(server.url, TASK) == expected_digests(5000)


def test_retry_after_is_obeyed_to_the_second(tmp_path: Path, state_dir: Path) -> None:
    with started(tmp_path / "server") as server:
        # given a server that asks for a second
        plan = scripted(Fault.ERROR_503)
        with FaultyProxy(server.url, plan, retry_after_s=1) as proxy, logging_to(proxy.url, state_dir) as pipeline:
            log_points(pipeline, 0, 10)
            pipeline.flush()
            delivered_all(pipeline)
            waited_s = proxy.answered_at_s[1] - proxy.answered_at_s[0]
    assert 1.0 <= waited_s < 3.0


@pytest.mark.slow
def test_a_server_killed_again_and_again_has_everything_once(
    tmp_path: Path, state_dir: Path, quick_retries: None
) -> None:
    per_round, rounds = 10_000, 4
    random_ = random.Random(2)
    with ServerProcess(tmp_path / "server") as server:
        with FaultyProxy(lambda: server.url, at_random(3, share=0.05, faults=[Fault.CUT_ANSWER])) as proxy:
            with logging_to(proxy.url, state_dir, frame_scalars=128) as pipeline:
                for number in range(rounds):
                    # given a server in the midst of taking frames
                    log_points(pipeline, number * per_round, per_round)
                    before = pipeline.ledger().delivered
                    goal = before + random_.randrange(1, per_round // 2)
                    until(lambda: pipeline.ledger().delivered >= goal, "some frames to arrive")  # noqa: B023
                    # when it is killed and comes back
                    server.kill()
                    server.start()
                delivered_all(pipeline)
                assert not pipeline.ledger().dropped
        # then
        assert server.starts == rounds + 1
        assert stored_digests(server.url, TASK) == expected_digests(rounds * per_round)


@contextmanager
def half_open() -> Iterator[str]:
    """A server that accepts and reads, and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def read_on() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            taken.append(connection)
            threading.Thread(target=drain, args=[connection], daemon=True).start()

    def drain(connection: socket.socket) -> None:
        try:
            while connection.recv(65_536):
                continue
        except OSError:
            return  # the test is over

    threading.Thread(target=read_on, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("trouble", ["half_open", "dns", "tls", "nobody"])
def test_what_no_server_took_is_on_disk_and_sent_later(
    trouble: str, tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 30_000
    monkeypatch.setenv("TELEMETRY_DIR", str(state_dir))
    with started(tmp_path / "server") as server, half_open() as silent:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
        url = {
            "half_open": silent,
            "dns": "http://telemetry.invalid:8008",
            # TLS to a server that speaks none
            "tls": server.url.replace("http://", "https://"),
            "nobody": nobody,
        }[trouble]
        # given a run whose server cannot be reached
        with logging_to(url, state_dir, timeout_s=0.3) as pipeline:
            log_points(pipeline, 0, points)
            assert pipeline.flush(timeout_s=30.0)
        # then all of it is safe
        ledger = pipeline.ledger()
        assert (ledger.logged, ledger.on_disk, ledger.delivered, dict(ledger.dropped)) == (points, points, 0, {})
        # and when it is sent later, twice, it is there once
        for _ in range(2):
            assert main(["sync", "--url", server.url]) == 0
        assert stored_digests(server.url, TASK) == expected_digests(points)
