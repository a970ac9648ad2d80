"""Programs without standard streams: `>&-`, daemons. Each is run with and without a task, and compared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment, read_story, tell

from telemetry.journal import read_segments
from telemetry.wire import Frame, decode

CLOSED = ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "1>&- 2>&-", "0<&- 2>&-"]

# What a program sees of 0 to 2, and what a child of its sees.
LOOK = """
import errno, json, os, subprocess, sys
def tries(call, *arguments):
    try:
        return repr(call(*arguments))
    except OSError as error:
        return errno.errorcode[error.errno]
CHILD = "import json, os; print(json.dumps([os.path.exists(f'/proc/self/fd/{number}') for number in range(3)]))"
def look():
    # The child's own output is on a pipe; a standard stream that it inherits is the parent's.
    child = subprocess.run([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    return {
        "streams": [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "read": [tries(os.read, 0, 0)],
        "write": [tries(os.write, number, b"") for number in (1, 2)],
        "child": child.stdout.decode(),
    }
"""


def run_closed(program: str, closed: str, tmp_path: Path, state_dir: Path) -> int:
    """Run a program with some of its descriptors closed by the shell; return its status."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    command = f'exec "$0" "$@" {closed}'
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(
        ["sh", "-c", command, sys.executable, str(path)],
        env=environment(state_dir),
        cwd=tmp_path,
        check=False,
        timeout=60,
        **quiet,
    ).returncode


@pytest.mark.parametrize("closed", CLOSED)
def test_a_program_without_standard_streams_ends_as_without_a_task(closed: str, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    told = 'seen = look()\nopen("told", "w").write(json.dumps(seen))\nsys.exit(3)\n'
    begin = """
from telemetry import Task
task = Task.init("tests", "closed", auto_resource_monitoring=False)
task.get_logger().report_scalar("loss", "train", 0.5, 1)
task.upload_artifact("note", "text")
print("a line")
assert task.flush()
"""
    seen = []
    for program in (LOOK + told, LOOK + begin + told, LOOK + begin + "task.close()\n" + told):
        assert run_closed(program, closed, tmp_path, state_dir) == 3
        seen.append(json.loads((tmp_path / "told").read_text()))
        (tmp_path / "told").unlink()
    assert seen[1] == seen[2] == seen[0]
    for session in (state_dir / "sessions").iterdir():
        story = read_story(session)
        assert story.scalars == {("loss", "train"): [(1, 0.5)]}
        assert story.task["status"] in ("failed", "completed")


# As PEP 3143 has it, with every descriptor closed or only the standard ones.
DAEMON = """
import os
from telemetry import Task
{before}
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, {until})
{after}
task.get_logger().report_scalar("loss", "train", 0.5, 1)
task.close()
open("told", "w").write("after close")
"""
INIT = 'task = Task.init("tests", "daemon", auto_resource_monitoring=False)'


@pytest.mark.parametrize("until", [3, 1024])
@pytest.mark.parametrize("begun", ["before", "after"])
def test_a_daemon_that_closes_its_descriptors_reports_and_goes_on(until: int, begun: str, tmp_path: Path) -> None:
    parts = {"before": "", "after": INIT}
    if begun == "before":
        parts = {"before": INIT + "\nassert task.flush()", "after": "task = Task.current_task()"}
    state_dir = tmp_path / "state"
    path = tmp_path / "program.py"
    path.write_text(DAEMON.format(until=until, **parts))
    os.mkfifo(tmp_path / "told")

    command = [sys.executable, str(path)]
    subprocess.run(command, env=environment(state_dir), cwd=tmp_path, check=True, timeout=60)

    # The daemon is nobody's child: it is waited for until it opens the pipe.
    assert (tmp_path / "told").read_text() == "after close"
    assert (("loss", "train"), [(1, 0.5)]) in [
        item for session in (state_dir / "sessions").iterdir() for item in scalars_of(session)
    ]


def scalars_of(session: Path) -> list[Any]:
    """Return the scalars in a session folder that several processes may have written to."""
    frames = [item for item in read_segments(session) if isinstance(item, Frame)]
    return list(tell([decode(frame) for frame in frames]).scalars.items())


def test_a_server_without_standard_streams_serves_and_ends(tmp_path: Path) -> None:
    program = "from telemetry.cli import main; raise SystemExit(main(['server', '--port', '0', '--directory', 'data']))"
    command = ["sh", "-c", 'exec "$0" "$@" 0<&- 2>&-', sys.executable, "-c", program]
    server = subprocess.Popen(command, env=environment(tmp_path / "state"), cwd=tmp_path, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        line = server.stdout.readline().decode()
        assert re.search(r"http://127\.0\.0\.1:\d+", line), line
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        server.stdout.close()
    assert server.returncode == 0
