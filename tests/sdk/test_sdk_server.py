"""Programs against a real server: what it knows of a task when the program has ended, by whichever way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_support import run_program

from telemetry.client import Client
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

pytestmark = pytest.mark.alone

# Ends at once: what the pipeline still has to import, it imports while the interpreter shuts down.
START = """
import os, signal, sys
from telemetry import Task
task = Task.init("tests", "with a server")
print(task.id, flush=True)
task.get_logger().report_scalar("loss", "train", 0.5, 1)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BackgroundServer(ServerConfig(tmp_path_factory.mktemp("server"), port=0)) as server:
        yield server.url


def run(rest: str, tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    return run_program(START + rest, tmp_path / "state", variables={"TELEMETRY_URL": url})


@pytest.mark.parametrize(
    ("rest", "status", "reason"),
    [
        ("", "completed", ""),
        ("raise ValueError('bad loss')", "failed", "ValueError: bad loss"),
        ("sys.exit(3)", "failed", "exit code 3"),
        ("signal.raise_signal(signal.SIGTERM)", "stopped", "stopped (SIGTERM)"),
        ("signal.raise_signal(signal.SIGINT)", "stopped", "stopped by the user (SIGINT)"),
    ],
)
def test_the_server_knows_how_a_program_ended(rest: str, status: str, reason: str, tmp_path: Path, url: str) -> None:
    done = run(rest, tmp_path, url)

    task_id = done.stdout.split()[0]
    with Client(url) as client:
        task = client.task(task_id)
        (series,) = client.series(task_id, kind="scalar")
    assert (task["status"], task["status_reason"] or "") == (status, reason)
    assert (series["count"], series["last"]) == (1, 0.5)
    ledger = task["record"]["task"]["ledger"]
    assert ledger["logged"] == ledger["delivered"]
    # Nothing is left on this machine.
    assert not list((tmp_path / "state" / "spool").glob("*"))


def test_a_forked_childs_points_arrive_as_a_second_writer(tmp_path: Path, url: str) -> None:
    rest = """
assert task.flush()
pid = os.fork()
if pid == 0:
    task.get_logger().report_scalar("loss", "child", 0.125, 1)
    task.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = run(rest, tmp_path, url)

    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        task = client.task(done.stdout.split()[0])
        names = {item["series"] for item in client.series(task["id"], kind="scalar")}
    assert names == {"train", "child"}
    assert task["status"] == "completed"


def test_a_killed_run_is_sent_later_and_is_still_in_progress(tmp_path: Path, url: str) -> None:
    from telemetry.cli import main

    done = run("assert task.flush()\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path, "http://127.0.0.1:1")
    task_id = done.stdout.split()[0]

    assert main(["sync", str(tmp_path / "state" / "spool" / task_id), "--url", url]) == 0

    with Client(url) as client:
        assert client.task(task_id)["status"] == "in_progress"
        assert client.task(task_id)["points"] > 0
