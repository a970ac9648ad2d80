"""Signals that kill: what must be over within two seconds is, whatever the program and the listeners do meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from sdk_support import environment, only_session, read_story, run_program

pytestmark = [pytest.mark.alone, pytest.mark.skipif(sys.platform == "win32", reason="no such signals")]

# What is left of the two seconds that are promised goes to a busy machine.
LIMIT_S = 2.0 + 1.0

START = """
import os, signal, sys, threading, time
from telemetry import Task
task = Task.init("tests", "signals", auto_resource_monitoring=False)
log = task.get_logger()
"""

SILENT = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
input()
"""

# One call of the C library that lets other threads run, and lasts for as long as anybody waits.
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)"


def kill(
    source: str, state_dir: Path, number: signal.Signals = signal.SIGTERM, **variables: str
) -> tuple[int, float, str]:
    """Run a program until it prints "go", send the signal; return the status, the seconds it took, and the stderr."""
    path = state_dir.parent / "program.py"
    path.write_text(textwrap.dedent(source))
    with subprocess.Popen(
        [sys.executable, str(path)],
        env=environment(state_dir, **variables),
        cwd=state_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "go\n":
            assert line, "the program has ended by itself"
        sent_s = time.monotonic()
        process.send_signal(number)
        try:
            _, stderr = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, time.monotonic() - sent_s, stderr


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_main_thread_in_a_c_call_keeps_no_signal_from_killing(number: signal.Signals, state_dir: Path) -> None:
    # When the signal comes while no Python code of the main thread runs, right after a report
    body = f"log.report_scalar('a', 'b', 1.0, 1)\nprint('go', flush=True)\n{IN_C}"
    status, took_s, stderr = kill(START + body, state_dir, number)

    # Then the process is dead of it in time, says what became of all events, and has them
    assert (status, took_s < LIMIT_S) == (-number, True)
    assert stderr.splitlines()[-1].startswith("telemetry: stopped. ")
    assert "dropped" not in stderr
    story = read_story(only_session(state_dir))
    assert story.scalars["a", "b"] == [(1, 1.0)]
    assert story.task["status_reason"] == f"stopped ({number.name})"
    assert "program.py" in story.task["status_message"], "where it was"


def test_a_server_that_is_silent_holds_no_death_up(state_dir: Path) -> None:
    body = f"log.report_scalar('a', 'b', 1.0, 1)\nprint('go', flush=True)\n{IN_C}"
    # Given a server that takes connections and says nothing
    listener = subprocess.Popen(
        [sys.executable, "-c", SILENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None
    with listener:
        url = f"http://127.0.0.1:{listener.stdout.readline().strip()}"
        status, took_s, stderr = kill(START + body, state_dir, TELEMETRY_URL=url)
        listener.communicate("")

    assert (status, took_s < LIMIT_S) == (-signal.SIGTERM, True)
    assert " on disk" in stderr.splitlines()[-1]


# A task with a collector whose `stop`, which is called when the task ends, is the program's.
WITH_STOP = START.replace("auto_resource_monitoring=False", "auto_resource_monitoring=False, collectors=[Stopped()]")


def with_stop(stop: str, rest: str) -> str:
    imports, start = WITH_STOP.split("task =", 1)
    collector = f"""
class Stopped:
    name = "stopped"
    def start(self, emit): ...
    def stop(self):
        {stop}
"""
    return f"{imports}{collector}task ={start}{rest}"


def test_a_part_that_hangs_at_the_end_holds_no_death_up(state_dir: Path) -> None:
    for rest in (IN_C, "signal.pause()"):
        status, took_s, _ = kill(with_stop("threading.Event().wait()", f"print('go', flush=True)\n{rest}"), state_dir)

        assert (status, took_s < LIMIT_S) == (-signal.SIGTERM, True)


@pytest.mark.parametrize("rest", ["", "task.close()"])
def test_a_signal_that_comes_into_the_end_of_the_task_lets_it_end(rest: str, state_dir: Path) -> None:
    """Also where it interrupts the very thread that ends it."""
    status, _, stderr = kill(with_stop("print('go', flush=True); time.sleep(0.5)", rest), state_dir)

    assert status == -signal.SIGTERM
    assert stderr.splitlines()[-1].startswith("telemetry: completed. "), "it had come to its end by itself"
    assert read_story(only_session(state_dir)).task["status"] == "completed"


def test_a_child_that_reports_dies_at_once_and_loses_nothing(state_dir: Path) -> None:
    # Given a forked child that reports and is in C the moment after, and a parent that ends it then
    body = f"""
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    for step in range(1000):
        log.report_scalar("a", "b", step, step)
    os.write(writer, b"go")
    {IN_C}
os.read(reader, 2)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
task.flush()
print(len(task.get_reported_scalars()["a"]["b"]["x"]))
"""
    done = run_program(START + body, state_dir)

    assert done.stdout.split() == ["-15", "1000"], done.stderr


def test_a_program_that_closes_descriptors_of_ours_gets_its_signals_back(state_dir: Path) -> None:
    """A handler that can reach nobody must not keep a signal, nor write into what the program opens next."""
    # Given a program that closes what it does not know, and opens something of its own
    body = f"""
from telemetry.process import signals
for pipe in signals._watch.pipes.values():
    for number in (pipe.read_end, pipe.write_end):
        os.closerange(number, number + 1)  # without a word where the watch has noticed already, and closed it
theirs = [os.open("theirs.txt", os.O_CREAT | os.O_WRONLY) for _ in range(40)]
deadline = time.monotonic() + 10
while any(thread.name == "telemetry-signals" for thread in threading.enumerate()):
    assert time.monotonic() < deadline
    time.sleep(0.01)
print("go", flush=True)
{IN_C}
"""
    status, took_s, _ = kill(START + body, state_dir, signal.SIGHUP)

    assert (status, took_s < LIMIT_S) == (-signal.SIGHUP, True)
    assert (state_dir.parent / "theirs.txt").read_bytes() == b""
