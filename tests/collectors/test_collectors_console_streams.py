"""What of a program's output is kept, whoever holds the streams, and that the program cannot tell the difference."""

from __future__ import annotations

import gc
import io
import logging
import os
import pty
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment, only_session, read_story, run_program
from telemetry.collectors.console import ConsoleCollector

from telemetry.events import ConsoleLine, Event
from telemetry.process.terminal import UNKEPT_THREADS, unkept

# Writes what was kept to a file: the program's own descriptors are what is looked at.
HARNESS = """
import os, sys

def start():
    if os.environ["WITH_US"] != "1":
        return
    import atexit
    from telemetry.collectors.console import ConsoleCollector
    kept = []
    class Emit:
        rows, mark = [], 1 << 30
        def __call__(self, event): kept.append(f"{event.stream}: {event.text}"); return True
        def crossed(self): pass
        def refuse(self, reason, message): kept.append(f"refused: {message}")
    collector = ConsoleCollector()
    collector.start(Emit())
    def end():
        collector.stop()
        with open(os.environ["KEPT"], "w") as file:
            file.write("\\n".join(kept))
    atexit.register(end)

"""


def _run(program: str, kept: Path, *, with_us: bool, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "WITH_US": str(int(with_us)), "KEPT": str(kept), "PYTHONHASHSEED": "0", **variables}
    return subprocess.run(
        [sys.executable, "-c", HARNESS + textwrap.dedent(program)],
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )


STREAMS_TAKEN_BEFORE = {
    "a kept sys.stderr": ("err = sys.stderr; start(); err.write('kept\\n')", ["stderr: kept"]),
    "an early StreamHandler": (
        """
        import logging
        own = logging.getLogger("own")
        own.propagate = False
        own.addHandler(logging.StreamHandler())
        start()
        own.warning("by its handler")
        """,
        ["stderr: by its handler"],
    ),
    "loguru's default sink": (
        """
        from loguru import logger
        start()
        logger.opt(raw=True).info("by loguru\\n")
        """,
        ["stderr: by loguru"],
    ),
    "rich.Console(file=sys.stdout)": (
        """
        from rich.console import Console
        console = Console(file=sys.stdout, width=60)
        start()
        console.print("by rich")
        """,
        ["stdout: by rich"],
    ),
    "click.echo": (
        "import click; start(); click.echo('out'); click.echo('err', err=True)",
        ["stdout: out", "stderr: err"],
    ),
    "tqdm": (
        """
        from tqdm import tqdm
        err = sys.stderr
        start()
        bar = tqdm(total=2, file=err, ascii=True, ncols=40, bar_format="{n}/{total}", mininterval=0)
        bar.update(2)
        bar.close()
        """,
        ["stderr: 0/2", "stderr: 2/2"],
    ),
    "sys.__stdout__": ("start(); print('original', file=sys.__stdout__)", ["stdout: original"]),
    "sys.stdout set back": ("start(); sys.stdout = sys.__stdout__; print('still here')", ["stdout: still here"]),
    "a redirect that was there at the start": (
        """
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()):
            start()
            print("into the buffer")
        print("after it")
        """,
        ["stdout: into the buffer", "stdout: after it"],
    ),
    "a redirect to the other stream": (
        "import contextlib\nstart()\nwith contextlib.redirect_stdout(sys.stderr): print('turned')",
        ["stderr: turned"],
    ),
    "a redirect to a buffer is no console": (
        "import contextlib, io\nstart()\nwith contextlib.redirect_stdout(io.StringIO()): print('away')",
        [],
    ),
    "writelines": ("out = sys.stdout; start(); out.writelines(['a\\n', 'b\\n'])", ["stdout: a", "stdout: b"]),
    "one object under both names": (
        "sys.stderr = sys.stdout; start(); print('once'); print('too', file=sys.stderr)",
        ["stdout: once", "stdout: too"],
    ),
    "a tee that was there at the start": (
        """
        class Tee:
            def __init__(self, terminal): self.terminal = terminal
            def write(self, text): return self.terminal.write(text)
            def flush(self): self.terminal.flush()
        sys.stdout = Tee(sys.stdout)
        start()
        print("once")
        print("past it", file=sys.__stdout__)
        """,
        ["stdout: once", "stdout: past it"],
    ),
    "a tee that writes something else": (
        """
        class Upper:
            def write(self, text): return sys.__stdout__.write(text.upper())
            def flush(self): sys.__stdout__.flush()
        sys.stdout = Upper()
        start()
        print("as on the terminal")
        """,
        ["stdout: AS ON THE TERMINAL"],
    ),
    "a stream that takes no attribute": (
        """
        class Slotted:
            __slots__ = ()
            def write(self, text): return os.write(1, text.encode())
            def flush(self): pass
        sys.stdout = Slotted()
        start()
        print("kept all the same")
        """,
        ["stdout: kept all the same"],
    ),
    "cells of IPython, which has a write of its own in place for each": (
        """
        def cell(run):
            stream = sys.stdout
            original = stream.write
            stream.write = lambda text: original(text)
            run()
            stream.write = original
        cell(lambda: [start(), print("same cell")])
        cell(lambda: print("next cell"))
        cell(lambda: [print("last cell"), print("original", file=sys.__stdout__)])
        """,
        ["stdout: same cell", "stdout: next cell", "stdout: last cell"],
    ),
    "a hook of somebody else's over ours": (
        """
        start()
        beneath = sys.stdout.write
        sys.stdout.write = lambda text: beneath(text.replace("secret", "***"))
        print("a secret")
        """,
        ["stdout: a ***"],
    ),
}


@pytest.mark.parametrize("case", STREAMS_TAKEN_BEFORE)
def test_a_line_is_kept_once_whoever_writes_it(case: str, tmp_path: Path) -> None:
    program, expected = STREAMS_TAKEN_BEFORE[case]

    without = _run(program, tmp_path / "none", with_us=False)
    with_us = _run(program, tmp_path / "kept", with_us=True)

    assert (with_us.returncode, with_us.stdout, with_us.stderr) == (0, without.stdout, without.stderr)
    assert (tmp_path / "kept").read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("def greet():\n    print('gr\\xfc\\xdfe')\ngreet()", "UnicodeEncodeError"),
        ("sys.stdout.close()\nprint('late')", "ValueError"),
        ("sys.stdout.write(b'bytes')", "TypeError"),
        ("sys.stdout.write()", "TypeError"),
        ("read, write = os.pipe(); os.dup2(write, 1); os.close(read)\nprint('unread', flush=True)", "BrokenPipeError"),
        ("try:\n    print('\\udcff')\nexcept UnicodeEncodeError:\n    import traceback; traceback.print_exc()", ""),
        ("import logging\nlogging.basicConfig(format='%(message)s')\nlogging.error('\\xfc\\n' * 2)", ""),
    ],
)
def test_an_error_of_a_stream_is_told_as_without_us(program: str, error: str, tmp_path: Path) -> None:
    # given a terminal that takes ASCII alone
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    program = "start()\n" + program

    without = _run(program, tmp_path / "none", with_us=False, **ascii_only)
    with_us = _run(program, tmp_path / "kept", with_us=True, **ascii_only)

    # then the traceback is the same to the byte, the line of the program that wrote is its last
    assert error in without.stderr.decode()
    assert "streams.py" not in with_us.stderr.decode()
    if "logging" not in program:
        assert with_us.stderr == without.stderr
    assert (with_us.returncode, with_us.stdout) == (without.returncode, without.stdout)


def test_a_stream_that_the_program_lets_go_of_is_closed_there_and_then(tmp_path: Path) -> None:
    # given a program whose stdout is a file that nobody else holds
    before = sys.stdout
    gc.disable()
    try:
        sys.stdout = (tmp_path / "log").open("w", encoding="utf-8")
        gone = weakref.ref(sys.stdout)
        collector = ConsoleCollector(stderr=False, logging=False)
        collector.start(Recorder())
        print("to the file")

        # when it takes another
        with pytest.warns(ResourceWarning, match="unclosed file"):
            sys.stdout = before

        assert gone() is None
        assert (tmp_path / "log").read_text() == "to the file\n"
        collector.stop()
    finally:
        sys.stdout = before
        gc.enable()


class Watchdog(Exception):
    """What a program's SIGALRM handler raises."""


class Recorder:
    """An Emit that can have a signal arrive in its midst."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1 << 30
        self.kept: list[str] = []
        self.refused: list[str] = []
        self.signals = 0

    def __call__(self, event: Event) -> bool:
        assert isinstance(event, ConsoleLine)
        if self.signals:
            self.signals -= 1
            signal.raise_signal(signal.SIGALRM)
        self.kept.append(event.text)
        return True

    def crossed(self) -> None:
        raise AssertionError("the console has no scalars")

    def refuse(self, reason: str, message: str) -> None:
        self.refused.append(message)


@pytest.fixture(params=[Watchdog, TimeoutError, ValueError, KeyboardInterrupt])
def alarm(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    kind: type[BaseException] = request.param

    def handler(*_: object) -> None:
        raise kind("five seconds are over")

    previous = signal.signal(signal.SIGALRM, handler)
    yield kind
    signal.signal(signal.SIGALRM, previous)


def test_what_a_signal_handler_raises_into_a_print_is_the_programs(
    alarm: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a watchdog that goes off while a line is kept
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    emit = Recorder()
    collector = ConsoleCollector(stderr=False)
    collector.start(emit)
    emit.signals = 1

    # when the program prints
    with pytest.raises(alarm, match="five seconds"):
        sys.stdout.write("interrupted\n")
    print("afterwards")
    collector.stop()

    # then the exception is its, the text is written once, nothing is called invalid, and the console goes on
    assert terminal.getvalue() == "interrupted\nafterwards\n"
    assert emit.refused == []
    assert emit.kept[-1] == "afterwards"


def test_what_a_signal_handler_raises_into_a_log_call_is_the_programs(
    alarm: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    emit = Recorder()
    collector = ConsoleCollector(stderr=False)
    collector.start(emit)
    logger = logging.getLogger("guarded")
    emit.signals = 1

    with pytest.raises(alarm, match="five seconds"):
        logger.error("interrupted")
    logger.error("logged")
    print("printed")
    collector.stop()

    assert emit.refused == []
    assert emit.kept == ["guarded: logged", "printed"]
    assert UNKEPT_THREADS == {}


def test_a_handler_that_raises_within_what_is_not_kept_leaves_the_thread_heard(alarm: type[BaseException]) -> None:
    with pytest.raises(alarm):
        unkept(signal.raise_signal, signal.SIGALRM)

    assert UNKEPT_THREADS == {}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_an_alarm_at_any_moment_of_a_print_comes_out_and_costs_no_text(
    alarm: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given 200 alarms, each somewhere in a loop of prints
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    emit = Recorder()
    collector = ConsoleCollector(stderr=False, logging=False)
    collector.start(emit)
    raised, written = 0, 0
    for number in range(200):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + number % 40))
            while True:
                terminal.write(f"{written}\n")
                written += 1
        except alarm:
            raised += 1
    collector.stop()

    # then each came out; a text that was written just before one is there once, or was not written yet
    lines = terminal.getvalue().splitlines()
    assert raised == 200
    assert emit.refused == []
    assert len(lines) - len(set(lines)) <= 200
    assert sorted(set(map(int, lines))) == list(range(int(lines[-1]) + 1))


# The line that a run ends with


TASK = """
import sys
from telemetry import Task
task = Task.init("tests", "open lines", auto_resource_monitoring=False)
"""


def _on_a_terminal(source: str, tmp_path: Path) -> str:
    """Return what a program shows on a terminal that is both its stdout and its stderr."""
    controller, terminal = pty.openpty()
    program = tmp_path / "program.py"
    program.write_text(TASK + source)
    try:
        process = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment(tmp_path / "state"),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
        )
    finally:
        os.close(terminal)
    shown = bytearray()
    try:
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # EIO: the program has ended, and with it the last that had the terminal open
                break
            if not part:
                break
            shown += part
    finally:
        os.close(controller)
        process.wait(60)
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("source", "before"),
    [
        ("print('whole line')", "whole line\n"),
        ("print('no line end', end='')", "no line end\n"),
        ("sys.stdout.write('\\r 50 %'); sys.stdout.flush()", "\r 50 %\n"),
        ("sys.stderr.write('\\r100 %')", "\r100 %\n"),
        ("print('out', end=''); print(' err', file=sys.stderr)", "out err\n"),
        ("import logging; print('out', end=''); logging.error('logged')", "outERROR:root:logged\n"),
        ("sys.stdout.write('closed\\n\\n')", "closed\n\n"),
        ("task.get_logger().report_text('reported')", "reported\n"),
    ],
)
def test_the_last_line_begins_on_a_line_of_its_own(source: str, before: str, tmp_path: Path) -> None:
    shown = _on_a_terminal(source, tmp_path)

    start, _, rest = shown.partition("\n")
    assert start.startswith("telemetry: task ")
    output, _, last = rest.rpartition("telemetry: completed. ")
    assert output == before
    assert last.count("\n") == 1


def test_in_a_pipe_an_open_line_of_stdout_is_no_concern_of_stderr(tmp_path: Path) -> None:
    done = run_program(TASK + "print('out', end=''); print('err', file=sys.stderr)", tmp_path / "state")

    assert done.stdout == "out"
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["telemetry:", "err", "telemetry:"]


def test_in_a_pipe_an_open_line_of_stderr_is_ended(tmp_path: Path) -> None:
    done = run_program(TASK + "print('err', end='', file=sys.stderr)", tmp_path / "state")

    assert "err\ntelemetry: completed. " in done.stderr


def test_our_own_lines_are_no_output_of_the_program(tmp_path: Path) -> None:
    # given a program that has put a tee of its own in the place of stderr, which hands on what it gets
    tee = """
import sys
class Tee:
    def write(self, text): return sys.__stderr__.write(text)
    def flush(self): sys.__stderr__.flush()
sys.stderr = Tee()
"""
    rest = "task.get_logger().report_text('once')\nprint('mine', file=sys.stderr)"
    done = run_program(tee + TASK + rest, tmp_path / "state")

    # then the start line is on the terminal and not in the console
    assert done.stderr.startswith("telemetry: task ")
    console = read_story(only_session(tmp_path / "state")).console
    assert [line.text for line in console] == ["once", "mine"]
