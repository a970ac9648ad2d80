"""ExitWatch and the end of the process: each way of ending, in a process that really ends so."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from _sitebuiltins import Quitter
from pathlib import Path

import pytest

from telemetry.journal import read_segments
from telemetry.process.lifecycle import ExitCause, ExitWatch, forget_forks, watch_forks
from telemetry.wire import Frame, decode

TASK = "f" * 32

PRELUDE = f"""
    import json, os, signal, sys, threading, time
    from pathlib import Path
    from telemetry.events import RecordChange
    from telemetry.process.lifecycle import ExitWatch
    from telemetry.pipeline import Pipeline
    from telemetry.settings import Settings
    from telemetry.sinks.local_zip import LocalZipSink
    from telemetry.testing import make_header

    pipeline = Pipeline(make_header({TASK!r}), [LocalZipSink(Path(sys.argv[1]), None)], settings=Settings())
    pipeline.start()

    def ends(cause):
        value = dict(kind=cause.kind, reason=cause.reason, detail=cause.detail)
        pipeline.emit(RecordChange(1, "task", "end", value))
        pipeline.close()

    watch = ExitWatch(ends)
"""


def run(tmp_path: Path, program: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, str]]]:
    """Return how the process ended, and what the watch told the pipeline of it, read from disk."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(program))
    command = [sys.executable, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    ends = []
    for item in read_segments(tmp_path / TASK):
        assert isinstance(item, Frame)
        ends += [getattr(event, "value", None) for event in decode(item).events]
    return done, ends  # type: ignore[return-value]


NORMAL = {"kind": "normal", "reason": "", "detail": ""}

# As a program does that runs a tool's main() and goes on.
CAUGHT = """
def tool():
    sys.exit(3)
try:
    tool()
except SystemExit as error:
    assert (type(error), error.code) == (SystemExit, 3)
"""
CYCLE = """
import atexit, gc
atexit.register(gc.collect)
def leave():
    try:
        sys.exit(3)
    except SystemExit as error:
        held = error
        raise
"""


@pytest.mark.parametrize(
    ("program", "status", "kind", "reason"),
    [
        ("", 0, "normal", ""),
        ("sys.exit()", 0, "normal", ""),
        ("sys.exit(0)", 0, "normal", ""),
        ("sys.exit(3)", 3, "exit_code", "exit code 3"),
        ("sys.exit('no data')", 1, "exit_code", "no data"),
        (f"{CAUGHT}print('went on')", 0, "normal", ""),
        (f"{CAUGHT}sys.exit(4)", 4, "exit_code", "exit code 4"),
        (f"{CAUGHT}1 / 0", 1, "exception", "ZeroDivisionError: division by zero"),
        ("try: sys.exit(3)\nexcept SystemExit as error: sys.exit(error.code + 1)", 4, "exit_code", "exit code 4"),
        ("try: sys.exit(3)\nexcept SystemExit as error: raise SystemExit(3) from None", 3, "exit_code", "exit code 3"),
        ("try: sys.exit(3)\nexcept SystemExit: raise", 3, "exit_code", "exit code 3"),
        # held by a cycle, and collected by an exit handler that runs before ours
        (f"{CYCLE}leave()", 3, "exit_code", "exit code 3"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "signal", "SIGINT"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT, "signal", "SIGINT"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, "signal", "SIGTERM"),
        ("raise ValueError('bad\\nvalue')", 1, "exception", "value"),
        ("1 / 0", 1, "exception", "ZeroDivisionError: division by zero"),
    ],
)
def test_each_way_of_ending_is_told_once_and_keeps_its_status(
    tmp_path: Path, program: str, status: int, kind: str, reason: str
) -> None:
    done, ends = run(tmp_path, program)
    assert done.returncode == status, done.stderr
    [end] = ends
    assert (end["kind"], end["reason"]) == (kind, reason)
    # The traceback is recorded and shown, as it would have been without us
    assert ("Traceback" in end["detail"]) is (kind == "exception")
    assert ("Traceback" in done.stderr) is (kind == "exception" or "INT" in reason)
    if kind == "exception":
        assert "program.py" in end["detail"]


def test_sigterm_in_a_thread_that_reports_is_not_in_its_way(tmp_path: Path) -> None:
    """The handler may interrupt a report that holds the queue's lock; what was reported must still go out."""
    done, ends = run(
        tmp_path,
        """
        from telemetry.events import ConsoleLine
        # Given a main thread that is inside a report for as long as a signal may take
        with pipeline._book.lock:
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                pipeline.emit(RecordChange(1, "task", "never", None))
        """,
    )
    assert done.returncode == -signal.SIGTERM
    assert [end["reason"] for end in ends if end] == ["SIGTERM"]


def test_a_sigterm_handler_of_the_users_decides(tmp_path: Path) -> None:
    # Given a program with a handler of its own, set before ours, which goes on and ends by itself
    done, ends = run(
        tmp_path,
        """
        watch.remove()
        handled = []
        signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))
        watch = ExitWatch(ends)
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == [signal.SIGTERM]
        assert not pipeline.closed
        print("went on")
        """,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert [(end["kind"], end["reason"]) for end in ends] == [("signal", "SIGTERM")]


def test_a_user_who_ignores_sigterm_survives_it(tmp_path: Path) -> None:
    done, ends = run(
        tmp_path,
        """
        watch.remove()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        watch = ExitWatch(ends)
        os.kill(os.getpid(), signal.SIGTERM)
        print("survived")
        """,
    )
    assert (done.returncode, done.stdout) == (0, "survived\n")
    assert ends == [NORMAL]


def test_a_handler_that_the_user_sets_later_wins(tmp_path: Path) -> None:
    done, ends = run(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
        os.kill(os.getpid(), signal.SIGTERM)
        """,
    )
    assert done.returncode == 5
    assert [(end["kind"], end["reason"]) for end in ends] == [("exit_code", "exit code 5")]


def test_an_exception_in_another_thread_ends_nothing(tmp_path: Path) -> None:
    done, ends = run(
        tmp_path,
        """
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        thread = threading.Thread(target=lambda: sys.exit(4))
        thread.start()
        thread.join()
        """,
    )
    assert done.returncode == 0
    assert ends == [NORMAL]


def test_an_exit_that_was_caught_is_not_the_end(tmp_path: Path) -> None:
    done, ends = run(
        tmp_path,
        """
        try:
            sys.exit(3)
        except SystemExit:
            pass
        sys.exit(0)
        """,
    )
    assert done.returncode == 0
    assert ends == [NORMAL]


def test_a_hung_sink_does_not_hold_the_exit_up_for_longer_than_its_time(tmp_path: Path) -> None:
    done, _ = run(
        tmp_path,
        """
        import asyncio
        from telemetry.testing import MemorySink

        class Silent(MemorySink):
            async def write(self, frames):
                await asyncio.Event().wait()

        stuck = Pipeline(make_header(), [Silent()], settings=Settings(close_timeout_s=0.3))
        stuck.start()
        stuck.emit(RecordChange(1, "task", "x", 1))

        def ends_late(cause):
            begun = time.monotonic()
            ledger = stuck.close()
            print(json.dumps([time.monotonic() - begun, dict(ledger.dropped)]))

        late = ExitWatch(ends_late)
        """,
    )
    assert done.returncode == 0
    took, dropped = json.loads(done.stdout)
    assert took < 0.3 + 0.5 + 0.5  # the last for a busy machine
    assert dropped == {"not_delivered": 1}


def test_what_a_watch_hooks_is_put_back_and_the_excepthook_is_never_touched() -> None:
    # Given a program's own hook, and exits that somebody else watches already
    causes: list[ExitCause] = []
    hook, leave, leave_shell = sys.excepthook, sys.exit, Quitter.__call__
    before = signal.getsignal(signal.SIGTERM)
    watch = ExitWatch(causes.append)
    try:
        # Qt and the standard library's prompts behave differently where it is not the interpreter's own
        assert sys.excepthook is hook
        assert signal.getsignal(signal.SIGTERM) != before
        with pytest.raises(SystemExit) as caught:
            sys.exit((1, 2))  # type: ignore[arg-type]
        code: object = caught.value.code
        assert code == (1, 2)
    finally:
        watch.remove()
    assert (sys.excepthook, sys.exit, Quitter.__call__) == (hook, leave, leave_shell)
    assert signal.getsignal(signal.SIGTERM) == before
    assert causes == []


def test_hooks_that_somebody_set_over_ours_stay() -> None:
    leave = sys.exit
    watch = ExitWatch(lambda cause: None)
    theirs = lambda status=None: leave(status)  # noqa: E731
    sys.exit = theirs
    try:
        watch.remove()
        assert sys.exit is theirs
    finally:
        sys.exit = leave


def test_a_watch_made_in_another_thread_leaves_python_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    watches: list[ExitWatch] = []
    thread = threading.Thread(target=lambda: watches.append(ExitWatch(lambda cause: None)))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    watches[0].remove()
    atexit.unregister(watches[0]._at_exit)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_end_of_a_forked_child_is_not_the_end_of_the_task(tmp_path: Path) -> None:
    done, ends = run(
        tmp_path,
        """
        for way in ("sys.exit(7)", "1 / 0", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"):
            child = os.fork()
            if child == 0:
                exec(way)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (7, 1, -signal.SIGTERM)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert ends == [NORMAL]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_only_what_is_watched_is_reset_in_a_child() -> None:
    class Owner:
        resets = 0

        def reset_after_fork(self) -> None:
            self.resets += 1

    kept, forgotten = Owner(), Owner()
    for owner in (kept, forgotten):
        watch_forks(owner)
    forget_forks(forgotten)
    child = os.fork()
    if child == 0:
        os._exit(0 if (kept.resets, forgotten.resets) == (1, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (kept.resets, forgotten.resets) == (0, 0)
    forget_forks(kept)
