"""A file system as clusters have it: no locks, no mmap, and a fifth of a second for each call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.sessions import open_session
from telemetry.wire import Frame, decode

# Audit hooks see the calls whoever makes them: locks and mmap fail as on an old Lustre mount, and what touches a
# path of the state folder takes its time. Writes and fsyncs are not audited, so those two are wrapped.
WEAK = """
import errno, io, os, sys, time
refused, slow = [], []
def weak(event, arguments):
    if event in ("fcntl.flock", "fcntl.lockf", "mmap.__new__"):
        refused.append(event)
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod") and STATE in str(arguments[0]):
        slow.append(event)
        time.sleep(0.2)
sys.addaudithook(weak)
real_fsync = os.fsync
def fsync(descriptor):
    slow.append("fsync")
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
        slow.append("write")
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
for step in range(20_000):
    log.report_scalar("loss", "train", 1 / (step + 1), step)
task.close(60)
ledger = task.ledger()
assert ledger.balanced and not ledger.dropped, ledger
assert "write" in slow and "open" in slow and "fsync" in slow, slow
assert not refused, refused
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
