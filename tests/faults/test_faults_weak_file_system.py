"""A file system as clusters have it: no locks, no mmap, and a fifth of a second for each call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from server_support import Http, started

from telemetry.sessions.sources import open_session
from telemetry.wire import Frame, decode

# Audit hooks see the calls whoever makes them: locks and mmap fail as on an old Lustre mount, and what touches a
# path of the state folder takes its time. Writes and fsyncs are not audited, so those two are wrapped.
WEAK = """
import errno, io, os, sys, threading, time
refused, slow, in_the_way = [], [], []
def note(event):
    slow.append(event)
    if threading.current_thread() is threading.main_thread():
        in_the_way.append(event)
def weak(event, arguments):
    if event in ("fcntl.flock", "fcntl.lockf", "mmap.__new__"):
        refused.append(event)
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod") and STATE in str(arguments[0]):
        note(event)
        time.sleep(0.2)
sys.addaudithook(weak)
real_fsync = os.fsync
def fsync(descriptor):
    note("fsync")
    time.sleep(0.2)
    real_fsync(descriptor)
os.fsync = fsync
import telemetry.journal as journal
real_open = journal.aiofiles.open
class Slow:
    def __init__(self, file):
        self._file = file
    def __getattr__(self, name):
        return getattr(self._file, name)
    async def write(self, data):
        import asyncio
        note("write")
        await asyncio.sleep(0.2)
        return await self._file.write(data)
async def open_slowly(*arguments, **options):
    return Slow(await real_open(*arguments, **options))
journal.aiofiles.open = open_slowly
"""

PROGRAM = """
from telemetry import Task
task = Task.init("faults", "weak file system", auto_resource_monitoring=False, auto_connect_streams=False)
log = task.get_logger()
del in_the_way[:]
for step in range(20_000):
    log.report_scalar("loss", "train", 1 / (step + 1), step)
assert not in_the_way, in_the_way
task.close(60)
ledger = task.ledger()
assert ledger.balanced and not ledger.dropped, ledger
assert "write" in slow and "open" in slow and "fsync" in slow, slow
assert not refused, refused
"""


# sync and import only read.
COMMAND = """
from telemetry.cli import main
code = main(os.environ["COMMAND"].split())
assert "open" in slow, slow
assert not refused, refused
sys.exit(code)
"""


def run(program: str, state: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"STATE = {str(state)!r}\n{WEAK}{program}"],
        env={"PATH": os.defpath, "TELEMETRY_DIR": str(state), "TELEMETRY_CLOSE_TIMEOUT": "60", **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_shim_does_refuse_locks_and_maps(tmp_path: Path) -> None:
    # given what the run below must never do: the check must be able to fail
    program = "import fcntl, tempfile\nfcntl.flock(tempfile.TemporaryFile(), fcntl.LOCK_EX)"
    # then
    done = run(program, tmp_path)
    assert done.returncode == 1
    assert "Function not implemented" in done.stderr


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_no_locks_no_maps_and_slow_calls_lose_nothing(mode: str, tmp_path: Path) -> None:
    # given a session folder, or one that is zipped at the end, on such a file system
    state = tmp_path / "state"
    # when
    done = run(PROGRAM, state, TELEMETRY_MODE=mode)
    # then
    assert done.returncode == 0, done.stderr
    (session,) = (path for path in (state / "sessions").iterdir() if mode == "online" or path.suffix == ".zip")
    frames = [item for item in open_session(session).read() if isinstance(item, Frame)]
    assert sum(len(decode(item).columns) for item in frames) == 20_000


def test_a_server_that_is_down_leaves_everything_in_the_journal_there_too(tmp_path: Path) -> None:
    # given a closed port
    state = tmp_path / "state"
    # when
    done = run(PROGRAM, state, TELEMETRY_URL="http://127.0.0.1:9")
    # then
    assert done.returncode == 0, done.stderr
    (session,) = (state / "spool").iterdir()
    frames = [item for item in open_session(session).read() if isinstance(item, Frame)]
    assert sum(len(decode(item).columns) for item in frames) == 20_000
    # and when a server is there, `telemetry sync` sends it from the same file system
    with started(tmp_path / "server") as server:
        done = run(COMMAND, state, COMMAND=f"sync --url {server.url}")
        assert done.returncode == 0, done.stderr
        assert Http(server.url).get(f"/tasks/{session.name}")["points"] == 20_000


def test_a_server_that_comes_back_gets_what_the_journal_there_holds(tmp_path: Path) -> None:
    # given a server that is there, so that the journal is written, read, and forgotten
    with started(tmp_path / "server") as server:
        done = run(PROGRAM, tmp_path / "state", TELEMETRY_URL=server.url)
        assert done.returncode == 0, done.stderr
        (task,) = Http(server.url).get("/tasks")["tasks"]
        assert task["points"] == 20_000
    assert not list((tmp_path / "state").rglob("*.frames"))


def test_a_zip_is_imported_from_there(tmp_path: Path) -> None:
    # given a run's zip on such a file system
    state = tmp_path / "state"
    assert run(PROGRAM, state, TELEMETRY_MODE="offline").returncode == 0
    (session,) = (state / "sessions").glob("*.zip")
    # then
    with started(tmp_path / "server") as server:
        done = run(COMMAND, state, COMMAND=f"import {session} --url {server.url}")
        assert done.returncode == 0, done.stderr
        (task,) = Http(server.url).get("/tasks")["tasks"]
        assert task["points"] == 20_000
