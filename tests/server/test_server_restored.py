"""A server restored from a backup, and clients in every state: what can be had is sent again, the rest is said once."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sdk_support import environment
from server_support import free_port, server_at
from telemetry.sinks.http import HttpSink

from telemetry.cli import main
from telemetry.client import Client
from telemetry.events import Batch, RecordChange, Scalar
from telemetry.lane import MAX_RESENDS
from telemetry.pipeline import Pipeline
from telemetry.sdk.launch.leftovers import Leftovers
from telemetry.settings import Settings
from telemetry.testing import make_header
from telemetry.wire import encode

HEADER = make_header("d" * 32)

PROGRAM = """
    import os, sys
    from telemetry import Task

    task = Task.init(project_name="p", task_name="n", auto_resource_monitoring=False, reuse_last_task_id=False)
    for line in sys.stdin:
        what, _, value = line.strip().partition(" ")
        if what == "point":
            task.get_logger().report_scalar("loss", "train", value=1.0, iteration=int(value))
        elif what == "artifact":
            assert task.upload_artifact(value, {"name": value}, wait_on_upload=True)
        elif what == "large":
            with open(value, "wb") as file:
                file.write(os.urandom(65 * 1024 * 1024))
            assert task.upload_artifact(value, value, wait_on_upload=True)
            os.remove(value)
        while not task.flush(20):
            pass  # the server is being started again
        print("done", task.id, flush=True)
"""


@pytest.fixture
def port() -> int:
    return free_port()


def back_up(tmp_path: Path) -> None:
    assert main(["backup", str(tmp_path / "backup"), "--directory", str(tmp_path / "data")]) == 0


class Program:
    """A training program that does what it is told, line by line."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(PROGRAM))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            cwd=tmp_path,
            env=environment(tmp_path / "state", TELEMETRY_URL=url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.task_id = ""

    def do(self, *lines: str) -> None:
        """Return when all of it is at the server."""
        assert self.process.stdin is not None and self.process.stdout is not None
        for line in lines:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            word, self.task_id = self.process.stdout.readline().split()
            assert word == "done"

    def end(self) -> str:
        """Let it end; return what it said."""
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def points_at(url: str, task_id: str) -> list[int]:
    with Client(url) as client:
        found = [series for series in client.series(task_id) if series["title"] == "loss"]
        if not found:
            return []
        (answer,) = client.points(task_id, [found[0]["id"]])["series"]
        return [int(x) for x in answer["x"]]


def artifacts_at(url: str, task_id: str) -> dict[str, str]:
    with Client(url) as client:
        entries = client.task(task_id)["record"].get("artifacts", {})
        return {name: str(entry["state"]) for name, entry in entries.items()}


def status_at(url: str, task_id: str) -> str:
    with Client(url) as client:
        return str(client.task(task_id)["status"])


@pytest.mark.parametrize("reports_after", [True, False])
def test_a_program_that_runs_through_the_restore_sends_again_what_came_after_the_backup(
    tmp_path: Path, port: int, reports_after: bool
) -> None:
    # Given a program that has points and files before the backup, and others after it
    with server_at(tmp_path / "data", port) as url:
        program = Program(tmp_path, url)
        program.do("point 0", "artifact before")
        back_up(tmp_path)
        program.do("point 1", "artifact after", "point 2")
        assert artifacts_at(url, program.task_id) == {"before": "stored", "after": "stored"}
    # When the server is there again with the backup, and the program goes on or has nothing but its end to tell
    with server_at(tmp_path / "backup", port) as url:
        if reports_after:
            program.do("point 3")
        said = program.end()
        # Then everything is there
        assert points_at(url, program.task_id) == [0, 1, 2, 3][: 3 + reports_after]
        assert artifacts_at(url, program.task_id) == {"before": "stored", "after": "stored"}, said
        assert status_at(url, program.task_id) == "completed"
    # And it was said, and nothing was lost
    assert said.count("has lost data that it had taken") == 1, said
    assert said.count("the server has lost artifact 'after', which it had taken; it was sent again") == 1
    assert "server_lost" not in said and "'before'" not in said
    assert not list((tmp_path / "state" / "spool").iterdir())


def test_a_server_with_another_store_at_the_same_address_gets_all_that_is_there(tmp_path: Path, port: int) -> None:
    with server_at(tmp_path / "data", port) as url:
        program = Program(tmp_path, url)
        program.do("point 0", "artifact one", "point 1")
    with server_at(tmp_path / "another", port) as url:
        program.do("point 2")
        said = program.end()
        assert points_at(url, program.task_id) == [0, 1, 2]
        assert artifacts_at(url, program.task_id) == {"one": "stored"}, said
        assert status_at(url, program.task_id) == "completed"
    assert "server_lost" not in said


def test_a_file_that_is_not_here_any_more_is_said_at_the_end_by_its_name(tmp_path: Path, port: int) -> None:
    # Given a file that is more than is kept of what the server has
    with server_at(tmp_path / "data", port) as url:
        program = Program(tmp_path, url)
        program.do("point 0", "artifact before")
        back_up(tmp_path)
        program.do("large weights.bin", "artifact after")
    with server_at(tmp_path / "backup", port) as url:
        program.do("point 1")
        said = program.end()
        states = artifacts_at(url, program.task_id)
    assert states == {"before": "stored", "weights.bin": "pending", "after": "stored"}
    last = said.strip().splitlines()[-1]
    assert "artifact 'weights.bin' failed: the server has lost it since it took it" in said, said
    assert "'before'" not in said and last
    # Nothing is left that somebody would try to send for ever
    assert not list((tmp_path / "state" / "spool").iterdir())


def test_what_a_killed_program_has_left_is_sent_by_sync_also_what_the_server_had_before(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_at(tmp_path / "data", port) as url:
        program = Program(tmp_path, url)
        program.do("point 0")
        back_up(tmp_path)
        program.do("point 1", "artifact after", "point 2")
        program.kill()
    with server_at(tmp_path / "backup", port) as url:
        assert points_at(url, program.task_id) == [0]
        # When
        assert main(["sync", str(tmp_path / "state"), "--url", url]) == 0
        # Then
        assert points_at(url, program.task_id) == [0, 1, 2]
        assert artifacts_at(url, program.task_id) == {"after": "stored"}
        # And a second time there is nothing to do, and nothing to say
        assert main(["sync", str(tmp_path / "state"), "--url", url]) == 0
    assert "lost:" not in capsys.readouterr().err


def test_what_an_earlier_run_has_left_is_sent_by_the_next_run_also_after_a_restore(tmp_path: Path, port: int) -> None:
    # Given what a killed program has left an hour ago, and the next run, which has sent it after the backup
    spool = tmp_path / "state" / "spool"
    sink = HttpSink(f"http://127.0.0.1:{port}")

    async def hear_from_the_server() -> None:
        await sink.connect()
        await sink.send(
            [
                encode(
                    Batch("e" * 32, events=[RecordChange(1, "task", "name", "next")], events_logged=1),
                    writer_id=b"of the next run!",
                    sequence=0,
                )
            ]
        )
        await sink.close()

    with server_at(tmp_path / "data", port) as url:
        program = Program(tmp_path, url)
        program.do("point 0")
        back_up(tmp_path)
        program.do("point 1")
        program.kill()
        for path in spool.rglob("*"):
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        asyncio.run(hear_from_the_server())
        Leftovers(spool, sink, lambda: None).look()
        assert points_at(url, program.task_id) == [0, 1]
    # When the server is restored
    with server_at(tmp_path / "backup", port) as url:
        assert points_at(url, program.task_id) == [0]
        asyncio.run(hear_from_the_server())
        Leftovers(spool, sink, lambda: None).look()
        # Then it is another one, and what it was sent before is sent again
        assert points_at(url, program.task_id) == [0, 1]


def test_a_program_that_had_ended_before_the_restore_is_as_the_backup_has_it_and_the_server_says_so(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given one that ends after the backup, and keeps a session of its own beside the server
    with server_at(tmp_path / "data", port) as url:
        pipeline = Pipeline(HEADER, [HttpSink(url)], settings=Settings(state_dir=tmp_path / "state"))
        pipeline.start()
        pipeline.emit(RecordChange(1, "task", "status", "in_progress"))
        pipeline.emit(point(0))
        assert pipeline.flush(20)
        back_up(tmp_path)
        pipeline.emit(point(1))
        pipeline.emit(RecordChange(2, "task", "status", "completed"))
        assert pipeline.close(20).delivered == 4
    # When
    with server_at(tmp_path / "backup", port) as url:
        # Then it looks as if it still ran, and is silent
        assert (points_at(url, HEADER.task_id), status_at(url, HEADER.task_id) == "completed") == ([0], False)
    (said,) = [record.getMessage() for record in caplog.records if "was a backup, of" in record.getMessage()]
    assert "1 of its 1 tasks had not ended then" in said


# ---- what the journal has let go -----------------------------------------------------------------


def point(step: int) -> Scalar:
    return Scalar("loss", "train", float(step), step, 0)


def started_small(url: str, tmp_path: Path) -> Pipeline:
    """A pipeline whose journal keeps but a few of the frames that the server has."""
    settings = Settings(state_dir=tmp_path / "state", segment_bytes=1200)
    pipeline = Pipeline(HEADER, [HttpSink(url)], settings=settings)
    pipeline.start()
    pipeline.emit(RecordChange(1, "task", "name", "a task"))
    return pipeline


def report(pipeline: Pipeline, *steps: int) -> None:
    for step in steps:
        pipeline.emit(point(step))
        assert pipeline.flush(20)


def test_what_the_journal_has_let_go_is_counted_and_said_once(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    with server_at(tmp_path / "data", port) as url:
        pipeline = started_small(url, tmp_path)
        pipeline.on_server_lost = told.append
        report(pipeline, 0)
        back_up(tmp_path)
        report(pipeline, *range(1, 41))
    with server_at(tmp_path / "backup", port) as url:
        report(pipeline, 41, 42)
        ledger = pipeline.close(20)
        there = points_at(url, HEADER.task_id)
    lost = ledger.dropped["server_lost"]
    # Then each point is at the server or counted, and there are some of both among those after the backup
    assert ledger.balanced and ledger.delivered + lost == 44
    assert 0 < lost < 40 and len(there) == 43 - lost
    assert there == [0, *range(1 + lost, 43)]
    assert told == [lost]
    assert caplog.text.count("has lost data that it had taken") == 1


def test_sync_says_which_frames_of_a_killed_program_are_nowhere(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a journal that has let go of frames which came after the backup
    with server_at(tmp_path / "data", port) as url:
        pipeline = started_small(url, tmp_path)
        report(pipeline, 0)
        back_up(tmp_path)
        report(pipeline, *range(1, 41))
        folder = pipeline.spool_folder
        assert folder is not None
        shutil.copytree(folder, tmp_path / "left" / folder.name)
        pipeline.close(20)
    capsys.readouterr()
    # When
    with server_at(tmp_path / "backup", port) as url:
        code = main(["sync", str(tmp_path / "left"), "--url", url])
        there = points_at(url, HEADER.task_id)
        said = capsys.readouterr().err
        again = main(["sync", str(tmp_path / "left"), "--url", url])
    # Then
    gone = 41 - len(there)
    assert (code, again) == (0, 0)
    assert 0 < gone < 40
    assert f"{gone} frames of writer {HEADER.writer_id.hex()} are nowhere" in said, said
    assert there[0] == 0 and there[-1] == 40


# ---- two stores at one address -------------------------------------------------------------------


class _InTurn(BaseHTTPRequestHandler):
    """Passes each request on to the next of some servers."""

    protocol_version = "HTTP/1.1"
    servers: Iterator[str]
    requests = 0

    def do_POST(self) -> None:
        type(self).requests += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = urlsplit(next(self.servers))
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")}
        connection.request("POST", self.path, body, kept)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of it is for the test's output."""


def test_two_stores_that_answer_in_turn_are_not_fed_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with server_at(tmp_path / "one", 0) as one, server_at(tmp_path / "two", 0) as two:

        class InTurn(_InTurn):
            servers = cycle([one, two])

        with ThreadingHTTPServer(("127.0.0.1", 0), InTurn) as balancer:
            threading.Thread(target=balancer.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{balancer.server_address[1]}"
            # When
            pipeline = Pipeline(HEADER, [HttpSink(url)], settings=Settings(state_dir=tmp_path / "state"))
            pipeline.start()
            report(pipeline, *range(20))
            ledger = pipeline.close(20)
            balancer.shutdown()
        there = {*points_at(one, HEADER.task_id), *points_at(two, HEADER.task_id)}
    # Then it ends, says it once, and every event is at one of them
    assert there == set(range(20))
    assert (ledger.delivered, ledger.dropped_total) == (20, 0)
    assert caplog.text.count("several servers answer at its address in turn") == 1
    assert InTurn.requests <= 20 * (1 + MAX_RESENDS)
