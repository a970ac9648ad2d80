"""Offline means offline: no socket to anywhere, no name looked up, no program started, no configuration needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.sessions.sources import open_session
from telemetry.wire import Frame, decode

# What CPython audits of the kind that offline mode must not do; sys.audit sees it whoever calls.
FORBIDDEN = """
import sys
FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
             "socket.sendto", "socket.sendmsg", "subprocess.Popen", "os.system", "os.posix_spawn", "os.fork",
             "os.exec", "urllib.Request", "http.client.connect")
seen = []
def forbid(event, arguments):
    if event in FORBIDDEN:
        seen.append((event, str(arguments)))
sys.addaudithook(forbid)
"""

PROGRAM = """
from telemetry import Task
task = Task.init("offline", "silent")
log = task.get_logger()
print("a line")
for step in range(1000):
    log.report_scalar("loss", "train", 1 / (step + 1), step)
log.report_single_value("final", 1.0)
task.set_progress(50)
task.close()
assert not seen, seen
"""


def run(program: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORBIDDEN + program],
        env={"PATH": os.defpath, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_hook_would_see_a_name_being_looked_up(tmp_path: Path) -> None:
    # given a program that does what is forbidden: the check below must be able to fail
    done = run("import socket\nsocket.getaddrinfo('localhost', 80)\nassert not seen, seen", tmp_path)
    # then
    assert done.returncode == 1
    assert "socket.getaddrinfo" in done.stderr


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9"])
def test_offline_opens_no_socket_looks_up_no_name_and_starts_no_program(url: str, tmp_path: Path) -> None:
    # given
    variables = {"TELEMETRY_OFFLINE_MODE": "1", "TELEMETRY_DIR": str(tmp_path / "state")}
    if url:
        variables["TELEMETRY_URL"] = url
    # when
    done = run(PROGRAM, tmp_path, **variables)
    # then
    assert done.returncode == 0, done.stderr
    (session,) = (tmp_path / "state" / "sessions").glob("*.zip")
    frames = [item for item in open_session(session).read() if isinstance(item, Frame)]
    assert sum(len(decode(item).columns) for item in frames) >= 1000


def test_offline_needs_no_home_and_no_configuration(tmp_path: Path) -> None:
    # given neither HOME nor any XDG variable, and a working folder that cannot be written
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    # when
    done = run(
        PROGRAM, folder, TELEMETRY_OFFLINE_MODE="1", HOME="/nonexistent", TMPDIR=str(tmp_path), TELEMETRY_QUIET="1"
    )
    # then
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("telemetry-*/sessions/*.zip"))) == 1
