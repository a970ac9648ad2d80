"""How a program ends and what its task then says: real processes, read back from what they left on disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sdk_support import environment, only_session, read_story, run_program

pytestmark = pytest.mark.alone

# With nothing running by itself, and on the way before the program goes on.
START = """
import os, signal, sys, threading
from telemetry import Task
task = Task.init("tests", "exits", auto_resource_monitoring=False)
task.get_logger().report_scalar("loss", "train", 0.5, 1)
assert task.flush()
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_the_end_of_the_program_completes_the_task(state_dir: Path) -> None:
    done = run_program(START + "print('last words')", state_dir)

    story = read_story(only_session(state_dir))
    assert done.returncode == 0
    assert story.task["status"] == "completed"
    assert story.scalars == {("loss", "train"): [(1, 0.5)]}
    assert [line.text for line in story.console] == ["last words"]
    assert done.stdout == "last words\n"
    first, last = done.stderr.splitlines()
    assert first.startswith('telemetry: task "exits" -> ')
    assert last.startswith("telemetry: completed. ")


def test_an_uncaught_exception_fails_the_task_with_its_traceback(state_dir: Path) -> None:
    done = run_program(START + "def train():\n    raise ValueError('bad loss')\ntrain()", state_dir)

    told = read_story(only_session(state_dir)).task
    assert done.returncode == 1
    assert told["status"] == "failed"
    assert told["status_reason"] == "ValueError: bad loss"
    assert "in train" in told["status_message"]
    # The program's own traceback is where it would be without us.
    assert "ValueError: bad loss" in done.stderr


def test_a_hook_of_the_programs_own_is_still_called(state_dir: Path) -> None:
    hook = "sys.excepthook = lambda *a: print('own hook', a[0].__name__)\n"
    done = run_program("import sys\n" + hook + START + "raise KeyError('x')", state_dir)

    assert done.stdout == "own hook KeyError\n"
    assert read_story(only_session(state_dir)).task["status"] == "failed"


def test_an_exception_in_a_thread_fails_nothing(state_dir: Path) -> None:
    done = run_program(START + "t = threading.Thread(target=lambda: 1/0); t.start(); t.join()", state_dir)

    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr
    assert read_story(only_session(state_dir)).task["status"] == "completed"


@pytest.mark.parametrize(
    ("call", "code", "status", "reason"),
    [
        ("sys.exit(3)", 3, "failed", "exit code 3"),
        ("sys.exit('no data')", 1, "failed", "no data"),
        ("sys.exit()", 0, "completed", ""),
        ("sys.exit(0)", 0, "completed", ""),
    ],
)
def test_an_exit_code_that_is_not_0_fails_the_task(
    call: str, code: int, status: str, reason: str, state_dir: Path
) -> None:
    done = run_program(START + call, state_dir)

    told = read_story(only_session(state_dir)).task
    assert done.returncode == code
    assert (told["status"], told["status_reason"]) == (status, reason)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_task_and_the_process_dies_of_it(number: signal.Signals, state_dir: Path) -> None:
    done = run_program(START + f"signal.raise_signal({int(number)}); print('survived')", state_dir)

    told = read_story(only_session(state_dir)).task
    assert done.returncode == -number
    assert "survived" not in done.stdout
    assert told["status"] == "stopped"
    assert number.name in told["status_reason"]


def test_a_ctrl_c_that_leaves_the_import_lock_locked_still_ends_the_task(state_dir: Path) -> None:
    # As when KeyboardInterrupt is raised inside importlib: every import in another thread now waits.
    rest = """
import _imp, threading
_imp.acquire_lock()
importing = threading.Event()
def load():
    importing.set()
    import wave
threading.Thread(target=load, daemon=True).start()
importing.wait()
raise KeyboardInterrupt
"""
    begin = START.replace("assert task.flush()", "")
    for source in (begin + rest, begin + "with task:" + rest.replace("\n", "\n    ")):
        done = run_program(source, state_dir, variables={"TELEMETRY_TASK_NO_REUSE": "1"})

        assert done.returncode == -signal.SIGINT, done.stderr
    assert [read_story(folder).task["status"] for folder in (state_dir / "sessions").iterdir()] == ["stopped"] * 2


def test_a_sigterm_handler_of_the_programs_own_is_called_and_may_go_on(state_dir: Path) -> None:
    handler = "import signal\nsignal.signal(signal.SIGTERM, lambda *a: print('saving'))\n"
    rest = "signal.raise_signal(signal.SIGTERM)\ntask.get_logger().report_scalar('loss', 'train', 0.25, 2)\n"
    done = run_program(handler + START + rest, state_dir)

    story = read_story(only_session(state_dir))
    assert done.returncode == 0
    assert done.stdout == "saving\n"
    assert story.task["status"] == "stopped"
    assert story.scalars["loss", "train"] == [(1, 0.5), (2, 0.25)]


def test_sigterm_sent_from_outside_while_the_loop_runs(state_dir: Path, tmp_path: Path) -> None:
    program = tmp_path / "loop.py"
    program.write_text(START + "print('ready', flush=True)\nwhile True: signal.pause()")
    with subprocess.Popen(
        [sys.executable, str(program)],
        env=environment(state_dir),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode == -signal.SIGTERM
    assert read_story(only_session(state_dir)).task["status"] == "stopped"


def test_a_killed_process_leaves_what_was_flushed(state_dir: Path) -> None:
    done = run_program(START + "os.kill(os.getpid(), signal.SIGKILL)", state_dir)

    story = read_story(only_session(state_dir))
    assert done.returncode == -signal.SIGKILL
    assert story.task["status"] == "in_progress"
    assert story.scalars == {("loss", "train"): [(1, 0.5)]}


def test_a_task_marked_by_the_program_keeps_its_status(state_dir: Path) -> None:
    done = run_program(START + "task.mark_failed(status_reason='diverged')", state_dir)

    told = read_story(only_session(state_dir)).task
    assert done.returncode == 0
    assert (told["status"], told["status_reason"]) == ("failed", "diverged")


def test_a_forked_child_reports_and_leaves_the_end_to_its_parent(state_dir: Path) -> None:
    rest = """
pid = os.fork()
if pid == 0:
    assert Task.current_task() is task
    task.get_logger().report_scalar("loss", "child", 0.125, 1)
    task.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = run_program(START + rest, state_dir)

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("telemetry: completed")] != []
    assert done.stderr.count("telemetry: completed") == 1
    assert read_story(only_session(state_dir)).task["status"] == "completed"


def test_the_command_is_recorded_without_its_secrets(state_dir: Path) -> None:
    run_program(START, state_dir, "--api-key", "sesame", "--lr", "0.1")

    command = read_story(only_session(state_dir)).task["command"]
    assert command[-4:] == ["--api-key", "***", "--lr", "0.1"]
    assert "program.py" in command[1]


def test_a_name_comes_from_the_program(state_dir: Path) -> None:
    run_program("from telemetry import Task\nTask.init()", state_dir)

    told = read_story(only_session(state_dir)).task
    assert (told["project"], told["name"]) == ("Untitled", "program")


def test_a_black_holed_server_costs_nothing_and_loses_nothing(state_dir: Path) -> None:
    # 127.0.0.1:9 refuses; a socket that listens and never answers is the harder case.
    program = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
from telemetry import Task
import telemetry.sdk.task.task
begun = time.perf_counter()
task = Task.init("tests", "silent", sinks=[f"http://127.0.0.1:{listener.getsockname()[1]}"])
print("init_s", time.perf_counter() - begun)
for step in range(1000):
    task.get_logger().report_scalar("loss", "train", 0.5, step)
begun = time.perf_counter()
task.close(timeout=1.0)
print("close_s", time.perf_counter() - begun)
ledger = task.ledger()
assert ledger.balanced and ledger.delivered == 0 and ledger.on_disk == ledger.logged, ledger
"""
    done = run_program(program, state_dir)

    assert done.returncode == 0, done.stderr
    (folder,) = (state_dir / "spool").iterdir()
    assert f"telemetry sync {folder}" in done.stderr.splitlines()[-1]
    assert read_story(folder).scalars["loss", "train"] == [(step, 0.5) for step in range(1000)]
